"""Jobs of which nothing is kept: who waits for one is told whether it finished or failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import ModuleType

import pytest
import redis
import rq

from taskq import JobFailed, ResultExpired, TaskQ, TaskTimeout, wait
from taskq.broker.client import Broker
from taskq.broker.records import NewJob
from taskq.handle import Batch, Handle
from taskq.states import Status
from tests.conftest import AppModule
from tests.endings import Endings, Later
from tests.engine import NO_TEXT, Engine
from tests.support import WorkerStarter, wait_until

A = "aaaaaaaa"
NO = '["builtins.ValueError","no",2]'


@pytest.fixture
def app(redis_url: str) -> Iterator[TaskQ]:
    made = TaskQ(redis_url)
    yield made
    made.close()


@pytest.fixture
async def loop_app(redis_url: str) -> AsyncIterator[TaskQ]:
    async with TaskQ(redis_url) as made:
        yield made


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker)


def end(engine: Engine, *ends: str) -> list[str]:
    """Jobs that ended so, and were deleted: "f" or the error of one that failed."""
    ids = engine.enqueue(len(ends))
    for job, how in zip(engine.reserve(A), ends, strict=True):
        if how == "f":
            assert engine.settle(job, "f", option="m0") == 1
        else:
            assert engine.settle(job, "x", "1.0", "2.0", NO_TEXT, how, option="0") == 1
    return ids


def test_the_failure_is_told(app: TaskQ, engine: Engine) -> None:
    [one] = end(engine, NO)
    handle: Handle[None] = app.handle(one)
    assert handle.status() is Status.FAILED
    assert handle.done()
    assert handle.cancel() is False
    with pytest.raises(JobFailed, match=f"{one} .*ValueError: no") as caught:
        handle.result(5)
    error = caught.value
    assert (error.exc_type, error.message, error.attempts) == ("builtins.ValueError", "no", 2)
    assert error.traceback == ""
    assert isinstance(handle.exception(), JobFailed)
    assert handle.status() is Status.FAILED


def test_while_somebody_waits(app: TaskQ, engine: Engine, redis_client: redis.Redis) -> None:
    [one] = engine.enqueue()
    [job] = engine.reserve(A)
    late = '["taskq.errors.TaskTimeout","over 1 s",1]'
    later = Later(
        lambda: Endings(redis_client).blocked(),
        lambda: engine.settle(job, "x", "1.0", "2.0", NO_TEXT, late, option="0"),
    )
    with pytest.raises(TaskTimeout, match="over 1 s"):
        app.handle(one).result()
    later.join()


def test_several(app: TaskQ, engine: Engine) -> None:
    handles: list[Handle[None]] = [app.handle(one) for one in end(engine, "f", NO, "f")]
    batch = Batch(app, handles, "b")
    assert batch.counts() == {"finished": 2, "failed": 1}
    assert wait(handles, 5).done == set(handles)
    assert batch.counts() == {"finished": 2, "failed": 1}
    kinds = [type(found) for found in batch.results(return_exceptions=True)]
    assert kinds == [ResultExpired, JobFailed, ResultExpired]


async def test_asyncio(loop_app: TaskQ, engine: Engine) -> None:
    finished, failed = end(engine, "f", NO)
    with pytest.raises(JobFailed, match="no"):
        await loop_app.handle(failed)
    with pytest.raises(ResultExpired, match="result_ttl=0"):
        await loop_app.handle(finished)


def test_one_that_finished_has_no_failure(app: TaskQ, engine: Engine) -> None:
    [one] = end(engine, "f")
    assert app.handle(one).status() is Status.FINISHED
    assert app.handle(one).exception(5) is None


@pytest.mark.parametrize(("first", "second"), [(NO, "f"), ("f", NO)])
def test_an_id_that_is_used_again(
    app: TaskQ, engine: Engine, redis_client: redis.Redis, first: str, second: str
) -> None:
    """The end that came last counts, in the same ten seconds or later."""
    for pause in (0, 1):
        for how in (first, second):
            engine.broker.enqueue([NewJob("again", "default", b"[]")])
            [job] = engine.reserve(A)
            if how == "f":
                engine.settle(job, "f", option="m0")
            else:
                engine.settle(job, "x", "1.0", "2.0", NO_TEXT, how, option="0")
            if pause and how is first:
                for kind in ("done", "failures"):
                    for key in redis_client.scan_iter(f"taskq:{kind}:*"):
                        head, _, bucket = key.decode().rpartition(":")
                        redis_client.rename(key, f"{head}:{int(bucket) - 1}")
        wanted = Status.FINISHED if second == "f" else Status.FAILED
        assert app.handle("again").status() is wanted


def test_it_is_remembered_for_a_minute(engine: Engine, redis_client: redis.Redis) -> None:
    end(engine, NO, "f")
    keys = [*redis_client.scan_iter("taskq:failures:*"), *redis_client.scan_iter("taskq:done:*")]
    assert 2 <= len(keys) <= 4
    assert all(60 < redis_client.ttl(key) <= 70 for key in keys)
    assert sum(redis_client.hlen(key) for key in redis_client.scan_iter("taskq:failures:*")) == 1


def test_something_else_under_that_key(
    app: TaskQ, engine: Engine, redis_client: redis.Redis
) -> None:
    now = int(redis_client.time()[0]) // 10
    for bucket in (now, now + 1):
        redis_client.set(f"taskq:failures:{bucket}", "in the way")
    [one] = end(engine, NO)
    assert app.handle(one).done()


APP = """
from taskq import TaskQ

queue = TaskQ()

@queue.task(failure_ttl=0)
def fail():
    raise ValueError("no")

@queue.task(failure_ttl=0, timeout=0.2)
async def slow():
    import asyncio
    await asyncio.sleep(9)

def told(job, connection, *error):
    pass
"""


def test_in_a_real_worker(
    app_module: AppModule,
    worker: WorkerStarter,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    module = app_module(APP)
    worker(f"{module.__name__}:queue")
    with module.queue, pytest.raises(JobFailed, match="ValueError: no"):
        module.fail.delay().result(10)
    with module.queue, pytest.raises(TaskTimeout):
        module.slow.delay().result(10)


def test_where_rqs_own_code_settles_it(
    app: TaskQ, app_module: AppModule, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    module: ModuleType = app_module(APP)
    queue = rq.Queue(connection=redis_client)
    more = {"failure_ttl": 0, "on_failure": rq.Callback(module.told)}
    job = queue.enqueue(f"{module.__name__}.fail.fn", **more)
    worker(None, "--rq")
    wait_until(lambda: not redis_client.exists(job.key))
    with pytest.raises(JobFailed, match="ValueError: no"):
        app.handle(job.id).result(10)
    assert app.handle(job.id).status() is Status.FAILED
