"""Which jobs have begun, in memory that a worker process shares with its supervisor.

A worker that dies (segfault, `os._exit`, out of memory, kill -9) cannot tell
anybody what it was doing. Its supervisor reads it here: only jobs whose code had
begun count the crash. Writing costs half a microsecond and no system call.

Layout: a head of 64 bytes with the worker's pulse, then slots of 192 bytes: deadline (f64,
monotonic clock of this machine: no change of its date kills a worker; 0 = none), length (u16),
then `job_id NUL execution_id` in UTF-8. Length 0 means free. Longer ids are left out.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
from typing import IO, NamedTuple

_TOP = 64
_PULSE = struct.Struct("=ddi")
_SLOT = 192
_HEAD = struct.Struct("=dH")
_ROOM = _SLOT - _HEAD.size


class Begun(NamedTuple):
    """A job whose code runs; `deadline`: the end of its time limit (monotonic s, 0 = none)."""

    job_id: str
    exec_id: str
    deadline: float


class Pulse(NamedTuple):
    """Signs of life of a worker process, on the monotonic clock of this machine.

    Attributes:
        loop_at: its event loop's last turn; 0 before the first.
        watch_at: the last look of the thread that watches the loop.
        culprit: slot of the job whose code holds up the loop, or -1: nobody, or not known.
    """

    loop_at: float
    watch_at: float
    culprit: int


class BegunTable:
    """The table; the supervisor creates it, the child opens it by its file descriptor."""

    def __init__(self, slots: int, fd: int | None = None) -> None:
        """Make a new table, or map the one behind `fd`."""
        self.slots = slots
        self._file: IO[bytes] | None = None
        if fd is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the table)
            self._file.truncate(_TOP + slots * _SLOT)
            fd = self._file.fileno()
        self.fd = fd
        self._map = mmap.mmap(fd, _TOP + slots * _SLOT)
        self._turned_at = 0.0
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
        at = _TOP + slot * _SLOT
        self._map[at + _HEAD.size : at + _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._map, at, deadline, len(text))  # last: it makes the slot valid
        return slot

    def extend(self, slot: int, deadline: float) -> None:
        """The job of this slot has a new deadline."""
        if slot >= 0:
            at = _TOP + slot * _SLOT
            _HEAD.pack_into(self._map, at, deadline, _HEAD.unpack_from(self._map, at)[1])

    def end(self, slot: int) -> None:
        """The job of this slot has ended."""
        if slot >= 0:
            _HEAD.pack_into(self._map, _TOP + slot * _SLOT, 0.0, 0)
            self._free.append(slot)

    def read(self) -> list[Begun]:
        """All jobs whose code runs now."""
        jobs = (self.at(slot) for slot in range(self.slots))
        return [job for job in jobs if job is not None]

    def at(self, slot: int) -> Begun | None:
        """The job of a slot, or None where there is none."""
        at = _TOP + slot * _SLOT
        deadline, length = _HEAD.unpack_from(self._map, at)
        if not 0 < length <= _ROOM:
            return None
        text = self._map[at + _HEAD.size : at + _HEAD.size + length]
        job_id, _, exec_id = text.decode("utf-8", "replace").partition("\0")
        return Begun(job_id, exec_id, deadline)

    def clear(self) -> None:
        """Forget all jobs: none of them is to be held to its limit any more."""
        self._map[_TOP:] = bytes(self.slots * _SLOT)

    # -- signs of life ---------------------------------------------------------------------

    def turned(self, now: float) -> None:
        """The event loop lives."""
        self._turned_at = now
        _PULSE.pack_into(self._map, 0, now, now, -1)

    def watched(self, now: float, culprit: int) -> None:
        """The thread that watches the loop lives, and knows who holds it up (a slot, or -1)."""
        _PULSE.pack_into(self._map, 0, self._turned_at, now, culprit)

    def pulse(self) -> Pulse:
        """When the process last gave a sign of life."""
        return Pulse(*_PULSE.unpack_from(self._map, 0))

    def close(self) -> None:
        """Unmap."""
        self._map.close()
        if self._file is not None:
            self._file.close()
