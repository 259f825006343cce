"""The arithmetic of the benchmark: pure functions, tested in tests/unit/test_bench_report.py."""

from __future__ import annotations

import bisect
import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.recorder import Mark

IO_S = 0.1  # what an "io" job sleeps
ENOUGH = 0.2  # of the jobs must be left once every process has begun, or the whole span counts
FULL_S = 90.0  # into a sustained run, whose results live for 60 s
GAP_S = 0.02  # a worker that starts its next job within this was busy


def drain_rate(marks: Sequence[Mark], task: str) -> dict[str, Any]:
    """Return the rate at which jobs started, and how the processes shared them.

    The window opens when every process has begun its first job and closes at the start of the
    last one. For sleeping jobs it is the whole span to the end of the last sleep, for
    CPU-bound ones the whole span without the last job.
    """
    ran = sorted(mark for mark in marks if mark.times)
    first: dict[int, float] = {}
    shares: dict[int, int] = {}
    for mark in ran:
        first.setdefault(mark.pid, mark.started_at)
        shares[mark.pid] = shares.get(mark.pid, 0) + 1
    opened, closed = max(first.values()), ran[-1].started_at
    counted = len(ran) - bisect.bisect_right(ran, opened, key=lambda mark: mark.started_at)
    if task == "io":
        opened, closed, counted = ran[0].started_at, closed + IO_S, len(ran)
    elif task == "cpu" or counted < ENOUGH * len(ran):
        opened, counted = ran[0].started_at, len(ran) - 1
    return {
        "seconds": closed - opened,
        "jobs_per_s": counted / (closed - opened),
        "worker_processes": len(first),
        "shares": sorted(shares.values()),
    }


def rates_of_parts(marks: Sequence[Mark], parts: int) -> list[float]:
    """Return the rate of each of the equal parts of the jobs, in the order they started."""
    times = sorted(mark.started_at for mark in marks if mark.times)
    size = len(times) // parts
    edges = [times[k * size] for k in range(parts)] + [times[-1]]
    counts = [size] * (parts - 1) + [len(times) - 1 - (parts - 1) * size]
    pairs = itertools.pairwise(edges)
    return [n / (b - a) for n, (a, b) in zip(counts, pairs, strict=True)]


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value with at least this share of all values at or under it."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def distribution(values: Sequence[float], unit: str) -> dict[str, float]:
    """Return minimum, median, p90, p99 and maximum, named with their unit."""
    ordered = sorted(values)
    return {
        f"min_{unit}": ordered[0],
        f"p50_{unit}": statistics.median(ordered),
        f"p90_{unit}": quantile(ordered, 0.9),
        f"p99_{unit}": quantile(ordered, 0.99),
        f"max_{unit}": ordered[-1],
    }


def timetable(seconds: float, *, burst: bool) -> list[tuple[float, str]]:
    """Return (second, task) rows for the fairness runs; the same on every call."""
    dice = random.Random(7)
    rows: list[tuple[float, str]] = []
    if burst:
        for start in range(0, int(seconds), 4):
            batch = ["long"] + ["short"] * 200
            dice.shuffle(batch)
            rows += [(float(start), task) for task in batch]
    else:
        rows += [(k * 2.5 + 0.005, "long") for k in range(int(seconds / 2.5))]
        rows += [(k / 100, "short") for k in range(int(seconds * 100))]
        rows.sort()
    return rows


def idle_spans(
    tasks: Sequence[str], marks: Sequence[Mark], run_s: Mapping[str, float], procs: int = 2
) -> list[tuple[float, float]]:
    """Return the spans in which at least one process did nothing; short gaps do not count."""
    busy: dict[int, list[tuple[float, float]]] = {}
    for task, mark in zip(tasks, marks, strict=True):
        busy.setdefault(mark.pid, []).append((mark.started_at, mark.started_at + run_s[task]))
    spans = []
    begin = min(mark.started_at for mark in marks) - 1
    if len(busy) < procs:
        return [(begin, math.inf)]
    for jobs in busy.values():
        free_from = begin
        for start, end in sorted(jobs):
            if start - free_from > GAP_S:
                spans.append((free_from, start))
            free_from = max(free_from, end)
        spans.append((free_from, math.inf))
    return merged(spans)


def merged(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of spans, in order."""
    union: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def overlap(span: tuple[float, float], union: Sequence[tuple[float, float]]) -> float:
    """Return how much of the span lies inside the union."""
    start, end = span
    return sum(max(0.0, min(end, b) - max(start, a)) for a, b in union)


def waits(
    tasks: Sequence[str],
    sent: Sequence[float],
    marks: Sequence[Mark],
    run_s: Mapping[str, float],
) -> dict[str, Any]:
    """Return how long short jobs waited, and how long of it beside an idle worker."""
    idle = idle_spans(tasks, marks, run_s)
    short = [k for k, task in enumerate(tasks) if task == "short"]
    all_ms = [(marks[k].started_at - sent[k]) * 1000 for k in short]
    beside_idle_ms = [overlap((sent[k], marks[k].started_at), idle) * 1000 for k in short]
    return {
        "short_jobs": len(short),
        "long_jobs": len(tasks) - len(short),
        "over_100_ms": sum(1 for ms in all_ms if ms > 100),
        "over_1000_ms": sum(1 for ms in all_ms if ms > 1000),
        "beside_idle_over_100_ms": sum(1 for ms in beside_idle_ms if ms > 100),
        "beside_idle_max_ms": max(beside_idle_ms),
        "histogram": histogram(all_ms),
        **distribution(all_ms, "ms"),
    }


BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def histogram(values_ms: Sequence[float]) -> dict[str, int]:
    """Count values at or under each bound and over the one before."""
    counts = [0] * (len(BOUNDS_MS) + 1)
    for value in values_ms:
        counts[bisect.bisect_left(BOUNDS_MS, value)] += 1
    names = [f"<={bound}" for bound in BOUNDS_MS] + [f">{BOUNDS_MS[-1]}"]
    return dict(zip(names, counts, strict=True))


def sustained(
    samples: Sequence[dict[str, Any]],
    marks: Sequence[Mark],
    sent: Mapping[str, float],
    rate: float,
) -> dict[str, Any]:
    """Return whether memory was level, the backlog short and nothing lost.

    Level means: the mean of Redis's memory over the last quarter against that from the moment
    at which results expire as fast as they come to the middle of the run.
    """
    quarter = len(samples) // 4
    half = samples[: len(samples) // 2]
    early = [s for s in half if s["second"] >= FULL_S] or half[quarter:]
    last = samples[-quarter - 1 : -1]
    growth = statistics.fmean(s["redis_mb"] for s in last) / statistics.fmean(
        s["redis_mb"] for s in early
    )
    return {
        "rate": rate,
        "n": len(marks),
        "seconds": sent["seconds"],
        "worst_sender_lag_s": sent["worst_lag_s"],
        "never_ran": sum(1 for mark in marks if not mark.times),
        "ran_twice": sum(1 for mark in marks if mark.times > 1),
        "max_backlog_s": max(s["backlog"] for s in samples) / rate,
        "end_backlog": samples[-1]["backlog"],
        "redis_max_mb": max(s["redis_mb"] for s in samples),
        "redis_growth": growth,
        "workers_rss_first_mb": samples[min(10, len(samples) - 1)]["workers_rss_mb"],
        "workers_rss_last_mb": samples[-1]["workers_rss_mb"],
        "samples": [dict(sample) for sample in samples[:: max(1, len(samples) // 120)]],
    }


# --- over the repeats of a run ------------------------------------------------------


class Runs:
    """All figures of a results.json, by variant and figure."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.rows: list[dict[str, Any]] = data["runs"]
        self.variants = list(dict.fromkeys(row["variant"] for row in self.rows))

    def good(self, variant: str, figure: str) -> list[dict[str, Any]]:
        return [
            row
            for row in self.rows
            if row["variant"] == variant and row["figure"] == figure and "error" not in row
        ]

    def values(self, variant: str, figure: str, key: str) -> list[float]:
        return [row[key] for row in self.good(variant, figure) if row.get(key) is not None]

    def median(self, variant: str, figure: str, key: str) -> float | None:
        found = self.values(variant, figure, key)
        return statistics.median(found) if found else None

    def system(self, variant: str) -> str:
        return str(self.data["systems"][variant]["system"])

    def best(
        self,
        figure: str,
        key: str,
        *,
        highest: bool = True,
        of: Sequence[str] | None = None,
        ours: str | None = None,
    ) -> tuple[str, float] | None:
        """Return the best variant and its median; ``ours`` names a system to leave out."""
        found = [
            (name, value)
            for name in (of or self.variants)
            if (value := self.median(name, figure, key)) is not None
            and (ours is None or self.system(name) != ours)
        ]
        if not found:
            return None
        return (max if highest else min)(found, key=lambda pair: pair[1])
