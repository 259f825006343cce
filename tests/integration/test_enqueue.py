"""Enqueueing into a real Redis: what stands there afterwards, and what stock RQ reads in it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
import redis
import rq
import rq.registry
from rq.job import Job, JobStatus

from taskq import BrokerUnavailable, DuplicateJob, Retry, TaskQ


def thumbnail(path: str, size: int = 256) -> str:
    return f"{path}:{size}"


async def fetch(url: str) -> str:
    return url


@pytest.fixture
def app(redis_url: str) -> Iterator[TaskQ]:
    app = TaskQ(redis_url)
    app.task(thumbnail)
    app.task(fetch)
    yield app
    app.close()


@pytest.fixture
def task(app: TaskQ):
    return app.lookup(f"{__name__}.thumbnail")


def stock(app: TaskQ, client: redis.Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=client, serializer=app.rq_serializer)


def test_stock_rq_reads_the_job(app, task, redis_client):
    handle = task.options(queue="web", description="make it small", meta={"tenant": 3}).delay(
        "a.png", size=64
    )
    job = stock(app, redis_client, handle.id)
    assert (job.func_name, job.args, job.kwargs) == (task.name, ["a.png"], {"size": 64})
    assert (job.origin, job.get_status()) == ("web", JobStatus.QUEUED)
    assert (job.description, job.meta, job.timeout) == ("make it small", {"tenant": 3}, None)
    assert abs(job.enqueued_at - datetime.now(timezone.utc)) < timedelta(seconds=5)
    assert job.func is thumbnail
    assert rq.Queue("web", connection=redis_client).job_ids == [handle.id]
    assert [queue.name for queue in rq.Queue.all(connection=redis_client)] == ["web"]


def test_stock_rq_reads_the_options(app, task, redis_client):
    handle = task.options(
        timeout=None,
        result_ttl=60,
        failure_ttl=timedelta(hours=1),
        ttl=30,
        retry=Retry(3, backoff="exponential", base=1),
        at_front=True,
    ).delay("a")
    job = stock(app, redis_client, handle.id)
    assert (job.timeout, job.result_ttl, job.failure_ttl, job.ttl) == (-1, 60, 3600, 30)
    assert (job.retries_left, job.retry_intervals) == (3, [1, 2, 4])
    assert job.enqueue_at_front
    assert 25 <= redis_client.ttl(job.key) <= 30


STOCK = """
    from taskq import TaskQ
    queue = TaskQ()

    @queue.task
    def double(n: int) -> int:
        return n * 2

    @queue.task
    async def triple(n: int) -> int:
        return n * 3
"""


def test_a_stock_worker_runs_our_jobs(app_module, redis_url, redis_client, monkeypatch):
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    module = app_module(STOCK)
    with module.queue:
        plain, asynchronous = module.double.delay(4), module.triple.delay(4)
        serializer = module.queue.rq_serializer
        worker = rq.SimpleWorker(["default"], connection=redis_client, serializer=serializer)
        worker.work(burst=True, logging_level="ERROR")
        assert plain.result(timeout=5) == 8
        assert asynchronous.result(timeout=5) == 12


def test_stock_rq_enqueues_a_task_as_any_function(app_module, redis_client):
    module = app_module(STOCK)
    queue = rq.Queue(connection=redis_client)
    by_object, by_name = queue.enqueue(module.double, 4), queue.enqueue(module.triple.name, 4)
    rq.SimpleWorker([queue], connection=redis_client).work(burst=True, logging_level="ERROR")
    assert (by_object.return_value(), by_name.return_value()) == (8, 12)


def test_an_ordinary_job_is_small(task, redis_client):
    handle = task.delay("a.png")
    key = f"rq:job:{handle.id}"
    assert set(redis_client.hkeys(key)) == {
        b"data",
        b"status",
        b"origin",
        b"created_at",
        b"enqueued_at",
    }
    assert redis_client.object("ENCODING", key) in (b"listpack", b"ziplist")
    assert redis_client.ttl(key) == -1


def test_order_of_a_queue(task, redis_client):
    ids = [task.delay(str(n)).id for n in range(3)]
    first = task.options(at_front=True).delay("x").id
    assert rq.Queue(connection=redis_client).job_ids == [first, *ids]


def test_delayed_jobs_are_in_rqs_scheduled_registry(app, task, redis_client):
    moment = datetime.now(timezone.utc) + timedelta(hours=1)
    by_delay = task.options(delay=timedelta(minutes=1), ttl=10).delay("a")
    by_date = task.options(at=moment).delay("b")
    registry = rq.registry.ScheduledJobRegistry(connection=redis_client)
    assert registry.get_job_ids() == [by_delay.id, by_date.id]
    assert abs(registry.get_scheduled_time(by_date.id) - moment) < timedelta(seconds=1)
    in_a_minute = registry.get_scheduled_time(by_delay.id).timestamp() - time.time()
    assert 55 < in_a_minute < 61
    assert stock(app, redis_client, by_delay.id).get_status() == JobStatus.SCHEDULED
    assert 65 <= redis_client.ttl(f"rq:job:{by_delay.id}") <= 70
    assert rq.Queue(connection=redis_client).job_ids == []


def test_map_is_queued_in_order_and_kept_a_day(app, task, redis_client):
    batch = task.map([str(n) for n in range(2_500)], size=64)
    ids = [handle.id for handle in batch]
    assert rq.Queue(connection=redis_client).job_ids == ids
    job = stock(app, redis_client, ids[-1])
    assert (job.args, job.kwargs, job.result_ttl) == (["2499"], {"size": 64}, 86_400)


def test_enqueue_several_tasks(app, task, redis_client):
    other = app.lookup(f"{__name__}.fetch")
    batch = app.enqueue([task.call("a", 1), other.options(queue="web").call("b")])
    assert [len(rq.Queue(name, connection=redis_client)) for name in ("default", "web")] == [1, 1]
    assert {handle.status().value for handle in batch} == {"queued"}


async def test_many_adelays(app, task, redis_client):
    redis_client.config_resetstat()
    handles = await asyncio.gather(*(task.adelay(str(n)) for n in range(300)))
    assert sorted(rq.Queue(connection=redis_client).job_ids) == sorted(h.id for h in handles)
    commands = redis_client.info("commandstats")
    calls = sum(stats["calls"] for name, stats in commands.items() if "evalsha" in name)
    assert calls < 100
    batch = await app.aenqueue(task.call(str(n)) for n in range(3))
    assert await batch.acounts() == {"queued": 3}
    assert len(list(await task.amap(["a", "b"]))) == 2
    await app.aclose()


def test_a_taken_id(task, redis_client):
    chosen = task.options(job_id="nightly-1")
    assert chosen.delay("a").id == "nightly-1"
    with pytest.raises(DuplicateJob, match="'nightly-1' belongs to another job"):
        chosen.delay("a")
    assert rq.Queue(connection=redis_client).job_ids == ["nightly-1"]
    redis_client.hset("rq:job:nightly-1", "status", "finished")
    redis_client.delete("rq:queue:default")
    assert chosen.delay("b").created
    assert rq.Queue(connection=redis_client).job_ids == ["nightly-1"]


def test_unique_until_the_job_ends(task, redis_client):
    only = task.options(unique=True)
    first, second, other = only.delay("a", 256), only.delay(path="a"), only.delay("b")
    assert (first.created, second.created, other.created) == (True, False, True)
    assert first.id == second.id != other.id
    assert rq.Queue(connection=redis_client).job_ids == [first.id, other.id]
    assert first.cancel()
    again = only.delay("a")
    assert again.created
    assert again.id != first.id


def test_a_unique_job_in_a_batch(task):
    batch = task.options(unique=lambda path: path).map(["a", "b", "a"])
    assert [handle.created for handle in batch] == [True, True, False]
    assert batch[0].id == batch[2].id


def test_without_redis_it_says_where_it_looked(monkeypatch, tmp_path):
    monkeypatch.setenv("TASKQ_REDIS_URL", f"unix://{tmp_path}/no.sock")
    app = TaskQ()
    task = app.task(thumbnail)
    with pytest.raises(BrokerUnavailable, match=r"No Redis at unix://.*\(from TASKQ_REDIS_URL\)"):
        task.delay("a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_enqueues_on_a_connection_of_its_own(task, redis_client):
    task.delay("parent")
    child = os.fork()
    if child == 0:
        try:
            for n in range(20):
                task.delay(f"child {n}")
        finally:
            os._exit(0)
    for n in range(20):
        task.delay(f"parent {n}")
    os.waitpid(child, 0)
    assert len(rq.Queue(connection=redis_client)) == 41
