"""`kill -9` of workers while they end RQ's jobs with features: every one of those is carried out.

Repeats come as often as they should, a returned `Retry` comes back, no slot of a rate limit leaks
nor are there ever more than its concurrency, each callback is called and each webhook sent at least
once. `TASKQ_FEATURE_KILLS=100` is the long campaign.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from types import ModuleType

import pytest
import redis
from rq import Callback, Queue, Repeat, Retry
from rq.job import Job
from rq.rate_limit import RateLimit
from rq.webhook import Webhook

from tests.conftest import AppModule
from tests.integration.test_rq_features import Listener
from tests.support import WorkerProcess, WorkerStarter, random_moment, wait_until

KILLS = int(os.environ.get("TASKQ_FEATURE_KILLS", "6"))
EACH = 10
FUNCTIONS = """
import time
import rq
from rq import Retry, get_current_job

def work(seconds=0.0):
    time.sleep(seconds)
    return 1

async def awork():
    return 1

def limited(key):
    job = get_current_job()
    client = job.connection
    client.zadd("running", {job.id: time.time()})
    if client.zcard("running") > 3:
        client.rpush("too many", job.id)
    time.sleep(0.02)
    client.zrem("running", job.id)

def asks():
    if not get_current_job().number_of_retries:
        return Retry(max=2)
    return 2

def fails():
    raise ValueError("no")

def called(job, connection, *rest):
    connection.hincrby("called", job.id, 1)
"""


def fill(queue: Queue, fns: ModuleType, url: str) -> dict[str, list[Job]]:
    """Ten jobs of each kind."""
    called, limit = Callback(fns.called), RateLimit("three", 3)
    hooks = [Webhook(url, status, method="POST") for status in ("finished", "failed")]  # type: ignore[arg-type]
    kinds = {
        "repeats": lambda: queue.enqueue(fns.work, repeat=Repeat(times=3), result_ttl=-1),
        "later": lambda: queue.enqueue(fns.work, repeat=Repeat(1, 1), result_ttl=-1),
        "asks": lambda: queue.enqueue(fns.asks, result_ttl=-1),
        "succeeds": lambda: queue.enqueue(fns.work, 0.01, on_success=called, result_ttl=-1),
        "coroutine": lambda: queue.enqueue(fns.awork, on_success=called, result_ttl=-1),
        "fails": lambda: queue.enqueue(fns.fails, on_failure=called, retry=Retry(1)),
        "limited": lambda: queue.enqueue(fns.limited, "three", rate_limit=limit, result_ttl=-1),
        "hooks": lambda: queue.enqueue(fns.work, webhooks=hooks, result_ttl=-1),
        "bad hooks": lambda: queue.enqueue(fns.fails, webhooks=hooks),
    }
    return {kind: [make() for _ in range(EACH)] for kind, make in kinds.items()}


@pytest.mark.timeout(90 + 6 * KILLS)
def test_features_under_kills(
    app_module: AppModule, redis_client: redis.Redis, worker: WorkerStarter
):
    fns = app_module(FUNCTIONS)
    seed = int(os.environ.get("TASKQ_SEED", "0")) or random.randrange(10**6)
    print(f"TASKQ_SEED={seed}")
    chosen = random.Random(seed)
    queue, web = Queue(connection=redis_client), Listener()
    redis_client.hset("taskq:sweep", mapping={"last": time.time(), "hold": 0})
    jobs: dict[str, list[Job]] = {}
    workers: list[WorkerProcess] = [worker(None, "--rq") for _ in range(2)]

    def ends() -> Counter[tuple[str, str]]:
        return Counter(
            (kind, (redis_client.hget(job.key, "status") or b"?").decode())
            for kind, some in jobs.items() for job in some
        )  # fmt: skip

    try:
        for _ in range(KILLS):
            for kind, some in fill(queue, fns, web.url).items():
                jobs.setdefault(kind, []).extend(some)
            random_moment(chosen, 0.6)
            index = chosen.randrange(2)
            workers[index].kill()
            redis_client.delete("running")  # what it ran no longer runs
            workers[index] = worker(None, "--rq")
        bad = ("fails", "bad hooks")
        want = Counter({(kind, "failed" if kind in bad else "finished"): len(some)
                        for kind, some in jobs.items()})  # fmt: skip
        wait_until(lambda: ends() == want, 60, interval=0.2, message=lambda: f"{ends() - want}")
        # as if two minutes had passed since the last of them died
        for member in redis_client.zrange("taskq:hooks", 0, -1):
            redis_client.zadd("taskq:hooks", {member: time.time() - 150}, xx=True)
        wait_until(lambda: not redis_client.exists("taskq:hooks"), 30)
    finally:
        for one in workers:
            one.stop()
        web.close()
    total = KILLS * EACH
    assert redis_client.lrange("too many", 0, -1) == []
    assert redis_client.zcard("rq:rl:three:allowed") == 0
    assert not redis_client.exists("rq:wip:default", "rq:scheduled:default", "rq:queue:default")
    called = {job.decode(): int(n) for job, n in redis_client.hgetall("called").items()}
    for kind, least in (("succeeds", 1), ("coroutine", 1), ("fails", 2)):
        assert all(called.get(job.id, 0) >= least for job in jobs[kind]), kind
    for kind, runs in (("repeats", 4), ("later", 2), ("asks", 2)):
        assert all(len(job.results()) >= runs for job in jobs[kind]), kind
        extra = sum(len(job.results()) - runs for job in jobs[kind])
        assert extra == 0, f"{extra} ends of {kind} were recorded twice"
    bodies = [json.loads(body) for _, _, body in web.heard if body]
    heard = Counter((body["job_id"], body["status"]) for body in bodies)
    assert len(heard) == 2 * total, "webhooks"
    print(f"{9 * total} jobs, {KILLS} kills; callbacks {sum(called.values())} of {4 * total}, "
          f"webhooks {sum(heard.values())} of {2 * total}")  # fmt: skip
