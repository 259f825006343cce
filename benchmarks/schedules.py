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
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from taskq import Cron, Every, TaskQ
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


def app_of(home: Path, url: str) -> tuple[TaskQ, object]:
    os.environ["TASKQ_REDIS_URL"] = url
    (home / "bench_app.py").write_text(APP)
    sys.path.insert(0, str(home))
    sys.modules.pop("bench_app", None)  # of the part before, on its Redis
    importlib.invalidate_caches()
    import bench_app  # noqa: PLC0415 (written a line ago)

    return bench_app.queue, bench_app.nothing.call()


def fill(app: TaskQ, call: object, count: int, terms: Terms, at_ms: int) -> None:
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


def many(home: Path, url: str, client: redis.Redis) -> None:
    """The cost of a firing beside 1,000 and beside 1,000,000 that are not due."""
    app, call = app_of(home, url)
    far = Terms(Cron("0 0 1 1 *"))
    costs: dict[int, tuple[float, float]] = {}
    for count in (1_000, 1_000_000):
        fill(app, call, 1, far, 1_780_000_000_000)
        copies(client, count)
        costs[count] = cost(app, call, client, f"one{count}")
        size = client.info("memory")["used_memory"] / 1e6
        print(f"{count:>9,} schedules: {size:,.0f} MB in Redis, one firing "
              f"{costs[count][0]:.0f} us here and {costs[count][1]:.0f} us in Redis")  # fmt: skip
    ratio = costs[1_000_000][1] / costs[1_000][1]
    report("Redis's time for one firing, 1,000,000 : 1,000", f"{ratio:.2f}", "1.5", ratio < 1.5)
    app.schedules.set("tick", call, Every(seconds=0.5))
    with scheduler(home, url) as process:
        time.sleep(12)
        used = resident_mb(process.pid)
        fired = client.llen("rq:queue:default")
    report("memory of a scheduler beside 1,000,000", f"{used:.0f} MB", "80 MB", used < 80)
    report("what it fired meanwhile", str(fired), "> 5", fired > 5)
    app.close()


def cost(app: TaskQ, call: object, client: redis.Redis, name: str) -> tuple[float, float]:
    """Microseconds for one firing, medians: of our time, and of Redis's."""
    firing = Firing(app.codec, app.broker.clock)
    now = 1_790_000_000_000
    one = Entry(name, Terms(Cron("* * * * *")), prepare(app, "bench", name, call))
    run(app.broker, changes.put(app.broker.keys, [one], now))
    here: list[float] = []
    inside: list[float] = []
    n = 0
    for _ in range(BLOCKS):  # what else runs on the machine hits some of them
        client.config_resetstat()
        started = time.perf_counter()
        for _ in range(ROUNDS):
            n += 1
            look = run(app.broker, firing.look(now // 60_000 * 60_000 + n * 60_000))
            assert look.fired == 1
        here.append((time.perf_counter() - started) / ROUNDS * 1e6)
        inside.append(client.info("commandstats")["cmdstat_evalsha"]["usec"] / ROUNDS)
    app.schedules.remove(name)
    client.delete("rq:queue:default")
    return statistics.median(here), statistics.median(inside)


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
