"""Ends of RQ's jobs that the settle script records by itself: all is as RQ's own code leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Repeat, Retry, SimpleWorker
from rq.job import Dependency, Job
from rq.rate_limit import RateLimit
from rq.registry import DeferredJobRegistry
from rq.webhook import Webhook

from taskq.worker import Worker
from tests.conftest import AppModule
from tests.rq_support import spy_on_lane

FUNCTIONS = """
from rq import Retry, get_current_job
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

def nothing():
    pass

def asks(most, interval=0, front=False):
    job = get_current_job()
    if (job.number_of_retries or 0) < 2:
        return Retry(max=most, interval=interval, enqueue_at_front=front)
    return 5

class OwnRetry(Retry):
    pass

def asks_in_his_own_way():
    if not get_current_job().number_of_retries:
        return OwnRetry(max=3, interval=50)

def exits():
    raise SystemExit(3)

def failure_fails(job, connection, kind, value, traceback):
    connection.rpush("called", "failure fails")
    raise KeyError("callback")

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


def repeats(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.add, 1, job_id="a", repeat=Repeat(times=2))
    queue.enqueue(fns.add, 1, job_id="b", repeat=Repeat(times=3, interval=[0, 50, 70]))
    queue.enqueue(fns.add, 1, job_id="c", repeat=Repeat(times=1, interval=50), meta={"n": 1})
    queue.enqueue(fns.add, 1, job_id="d", repeat=Repeat(times=1, interval=50), result_ttl=-1)
    queue.enqueue(fns.nothing, job_id="e", repeat=Repeat(times=1), job_timeout=77)
    queue.enqueue(fns.fail, job_id="f", repeat=Repeat(times=1))
    on_success = Callback(fns.success)
    queue.enqueue(fns.add, 1, job_id="g", repeat=Repeat(times=1), on_success=on_success)
    queue.enqueue(fns.cancel_me, job_id="h", repeat=Repeat(times=1, interval=50))
    queue.enqueue(fns.add, 1, job_id="i", repeat=Repeat(times=1), retry=Retry(max=1))
    queue.enqueue(fns.add, 1, job_id="j", repeat=Repeat(times=1, interval=50), result_ttl=0)
    queue.enqueue(fns.add, 1, job_id="k", repeat=Repeat(times=1, interval=50), ttl=100)
    queue.enqueue(fns.add, 1, job_id="l", repeat=Repeat(times=1, interval=50))
    queue.enqueue(fns.add, 1, job_id="m", depends_on="l", repeat=Repeat(times=1, interval=50))


def asks_again(queue: Queue, fns: ModuleType) -> None:
    queue.enqueue(fns.asks, 3, job_id="a")
    queue.enqueue(fns.asks, 3, 0, True, job_id="b", failure_ttl=100)
    queue.enqueue(fns.asks, 1, [0, 50], job_id="c")
    queue.enqueue(fns.asks, 3, [0, 50], job_id="d", on_success=Callback(fns.success))
    queue.enqueue(fns.asks, 3, 50, job_id="e", meta={"n": 1}, job_timeout=77)
    queue.enqueue(fns.asks, 3, 50, job_id="f", ttl=100)
    queue.enqueue(fns.asks, 3, 50, job_id="g", repeat=Repeat(times=1))
    queue.enqueue(fns.add, 1, job_id="h", depends_on="a")
    queue.enqueue(fns.asks_in_his_own_way, job_id="j")
    queue.enqueue(fns.asks, 3, job_id="i", retry=Retry(max=2, interval=3), result_ttl=-1)


def failures(queue: Queue, fns: ModuleType) -> None:
    on_failure = Callback(fns.failure)
    queue.enqueue(fns.fail, job_id="a", on_failure=on_failure, on_success=on_failure)
    queue.enqueue(fns.fail, job_id="b", on_failure=on_failure, failure_ttl=100)
    queue.enqueue(fns.fail, job_id="c", on_failure=on_failure, retry=Retry(max=2))
    queue.enqueue(fns.fail, job_id="d", on_failure=on_failure, retry=Retry(max=2, interval=50))
    queue.enqueue(fns.fail, job_id="e", on_failure=Callback(fns.failure_fails))
    queue.enqueue(fns.add, 1, job_id="f", on_success=Callback(fns.not_good), on_failure=on_failure)
    queue.enqueue(fns.fail, job_id="g", on_failure=Callback("no.such"), on_stopped=on_failure)
    queue.enqueue(fns.fail, job_id="h", on_failure=on_failure, failure_ttl=0)
    queue.enqueue(fns.fail, job_id="i", on_failure=on_failure)
    allowed = Dependency(jobs=["i"], allow_failure=True)
    queue.enqueue(fns.add, 1, job_id="j", depends_on=allowed)
    queue.enqueue(fns.exits, job_id="k", on_failure=on_failure)
    queue.enqueue(fns.cancel_me_and_fail, job_id="l", on_failure=on_failure)


def limits(queue: Queue, fns: ModuleType) -> None:
    one, two = RateLimit("one", 1), RateLimit("two", 2)
    for name in "abc":
        queue.enqueue(fns.add, 1, job_id=name, rate_limit=one)
    for name in "def":
        queue.enqueue(fns.fail, job_id=name, rate_limit=two)
    queue.enqueue(fns.fail, job_id="g", rate_limit=two, retry=Retry(max=1))
    queue.enqueue(fns.fail, job_id="h", rate_limit=two, retry=Retry(max=1, interval=50))
    queue.enqueue(fns.add, 1, job_id="i", rate_limit=two, on_success=Callback(fns.success))
    queue.enqueue(fns.add, 1, job_id="j", rate_limit=one, repeat=Repeat(times=1, interval=50))
    queue.enqueue(fns.add, 1, job_id="k", rate_limit=one, at_front=True)
    queue.enqueue(fns.add, 1, job_id="l", depends_on="k")
    queue.enqueue(fns.asks, 2, job_id="m", rate_limit=RateLimit("three", 1))
    queue.enqueue(fns.cancel_me, job_id="n", rate_limit=one)


def webhooks(queue: Queue, fns: ModuleType) -> None:
    failed, finished = [Webhook("http://127.0.0.1:9", end) for end in ("failed", "finished")]
    queue.enqueue(fns.add, 1, job_id="a", webhooks=[failed])
    queue.enqueue(fns.fail, job_id="b", webhooks=[finished], on_failure=Callback(fns.failure))
    queue.enqueue(fns.add, 1, job_id="c", webhooks=[failed], on_success=Callback(fns.success))
    queue.enqueue(fns.fail, job_id="d", webhooks=[finished, failed])


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
            "fields": {
                name: bool(value) or name == b"last_heartbeat"
                for name, value in client.hgetall(key).items()
                if not name.startswith(b"tq_")
            },
            "result": result and (result.type.name, repr(result.return_value)),
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
        due = client.zrange(f"rq:scheduled:{name}", 0, -1, withscores=True)
        found[f"scheduled {name}"] = {job_id: round(at - time.time(), -1) for job_id, at in due}
    found["limits"] = {key: sorted(client.zrange(key, 0, -1)) for key in client.keys("rq:rl:*:*")}
    found["counted"] = [(w.successful_job_count, w.failed_job_count) for w in Worker.all(client)]
    found["queues"] = client.smembers("rq:queues")
    found["called"] = sorted(client.lrange("called", 0, -1))
    return found


@pytest.mark.parametrize(
    ("graph", "left"),
    [(chain, []), (diamond, []), (waits_for_another, []), (another_queue, []), (failure, []),
     (canceled_dependent, []), (deleted_parent, []), (fan_in, []), (kept_for_ever, []),
     (canceled_while_it_runs, []), (callbacks, ["g"]), (repeats, ["j", "k", "l"]),
     (asks_again, ["c", "f"]), (failures, ["h"]), (limits, []), (webhooks, [])],
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
