"""The same work in every way that taskq has, one after another: `taskq demo --ways`.

Each way gets a worker of its own, started for it, and does three loads: pages over HTTP
(waiting), source files (CPU), and both mixed. Every result is compared with plain Python's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.demo.site import Site
from taskq.demo.ways_tasks import (
    page_by_turns,
    page_in_process,
    page_in_thread,
    page_on_loop,
    queue,
    tokens_by_turns,
    tokens_in_process,
    tokens_in_thread,
    tokens_on_loop,
)

if TYPE_CHECKING:
    from taskq.calls import Call

PAGES, FILES = 240, 240
"""Of a load; the mixed one has half of each."""
LATENCY_S = 0.03
DEADLINE_S = 120.0
LOADS: tuple[str, ...] = ("pages", "files", "mixed")
PLAIN = "plain Python"

Item = tuple[str, str]
"""("page", url) or ("file", path)."""


class Way(NamedTuple):
    """One way to run the work.

    Attributes:
        name: for people.
        call: makes a job of an item.
        workers: `taskq worker` commands that run, with one process each.
    """

    name: str
    call: Callable[[Item], Call[Any]]
    workers: int = 1


@dataclass
class Took:
    """What one load took in one way.

    Attributes:
        seconds: from the first enqueue to the last result.
        cpu_s: of the workers; None where psutil is not there to tell.
        memory_mb: the most that all processes of the workers had at the same time, or None.
        wrong: results that are not as plain Python's.
    """

    seconds: float
    cpu_s: float | None
    memory_mb: float | None
    wrong: int = 0


@dataclass
class Comparison:
    """All ways: what each load took, by the name of the way."""

    counts: dict[str, int]
    took: dict[str, dict[str, Took]] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """Results that are not as plain Python's."""
        return sum(one.wrong for loads in self.took.values() for one in loads.values())


def ways() -> list[Way]:
    """All that there are, beside plain Python."""

    def by(page: Callable[[str], Call[Any]], file: Callable[[str], Call[Any]]) -> Any:
        return lambda item: page(item[1]) if item[0] == "page" else file(item[1])

    return [
        Way("process", by(page_in_process.call, tokens_in_process.call)),
        Way("thread", by(page_in_thread.call, tokens_in_thread.call)),
        Way("generator", by(page_by_turns.call, tokens_by_turns.call)),
        Way("asyncio", by(page_on_loop.call, tokens_on_loop.call)),
        Way("two workers", by(page_on_loop.call, tokens_in_thread.call), workers=2),
    ]


def run(
    files: Sequence[Path],
    start_workers: Callable[[int], Any],
    say: Callable[[str], None],
) -> Comparison:
    """Do everything.

    Args:
        files: the input; `FILES` of them are used, from all over it.
        start_workers: a context manager for so many workers; gives their process ids.
        say: called with the name of each way before it begins.

    Raises:
        JobFailed: a job failed.
        ResultTimeout: a load took more than two minutes.
    """
    chosen = files[:: max(1, len(files) // FILES)][:FILES]
    with Site(chosen, as_pages=True, latency_s=LATENCY_S) as site:
        pages: list[Item] = [("page", site.url(n)) for n in range(min(PAGES, len(chosen)))]
        sources: list[Item] = [("file", str(path)) for path in chosen]
        half = min(len(pages), len(sources)) // 2
        mixed = [item for pair in zip(pages[:half], sources[:half], strict=True) for item in pair]
        loads = dict(zip(LOADS, (pages, sources, mixed), strict=True))
        compared = Comparison({name: len(load) for name, load in loads.items()})
        say(PLAIN)
        expected, compared.took[PLAIN] = _plainly(loads)
        for way in ways():
            say(way.name)
            with start_workers(way.workers) as pids:
                _warm(way, sources[0], pages[0])
                compared.took[way.name] = {
                    name: _one(way, load, expected[name], pids) for name, load in loads.items()
                }
    return compared


def _plainly(loads: dict[str, list[Item]]) -> tuple[dict[str, list[Any]], dict[str, Took]]:
    """In a process of its own, so that its CPU time and memory are its own."""
    done = subprocess.run(
        [sys.executable, "-m", "taskq.demo.ways_work"],
        input=json.dumps(list(loads.values())), stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    told = dict(zip(loads, json.loads(done.stdout), strict=True))
    results = {name: one["results"] for name, one in told.items()}
    took = {
        name: Took(one["seconds"], one["cpu_s"], one["memory_mb"]) for name, one in told.items()
    }
    return results, took


def _warm(way: Way, *items: Item) -> None:
    """Children of a process pool start with the first jobs: that is no part of the work."""
    queue.enqueue([way.call(item) for item in items * 8]).results(timeout=DEADLINE_S)


def _one(way: Way, load: Sequence[Item], expected: Sequence[Any], pids: Sequence[int]) -> Took:
    with _watched(pids) as usage:
        start = time.perf_counter()
        results = queue.enqueue([way.call(item) for item in load]).results(timeout=DEADLINE_S)
        seconds = time.perf_counter() - start
    wrong = sum(1 for got, right in zip(results, expected, strict=True) if got != right)
    return Took(seconds, usage.cpu_s, usage.memory_mb, wrong)


@dataclass
class _Usage:
    cpu_s: float | None = None
    memory_mb: float | None = None


@contextmanager
def _watched(pids: Sequence[int]) -> Iterator[_Usage]:
    """What processes and all their descendants use while the block runs."""
    usage = _Usage()
    try:
        import psutil  # noqa: PLC0415 (extra: worker)
    except ImportError:
        yield usage
        return

    def look() -> tuple[float, float]:
        cpu = rss = 0.0
        for pid in pids:
            for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                try:
                    times = one.cpu_times()
                    cpu += times.user + times.system
                    rss += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
        return cpu, rss / 1e6

    before, usage.memory_mb = look()
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            usage.memory_mb = max(usage.memory_mb or 0.0, look()[1])

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield usage
    finally:
        over.set()
        sampler.join()
        after, memory_mb = look()
        usage.cpu_s, usage.memory_mb = after - before, max(usage.memory_mb or 0.0, memory_mb)
