"""``python -m benchmarks.delayed [rates] [lateness] [million]``: jobs and entries that are due.

``rates``: how many due jobs one process moves to their queue in a second; taskq beside
rq-scheduler and RQ's own scheduler, on jobs that are the same. ``lateness``: how long after its
time a delayed job begins on an idle worker, and a due entry is in its queue. ``million``: what one
move costs among a million scheduled jobs, and what the mover needs of memory. Beside each figure
stands its goal; the exit code is 1 where one is missed. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import redis
from rq.job import Job
from rq.scheduler import RQScheduler as RQsOwnScheduler
from rq_scheduler import Scheduler

from taskq.broker import Broker
from taskq.embedded import EmbeddedRedis
from taskq.worker import RQScheduler
from taskq.worker.promote import Promoter
from taskq.worker.rq_entries import Entries

SIDE = Path(__file__).resolve().parent / "side"
MISSED: list[str] = []
FILL = """
for n = ARGV[1], ARGV[2] do
  local id = ARGV[3] .. n
  redis.call('HSET', 'rq:job:' .. id, unpack(ARGV, 6))
  redis.call('ZADD', ARGV[4], tonumber(ARGV[5]) + n / 1000, id)
end
"""


def tell(what: str, figure: float, unit: str, goal: float, *, at_most: bool = False) -> None:
    is_met = figure <= goal if at_most else figure >= goal
    if not is_met:
        MISSED.append(what)
    sign = "at most" if at_most else "at least"
    print(f"{what:44} {figure:12,.2f} {unit:6} {sign} {goal:,g} {'' if is_met else 'MISSED'}")


def fill(client: redis.Redis, count: int, first_due: float, key: str, name: str = "j") -> None:
    """Jobs as stock RQ and rq-scheduler write them, one every millisecond."""

    job = Job.create("side.function", args=(1,), connection=client, status="scheduled")
    job.origin = "default"
    fields = [part for pair in job.to_dict().items() for part in pair]
    script = client.register_script(FILL)
    for first in range(0, count, 5_000):
        last = min(first + 5_000, count) - 1
        script(args=[first, last, name, key, first_due, *fields])


def clean(client: redis.Redis, count: int) -> None:
    assert client.llen("rq:queue:default") == count, client.llen("rq:queue:default")
    assert len(set(client.lrange("rq:queue:default", 0, -1))) == count
    client.flushall()


# -- rates ---------------------------------------------------------------------------------------


def rate_of_rq_scheduler(client: redis.Redis, count: int) -> float:

    fill(client, count, time.time() - count / 1000 - 1, "rq:scheduler:scheduled_jobs")
    start = time.perf_counter()
    Scheduler(connection=client).enqueue_jobs()
    took = time.perf_counter() - start
    clean(client, count)
    return count / took


def rate_of_rqs_mover(client: redis.Redis, count: int) -> float:

    fill(client, count, time.time() - count / 1000 - 1, "rq:scheduled:default")
    mover = RQsOwnScheduler(["default"], connection=client)
    mover.acquire_locks()
    start = time.perf_counter()
    while client.zcard("rq:scheduled:default"):
        mover.enqueue_scheduled_jobs()  # a thousand a call, without the second's pause after it
    took = time.perf_counter() - start
    mover.release_locks()
    clean(client, count)
    return count / took


def rate_of_ours(url: str, client: redis.Redis, count: int, key: str) -> float:
    fill(client, count, time.time() - count / 1000 - 1, key)

    async def move() -> float:

        broker = Broker(url)
        link = broker.new_alink()
        mine = Promoter(broker, link, ["default"], lambda _special: None)
        part = mine if "scheduler:" not in key else Entries(broker, link)
        start = time.perf_counter()
        while client.zcard(key):
            await part.step()
        took = time.perf_counter() - start
        await link.aclose()
        await broker.aclose()
        return took

    took = asyncio.run(move())
    clean(client, count)
    return count / took


def rates(url: str, scale: float) -> None:
    few, many = int(5_000 * scale), int(100_000 * scale)
    with redis.Redis.from_url(url) as client:
        for round_number in range(3):
            theirs = rate_of_rq_scheduler(client, few)
            movers = rate_of_rqs_mover(client, few)
            delayed = rate_of_ours(url, client, many, "rq:scheduled:default")
            entries = rate_of_ours(url, client, many, "rq:scheduler:scheduled_jobs")
            print(f"-- round {round_number + 1}: rq-scheduler {theirs:,.0f}/s, "
                  f"RQ's scheduler {movers:,.0f}/s")  # fmt: skip
            tell("delayed jobs", delayed, "/s", 20 * theirs)
            tell("delayed jobs, against RQ's scheduler", delayed, "/s", 3 * movers)
            tell("entries of rq-scheduler", entries, "/s", 20 * theirs)


# -- lateness ------------------------------------------------------------------------------------


@contextlib.contextmanager
def program(*command: str) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": str(SIDE)}
    process = subprocess.Popen([sys.executable, *command], env=environment,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def tell_lateness(what: str, late: list[float]) -> None:
    ms = sorted(1000 * one for one in late)
    tell(f"{what}: median", statistics.median(ms), "ms", 20, at_most=True)
    tell(f"{what}: p99", ms[int(len(ms) * 0.99)], "ms", 100, at_most=True)
    tell(f"{what}: earliest", ms[0], "ms", 0)


def lateness_of_jobs(jobs: int) -> None:
    worker = ["-m", "taskq", "worker", "delayed_tasks:queue", "--processes", "1",
              "--log-level", "WARNING"]  # fmt: skip
    with program(*worker):
        task = importlib.import_module("delayed_tasks").now
        task.delay().result(timeout=60)
        start = time.time() + 1
        due = [start + 10 * n / jobs for n in range(jobs)]
        handles = [task.options(at=datetime.fromtimestamp(at, timezone.utc)).delay() for at in due]
        late = [handle.result(timeout=60) - at for handle, at in zip(handles, due)]
    tell_lateness("delayed job, due to begun", late)


def lateness_of_entries(url: str, jobs: int) -> None:
    run = (f"import redis; from taskq.worker import RQScheduler; "
           f"RQScheduler(connection=redis.Redis.from_url({url!r})).run()")  # fmt: skip
    late: list[float] = []
    with program("-c", run), redis.Redis.from_url(url) as client:
        scheduler = RQScheduler(connection=client)
        while not client.exists("rq:scheduler_lock"):
            time.sleep(0.05)
        start = time.time() + 2
        due = {}
        for n in range(jobs):
            at = datetime.fromtimestamp(start + 10 * n / jobs, timezone.utc)
            due[scheduler.enqueue_at(at, "side.function").id.encode()] = at.timestamp()
        while len(late) < jobs:
            _key, job_id = client.blpop("rq:queue:default")
            late.append(time.time() - due[job_id])
    tell_lateness("entry of rq-scheduler, due to queued", late)


# -- a million -----------------------------------------------------------------------------------


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Waiting:
    """A server where so many jobs wait, and a mover that is to move others, one at a time."""

    def __init__(self, url: str, key: str, count: int, moves: int) -> None:
        self.client = redis.Redis.from_url(url)
        self.client.flushall()
        fill(self.client, count, time.time() + 86_400, key)
        fill(self.client, moves, time.time() - 1_000_000, "due", "due")
        self._due = iter(self.client.zrange("due", 0, -1))
        self._key = key
        self._broker = Broker(url)
        self._link = self._broker.new_alink()
        mine = Promoter(self._broker, self._link, ["default"], lambda _special: None)
        self._part = mine if "scheduler:" not in key else Entries(self._broker, self._link)
        self.took: list[float] = []

    async def move(self) -> None:
        self.client.zadd(self._key, {next(self._due): time.time() - 1})
        start = time.perf_counter()
        await self._part.step()
        self.took.append(1000 * (time.perf_counter() - start))

    async def close(self) -> None:
        await self._link.aclose()
        await self._broker.aclose()
        self.client.flushall()
        self.client.close()


async def moves_in_turn(
    urls: tuple[str, str], key: str, counts: tuple[int, int], moves: int = 300
) -> tuple[list[list[float]], float, float]:
    """Ms of each move, of two servers in turn; RSS of the mover after the first ones and the last.

    In turn, as what the machine does meanwhile is the same for both then.
    """
    sides = [Waiting(url, key, count, moves) for url, count in zip(urls, counts, strict=True)]
    before = 0.0
    for n in range(moves):
        for side in sides:
            await side.move()
        if n == moves // 10:
            before = rss_mb()
    after = rss_mb()
    for side in sides:
        assert side.client.llen("rq:queue:default") == moves
        await side.close()
    return [side.took for side in sides], before, after


def million(url: str, scale: float) -> None:
    for name, key in (
        ("delayed jobs", "rq:scheduled:default"),
        ("entries of rq-scheduler", "rq:scheduler:scheduled_jobs"),
    ):
        with EmbeddedRedis.start(port=0) as other:
            counts = (1_000, int(1_000_000 * scale))
            took, before, after = asyncio.run(moves_in_turn((other.url, url), key, counts))
        few, many = (statistics.median(one) for one in took)
        print(f"-- {name}: one move {few:.3f} ms among 1,000")
        tell(f"{name}: one move among many", many, "ms", 1.5 * few + 0.05, at_most=True)
        tell(f"{name}: RSS of the mover", after, "MB", 80, at_most=True)
        tell(f"{name}: its growth", after - before, "MB", 2, at_most=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["rates", "lateness", "million"])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual counts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("rq").setLevel(logging.ERROR)
    sys.path.insert(0, str(SIDE))
    with EmbeddedRedis.start(port=0) as server:
        os.environ["TASKQ_REDIS_URL"] = server.url
        steps: dict[str, Callable[[], Any]] = {
            "rates": lambda: rates(server.url, options.scale),
            "lateness": lambda: (
                lateness_of_jobs(int(500 * options.scale)),
                lateness_of_entries(server.url, int(500 * options.scale)),
            ),
            "million": lambda: million(server.url, options.scale),
        }
        for what in options.what:
            steps[what]()
    return 1 if MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
