"""Which jobs have begun, in memory that a worker process shares with its supervisor.

A worker that dies (segfault, `os._exit`, out of memory, kill -9) cannot tell
anybody what it was doing. Its supervisor reads it here: only jobs whose code had
begun count the crash. Writing costs half a microsecond and no system call.

Layout: slots of 192 bytes: deadline (f64, monotonic
clock of this machine: no change of its date kills a worker; 0 = none), length (u16), then
`job_id NUL execution_id` in UTF-8. Length 0 means free. Longer ids are left out.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
from typing import IO, NamedTuple

_SLOT = 192
_HEAD = struct.Struct("=dH")
_ROOM = _SLOT - _HEAD.size


class Begun(NamedTuple):
    """A job whose code runs; `deadline`: the end of its time limit (monotonic s, 0 = none)."""

    job_id: str
    exec_id: str
    deadline: float


class BegunTable:
    """The table; the supervisor creates it, the child opens it by its file descriptor."""

    def __init__(self, slots: int, fd: int | None = None) -> None:
        """Make a new table, or map the one behind `fd`."""
        self.slots = slots
        self._file: IO[bytes] | None = None
        if fd is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the table)
            self._file.truncate(slots * _SLOT)
            fd = self._file.fileno()
        self.fd = fd
        self._map = mmap.mmap(fd, slots * _SLOT)
        self._free = list(range(slots - 1, -1, -1))

    def begin(self, job_id: str, exec_id: str, deadline: float) -> int:
        """Note that a job's code runs; returns its slot, or -1 where it does not fit."""
        text = f"{job_id}\0{exec_id}".encode()
        if len(text) > _ROOM:
            return -1
        try:
            slot = self._free.pop()  # list.pop and append are atomic: threads need no lock
        except IndexError:
            return -1
        at = slot * _SLOT
        self._map[at + _HEAD.size : at + _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._map, at, deadline, len(text))  # last: it makes the slot valid
        return slot

    def end(self, slot: int) -> None:
        """The job of this slot has ended."""
        if slot >= 0:
            _HEAD.pack_into(self._map, slot * _SLOT, 0.0, 0)
            self._free.append(slot)

    def read(self) -> list[Begun]:
        """All jobs whose code runs now."""
        found = []
        for slot in range(self.slots):
            at = slot * _SLOT
            deadline, length = _HEAD.unpack_from(self._map, at)
            if 0 < length <= _ROOM:
                text = self._map[at + _HEAD.size : at + _HEAD.size + length]
                job_id, _, exec_id = text.decode("utf-8", "replace").partition("\0")
                found.append(Begun(job_id, exec_id, deadline))
        return found

    def clear(self) -> None:
        """Forget everything (for the next child)."""
        self._map[:] = bytes(len(self._map))

    def close(self) -> None:
        """Unmap."""
        self._map.close()
        if self._file is not None:
            self._file.close()
