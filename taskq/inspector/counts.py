"""Statistics as they stand in Redis, taken apart: counters, histograms, depths.

See the head of `broker/lua/stats.lua` for the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from taskq.histogram import LAST, quantile
from taskq.inspector.values import items, text, whole

MINUTE_S, HOUR_S = 60, 3600
ALL = ""
"""The name under which all queues together are counted."""


@dataclass(frozen=True)
class Counts:
    """What happened to jobs.

    Attributes:
        enqueued: accepted, also once more by `taskq retry`. Not what stock RQ enqueued.
        started: their code began.
        finished: ended with a result.
        failed: ended for good without one. (Stock RQ counts failed attempts, too.)
        retried: failed or asked for it, and run again.
        canceled: ended by `cancel`.
        expired: waited longer than their `ttl`.
        crashed: executions whose process died.
        corrupt: set aside: broken or missing records.
        purged: deleted by `taskq purge` before they ran.
    """

    enqueued: int = 0
    started: int = 0
    finished: int = 0
    failed: int = 0
    retried: int = 0
    canceled: int = 0
    expired: int = 0
    crashed: int = 0
    corrupt: int = 0
    purged: int = 0

    @property
    def ended(self) -> int:
        """Jobs that left the queue for good."""
        left = self.finished + self.failed + self.canceled + self.expired
        return left + self.corrupt + self.purged

    @property
    def failure_share(self) -> float | None:
        """Part of the ended ones that failed; None where none has ended."""
        whole_part = self.finished + self.failed
        return self.failed / whole_part if whole_part else None


@dataclass(frozen=True)
class Percentiles:
    """Of run times or waits, in seconds; None where nothing was measured.

    Attributes:
        count: how many were measured: less than were counted where stock RQ ran them.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    count: int = 0


_COUNTERS = frozenset(field.name for field in fields(Counts))


class Sum:
    """Adds up the hashes of minutes or hours."""

    def __init__(self) -> None:
        """Nothing is added."""
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._waits: dict[int, int] = {}
        self._runs: dict[int, int] = {}
        self.run_us = self.depth_sum = self.depth_n = self.depth_max = 0

    def add(self, reply: Any) -> None:
        """Add the reply to HGETALL; what is no number, or of another version, is left out."""
        flat = iter(items(reply))
        for raw_name, raw_value in zip(flat, flat):
            name, value = text(raw_name), whole(raw_value)
            if value is None or value < 0:
                continue
            if name in _COUNTERS:
                self._counters[name] += value
            elif name == "missing":
                self._counters["corrupt"] += value
            elif name == "depth_max":
                self.depth_max = max(self.depth_max, value)
            elif name in ("run_us", "depth_sum", "depth_n"):
                setattr(self, name, getattr(self, name) + value)
            elif name[:1] in ("r", "w") and name[1:].isdecimal() and int(name[1:]) <= LAST:
                histogram = self._runs if name[0] == "r" else self._waits
                histogram[int(name[1:])] = histogram.get(int(name[1:]), 0) + value

    def merge(self, other: Sum) -> None:
        """Add another sum."""
        for name, value in other._counters.items():
            self._counters[name] += value
        for mine, theirs in ((self._waits, other._waits), (self._runs, other._runs)):
            for number, value in theirs.items():
                mine[number] = mine.get(number, 0) + value
        self.run_us += other.run_us
        self.depth_sum += other.depth_sum
        self.depth_n += other.depth_n
        self.depth_max = max(self.depth_max, other.depth_max)

    @property
    def counts(self) -> Counts:
        """The counters."""
        return Counts(**self._counters)

    @property
    def wait(self) -> Percentiles:
        """Of waits."""
        return percentiles(self._waits)

    @property
    def run(self) -> Percentiles:
        """Of run times."""
        return percentiles(self._runs)

    @property
    def depth(self) -> int | None:
        """The mean of the samples of an hour."""
        return round(self.depth_sum / self.depth_n) if self.depth_n else None


def percentiles(counts: Mapping[int, int]) -> Percentiles:
    """Of a histogram."""
    p50, p95, p99 = (quantile(counts, share) for share in (0.5, 0.95, 0.99))
    return Percentiles(p50, p95, p99, sum(counts.values()))


def depths(replies: Iterable[tuple[int, Any]]) -> dict[int, int]:
    """Minute (epoch // 60) -> depth, from (hour, reply to HGETALL)."""
    found: dict[int, int] = {}
    for hour, reply in replies:
        flat = iter(items(reply))
        for raw_minute, raw_depth in zip(flat, flat):
            minute, depth = whole(raw_minute), whole(raw_depth)
            if minute is not None and depth is not None and 0 <= minute < 60 and depth >= 0:
                found[hour * 60 + minute] = depth
    return found
