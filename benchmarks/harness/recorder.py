"""The driver's side of the marks that jobs leave (side/benchtask.py)."""

from __future__ import annotations

import mmap
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SLOT = struct.Struct("<dII")  # as in side/benchtask.py


class Mark(NamedTuple):
    started_at: float
    pid: int
    times: int


class Recorder:
    """Room for n jobs' marks in a file that all workers map."""

    def __init__(self, work: Path, n: int) -> None:
        self.n = n
        self.directory = tempfile.TemporaryDirectory(prefix="marks-", dir=work)
        self.path = Path(self.directory.name) / "marks"
        with self.path.open("w+b") as file:
            file.truncate(n * SLOT.size)
            self._map = mmap.mmap(file.fileno(), 0)
        self._empty_head = bytes(min(len(self._map), 4096 * SLOT.size))
        self._reached = 0

    def any(self) -> bool:
        """Say whether a job has started; looks at the first 4,096, as queues are in order."""
        return self._map[: len(self._empty_head)] != self._empty_head

    def reached(self) -> int:
        """Return the number of jobs, counted from the first one, that have all started."""
        while self._reached < self.n and self.times(self._reached):
            self._reached += 1
        return self._reached

    def times(self, index: int) -> int:
        return int(SLOT.unpack_from(self._map, index * SLOT.size)[2])

    def mark(self, index: int) -> Mark:
        return Mark(*SLOT.unpack_from(self._map, index * SLOT.size))

    def marks(self) -> list[Mark]:
        return [Mark(*slot) for slot in SLOT.iter_unpack(self._map)]

    def clear(self) -> None:
        self._map[:] = bytes(len(self._map))
        self._reached = 0

    def wait(self, done: Callable[[], bool], check: Callable[[], None], limit_s: float) -> None:
        """Poll ``done`` every 5 ms; ``check`` raises if it will never be."""
        give_up = time.monotonic() + limit_s
        while not done():
            check()
            if time.monotonic() > give_up:
                count = sum(1 for mark in self.marks() if mark.times)
                raise TimeoutError(f"after {limit_s:.0f} s {count} of {self.n} jobs had started")
            time.sleep(0.005)

    def close(self) -> None:
        self._map.close()
        self.directory.cleanup()
