"""Jobs that stock RQ enqueues, run by a taskq worker, read by stock RQ."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from types import ModuleType

import pytest
import redis
from rq import Queue, Worker
from rq.job import Job, Retry
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer

from tests.conftest import AppModule
from tests.rq_support import ended, latest, leftovers, nothing_left, status_of
from tests.support import WorkerStarter, wait_until

FUNCTIONS = """
import asyncio, os, threading, time
import redis
from rq import get_current_job

def add(a, b=1):
    return a + b

async def aadd(a, b=1):
    await asyncio.sleep(0)
    return a + b

def coroutine_from_def(a):
    return aadd(a, 10)

def nothing():
    return None

def fail(text):
    raise ValueError(text)

def sleepy(seconds):
    time.sleep(seconds)

async def asleepy(seconds):
    await asyncio.sleep(seconds)

def unpicklable():
    return threading.Lock()

class Counter:
    def __init__(self, start):
        self.start = start
    def plus(self, n):
        return self.start + n
    async def aplus(self, n):
        return self.start + n
    def __call__(self, n):
        return self.start * n
    @staticmethod
    def static(n):
        return -n
    @classmethod
    def klass(cls, n):
        return [cls.__name__, n]

def who():
    job = get_current_job()
    job.meta["seen"] = job.get_status(refresh=False).value
    job.save_meta()
    return [job.id, job.origin, job.func_name, job.description, type(job.connection).__name__,
            job.worker_name, job.get_status().value]

async def awho():
    await asyncio.sleep(0)
    job = get_current_job()
    return [job.id, list(job.args), job.meta]

def flaky(url, key, times):
    with redis.Redis.from_url(url) as client:
        n = client.incr(key)
    if n <= times:
        raise OSError(f"try {n}")
    return n

def note(url, key, text):
    with redis.Redis.from_url(url) as client:
        client.rpush(key, text)
"""


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    """A module of plain functions, as users of RQ have."""
    return app_module(FUNCTIONS)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    """Stock RQ's queue with its default, pickling serializer."""
    return Queue(connection=redis_client)


def test_results_status_registries_and_ttls(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    process = worker(None, "--rq")
    jobs = [
        (queue.enqueue(fns.add, 1, b=2), 3),
        (queue.enqueue(f"{fns.__name__}.add", 5), 6),
        (queue.enqueue(fns.aadd, 1), 2),
        (queue.enqueue(fns.coroutine_from_def, 1), 11),
        (queue.enqueue(fns.nothing), None),
        (queue.enqueue(max, 3, 9), 9),
        (queue.enqueue(fns.Counter(3).plus, 4), 7),
        (queue.enqueue(fns.Counter(3).aplus, 4), 7),
        (queue.enqueue(fns.Counter(3), 4), 12),
        (queue.enqueue(f"{fns.__name__}.Counter.static", 4), -4),
        (queue.enqueue(f"{fns.__name__}.Counter.klass", 4), ["Counter", 4]),
        (queue.enqueue(fns.add, {1}, b={2}), TypeError),
        (queue.enqueue(fns.add, b"x" * 5000, b=b"y"), b"x" * 5000 + b"y"),
        (queue.enqueue(fns.unpicklable), "Unserializable return value"),
    ]
    for job, value in jobs:
        expected = "failed" if value is TypeError else "finished"
        assert ended(job) == expected, job
        fresh = Job.fetch(job.id, connection=redis_client)
        if expected == "finished":
            assert fresh.return_value() == value
            assert latest(fresh).type is Result.Type.SUCCESSFUL
            assert latest(fresh).worker_name == fresh.worker_name
            assert latest(fresh).execution_started_at is not None
        assert fresh.ended_at is not None
        assert fresh.started_at is not None
        assert fresh.enqueued_at is not None
        assert fresh.enqueued_at <= fresh.ended_at
    good = {job.id for job, value in jobs if value is not TypeError}
    assert set(FinishedJobRegistry(queue=queue).get_job_ids()) == good
    assert len(FailedJobRegistry(queue=queue)) == 1
    assert queue.started_job_registry.count == 0
    assert 400 < redis_client.ttl(jobs[0][0].key) <= 500
    assert 400 < redis_client.ttl(f"rq:results:{jobs[0][0].id}") <= 500
    seen = Worker.all(connection=redis_client)
    assert len(seen) == 1
    wait_until(lambda: Worker.all(connection=redis_client)[0].successful_job_count == len(good))
    assert Worker.all(connection=redis_client)[0].failed_job_count == 1
    assert Worker.all(connection=redis_client)[0].total_working_time > 0
    assert seen[0].queue_names() == ["default"]
    nothing_left(redis_client)
    assert process.stop() == 0
    assert Worker.all(connection=redis_client) == []


def test_rq_info_shows_the_worker(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_url: str
):
    process = worker(None, "--rq", "-q", "high", "-q", "default", "--name", "shop")
    ended(queue.enqueue(fns.add, 1))
    command = [sys.executable, "-m", "rq.cli", "info", "--url", redis_url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True).stdout
    assert "default" in shown
    assert "1 workers, " in shown
    assert "shop." in shown
    assert "high" in shown
    assert process.running


@pytest.mark.standing
def test_ttls_of_results_and_failures(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    worker(None, "--rq")
    forever = queue.enqueue(fns.add, 1, result_ttl=-1)
    short = queue.enqueue(fns.add, 1, result_ttl=30)
    dropped = queue.enqueue(fns.add, 1, result_ttl=0)
    failed = queue.enqueue(fns.fail, "no", failure_ttl=70)
    unkept = queue.enqueue(fns.fail, "no", failure_ttl=0)
    failed_forever = queue.enqueue(fns.fail, "no", failure_ttl=-1)
    for job in (forever, short, failed, failed_forever):
        ended(job)
    wait_until(lambda: not redis_client.exists(dropped.key))
    wait_until(lambda: not redis_client.exists(unkept.key))
    assert not redis_client.exists(f"rq:results:{unkept.id}")
    assert redis_client.zscore("rq:failed:default", unkept.id) is None
    assert redis_client.ttl(forever.key) == -1
    assert redis_client.ttl(f"rq:results:{forever.id}") == -1
    assert redis_client.zscore("rq:finished:default", forever.id) == float("inf")
    assert 20 < redis_client.ttl(short.key) <= 30
    assert not redis_client.exists(f"rq:results:{dropped.id}")
    assert redis_client.zscore("rq:finished:default", dropped.id) is None
    assert 60 < redis_client.ttl(failed.key) <= 70
    assert redis_client.ttl(failed_forever.key) == -1
    assert failed_forever.id in FailedJobRegistry(queue=queue).get_job_ids()


@pytest.mark.standing
def test_a_ttl_does_not_delete_a_running_job(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    worker(None, "--rq")
    job = queue.enqueue(fns.sleepy, 1.3, ttl=1)
    assert ended(job) == "finished"
    gone = queue.enqueue(fns.add, 1, ttl=1)
    ended(gone)


@pytest.mark.standing
def test_failures_are_told_as_rq_does(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    worker(None, "--rq")
    job = queue.enqueue(fns.fail, "broken \N{SNOWMAN}")
    assert ended(job) == "failed"
    fresh = Job.fetch(job.id, connection=redis_client)
    result = latest(fresh)
    assert result.type is Result.Type.FAILED
    assert result.exc_string is not None
    assert result.exc_string.startswith("Traceback (most recent call last)")
    assert result.exc_string.strip().endswith("ValueError: broken \N{SNOWMAN}")
    assert "taskq" not in result.exc_string
    missing = queue.enqueue("no_such_module.function", job_id="missing")
    wait_until(lambda: status_of(redis_client, missing.id) == "scheduled")  # looked at again later
    assert fresh.requeue().id == job.id  # by RQ's own means
    wait_until(lambda: len(Job.fetch(job.id, connection=redis_client).results()) == 2)


@pytest.mark.standing
@pytest.mark.parametrize("name", ["sleepy", "asleepy"])
def test_time_limits(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, name: str
):
    worker(None, "--rq")
    job = queue.enqueue(getattr(fns, name), 2, job_timeout=1)
    assert ended(job) == "failed"
    result = latest(Job.fetch(job.id, connection=redis_client))
    assert result.exc_string is not None
    assert "time limit of 1 s" in result.exc_string
    free = queue.enqueue(getattr(fns, name), 0.1, job_timeout=-1)
    assert ended(free) == "finished"


@pytest.mark.standing
def test_the_current_job(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    worker(None, "--rq")
    job = queue.enqueue(fns.who, job_id="who", description="asks", meta={"a": 1})
    other = queue.enqueue(fns.awho, meta={"b": {2}})
    assert ended(job) == "finished"
    assert ended(other) == "finished"
    fresh = Job.fetch("who", connection=redis_client)
    assert fresh.return_value() == [
        "who", "default", f"{fns.__name__}.who", "asks", "Redis", fresh.worker_name, "started",
    ]  # fmt: skip
    assert fresh.meta == {"a": 1, "seen": "started"}
    assert Job.fetch(other.id, connection=redis_client).return_value() == [other.id, [], {"b": {2}}]


@pytest.mark.standing
def test_retries(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    worker(None, "--rq")
    at_once = queue.enqueue(fns.flaky, redis_url, "n1", 2, retry=Retry(max=3))
    later = queue.enqueue(fns.flaky, redis_url, "n2", 2, retry=Retry(max=2, interval=[1, 1]))
    never = queue.enqueue(fns.flaky, redis_url, "n3", 9, retry=Retry(max=2))
    assert ended(never) == "failed"
    assert redis_client.get("n3") == b"3"
    assert ended(at_once) == "finished"
    assert Job.fetch(at_once.id, connection=redis_client).return_value() == 3
    wait_until(lambda: status_of(redis_client, later.id) == "scheduled")
    assert ScheduledJobRegistry(queue=queue).get_job_ids() == [later.id]  # type: ignore[no-untyped-call]
    assert ended(later) == "finished"
    fresh = Job.fetch(later.id, connection=redis_client)
    assert fresh.return_value() == 3
    assert fresh.retries_left == 0
    assert fresh.retry_intervals == [1, 1]


def test_order_and_delay(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    for text in "bc":
        queue.enqueue(fns.note, redis_url, "notes", text)
    queue.enqueue(fns.note, redis_url, "notes", "a", at_front=True)
    delayed = queue.enqueue_in(timedelta(seconds=1), fns.note, redis_url, "notes", "d")
    worker(None, "--rq", "--threads", "1")
    ended(delayed)
    assert redis_client.lrange("notes", 0, -1) == [b"a", b"b", b"c", b"d"]


APP = """
from taskq import TaskQ, current_job
queue = TaskQ(accept=("json", "pickle"))

@queue.task
def add(a, b=1):
    return a + b

@queue.task
async def double(a):
    return 2 * a

@queue.task
def who():
    from rq import get_current_job
    job = get_current_job()
    return [current_job().id, job.id if job else None]

def no_task():
    return 1
"""


@pytest.mark.parametrize("serializer", [None, JSONSerializer, "taskq.serializers.rq"])
def test_tasks_of_an_app(
    app_module: AppModule,
    redis_client: redis.Redis,
    redis_url: str,
    worker: WorkerStarter,
    monkeypatch: pytest.MonkeyPatch,
    serializer: object,
):
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module(APP)
    queue = Queue(connection=redis_client, serializer=serializer)
    worker(f"{app.__name__}:queue")
    jobs = [
        (queue.enqueue(f"{app.__name__}.add", 1, b=2), 3),
        (queue.enqueue(app.add.fn, 1), 2),
        (queue.enqueue(app.double.fn, 4), 8),
    ]
    if serializer is None:
        jobs += [(queue.enqueue(app.add, 5), 6), (queue.enqueue(app.double, 5), 10)]
    for job, value in jobs:
        assert ended(job) == "finished"
        fresh = Job.fetch(job.id, connection=redis_client, serializer=serializer)
        assert fresh.return_value() == value
    stranger = queue.enqueue(app.no_task)
    wait_until(lambda: status_of(redis_client, stranger.id) == "scheduled")
    assert stranger.return_value() is None
    nothing_left(redis_client)


def test_pickle_is_refused_unless_asked_for(
    app_module: AppModule, redis_client: redis.Redis, redis_url: str, worker: WorkerStarter,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module(APP.replace('accept=("json", "pickle")', ""))
    queue = Queue(connection=redis_client)
    worker(f"{app.__name__}:queue")
    job = queue.enqueue(f"{app.__name__}.add", 1)
    assert ended(job) == "failed"
    assert "pickle" in (latest(job).exc_string or "")
    good = app.add.delay(1, b=1)
    assert good.result(timeout=10) == 2
    assert not leftovers(redis_client)


def test_both_current_jobs_in_a_task(
    app_module: AppModule, redis_client: redis.Redis, redis_url: str, worker: WorkerStarter,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module("import rq\n" + APP)
    worker(f"{app.__name__}:queue")
    handle = app.who.delay()
    assert handle.result(timeout=10) == [handle.id, handle.id]
