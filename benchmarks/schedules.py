"""``python -m benchmarks.schedules``: how late schedules fire, and what a million of them costs.

    python -m benchmarks.schedules                  both, two minutes or so
    python -m benchmarks.schedules late             lateness of occurrences on an idle machine
    python -m benchmarks.schedules many             cost of one firing and memory, by the number
    python -m benchmarks.schedules due              how fast occurrences that are due are enqueued

Prints each figure beside its goal; the exit code is 1 where one is missed. Needs what ``make dev``
installs, and a quiet machine: whatever else runs is part of the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from taskq import Cron, Every, TaskQ
from taskq.calls import Call
from taskq.embedded import EmbeddedRedis
from taskq.schedules import changes
from taskq.schedules.asking import run
from taskq.schedules.changes import Entry
from taskq.schedules.firing import Firing
from taskq.schedules.template import prepare
from taskq.schedules.terms import Terms

APP = """
from taskq import TaskQ
queue = TaskQ()

@queue.task
def nothing(): ...
"""
MISSED: list[str] = []
BLOCKS, ROUNDS = 21, 100
EACH_ONCE = 1_000
FIRST_MS = 1_790_000_000_000 // 60_000 * 60_000


def report(what: str, figure: str, goal: str, reached: bool) -> None:
    print(f"{what:58} {figure:>22}   goal {goal:14} {'yes' if reached else 'NO'}", flush=True)
    if not reached:
        MISSED.append(what)


@contextlib.contextmanager
def scheduler(home: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "TASKQ_REDIS_URL": url, "PYTHONPATH": str(home)}
    with (home / "scheduler.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", "scheduler", "bench_app:queue"],
            env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def app_of(home: Path, url: str) -> tuple[TaskQ, Call[Any]]:
    os.environ["TASKQ_REDIS_URL"] = url
    (home / "bench_app.py").write_text(APP)
    sys.path.insert(0, str(home))
    sys.modules.pop("bench_app", None)  # of the part before, on its Redis
    importlib.invalidate_caches()
    import bench_app  # noqa: PLC0415 (written a line ago)

    return bench_app.queue, bench_app.nothing.call()


def fill(app: TaskQ, call: Call[Any], count: int, terms: Terms, at_ms: int) -> None:
    """Make schedules; the job is prepared once, the names are in it only where it is signed."""
    template = prepare(app, "bench", "s", call)
    for start in range(0, count, 10_000):
        entries = [
            Entry(f"s{n}", terms, template) for n in range(start, min(start + 10_000, count))
        ]
        run(app.broker, changes.put(app.broker.keys, entries, at_ms))


COPY = """
local h = redis.call('HGETALL', 'taskq:schedule:s0')
local score = redis.call('ZSCORE', 'taskq:schedules', 's0')
for n = ARGV[1], ARGV[2] do
  redis.call('HSET', 'taskq:schedule:s' .. n, unpack(h))
  redis.call('ZADD', 'taskq:schedules', score, 's' .. n)
end
"""


def copies(client: redis.Redis, count: int) -> None:
    """As many as that of the one that was made, by Redis itself: a million in seconds."""
    copy = client.register_script(COPY)
    for start in range(1, count, 1_000):
        copy(args=[start, min(start + 999, count - 1)])


def late(home: Path, url: str, client: redis.Redis) -> None:
    """200 schedules, one a tenth of a second; lateness by Redis's clock, as MONITOR sees it."""
    app, call = app_of(home, url)
    for n in range(20):
        app.schedules.set(f"s{n}", call, Every(seconds=2))
        time.sleep(0.1)
    found: list[float] = []
    early = 0
    with scheduler(home, url), client.monitor() as monitor:
        end = time.time() + 25
        for seen in monitor.listen():
            if "rq:job:cron-" in seen["command"] and '"status" "queued"' not in seen["command"]:
                words = seen["command"].split()
                if words[0].upper() == "HSET" and "queued" in words:
                    due = int(words[1].rpartition("-")[2]) / 1000
                    found.append((seen["time"] - due) * 1000)
                    early += seen["time"] < due
            if time.time() > end:
                break
    found = sorted(found[20:])
    p99 = found[int(len(found) * 0.99)]
    median = statistics.median(found)
    report(
        f"lateness of {len(found)} occurrences, median", f"{median:.2f} ms", "20 ms", median < 20
    )
    report("the same, p99", f"{p99:.2f} ms", "100 ms", p99 < 100)
    report("fired early", str(early), "0", early == 0)
    app.close()


class Beside:
    """A server with schedules that are not due, and others beside them that are fired."""

    def __init__(self, home: Path, url: str, client: redis.Redis, count: int) -> None:
        self.app, self.call = app_of(home, url)
        self.client = client
        self._firing = Firing(self.app.codec, self.app.broker.clock)
        fill(self.app, self.call, 1, Terms(Cron("0 0 1 1 *")), 1_780_000_000_000)
        copies(client, count)
        self._put("again", "* * * * *", FIRST_MS + EACH_ONCE * 60_000)
        for n in random.Random(4).sample(range(EACH_ONCE), EACH_ONCE):
            due = time.gmtime(FIRST_MS // 1000 + n * 60)
            once = f"{due.tm_min} {due.tm_hour} {due.tm_mday} {due.tm_mon} *"
            self._put(f"once{n}", once, FIRST_MS + n * 60_000)
        self.here: list[float] = []
        self.inside: list[float] = []

    def _put(self, name: str, cron: str, due_ms: int) -> None:
        one = Entry(name, Terms(Cron(cron)), prepare(self.app, "bench", name, self.call))
        run(self.app.broker, changes.put(self.app.broker.keys, [one], due_ms - 60_000))

    def fire(self, at: range) -> None:
        """Look once in each of these minutes, in which one is due; note what that took, in us."""
        self.client.config_resetstat()
        started = time.perf_counter()
        for minute in at:
            look = run(self.app.broker, self._firing.look(FIRST_MS + minute * 60_000))
            assert look.fired == 1
        self.here.append((time.perf_counter() - started) / len(at) * 1e6)
        self.inside.append(self.client.info("commandstats")["cmdstat_evalsha"]["usec"] / len(at))


def many(home: Path, url: str, client: redis.Redis) -> None:
    """The cost of a firing beside 1,000 and beside 1,000,000 that are not due.

    Of two servers in turn, block by block: what the machine does meanwhile is the same for both.
    """
    with EmbeddedRedis.start(port=0) as other, redis.Redis.from_url(other.url) as beside_few:
        few = Beside(home, other.url, beside_few, 1_000)
        lots = Beside(home, url, client, 1_000_000)
        size = client.info("memory")["used_memory"] / 1e6
        print(f"1,000,000 schedules: {size:,.0f} MB in Redis")
        minutes = range(EACH_ONCE + BLOCKS * ROUNDS)
        for what, part in (
            (f"{EACH_ONCE:,} schedules once each", minutes[:EACH_ONCE]),
            (f"one schedule {BLOCKS * ROUNDS:,} times", minutes[EACH_ONCE:]),
        ):
            few.here, few.inside, lots.here, lots.inside = [], [], [], []
            for start in range(0, len(part), ROUNDS):
                for side in (few, lots):
                    side.fire(part[start : start + ROUNDS])
            inside, here = (
                [statistics.median(found) for found in both]
                for both in ((lots.inside, few.inside), (lots.here, few.here))
            )
            ratios = [a / b for a, b in zip(lots.inside, few.inside, strict=True)]
            ratio = statistics.median(ratios)
            print(f"{what}: {inside[0]:.0f} us in Redis ({inside[1]:.0f} beside 1,000), "
                  f"{here[0]:.0f} in all ({here[1]:.0f}); ratio of {len(ratios)} pairs "
                  f"{min(ratios):.2f} to {max(ratios):.2f}")  # fmt: skip
            report(
                "Redis's time for a firing, 1,000,000 : 1,000", f"{ratio:.2f}", "1.5", ratio < 1.5
            )
        few.app.close()
    client.delete("rq:queue:default")
    lots.app.schedules.remove("again")
    lots.app.schedules.set("tick", lots.call, Every(seconds=0.5))
    with scheduler(home, url) as process:
        time.sleep(12)
        used = resident_mb(process.pid)
        fired = client.llen("rq:queue:default")
    report("memory of a scheduler beside 1,000,000", f"{used:.0f} MB", "80 MB", used < 80)
    report("what it fired meanwhile", str(fired), "> 5", fired > 5)
    lots.app.close()


def due(home: Path, url: str, _client: redis.Redis) -> None:
    """20,000 schedules that are due at once."""
    app, call = app_of(home, url)
    count = 20_000
    hourly = Terms(Cron("30 * * * *", tz="Europe/Berlin"))
    fill(app, call, count, hourly, round(time.time() * 1000) - 3_600_000)
    firing = Firing(app.codec, app.broker.clock)
    started = time.perf_counter()
    fired = 0
    while fired < count:
        fired += run(app.broker, firing.look()).fired
    rate = count / (time.perf_counter() - started)
    report(f"occurrences of {count:,} schedules due at once", f"{rate:,.0f}/s", "-", True)
    app.close()


PARTS = {"late": late, "many": many, "due": due}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    chosen = parser.parse_args().parts or list(PARTS)
    for name in chosen:
        with (
            tempfile.TemporaryDirectory() as home,
            EmbeddedRedis.start(port=0) as server,
            redis.Redis.from_url(server.url) as client,
        ):
            PARTS[name](Path(home), server.url, client)
    return 1 if MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
