"""Jobs of taskq on a stock `rq worker`, forking and not; handles read what it writes."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.registry import FinishedJobRegistry

from taskq import JobFailed
from tests.rq_support import stock_worker
from tests.support import wait_until

APP = """
import asyncio, os
from datetime import datetime
import redis
from taskq import Depends, Retry, TaskQ, receive

queue = TaskQ()

@queue.task
def add(a, b=1):
    return a + b

@queue.task
async def double(a):
    await asyncio.sleep(0)
    return 2 * a

def client():
    yield "client"

async def session(*, on=Depends(client)):
    yield f"session on {on}"

@queue.task
def with_client(a, *, c=Depends(client), d=Depends(client, scope="process")):
    return [a, c, d]

@queue.task
async def with_session(a, *, s=Depends(session)):
    return [a, s]

@queue.task
def later(when: datetime, names: set):
    return when, sorted(names)

@queue.task
def fail(text):
    raise ValueError(text)

@queue.task(retry=Retry(max=2, backoff="exponential", base=0.5))
def flaky(key):
    with redis.Redis.from_url(os.environ["TASKQ_REDIS_URL"]) as client:
        n = client.incr(key)
    if n < 3:
        raise OSError(f"try {n}")
    return n

@queue.task(retry=2, result_ttl=60)
async def flaky_at_once(key):
    return flaky.fn(key)

@queue.task
def yields(n):
    yield from range(n)
    try:
        yield receive(timeout=60)
    except TimeoutError:
        return n

@queue.task
async def ayields(n):
    for i in range(n):
        yield i

@queue.task
def sums(n):
    return sum(x for x in yields(n) if isinstance(x, int))

@queue.task(timeout=1)
def slow():
    import time
    time.sleep(5)
"""

SERIALIZER = ("--serializer", "taskq.serializers.rq")


@pytest.mark.parametrize("kind", ["rq.worker.Worker", "rq.worker.SimpleWorker"])
def test_tasks_run_on_a_stock_worker(
    app: ModuleType, redis_url: str, redis_client: redis.Redis, tmp_path: Path, kind: str
):
    when = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    good = [
        (app.add.delay(1, b=2), 3),
        (app.add.delay("x" * 3000, b="y"), "x" * 3000 + "y"),
        (app.double.delay(4), 8),
        (app.with_client.delay(1), [1, "client", "client"]),
        (app.with_session.delay(2), [2, "session on client"]),
        (app.later.delay(when, {"b", "a"}), (when, ["a", "b"])),
        (app.yields.delay(3), 3),
        (app.ayields.delay(3), None),
        (app.sums.delay(4), 6),
    ]
    bad = app.fail.delay("oh")
    again = app.flaky_at_once.delay("n1")
    delayed = app.flaky.delay("n2")
    late = app.slow.delay()
    with stock_worker(redis_url, tmp_path, "-w", kind, *SERIALIZER, "--with-scheduler"):
        for handle, value in good:
            assert handle.result(timeout=15) == value
        with pytest.raises(JobFailed, match="oh") as caught:
            bad.result(timeout=10)
        assert caught.value.exc_type == "ValueError"
        assert again.result(timeout=10) == 3
        with pytest.raises(JobFailed):
            late.result(timeout=10)
        assert delayed.result(timeout=15) == 3
    serializer = app.queue.rq_serializer
    queue = Queue(connection=redis_client, serializer=serializer)
    done = FinishedJobRegistry(queue=queue).get_job_ids()
    assert set(done) == {handle.id for handle, _ in good} | {again.id, delayed.id}
    assert 50 < redis_client.ttl(f"rq:job:{again.id}") <= 60
    fresh = Job.fetch(delayed.id, connection=redis_client, serializer=serializer)
    assert fresh.retries_left == 0
    assert fresh.get_status() == "finished"


def test_rq_info_reads_our_jobs(app: ModuleType, redis_url: str):
    app.add.map(range(3))
    command = [sys.executable, "-m", "rq.cli", "info", "--url", redis_url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True).stdout
    assert "default" in shown
    assert "3" in shown


def test_both_workers_share_a_queue(
    app: ModuleType, redis_url: str, redis_client: redis.Redis, tmp_path: Path, worker
):
    handles = [app.add.delay(n) for n in range(200)]
    worker(f"{app.__name__}:queue")
    with stock_worker(redis_url, tmp_path, "-w", "rq.worker.SimpleWorker", *SERIALIZER):
        handles += [app.double.delay(n) for n in range(200)]
        results = [handle.result(timeout=15) for handle in handles]
        wait_until(lambda: redis_client.zcard("rq:wip:default") == 0)
    assert results == [*range(1, 201), *range(0, 400, 2)]
    assert redis_client.zcard("rq:failed:default") == 0
