"""The figures taskq means to reach, each compared with what its peers did in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.harness.arithmetic import Runs
from benchmarks.harness.systems import OURS

BOTH = ("taskq-async", "taskq-thread")
IN_PROCESSES = ("taskq-process",)
PREFORK = ("dramatiq", "celery-prefork")
"""Peers whose worker is a process for the code of jobs."""


class Verdict(NamedTuple):
    """One line of the table of goals."""

    what: str
    goal: str
    ours: str
    against: str
    ratio: float | None
    reached: bool | None  # None: not measured


@dataclass(frozen=True)
class Versus:
    """Ours divided by a peer's median; ``peer=None``: the best of them, over all ``figures``.

    ``peers``: the best of these.

    ``least`` is the smallest ratio allowed, ``most`` the largest.
    """

    what: str
    figure: str
    key: str
    ours: Sequence[str]
    peer: str | None = None
    peers: tuple[str, ...] = ()
    peer_figures: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    unit: str = "/s"

    def verdicts(self, runs: Runs) -> Iterator[Verdict]:
        goal = f"at least {self.least:g} x" if self.least else f"at most {self.most:g} x"
        for variant in self.ours:
            value = runs.median(variant, self.figure, self.key)
            rival = self._rival(runs)
            if value is None or rival is None:
                yield Verdict(self.what, goal, variant, "-", None, None)
                continue
            ratio = value / rival[1]
            good = ratio >= self.least if self.least else ratio <= (self.most or 0)
            yield Verdict(
                self.what,
                goal,
                f"{variant} {shown(value)}{self.unit}",
                f"{rival[0]} {shown(rival[1])}{self.unit}",
                ratio,
                good,
            )

    def _rival(self, runs: Runs) -> tuple[str, float] | None:
        highest = self.least is not None
        found = []
        for figure in self.peer_figures or (self.figure,):
            of = [self.peer] if self.peer else list(self.peers) or None
            best = runs.best(figure, self.key, highest=highest, of=of, ours=OURS)
            if best:
                found.append(best)
        pick = max if highest else min
        return pick(found, key=lambda pair: pair[1]) if found else None


@dataclass(frozen=True)
class Bound:
    """A figure of ours, or the ratio of two of ours, under or over a fixed number."""

    what: str
    figure: str
    key: str
    ours: Sequence[str]
    least: float | None = None
    most: float | None = None
    unit: str = ""
    over: tuple[str, str] | None = None  # divide by this figure and key of the same variant
    minus_peer: str | None = None  # subtract this peer's median of the same figure

    def verdicts(self, runs: Runs) -> Iterator[Verdict]:
        sign, limit = ("at least", self.least) if self.least is not None else ("at most", self.most)
        assert limit is not None
        goal = f"{sign} {limit:g}{self.unit}"
        for variant in self.ours:
            value = runs.median(variant, self.figure, self.key)
            base = self._base(runs, variant)
            if value is None or base is None:
                yield Verdict(self.what, goal, variant, "-", None, None)
                continue
            if self.over:
                figure, against, ratio = value / base, shown(base), value / base
            elif self.minus_peer:
                figure, against, ratio = value - base, f"{self.minus_peer} {shown(base)}", None
            else:
                figure, against, ratio = value, "", None
            good = figure >= limit if self.least is not None else figure <= limit
            yield Verdict(
                self.what, goal, f"{variant} {shown(value)}{self.unit}", against, ratio, good
            )

    def _base(self, runs: Runs, variant: str) -> float | None:
        if self.over:
            return runs.median(variant, *self.over)
        if self.minus_peer:
            return runs.median(self.minus_peer, self.figure, self.key)
        return 0.0


def shown(value: float) -> str:
    """Round for reading: three or four digits that mean something."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.3f}"


DRAIN, RATE = "drain/1p/results", "jobs_per_s"
GOALS: tuple[Versus | Bound, ...] = (
    Versus("drain, results stored", DRAIN, RATE, BOTH, least=6),
    Versus("drain against RQ's SimpleWorker", DRAIN, RATE, BOTH, peer="rq-simple", least=70),
    Versus("drain against RQ's default worker", DRAIN, RATE, BOTH, peer="rq-fork", least=300),
    Versus("drain without results", "drain/1p/noresults", RATE, BOTH, least=2),
    Versus("drain, two processes, results stored", "drain/2p/results", RATE, BOTH, least=4),
    Versus("job processes, no-op", DRAIN, RATE, IN_PROCESSES, peer="rq-fork", least=5),
    Versus("job processes, no-op", DRAIN, RATE, IN_PROCESSES, peers=PREFORK, least=1),
    Versus("10 ms of Python, two processes", "cpu", RATE, IN_PROCESSES, least=1),
    Versus(
        "enqueue in bulk",
        "enqueue/pipelined",
        RATE,
        ("taskq-async",),
        peer_figures=("enqueue/pipelined", "enqueue/gather"),
        least=4,
    ),
    Versus("enqueue one at a time", "enqueue/single/results", RATE, ("taskq-async",), least=1),
    Versus("enqueue gathered", "enqueue/gather", RATE, ("taskq-adelay",), least=3),
    Bound("100 ms sleeps, async, 500 at once", "io", RATE, ("taskq-async",), least=4500, unit="/s"),
    Bound("100 ms sleeps, 100 threads", "io", RATE, ("taskq-thread",), least=950, unit="/s"),
    Versus("enqueue to start, median", "latency", "p50_ms", BOTH, most=1, unit=" ms"),
    Bound(
        "enqueue to start, p99 over its median",
        "latency",
        "p99_ms",
        BOTH,
        most=2,
        over=("latency", "p50_ms"),
    ),
    Versus(
        "enqueue to result, median",
        "roundtrip",
        "p50_ms",
        (*BOTH, "taskq-adelay"),
        most=1,
        unit=" ms",
    ),
    Versus(
        "worker CPU for 1,000 jobs",
        DRAIN,
        "worker_cpu_s_per_1000",
        BOTH,
        most=round(1 / 6, 3),
        unit=" s",
    ),
    Bound("Redis CPU for 1,000 jobs", DRAIN, "redis_cpu_s_per_1000", BOTH, most=0.035, unit=" s"),
    Bound("round trips for a job", DRAIN, "roundtrips_per_job", BOTH, most=0.1),
    *(
        Versus(what, "memory", key, ("taskq-async",), peer="rq-simple", most=most, unit=" B")
        for what, key, most in (
            ("memory of a queued job", "bytes_per_queued_job", 0.6),
            ("the same with an 80-byte argument", "bytes_per_queued_job_80", 0.6),
            ("memory of a finished job", "bytes_per_finished_job", 0.3),
        )
    ),
    Bound("sustained: jobs lost", "sustained", "never_ran", BOTH, most=0),
    Bound("sustained: jobs run twice", "sustained", "ran_twice", BOTH, most=0),
    Bound("sustained: backlog, seconds of work", "sustained", "max_backlog_s", BOTH, most=2),
    Bound(
        "sustained: Redis memory, end over beginning",
        "sustained",
        "redis_growth",
        BOTH,
        most=1.1,
    ),
    Bound(
        "idle worker process over RQ's SimpleWorker",
        "resident",
        "worker_rss_mb",
        BOTH,
        most=10,
        unit=" MB",
        minus_peer="rq-simple",
    ),
    Bound(
        "deep queue: rate over that of 20,000",
        "depth/deep",
        RATE,
        BOTH,
        least=0.9,
        over=("depth/shallow", RATE),
    ),
    Bound("short jobs over 100 ms, steady mix", "fairness/steady", "over_100_ms", BOTH, most=0),
    Bound(
        "short jobs over 100 ms beside an idle worker, bursts",
        "fairness/burst",
        "beside_idle_over_100_ms",
        BOTH,
        most=0,
    ),
)


def verdicts(runs: Runs) -> list[Verdict]:
    return [one for goal in GOALS for one in goal.verdicts(runs)]
