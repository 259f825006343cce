"""``python -m benchmarks.yields``: a thousand generator tasks of a hundred yields, interleaved.

Prints yields/s of one worker process without readers and with a reader for each, of `def` and of
async generators; how far apart the first and the last of a fair race are; and the worker's memory
over further rounds. Beside each figure stands its goal; the exit code is 1 where one is missed.
Needs what ``make dev`` installs, and a quiet machine: whatever else runs is part of the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskq.embedded import EmbeddedRedis

SIDE = Path(__file__).resolve().parent / "side"
MISSED: list[str] = []


def tell(what: str, figure: float, unit: str, goal: float, *, at_most: bool = False) -> None:
    is_met = figure <= goal if at_most else figure >= goal
    if not is_met:
        MISSED.append(what)
    sign = "at most" if at_most else "at least"
    print(f"{what:42} {figure:12,.2f} {unit:10} {sign} {goal:,g} {'' if is_met else 'MISSED'}")


@contextlib.contextmanager
def worker(jobs: int) -> Iterator[int]:
    """A worker of one process; gives its process id."""
    command = [sys.executable, "-m", "taskq", "worker", "yield_tasks:queue", "--processes", "1"]
    command += ["--concurrency", str(jobs), "--log-level", "WARNING"]
    environment = {**os.environ, "PYTHONPATH": str(SIDE)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        importlib.import_module("yield_tasks").count.delay(1).result(timeout=60)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield int(children[0])
    finally:
        process.terminate()
        process.wait()


async def rate(task: Any, jobs: int, values: int, *, is_read: bool) -> float:
    """Yields/s from the first enqueue to the last result or value."""
    start = time.monotonic()
    handles = await asyncio.gather(*(task.adelay(values) for _ in range(jobs)))

    async def read(handle: Any) -> int:
        return len([value async for value in handle.stream()])

    if is_read:
        assert sum(await asyncio.gather(*map(read, handles))) == jobs * values
    else:
        await asyncio.gather(*handles)
    seconds = time.monotonic() - start
    await task.app.aclose()
    return jobs * values / seconds


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.yields", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--values", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10, help="of the look at memory")
    told = parser.parse_args()
    jobs, values = told.jobs, told.values
    sys.path.insert(0, str(SIDE))
    with EmbeddedRedis.start(port=0) as server:
        os.environ["TASKQ_REDIS_URL"] = server.url
        tasks = importlib.import_module("yield_tasks")
        for task in (tasks.count, tasks.acount):
            kind = "def" if task is tasks.count else "async def"
            for is_read, goal in ((False, 50_000), (True, 15_000)):
                with worker(jobs):
                    got = asyncio.run(rate(task, jobs, values, is_read=is_read))
                tell(f"{kind}, {'streamed' if is_read else 'no reader'}", got, "yields/s", goal)
        with worker(jobs):
            took = sorted(tasks.race.map([values] * jobs, jobs).results(timeout=120))
            tell("fair race, slowest / fastest", took[-1] / took[0], "", 1.2, at_most=True)
        with worker(jobs) as pid:
            asyncio.run(rate(tasks.count, jobs, values, is_read=False))
            before = resident_mb(pid)
            for _ in range(told.rounds):
                asyncio.run(rate(tasks.count, jobs, values, is_read=False))
            grown = resident_mb(pid) - before
            tell(f"memory over {told.rounds * jobs:,} further jobs", grown, "MB", 10, at_most=True)
    if MISSED:
        raise SystemExit(f"Missed: {', '.join(MISSED)}")


if __name__ == "__main__":
    main()
