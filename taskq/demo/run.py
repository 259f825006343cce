"""Runs the demo: enqueue, wait, and check every result against a computation without the queue."""

from __future__ import annotations

import hashlib
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskq.demo import tasks
from taskq.demo.site import Site
from taskq.handle import Handle, as_completed

FLAKY_COUNT = 20
DELAY_S = 2.0
DEADLINE_S = 120.0
LARGEST = 10

Progress = Callable[[int, int], None]


@dataclass
class Outcome:
    """What the demo did.

    Attributes:
        files: source files of the standard library.
        jobs: jobs enqueued.
        seconds: from the first enqueue to the last result.
        enqueue_s: of these, for enqueueing.
        retries: executions beyond the first.
        rows: the largest modules, by tokens.
        lateness_s: how late the delayed job ran.
        wrong: a line for each result that differs from the computation without the queue.
        checked: results compared.
    """

    files: int
    jobs: int = 0
    seconds: float = 0.0
    enqueue_s: float = 0.0
    retries: int = 0
    rows: list[tasks.Row] = field(default_factory=list)
    lateness_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    checked: int = 0


def standard_library() -> list[Path]:
    """Every Python source file of the running interpreter's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"site-packages", "dist-packages", "__pycache__"}
    return sorted(path for path in root.rglob("*.py") if not skip.intersection(path.parts))


def run(files: Sequence[Path], progress: Progress) -> Outcome:
    """Do everything; workers for the queue "demo" must be running.

    Args:
        files: the input.
        progress: called with (done, all).

    Raises:
        JobFailed: a job failed.
        ResultTimeout: the jobs took more than two minutes.
    """
    paths = [str(path) for path in files]
    outcome = Outcome(files=len(paths))
    with Site(files) as site:
        start, asked_at = time.perf_counter(), time.time()
        late = tasks.clock.options(delay=DELAY_S, at_front=True).delay()
        flaky = tasks.flaky.map(paths[:FLAKY_COUNT])
        measured = tasks.measure.map(paths)
        digests = tasks.digest.map(paths)
        fetched = tasks.fetch.map([site.url(number) for number in range(len(paths))])
        outcome.enqueue_s = time.perf_counter() - start
        handles: list[Handle[object]] = [late, *flaky, *measured, *digests, *fetched]
        done = 0
        for _handle in as_completed(handles, timeout=DEADLINE_S):
            done += 1
            progress(done, len(handles) + 1)
        table = tasks.report.delay([h.id for h in measured], [h.id for h in digests], LARGEST)
        outcome.rows = table.result(timeout=DEADLINE_S)
        progress(done + 1, len(handles) + 1)
        outcome.seconds = time.perf_counter() - start
    outcome.jobs = len(handles) + 1
    outcome.lateness_s = late.result(timeout=5) - asked_at - DELAY_S
    attempts = flaky.results(timeout=5)
    outcome.retries = sum(attempts) - len(attempts)
    check = _Check(outcome)
    check.same("delayed job, started early", outcome.lateness_s < 0, False)
    check.each("flaky", paths[:FLAKY_COUNT], attempts, lambda _p: tasks.FLAKY_FAILURES + 1)
    plain = {path: tasks.measure(path) for path in paths}
    check.each("measure", paths, measured.results(timeout=30), plain.__getitem__)
    check.each("digest", paths, digests.results(timeout=30), _sha256)
    check.each("fetch", paths, fetched.results(timeout=30), _page)
    order = sorted(paths, key=lambda path: (-plain[path]["tokens"], path))[:LARGEST]
    check.each("report", order, outcome.rows, lambda path: _row(plain[path]))
    return outcome


class _Check:
    """Compares results with what the same computation gives without the queue."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def same(self, what: str, got: object, expected: object) -> None:
        """Note a difference."""
        self._outcome.checked += 1
        if got != expected:
            self._outcome.wrong.append(f"{what}: got {got!r}, expected {expected!r}")

    def each(
        self,
        what: str,
        paths: Sequence[str],
        results: Sequence[object],
        expected: Callable[[str], object],
    ) -> None:
        """Compare the result of each file."""
        self.same(f"{what}: number of results", len(results), len(paths))
        for path, got in zip(paths, results, strict=False):
            self.same(f"{what} {path}", got, expected(path))


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _page(path: str) -> tasks.Fetched:
    data = Path(path).read_bytes()
    return {"status": 200, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _row(one: tasks.Measured) -> tasks.Row:
    return {
        "path": one["path"],
        "tokens": one["tokens"],
        "lines": one["lines"],
        "sha256": _sha256(one["path"]),
    }
