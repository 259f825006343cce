"""What a worker has counted and Redis does not know yet; it goes out with the next settle."""

from __future__ import annotations

from typing import Any


class Tally:
    """Ends of jobs, for the worker's own counters and for the statistics of its queues."""

    def __init__(self) -> None:
        """Nothing has ended."""
        self._ok = self._not_ok = 0
        self._seconds = 0.0
        self._counts: dict[tuple[int, str], int] = {}

    def end(self, position: int, what: str, seconds: float) -> None:
        """A job of the queue at `position` was "finished", "retried" or "failed"."""
        if what == "finished":
            self._ok += 1
        else:
            self._not_ok += 1
        self._seconds += seconds
        counts = self._counts
        key = (position, what)
        counts[key] = counts.get(key, 0) + 1
        ms = int(seconds * 1000)
        key = (position, _BUCKETS[ms.bit_length()])
        counts[key] = counts.get(key, 0) + 1
        if ms:
            key = (position, "run_ms")
            counts[key] = counts.get(key, 0) + ms

    def crash(self, position: int) -> None:
        """The process died that ran a job of the queue at `position`."""
        key = (position, "crashed")
        self._counts[key] = self._counts.get(key, 0) + 1

    def add(self, other: Tally) -> None:
        """Take back what could not be sent."""
        self._ok += other._ok
        self._not_ok += other._not_ok
        self._seconds += other._seconds
        for key, n in other._counts.items():
            self._counts[key] = self._counts.get(key, 0) + n

    def totals(self) -> tuple[int, int, str]:
        """Finished, not finished, and seconds of work: as `rq info` shows them."""
        return self._ok, self._not_ok, f"{self._seconds:.6f}" if self._seconds else "0"

    def fields(self) -> list[Any]:
        """The number of statistics, then position, field and increment of each."""
        out: list[Any] = [len(self._counts)]
        for (position, field), n in self._counts.items():
            out += (position, field, n)
        return out


_BUCKETS = [f"r{bits}" for bits in range(64)]
"""Run times by powers of two milliseconds."""
