"""Statistics over time: what happened at each queue, how long it took, how deep it was.

Workers and producers count by the minute (kept for a day) and by the hour (90 days); nobody
has to watch for that. All queries here are bounded: by minutes or hours asked for, and queues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from taskq.errors import TaskQError
from taskq.inspector.counts import ALL, HOUR_S, MINUTE_S, Counts, Percentiles, Sum, depths
from taskq.inspector.query import Query
from taskq.inspector.values import items, raw, text, whole
from taskq.keys import Keys

MAX_POINTS = 1_500
"""Minutes of a day and one more hour; hours of two months."""


@dataclass(frozen=True)
class Point:
    """One step of a series.

    Attributes:
        at: its begin, seconds since 1970.
        depth: jobs that waited: the last sample in it, or the mean of an hour's samples; None
            where nobody looked.
    """

    at: float
    counts: Counts
    depth: int | None
    wait: Percentiles
    run: Percentiles


@dataclass(frozen=True)
class Series:
    """The answer to `series`: every step is there, the oldest first.

    Attributes:
        queue: its name, "" for all together.
        since, until: from the begin of the first step to the end of the last.
    """

    queue: str
    step_s: int
    since: float
    until: float
    points: tuple[Point, ...]
    _sums: tuple[Sum, ...] = ()

    @cached_property
    def _whole(self) -> Sum:
        total = Sum()
        for one in self._sums:
            total.merge(one)
        return total

    @property
    def totals(self) -> Counts:
        """Over all steps."""
        return self._whole.counts

    @property
    def wait(self) -> Percentiles:
        """Over all steps."""
        return self._whole.wait

    @property
    def run(self) -> Percentiles:
        """Over all steps."""
        return self._whole.run


def series(
    keys: Keys, queue: str = ALL, *, since: float, until: float, step_s: int = MINUTE_S
) -> Query[Series]:
    """Ask for what happened between two times, in steps.

    Two round trips; commands by steps, hours and queues.

    Args:
        keys: names of keys.
        queue: its name, "" for all together.
        since: seconds since 1970; the step that contains it is the first.
        until: the step that contains it is the last.
        step_s: a multiple of 3600: from the hours, 90 days back; else of 60: a day back.

    Raises:
        TaskQError: no such step, or more than `MAX_POINTS` minutes or hours.
    """
    if step_s <= 0 or step_s % MINUTE_S:
        raise TaskQError(f"step_s is {step_s}: take a multiple of 60, or of 3600 for hours.")
    unit = HOUR_S if step_s % HOUR_S == 0 else MINUTE_S
    first, last = math.floor(since / step_s) * step_s, math.floor(until / step_s) * step_s
    numbers = range(first // unit, (last + step_s) // unit)
    if not 0 < len(numbers) <= MAX_POINTS:
        what = "hours" if unit == HOUR_S else "minutes"
        raise TaskQError(f"{len(numbers):,} {what} are asked for: take 1 to {MAX_POINTS:,}.")
    rolling = yield from open_minutes(keys)
    kept = keys.hours if unit == HOUR_S else keys.stats
    open_ones = [
        (name, minute) for name, minute in rolling.items()
        if queue in (ALL, name) and minute * MINUTE_S // unit in numbers
        and (unit == HOUR_S or queue == ALL)
    ]  # fmt: skip
    hours = range(numbers[0] // 60, numbers[-1] // 60 + 1) if unit == MINUTE_S else range(0)
    replies = yield [
        *(("HGETALL", raw(kept(queue, number))) for number in numbers),
        *(("HGETALL", raw(keys.stats(name, minute))) for name, minute in open_ones),
        *(("HGETALL", raw(keys.depth(queue, hour))) for hour in hours),
    ]
    sums = {number: Sum() for number in numbers}
    for number, reply in zip(numbers, replies):
        sums[number].add(reply)
    for (_name, minute), reply in zip(open_ones, replies[len(numbers) :]):
        sums[minute * MINUTE_S // unit].add(reply)
    sampled = depths(zip(hours, replies[len(numbers) + len(open_ones) :]))
    return _series(queue, step_s, range(first, last + step_s, step_s), unit, sums, sampled)


def _series(
    queue: str, step_s: int, starts: range, unit: int, sums: dict[int, Sum], sampled: dict[int, int]
) -> Series:
    points, wholes = [], []
    for start in starts:
        total, depth = Sum(), None
        for number in range(start // unit, (start + step_s) // unit):
            total.merge(sums[number])
            depth = sampled.get(number, depth)
        if unit == HOUR_S:
            depth = total.depth
        points.append(Point(float(start), total.counts, depth, total.wait, total.run))
        wholes.append(total)
    since, until = float(starts[0]), float(starts[-1] + step_s)
    return Series(queue, step_s, since, until, tuple(points), tuple(wholes))


def open_minutes(keys: Keys) -> Query[dict[str, int]]:
    """Ask for the minutes that are not in the hours, and not in those of all queues, by queue."""
    (reply,) = yield [("HGETALL", keys.rolling)]
    flat = iter(items(reply))
    found = {text(name): whole(minute) for name, minute in zip(flat, flat)}
    return {name: minute for name, minute in found.items() if minute is not None and name != ALL}


@dataclass(frozen=True)
class FailureGroup:
    """Jobs that failed alike.

    Attributes:
        task: name of the task; "" where its worker died, or nothing could be read of it.
        error: dotted name of the exception's class; "" for the rest, where there are too many.
        count: how many, in the whole days that were asked for.
        last_job_id: the one that failed last.
    """

    queue: str
    task: str
    error: str
    count: int
    first_at: float | None
    last_at: float | None
    last_job_id: str


MAX_DAYS = 91


def failure_groups(
    keys: Keys, *, since: float, until: float, queue: str = ALL, limit: int = 200
) -> Query[tuple[FailureGroup, ...]]:
    """Ask who failed with what, the latest first: counted as it happened, job by job.

    One round trip, a command a day. What stock RQ's workers ran is not in it.

    Args:
        keys: names of keys.
        since: seconds since 1970; whole days (UTC) are counted.
        until: the same.
        queue: only of this one; "" for all.
        limit: at most so many groups.
    """
    last_day = math.floor(until / 86400)
    first_day = max(math.floor(since / 86400), last_day - MAX_DAYS + 1)
    days = yield [("HGETALL", keys.failures_by(day)) for day in range(first_day, last_day + 1)]
    found: dict[str, dict[str, Any]] = {}
    for reply in days:
        flat = iter(items(reply))
        for name, value in zip(flat, flat):
            kind, group = text(name)[:1], text(name)[1:]
            one = found.setdefault(group, {"n": 0, "f": "", "l": ""})
            if kind == "n":
                one["n"] += whole(value) or 0
            elif kind == "l" or not one["f"]:  # days come in order: first the first, last the last
                one[kind] = text(value)
    groups = [_group(name, one) for name, one in found.items() if one["n"] > 0]
    chosen = [group for group in groups if queue in (ALL, group.queue)]
    chosen.sort(key=lambda group: group.last_at or 0.0, reverse=True)
    return tuple(chosen[:limit])


def _group(name: str, values: dict[str, Any]) -> FailureGroup:
    queue, task, error = (*name.split("\n"), "", "")[:3]
    last, _, job_id = values["l"].partition(" ")
    return FailureGroup(queue, task, error, values["n"], _time(values["f"]), _time(last), job_id)


def _time(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
