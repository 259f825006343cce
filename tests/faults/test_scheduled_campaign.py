"""Due jobs and entries while movers are killed one after the other, and beside stock schedulers.

`SCHEDULED_COUNT` (100,000) jobs of each kind become due within 20 seconds; four movers serve them,
and each second one is killed and replaced.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import Job

from tests.conftest import AppModule
from tests.rq_support import stock_worker
from tests.support import ROOT, WorkerStarter, time_passes, wait_until

COUNT = int(os.environ.get("SCHEDULED_COUNT", "100000"))
SPREAD_S = 20.0
SET = "rq:scheduler:scheduled_jobs"

MOVER = """
import asyncio, sys
from taskq.broker import Broker
from taskq.worker.promote import Promoter
from taskq.worker.rq_entries import Entries
from taskq.worker.schedule import SchedulerService

async def main():
    broker = Broker(sys.argv[1])
    link = broker.new_alink()
    promoter = Promoter(broker, link, ["delayed"], lambda special: None)
    await asyncio.gather(promoter.run(), SchedulerService([Entries(broker, link)]).run())

asyncio.run(main())
"""

FILL = """
for n = ARGV[1], ARGV[2] do
  local id = ARGV[3] .. n
  redis.call('HSET', 'rq:job:' .. id, unpack(ARGV, 7))
  redis.call('ZADD', ARGV[4], tonumber(ARGV[5]) + n * tonumber(ARGV[6]), id)
end
"""

FUNCTIONS = """
import os
import redis

def note(key):
    with redis.Redis.from_url(os.environ["NOTES_URL"]) as client:
        client.rpush("notes", key)
"""


def fill(client: redis.Redis, name: str, key: str, count: int, first: float, **meta: int) -> None:
    job = Job.create("no.such.function", connection=client, status="scheduled", meta=meta)
    job.origin = "delayed" if key.startswith("rq:scheduled:") else "entries"
    fields = [part for pair in job.to_dict().items() for part in pair]
    script = client.register_script(FILL)
    for start in range(0, count, 2_000):
        end = min(start + 2_000, count) - 1
        script(args=[start, end, name, key, first, SPREAD_S / count, *fields])


@pytest.mark.timeout(300)
def test_movers_killed_each_second(redis_url: str, redis_client: redis.Redis) -> None:
    few = max(COUNT // 50, 1)
    first = time.time() + 5
    fill(redis_client, "d", "rq:scheduled:delayed", COUNT, first)
    fill(redis_client, "e", SET, COUNT, first)
    fill(redis_client, "p", SET, few, first, interval=3600, repeat=3)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", MOVER, redis_url], cwd=ROOT))
        return started[-1]

    chosen, kills = random.Random(4), 0
    movers = [start() for _ in range(4)]
    try:
        deadline = first + SPREAD_S + 120
        while time.time() < deadline:
            time_passes(1.0)
            slot = chosen.randrange(4)
            movers[slot].kill()
            movers[slot].wait()
            movers[slot] = start()
            kills += 1
            left = redis_client.zcard("rq:scheduled:delayed") + redis_client.zcard(SET) - few
            if time.time() > first + SPREAD_S and not left:
                break
    finally:
        for one in started:
            one.kill()
            one.wait()
    delayed = Counter(redis_client.lrange("rq:queue:delayed", 0, -1))
    entries = Counter(redis_client.lrange("rq:queue:entries", 0, -1))
    assert delayed == Counter(f"d{n}".encode() for n in range(COUNT))
    assert entries == Counter(
        [f"e{n}".encode() for n in range(COUNT)] + [f"p{n}".encode() for n in range(few)]
    )
    assert kills >= SPREAD_S / 2
    left = dict(redis_client.zrange(SET, 0, -1, withscores=True))
    assert set(left) == {f"p{n}".encode() for n in range(few)}
    grid = (first + 3599.9, first + 3600.1 + SPREAD_S)  # not a second of drift, however late
    assert all(grid[0] < due < grid[1] for due in left.values())
    repeats = {Job.fetch(one.decode(), connection=redis_client).meta["repeat"] for one in left}
    assert repeats == {2}
    print(f"{2 * COUNT + few} jobs, {kills} kills")


@pytest.fixture
def functions(
    app_module: AppModule, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    monkeypatch.setenv("NOTES_URL", redis_url)
    module = app_module(FUNCTIONS)
    return lambda name: f"{module.__name__}.{name}"


@pytest.mark.timeout(60)
def test_a_killed_stock_scheduler_is_followed(
    functions, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    worker(None, "--rq")
    with stock_worker(redis_url, tmp_path, "--with-scheduler", "other", "default") as stock:
        wait_until(lambda: redis_client.exists("rq:scheduler-lock:default"), 15)
        name = redis_client.get("rq:scheduler-lock:default").decode()
        wait_until(lambda: redis_client.hget(f"rq:scheduler:{name}", "pid"), 15)
        pid = int(redis_client.hget(f"rq:scheduler:{name}", "pid"))
        os.kill(pid, signal.SIGKILL)  # its lock lasts a minute
        Queue(connection=redis_client).enqueue_in(timedelta(seconds=1), functions("note"), "after")
        wait_until(lambda: redis_client.llen("notes"), 30)
        assert redis_client.get("rq:scheduler-lock:default") == b"taskq"
        assert stock.poll() is None

        assert redis_client.lrange("notes", 0, -1) == [b"after"]
