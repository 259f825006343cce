"""RQ's callbacks that are called in the job's own thread, before its end is recorded."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
import redis
from rq import Callback, Queue, SimpleWorker
from rq.command import send_stop_job_command
from rq.job import Job

from taskq.worker import Worker, rq_calls
from tests.conftest import AppModule
from tests.rq_support import arrived, ended, latest, nothing_left, spy_on_lane
from tests.support import WorkerStarter, wait_until

FUNCTIONS = """
import contextvars, json, time
import rq
from rq import get_current_job
from rq.job import Job

seen = contextvars.ContextVar("seen", default="")

def add(a, b=1):
    seen.set("by the callback")
    job = get_current_job()
    if job is not None and "note" in job.meta:
        job.meta["note"] = "changed"
    return a + b

def plain(a=1):
    return a

async def aplain(a=1):
    return a

async def afails():
    raise ValueError("no")

async def aadd(a, b=1):
    return a + b

def taken_away():
    job = get_current_job()
    for member in job.connection.zrange("rq:wip:default", 0, -1):
        job.connection.zrem("rq:wip:default", member)

def untouched(*args):
    args[1].rpush("called", args[2])

def tells(job, connection, result):
    told = {
        "is a job": isinstance(job, Job), "id": job.id, "key": job.key, "args": list(job.args),
        "kwargs": job.kwargs, "meta": job.meta, "origin": job.origin, "func": job.func_name,
        "status": job.get_status(refresh=False), "stored": job.get_status(),
        "worker": job.worker_name, "timeout": job.timeout, "ttl": job.result_ttl,
        "times": [bool(job.created_at), bool(job.enqueued_at), job.started_at <= job.ended_at],
        "result": result, "value": job.return_value(), "kept": job._result,
        "callback": job.success_callback.__name__, "limit": job.success_callback_timeout,
        "current": get_current_job() is None, "context": seen.get(),
        "connections": [connection.ping(), job.connection is connection],
    }
    job.meta["told"] = True
    job.save_meta()
    connection.rpush("called", json.dumps(told))

def describes(job, connection, result):
    connection.rpush("called", "describes")
    job.description = "described"

def drops(job, connection, result):
    job.result_ttl = 0

def breaks(job, connection, result):
    connection.rpush("called", "breaks")
    job.meta["left"] = "for the other"
    raise KeyError("callback")

def failed(job, connection, kind, value, traceback):
    connection.rpush("called", f"failed {kind.__name__} {job.meta.get('left')}")

def stopped(job, connection):
    connection.rpush("called", "stopped")

def waits(job, connection, result):
    connection.rpush("at-callback", 1)
    connection.blpop("callback", 10)

def spins(job, connection, result):
    connection.rpush("at-callback", 1)
    while True:
        time.sleep(0.01)

async def coroutine(job, connection, result):
    pass

def asks():
    return rq.Retry(max=1)
"""


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    return app_module(FUNCTIONS)


@pytest.fixture
def by_rq(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return spy_on_lane(monkeypatch)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    return Queue(connection=redis_client)


def drain(queue: Queue, kind: type = Worker) -> None:
    kind([queue], connection=queue.connection, name="one").work(burst=True, logging_level="ERROR")


def called(client: redis.Redis) -> list[str]:
    """What callbacks have noted."""
    return [text.decode() for text in client.lrange("called", 0, -1)]


@pytest.mark.parametrize("name", ["add", "aadd"])
def test_the_callback_sees_what_it_sees_in_rq(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str], name: str
):
    def seen_by(kind: type) -> tuple[object, ...]:
        job = queue.enqueue(getattr(fns, name), 1, b=2, job_id="a", meta={"note": "as it was"},
                            job_timeout=50, on_success=Callback(fns.tells, timeout=7))  # fmt: skip
        drain(queue, kind)
        job.refresh()
        kept = (job.get_status(), job.return_value(), job.meta, job.worker_name)
        (told,) = called(redis_client)
        redis_client.flushdb()
        return json.loads(told), kept

    theirs = seen_by(SimpleWorker)
    assert seen_by(Worker) == theirs
    assert by_rq == []


def test_it_is_called_once_and_reads_nothing_that_it_does_not_need(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(rq_calls.CurrentJob, "restore", None)
    jobs = [queue.enqueue(fns.plain, n, on_success=Callback(fns.untouched)) for n in range(50)]
    drain(queue)
    assert sorted(map(int, called(redis_client))) == list(range(50))
    assert {job.get_status() for job in jobs} == {"finished"}
    assert by_rq == []
    nothing_left(redis_client)


def test_callbacks_of_coroutines(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str]
):
    on_success, on_failure = Callback(fns.untouched), Callback(fns.failed)
    jobs = [queue.enqueue(fns.aplain, n, on_success=on_success, on_failure=on_failure)
            for n in range(50)]  # fmt: skip
    bad = [queue.enqueue(fns.afails, on_success=on_success, on_failure=on_failure)
           for _ in range(5)]  # fmt: skip
    drain(queue)
    assert sorted(called(redis_client)) == sorted(
        [*map(str, range(50)), *["failed ValueError None"] * 5]
    )
    assert {job.get_status() for job in jobs} == {"finished"}
    assert [job.return_value() for job in jobs] == list(range(50))
    assert {job.get_status() for job in bad} == {"failed"}
    assert by_rq == []
    nothing_left(redis_client)


def test_one_that_raises(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str]
):
    job = queue.enqueue(fns.plain, job_id="a", on_success=Callback(fns.breaks),
                        on_failure=Callback(fns.failed))  # fmt: skip
    coroutine = queue.enqueue(fns.plain, job_id="b", on_success=Callback(fns.coroutine))
    absent = queue.enqueue(fns.plain, job_id="c", on_success=Callback("no.such.function"))
    drain(queue)
    assert called(redis_client) == ["breaks", "failed KeyError for the other"]
    assert [one.get_status() for one in (job, coroutine, absent)] == ["failed"] * 3
    assert "KeyError: 'callback'" in (latest(job).exc_string or "")
    assert "Coroutine success callbacks" in (latest(coroutine).exc_string or "")
    assert "no.such.function" in (latest(absent).exc_string or "")
    assert by_rq == []
    nothing_left(redis_client)


def test_a_failure_callback_alone_costs_a_success_nothing(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str]
):
    job = queue.enqueue(fns.plain, on_failure=Callback(fns.failed))
    drain(queue)
    assert job.get_status() == "finished"
    assert by_rq == called(redis_client) == []


def test_what_it_sets_on_the_job_is_saved_and_obeyed(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str]
):
    job = queue.enqueue(fns.plain, job_id="a", on_success=Callback(fns.describes))
    gone = queue.enqueue(fns.plain, job_id="b", on_success=Callback(fns.drops))
    drain(queue)
    job.refresh()
    assert (job.get_status(), job.description, job.return_value()) == ("finished", "described", 1)
    assert not redis_client.exists(gone.key)
    assert called(redis_client) == ["describes"]
    assert sorted(by_rq) == ["a", "b"]


@pytest.mark.parametrize("how", ["result_ttl", "retry", "old lease", "timeout"])
def test_what_is_not_plain_is_left_to_rqs_code(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str], how: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    fn = fns.asks if how == "retry" else fns.plain
    more = {"result_ttl": 0} if how == "result_ttl" else {}
    job = queue.enqueue(fn, job_id="a", on_success=Callback(fns.untouched), **more)
    if how == "old lease":
        monkeypatch.setattr(rq_calls, "_SURELY_OURS_S", -1)
    if how == "timeout":
        redis_client.hset(job.key, "success_callback_timeout", "x")
    drain(queue)
    assert called(redis_client) == ([] if how in ("retry", "timeout") else ["1"])
    assert by_rq == ([] if how == "timeout" else ["a"])  # that record is broken, and it says so


def test_a_job_that_may_be_somebody_elses_is_asked_for_first(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rq_calls, "_SURELY_OURS_S", -1)
    queue.enqueue(fns.taken_away, on_success=Callback(fns.untouched))
    drain(queue)
    assert called(redis_client) == []


def test_it_is_not_called_again_where_the_dependents_need_rqs_code(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, by_rq: list[str]
):
    queue.enqueue(fns.plain, job_id="a", on_success=Callback(fns.untouched))
    child = queue.enqueue(fns.plain, job_id="b", depends_on="a", ttl=100)
    drain(queue)
    assert child.get_status() == "finished"
    assert called(redis_client) == ["1"]
    assert by_rq == ["a"]


@pytest.mark.parametrize("fn", ["plain", "aplain"])
@pytest.mark.parametrize("callback", ["spins", "waits"])
def test_its_time_limit(
    fns: ModuleType, worker: WorkerStarter, queue: Queue, redis_client: redis.Redis, callback: str,
    fn: str,
):  # fmt: skip
    """Its own, and not the job's; blocked in C it is left behind, and the worker goes on."""
    process = worker(None, "--rq")
    queue.enqueue(fns.plain, on_success=Callback(fns.untouched))  # from here on RQ is imported
    wait_until(lambda: called(redis_client) == ["1"])
    job = queue.enqueue(getattr(fns, fn), on_success=Callback(getattr(fns, callback), timeout=1),
                        on_failure=Callback(fns.failed))  # fmt: skip
    patient = queue.enqueue(getattr(fns, fn), job_timeout=1, on_success=Callback(fns.waits))
    arrived(redis_client, "callback")
    arrived(redis_client, "callback")
    assert ended(job) == "failed"
    text = latest(job).exc_string or ""
    assert "JobTimeoutException: Task exceeded maximum timeout value (1 seconds)" in text
    wait_until(lambda: len(called(redis_client)) == 2)
    assert called(redis_client)[1] == "failed JobTimeoutException None"
    assert patient.get_status() == "started"
    redis_client.rpush("callback", 1, 1)
    assert ended(patient) == "finished"
    nothing_left(redis_client)
    assert process.stop() == 0


@pytest.mark.parametrize("fn", ["plain", "aplain"])
@pytest.mark.parametrize("callback", ["spins", "waits"])
def test_a_stop_while_it_runs(
    fns: ModuleType, worker: WorkerStarter, queue: Queue, redis_client: redis.Redis, callback: str,
    fn: str,
):  # fmt: skip
    worker(None, "--rq")
    queue.enqueue(fns.plain, on_success=Callback(fns.untouched))
    wait_until(lambda: called(redis_client) == ["1"])
    job = queue.enqueue(getattr(fns, fn), on_success=Callback(getattr(fns, callback)),
                        on_stopped=Callback(fns.stopped))  # fmt: skip
    arrived(redis_client, "callback")
    send_stop_job_command(redis_client, job.id)
    assert ended(job) == "stopped"
    wait_until(lambda: called(redis_client) == ["1", "stopped"])
    redis_client.rpush("callback", 1)
    nothing_left(redis_client)


@pytest.mark.parametrize("fn", ["plain", "aplain"])
def test_a_warm_shutdown_waits_for_it(
    fns: ModuleType, worker: WorkerStarter, queue: Queue, redis_client: redis.Redis, fn: str
):
    process = worker(None, "--rq")
    queue.enqueue(fns.plain, on_success=Callback(fns.untouched))
    wait_until(lambda: called(redis_client) == ["1"])
    job = queue.enqueue(getattr(fns, fn), on_success=Callback(fns.waits))
    arrived(redis_client, "callback")
    process.process.terminate()
    process.wait_for_log("Stopping")
    redis_client.rpush("callback", 1)
    assert process.wait() == 0
    assert job.get_status() == "finished"


def test_what_was_set_before_the_first_use_counts(
    app_module: AppModule, queue: Queue, redis_client: redis.Redis
):
    fns = app_module(
        """
        from rq import get_current_job
        def notes():
            job = get_current_job()
            job.meta = {"set": 1}
            job.save_meta()
        """
    )
    job = queue.enqueue(fns.notes, meta={"before": 1})
    drain(queue)
    assert Job.fetch(job.id, connection=redis_client).meta == {"set": 1}
    assert job.is_finished


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("success_callback_timeout", b"9" * 400),
        ("success_callback_timeout", b"9" * 5000),
        ("success_callback_timeout", b"-7"),
        ("success_callback_name", b"\xff\xfe"),
        ("success_callback_name", b"no.such"),
        ("success_callback_name", b"x" * 100_000),
    ],
)
def test_strange_fields_end_the_job_and_the_next_one_runs(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, field: str, value: bytes
):
    strange = queue.enqueue(fns.plain, on_success=Callback(fns.untouched))
    redis_client.hset(strange.key, field, value)
    after = queue.enqueue(fns.plain)
    drain(queue)
    assert redis_client.hget(strange.key, "status") in (b"finished", b"failed")
    assert after.get_status(refresh=True) == "finished"
    assert not redis_client.exists("rq:wip:default")
