"""RQ's jobs that set out to break the worker: all of them end, and as with RQ's own worker."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Repeat, Retry, SimpleWorker
from rq.rate_limit import RateLimit

from taskq.worker import Worker, settle
from tests.conftest import AppModule
from tests.integration import test_rq_ends
from tests.integration.test_rq_ends import snapshot

FUNCTIONS = """
import ctypes
from rq import Retry, get_current_job
from rq.job import Job

def add(a=1, b=1):
    return a + b

async def aadd(a=1, b=1):
    return a + b

def fail():
    raise ValueError("no")

def again():
    return get_current_job().connection.incr("runs")

def cancel_me(then):
    job = get_current_job()
    if job.connection.incr("runs") == 1:
        Job.fetch(job.id, connection=job.connection).cancel()
        if then == "ask":
            return Retry(max=2)
        raise ValueError("no")
    return 7

def ask(**fields):
    if get_current_job().connection.incr("runs") > 6:
        return 7
    retry = Retry(max=3)
    vars(retry).update(fields)
    return retry

def unpicklable():
    return lambda: 1

def end_repeats():
    job = get_current_job()
    job.connection.incr("runs")
    job.repeats_left = 0

def set_meta():
    get_current_job().meta["by"] = "job"

async def anotes():
    job = get_current_job()
    job.meta["by"] = "job"
    job.save_meta()

def reads_meta(job, connection, *rest):
    connection.rpush("called", repr(job.meta))

def adds_meta(job, *rest):
    job.meta["cb"] = "x"
    job.save_meta()

def sets_meta(job, *rest):
    job.meta["cb"] = "set"

def changes_intervals(job, *rest):
    job.repeat_intervals[0] = 500

def cancels(job, *rest):
    job.cancel()

def exits(job, *rest):
    raise SystemExit(3)

def requeues(job, *rest):
    job.requeue()

def saves(job, *rest):
    job.save()

class Evil:
    def __eq__(self, other):
        raise RuntimeError("not comparable")
    __hash__ = None

def sets_evil(job, *rest):
    _ = job.args
    job.group_id = Evil()

def hangs(job, connection, result):
    connection.rpush("called", "hangs")
    ctypes.CDLL(None).sleep(6)

def success(job, connection, result):
    connection.rpush("called", "success")

def failure(job, connection, kind, value, traceback):
    connection.rpush("called", f"failure {kind.__name__}")

class Delegates(Exception):
    def __getattr__(self, name):
        return self.args[0][name]

class ExitingStr(Exception):
    def __str__(self):
        raise SystemExit(9)

class EvilBool(Exception):
    def __bool__(self):
        raise RuntimeError("bool")
    def __eq__(self, other):
        raise RuntimeError("eq")
    __hash__ = None

class EvilCause(Exception):
    @property
    def __cause__(self):
        raise RuntimeError("cause")
    @property
    def __traceback__(self):
        raise RuntimeError("tb")

class EvilClass(Exception):
    @property
    def __class__(self):
        raise RuntimeError("class")

class EvilMeta(type):
    @property
    def __name__(cls):
        raise RuntimeError("name")

class EvilNamed(Exception, metaclass=EvilMeta):
    pass

KINDS = [lambda: Delegates({"code": 1}), ExitingStr, EvilBool, EvilCause, EvilClass, EvilNamed]

def raises_evil(n):
    raise KINDS[n]()

async def araises_evil(n):
    raise KINDS[n]()

def returns_evil(n):
    return KINDS[n]()

async def areturns_evil(n):
    return KINDS[n]()
"""

Case = Callable[[Queue, ModuleType], object]
SOON, LATER = Repeat(times=1), Repeat(times=1, interval=50)
CASES: dict[str, Case] = {
    "cancel, fail, retry": lambda q, f: q.enqueue(f.cancel_me, "fail", job_id="a", retry=Retry(1)),
    "cancel, fail, retry, limit": lambda q, f: (
        q.enqueue(f.cancel_me, "fail", job_id="a", retry=Retry(1), rate_limit=RateLimit("l", 1)),
        q.enqueue(f.add, job_id="b", rate_limit=RateLimit("l", 1)),
    ),
    "cancel, ask, limit": lambda q, f: q.enqueue(
        f.cancel_me, "ask", job_id="a", rate_limit=RateLimit("l", 1)
    ),
    "unpicklable, repeat": lambda q, f: q.enqueue(f.unpicklable, job_id="a", repeat=SOON),
    "the job ends its repeats": lambda q, f: q.enqueue(
        f.end_repeats, job_id="a", repeat=Repeat(times=3)
    ),
    "meta by the job, repeat": lambda q, f: q.enqueue(f.set_meta, job_id="a", repeat=LATER),
    "meta by the callback, repeat": lambda q, f: q.enqueue(
        f.add, job_id="a", repeat=LATER, on_success=Callback(f.sets_meta)
    ),
    "meta by the callback, retry": lambda q, f: q.enqueue(
        f.fail, job_id="a", retry=Retry(1, interval=50), on_failure=Callback(f.sets_meta)
    ),
    "meta by a coroutine": lambda q, f: q.enqueue(
        f.anotes, job_id="a", on_success=Callback(f.reads_meta)
    ),
    "meta by a coroutine and its callback": lambda q, f: q.enqueue(
        f.anotes, job_id="a", on_success=Callback(f.adds_meta)
    ),
    "intervals by the callback": lambda q, f: q.enqueue(
        f.add, job_id="a", repeat=Repeat(2, [50, 60]), on_success=Callback(f.changes_intervals)
    ),
    **{
        f"Retry with {fields}": lambda q, f, fields=fields: q.enqueue(f.ask, **fields, job_id="a")  # type: ignore[misc]
        for fields in (
            {"max": 0}, {"max": -1}, {"max": 1.5}, {"max": float("nan")}, {"intervals": []},
            {"intervals": [True]}, {"intervals": (0, 0)}, {"intervals": [0.5]},
        )
    },
}  # fmt: skip


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    return app_module(FUNCTIONS)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    return Queue(connection=redis_client)


def work(queue: Queue, kind: type = Worker) -> None:
    kind([queue], connection=queue.connection).work(burst=True, logging_level="CRITICAL")


def compare(queue: Queue, fns: ModuleType, enqueue: Case) -> None:
    enqueue(queue, fns)
    work(queue, SimpleWorker)
    theirs, runs = snapshot(queue.connection), queue.connection.get("runs")
    queue.connection.flushdb()
    enqueue(queue, fns)
    work(queue)
    ours = snapshot(queue.connection)
    assert {what: (theirs[what], ours.get(what)) for what in theirs
            if theirs[what] != ours.get(what)} == {}  # fmt: skip
    assert queue.connection.get("runs") == runs


@pytest.mark.parametrize("name", CASES)
def test_as_with_stock_rq(name: str, fns: ModuleType, queue: Queue):
    compare(queue, fns, CASES[name])


@pytest.mark.parametrize("callback", ["cancels", "exits", "requeues", "saves"])
@pytest.mark.parametrize("fn", ["add", "aadd", "fail"])
def test_callbacks_that_go_their_own_way(fn: str, callback: str, fns: ModuleType, queue: Queue):
    called = Callback(getattr(fns, callback))
    told = {"on_failure": called} if fn == "fail" else {"on_success": called}
    more: list[dict[str, Any]] = [{}, {"repeat": LATER}, {"retry": Retry(1, interval=50)},
                                  {"rate_limit": RateLimit("l", 1)}]  # fmt: skip

    def enqueue(queue: Queue, fns: ModuleType) -> None:
        for job_id, one in zip("abcd", more, strict=True):
            queue.enqueue(getattr(fns, fn), job_id=job_id, **told, **one)

    compare(queue, fns, enqueue)


FIELDS: dict[str, list[bytes]] = {
    "repeats_left": [b"1e9", b"\xff", b"9" * 5000, b"-3", b"9" * 30],
    "repeat_intervals": [b'{"0": 1}', b'"50"', b"5", b"[NaN]", b"[Infinity]", b"[-5]", b'["5"]',
                         b"[[5]]", b"[" * 100_000, b"\xff", b"[1e300]", b"[true]", b"[50, null]"],
    "number_of_retries": [b"x", b"\xff", b"-2", b"7"],
    "rate_limit_key": [b"\xff\xfe", b"a b\n\0c", b" x", b"k" * 1_000_000, b"5"],
    "webhooks": [b"5", b"[[]]", b"\xff", b"[" * 100_000, b'[{"job_status": "finished"}]'],
    "failure_callback_timeout": [b"9" * 400, b"x"],
    "failure_callback_name": [b"\xff", b"no.such", b"x" * 100_000],
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_strange_fields_end_the_job_and_the_next_one_runs(
    field: str, fns: ModuleType, queue: Queue, redis_client: redis.Redis
):
    jobs = []
    for value in FIELDS[field]:
        for fn in (fns.add, fns.fail, fns.aadd):
            jobs.append(queue.enqueue(fn, repeat=LATER, on_failure=Callback(fns.failure)))
            redis_client.hset(jobs[-1].key, field, value)
    after = queue.enqueue(fns.add)
    work(queue)
    ends = {job.id: redis_client.hget(job.key, "status") for job in jobs}
    assert set(ends.values()) <= {b"finished", b"failed", b"scheduled"}
    assert after.get_status() == "finished"
    assert not redis_client.exists("rq:wip:default")


def test_hostile_values_and_exceptions(fns: ModuleType, queue: Queue, redis_client: redis.Redis):
    told = {"on_failure": Callback(fns.failure), "on_success": Callback(fns.success)}
    jobs = [
        queue.enqueue(fn, n, **more)
        for fn in (fns.raises_evil, fns.araises_evil, fns.returns_evil, fns.areturns_evil)
        for n in range(len(fns.KINDS))
        for more in ({}, told, {"retry": Retry(1)})
    ]
    jobs.append(queue.enqueue(fns.add, on_success=Callback(fns.sets_evil)))
    after = queue.enqueue(fns.add)
    work(queue)
    assert {redis_client.hget(job.key, "status") for job in jobs} == {b"finished", b"failed"}
    assert after.get_status() == "finished"
    assert not redis_client.exists("rq:wip:default", "rq:queue:default")


def test_callbacks_that_wait_behind_a_stuck_one(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    """The only thread is left behind: another takes its place."""
    monkeypatch.setenv("TASKQ_THREADS", "1")
    queue.enqueue(fns.add)  # from here on RQ is imported
    first = queue.enqueue(fns.aadd, on_success=Callback(fns.hangs, timeout=1))
    last = queue.enqueue(fns.aadd, on_success=Callback(fns.success))
    work(queue)
    assert (first.get_status(), last.get_status()) == ("failed", "finished")
    assert redis_client.lrange("called", 0, -1) == [b"hangs", b"success"]


@pytest.mark.parametrize("graph", ["repeats", "asks_again", "limits", "failures", "callbacks"])
def test_each_settle_is_sent_twice(
    graph: str, app_module: AppModule, queue: Queue, redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    fns, once = app_module(test_rq_ends.FUNCTIONS), settle.run_script

    async def twice(link: Any, chosen: Any, make: Any, patience_s: float) -> Any:
        await once(link, chosen, make, patience_s)
        make(True)
        return await once(link, chosen, make, patience_s)

    def run() -> dict[str, Any]:
        redis_client.flushdb()
        getattr(test_rq_ends, graph)(queue, fns)
        work(queue)
        return snapshot(redis_client)

    before = run()
    monkeypatch.setattr(settle, "run_script", twice)
    assert run() == before
