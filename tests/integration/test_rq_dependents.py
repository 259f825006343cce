"""Dependents that the settle script enqueues by itself: as RQ's own code does it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import redis
from rq import Callback, Queue, SimpleWorker
from rq.job import Dependency, Job
from rq.registry import DeferredJobRegistry

from taskq.worker import Worker
from tests.conftest import AppModule
from tests.rq_support import spy_on_lane

FUNCTIONS = """
from rq import get_current_job
from rq.job import Job

def add(a, b=1):
    return a + b

def fail():
    raise ValueError("no")

def cancel_me():
    job = get_current_job()
    Job.fetch(job.id, connection=job.connection).cancel()
    return 2

def cancel_me_and_fail():
    cancel_me()
    raise ValueError("no")

def success(job, connection, result):
    connection.rpush("called", "success")

def not_good(job, connection, result):
    connection.rpush("called", "not good")
    raise KeyError("callback")

def failure(job, connection, kind, value, traceback):
    connection.rpush("called", f"failure {kind.__name__}")

def renamed(job, connection, result):
    job.description = "renamed"
"""


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    return app_module(FUNCTIONS)


@pytest.fixture
def by_rq(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return spy_on_lane(monkeypatch)


Graph = Callable[[Queue, ModuleType], object]


def chain(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.add, 1, job_id="a")
    queue.enqueue(fns.add, 2, job_id="b", depends_on="a")
    queue.enqueue(fns.add, 3, job_id="c", depends_on="b")


def diamond(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.add, 1, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a")
    queue.enqueue(fns.add, 1, job_id="c", depends_on=["a", "b"])
    queue.enqueue(fns.add, 1, job_id="d", depends_on=["b", "c"])


def waits_for_another(queue: Queue, fns: ModuleType) -> None:
    Queue("other", connection=queue.connection).enqueue(fns.add, 1, job_id="x")
    queue.enqueue(fns.add, 1, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on=["a", "x"])
    queue.enqueue(fns.add, 1, job_id="c", depends_on=["a"])


def another_queue(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.add, 1, job_id="a")
    Queue("other", connection=queue.connection).enqueue(fns.add, 1, job_id="b", depends_on="a")
    front = Dependency(jobs=["a"], enqueue_at_front=True)
    Queue("other", connection=queue.connection).enqueue(fns.add, 1, job_id="c", depends_on=front)


def failure(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.fail, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a")
    allowed = Dependency(jobs=["a"], allow_failure=True)
    queue.enqueue(fns.add, 1, job_id="c", depends_on=allowed)
    queue.enqueue(fns.fail, job_id="d", depends_on="c")
    queue.enqueue(fns.add, 1, job_id="e", depends_on=Dependency(jobs=["a", "d"],
                                                                allow_failure=True))  # fmt: skip


def canceled_dependent(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.add, 1, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a").cancel()
    queue.enqueue(fns.add, 1, job_id="c", depends_on="a")


def deleted_parent(queue: Queue, fns: ModuleType) -> None:
    gone = queue.enqueue(fns.add, 1, job_id="x")
    queue.enqueue(fns.add, 1, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on=["a", "x"])
    queue.connection.delete(gone.key)
    queue.remove("x")


def fan_in(queue: Queue, fns: ModuleType) -> None:
    for name in "abcdefg":
        queue.enqueue(fns.add, 1, job_id=name)
    queue.enqueue(fns.add, 1, job_id="h", depends_on=list("abcdefg"))
    queue.enqueue(fns.add, 1, job_id="i", depends_on=list("gfa"))


def kept_for_ever(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.add, 1, job_id="a", result_ttl=-1)
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a", result_ttl=-1)


def canceled_while_it_runs(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.cancel_me, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a")
    queue.enqueue(fns.cancel_me, job_id="c")
    queue.enqueue(fns.cancel_me_and_fail, job_id="d")
    queue.enqueue(fns.cancel_me, job_id="e", on_success=Callback(fns.success))


def callbacks(queue: Queue, fns: ModuleType) -> None:
    on_success, on_failure = Callback(fns.success), Callback(fns.failure)
    queue.enqueue(fns.add, 1, job_id="a", on_success=on_success, on_failure=on_failure)
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a", on_success=on_success, meta={"n": 1})
    queue.enqueue(fns.add, 1, job_id="c", on_success=on_success, result_ttl=-1)
    queue.enqueue(fns.add, 1, job_id="d", on_failure=on_failure, on_stopped=on_success)
    queue.enqueue(fns.cancel_me, job_id="e", on_success=on_success)
    queue.enqueue(fns.add, 1, job_id="f", on_success=Callback(fns.not_good), on_failure=on_failure)
    queue.enqueue(fns.add, 1, job_id="g", on_success=Callback(fns.renamed))
    queue.enqueue(fns.add, 1, job_id="h", depends_on=["f"])


def snapshot(client: redis.Redis) -> dict[str, Any]:
    """All that RQ's tools may look at."""
    keys: Any = client.keys("rq:job:?")
    found: dict[str, Any] = {}
    for key in sorted(keys):
        job = Job.fetch(key.decode()[-1], connection=client)
        result = job.latest_result()
        found[job.id] = {
            "status": job.get_status().value,
            "timeout": job.timeout,
            "meta": job.meta,
            "description": job.description,
            "fields": {name for name in client.hkeys(key) if not name.startswith(b"tq_")},
            "result": result and (result.type.name, result.return_value),
            "enqueued": bool(job.enqueued_at),
            "kept": client.ttl(key) > 0,
            "dependents": sorted(client.smembers(job.dependents_key)),
            "dependents kept": client.ttl(job.dependents_key) > 0,
            "dependencies": sorted(client.smembers(job.dependencies_key)),
            "dependencies kept": client.ttl(job.dependencies_key) > 0,
        }
    for name in ("default", "other"):
        found[f"queue {name}"] = client.lrange(f"rq:queue:{name}", 0, -1)
        for kind in ("deferred", "finished", "failed", "canceled", "ready", "wip"):
            found[f"{kind} {name}"] = sorted(client.zrange(f"rq:{kind}:{name}", 0, -1))
    found["queues"] = client.smembers("rq:queues")
    found["called"] = sorted(client.lrange("called", 0, -1))
    return found


@pytest.mark.parametrize(
    ("graph", "left"),
    [(chain, []), (diamond, []), (waits_for_another, []), (another_queue, []), (failure, []),
     (canceled_dependent, []), (deleted_parent, []), (fan_in, []), (kept_for_ever, []),
     (canceled_while_it_runs, []), (callbacks, ["f", "g"])],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_all_is_as_after_rqs_own_worker(
    graph: Graph, left: list[str], fns: ModuleType, redis_client: redis.Redis, by_rq: list[str]
):
    queue = Queue(connection=redis_client)
    graph(queue, fns)
    SimpleWorker([queue], connection=redis_client).work(burst=True, logging_level="ERROR")
    theirs = snapshot(redis_client)
    redis_client.flushdb()
    graph(queue, fns)
    Worker([queue], connection=redis_client).work(burst=True, logging_level="ERROR")
    ours = snapshot(redis_client)
    for what, value in theirs.items():
        assert ours.pop(what) == value, what
    assert not ours
    assert sorted(by_rq) == left


def test_what_is_not_plain_is_left_to_rqs_code(
    fns: ModuleType, redis_client: redis.Redis, by_rq: list[str]
):
    queue = Queue(connection=redis_client)
    queue.enqueue(fns.add, 1, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a", ttl=100)
    queue.enqueue(fns.add, 1, job_id="c", result_ttl=0)  # is deleted, and its dependents' sets
    queue.enqueue(fns.add, 1, job_id="d", depends_on="c")
    Worker([queue], connection=redis_client).work(burst=True, logging_level="ERROR")
    assert sorted(by_rq) == ["a", "c"]
    for name in "bd":
        assert Job.fetch(name, connection=redis_client).get_status() == "finished"
    assert not DeferredJobRegistry(queue=queue).get_job_ids()


class OwnQueue(Queue):
    """Has a say in each dependent."""

    def enqueue_ready_jobs_by_queue(self, job_ids_by_queue_name: dict[str, list[str]]) -> None:
        for name, ids in job_ids_by_queue_name.items():
            self.connection.rpush("seen", *(f"{name}:{job_id}" for job_id in ids))
        super().enqueue_ready_jobs_by_queue(job_ids_by_queue_name)


def test_an_own_queue_class_keeps_its_say(fns: ModuleType, redis_client: redis.Redis):
    queue = OwnQueue(connection=redis_client)
    queue.enqueue(fns.add, 1, job_id="a")
    queue.enqueue(fns.add, 1, job_id="b", depends_on="a")
    worker = Worker([queue], connection=redis_client, queue_class=OwnQueue)
    worker.work(burst=True, logging_level="ERROR")
    assert redis_client.lrange("seen", 0, -1) == [b"default:b"]
    assert Job.fetch("b", connection=redis_client).get_status() == "finished"
