"""Waiting in asyncio programs: `await handle`, `gather`, `async for`, cancellation."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from taskq import (
    JobCanceled,
    JobFailed,
    JobNotFound,
    PayloadError,
    ResultExpired,
    ResultTimeout,
    TaskQ,
    TaskQError,
    as_completed,
    gather,
)
from taskq.broker import pump
from taskq.embedded import EmbeddedRedis
from taskq.handle import Batch, Handle
from taskq.states import Status
from tests.endings import Endings
from tests.support import until, wait_until


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[TaskQ]:
    made = TaskQ(redis_url)
    yield made
    await made.aclose()


@pytest.fixture
def jobs(redis_client: redis.Redis) -> Endings:
    return Endings(redis_client)


def handles_of(app: TaskQ, jobs: Endings, count: int) -> list[Handle[int]]:
    return [app.handle(jobs.queued(f"j{n}")) for n in range(count)]


def waiting_count(app: TaskQ) -> int:
    return len(app.broker.waits.loop().pump)


async def test_await(app: TaskQ, jobs: Endings) -> None:
    jobs.queued("a")
    task = asyncio.ensure_future(app.handle("a").aresult())
    await until(jobs.blocked)
    jobs.finish("a", "done")
    assert await task == "done"
    assert await app.handle("a") == "done"


async def test_every_kind_of_end(app: TaskQ, jobs: Endings) -> None:
    handles_of(app, jobs, 6)
    waits = [asyncio.ensure_future(app.handle(f"j{n}").aresult()) for n in range(6)]
    await until(jobs.blocked)
    jobs.finish("j0", 0)
    jobs.fail("j1", "E", "no")
    jobs.status("j2", "canceled")
    jobs.fail_as_rq("j3", status="stopped")
    jobs.finish_unkept("j4")
    jobs.client.delete("rq:job:j5")
    ends = await asyncio.gather(*waits, return_exceptions=True)
    kinds = [type(end) for end in ends]
    assert kinds == [int, JobFailed, JobCanceled, JobCanceled, ResultExpired, ResultExpired]
    assert "result_ttl=0" in str(ends[4])
    with pytest.raises(JobNotFound):
        await app.handle("nobody")


async def test_the_twins(app: TaskQ, jobs: Endings) -> None:
    jobs.queued("a")
    handle: Handle[int] = app.handle("a")
    assert await handle.astatus() == Status.QUEUED
    assert not await handle.adone()
    jobs.status("a", "started", tq_progress="[1,null,null]")
    progress = await handle.aprogress()
    assert progress is not None
    assert (progress.done, progress.total, progress.note, progress.fraction) == (1, None, "", None)
    assert await handle.acancel() is True
    jobs.fail("a", "E", "no")
    assert isinstance(await handle.aexception(5), JobFailed)
    assert await handle.adone()
    jobs.queued("b")
    assert await app.handle("b").acancel() is True
    assert await app.handle("b").acancel() is False
    with pytest.raises(JobNotFound):
        await app.handle("nobody").acancel()


async def test_time_limits(app: TaskQ, jobs: Endings) -> None:
    jobs.queued("a")
    start = time.monotonic()
    with pytest.raises(ResultTimeout, match=r"job a after 0\.1 s: queued, 0 ahead"):
        await app.handle("a").aresult(0.1)
    assert 0.1 <= time.monotonic() - start < 2
    with pytest.raises(ResultTimeout, match="after 0 s"):
        await app.handle("a").aresult(0)
    assert waiting_count(app) == 0
    jobs.finish("a", 1)
    assert await app.handle("a").aresult(0) == 1


async def test_cancelling_who_waits_leaves_the_rest_alone(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    same = app.handle("j1")
    tasks = [asyncio.ensure_future(h.aresult()) for h in (*handles, same)]
    await until(jobs.blocked)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.wait(tasks[:2])
    assert waiting_count(app) == 2  # j1 is still waited for through the other handle
    for n in range(3):
        jobs.finish(f"j{n}", n)
    assert await asyncio.gather(*tasks[2:]) == [2, 1]
    assert await handles[0] == 0  # giving up did not cancel the job


async def test_cancelling_the_only_one_and_waiting_again(app: TaskQ, jobs: Endings) -> None:
    handle = handles_of(app, jobs, 1)[0]
    for _ in range(5):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(handle.aresult(), 0.01)
    jobs.finish("j0", 0)
    assert await handle.aresult(5) == 0


async def test_gather(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 5)
    task = asyncio.ensure_future(gather(*handles))
    await until(jobs.blocked)
    for n in (4, 0, 2, 1, 3):
        jobs.finish(f"j{n}", n)
    assert await task == [0, 1, 2, 3, 4]
    assert await gather() == []
    assert await gather(handles[0], handles[0]) == [0, 0]


async def test_gather_and_a_failure(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    jobs.finish("j0", 0)
    jobs.fail("j1", "E", "no")
    with pytest.raises(JobFailed, match="j1 failed"):
        await gather(*handles)  # j2 has not ended
    assert waiting_count(app) == 0
    jobs.finish("j2", 2)
    first, second, third = await gather(*handles, return_exceptions=True)
    assert (first, third) == (0, 2)
    assert isinstance(second, JobFailed)


async def test_as_completed(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 4)
    seen: list[int] = []

    async def collect() -> None:
        async for handle in as_completed(handles, 10):
            value = handle.result()  # known: it does not block the loop
            seen.append(value)

    task = asyncio.ensure_future(collect())
    await until(jobs.blocked)
    for n in (3, 1, 0, 2):
        jobs.finish(f"j{n}", n)
        await until(functools.partial(seen.__contains__, n))
    await task
    assert seen == [3, 1, 0, 2]
    with pytest.raises(TaskQError, match="async for"):
        iter(as_completed(handles))


async def test_as_completed_takes_what_is_no_job(app: TaskQ, jobs: Endings) -> None:
    jobs.client.set("rq:job:b", "no hash")
    handles: list[Handle[int]] = [app.handle("nobody"), app.handle("b")]
    errors = {JobNotFound: 0, PayloadError: 0}
    async for handle in as_completed(handles, 5):
        with pytest.raises((JobNotFound, PayloadError)) as caught:
            handle.result()
        errors[caught.type] += 1
    assert errors == {JobNotFound: 1, PayloadError: 1}


async def test_as_completed_out_of_time(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    jobs.finish("j1", 1)
    for timeout in (0, 0.1):
        arrivals = aiter_of(as_completed(handles, timeout))
        assert (await arrivals.__anext__()).id == "j1"
        with pytest.raises(ResultTimeout, match="1 more are waited for"):
            await arrivals.__anext__()


async def test_leaving_as_completed_forgets_the_rest(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    jobs.finish("j1", 1)
    arrivals = aiter_of(as_completed(handles))
    await arrivals.__anext__()
    await arrivals.aclose()
    assert waiting_count(app) == 0


def aiter_of(arrivals: Any) -> Any:
    return arrivals.__aiter__()  # aiter() is Python 3.10, but mypy wants aclose()


async def test_batch(app: TaskQ, jobs: Endings) -> None:
    batch = Batch(app, handles_of(app, jobs, 3), "b")
    assert await batch.acounts() == {"queued": 3}
    for n in range(3):
        jobs.finish(f"j{n}", n)
        jobs.client.expire(f"rq:job:j{n}", 86_400)
    assert await batch == [0, 1, 2]
    assert jobs.client.ttl("rq:job:j0") <= 500
    assert await batch.acounts() == {"finished": 3}
    with pytest.raises(TaskQError, match="await batch"):
        batch.results()


async def test_callback_in_the_loop(
    app: TaskQ, jobs: Endings, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.queued("a")
    called: list[Any] = []
    handle: Handle[int] = app.handle("a")
    handle.add_done_callback(lambda h: called.append((threading.current_thread(), h.result())))
    handle.add_done_callback(lambda h: 1 / 0)
    jobs.finish("a", 1)
    await until(lambda: called)
    assert called == [(threading.main_thread(), 1)]
    await until(lambda: "ZeroDivisionError" in caplog.text)
    handle.add_done_callback(called.append)
    await until(lambda: called[1:] == [handle])


async def test_two_thousand_tasks_share_one_connection(app: TaskQ, jobs: Endings) -> None:
    count = 2_000
    with jobs.client.pipeline() as pipe:
        for n in range(count):
            pipe.hset(f"rq:job:j{n}", "status", "queued")
        pipe.execute()
    await app.broker.acall("PING")
    before = jobs.connections()
    tasks = [asyncio.ensure_future(app.handle(f"j{n}").aresult()) for n in range(count)]
    await until(jobs.blocked)
    assert jobs.connections() - before == 1
    for n in range(count):
        jobs.finish(f"j{n}", n)
    assert await asyncio.gather(*tasks) == list(range(count))


async def test_newcomers_one_after_the_other(app: TaskQ, jobs: Endings) -> None:
    """Each interrupts the read under way; none waits for the second that it blocks."""
    jobs.queued("never")
    never = asyncio.ensure_future(app.handle("never").aresult())
    await until(jobs.blocked)
    start = time.monotonic()
    for n in range(20):
        jobs.queued(f"j{n}")
        task = asyncio.ensure_future(app.handle(f"j{n}").aresult())
        await until(lambda: jobs.blocked() and waiting_count(app) == 2)
        jobs.finish(f"j{n}", n)
        assert await task == n
    assert time.monotonic() - start < 4
    never.cancel()
    await asyncio.wait([never])


async def test_lost_connections(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 8)
    tasks = [asyncio.ensure_future(h.aresult()) for h in handles]
    for n in range(8):
        await until(jobs.blocked)
        jobs.client.client_kill_filter(_type="normal", skipme=True)
        jobs.finish(f"j{n}", n)
        await until(tasks[n].done)
    assert await asyncio.gather(*tasks) == list(range(8))


async def test_one_broken_key_does_not_harm_the_others(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    jobs.client.set("rq:results:j1", "no stream")
    task = asyncio.ensure_future(gather(*handles, return_exceptions=True))
    await until(jobs.blocked)
    jobs.finish("j0", 0)
    jobs.finish("j2", 2)
    first, second, third = await task
    assert (first, third) == (0, 2)
    assert isinstance(second, PayloadError)


async def test_redis_away_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedRedis.start(port=0) as server, redis.Redis.from_url(server.url) as client:
        app, jobs = TaskQ(server.url), Endings(client)
        jobs.queued("a")
        task = asyncio.ensure_future(app.handle("a").aresult())
        await until(jobs.blocked)
        client.execute_command("CLIENT", "PAUSE", "700", "ALL")
        start = time.monotonic()
        with pytest.raises(ResultTimeout, match="Redis does not answer"):
            await app.handle("a").aresult(0.1)
        assert time.monotonic() - start < 4
        jobs.finish("a", 1)
        assert await task == 1
        await app.aclose()


async def test_an_untimed_wait_says_why(
    app: TaskQ, jobs: Endings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pump, "PATIENCE_S", 0.05)
    monkeypatch.setattr(pump, "LOOK_EVERY_S", 0.05)
    handles = handles_of(app, jobs, 3)
    with caplog.at_level(logging.INFO, "taskq.handle"):
        tasks = [asyncio.ensure_future(h.aresult()) for h in handles]
        await until(lambda: caplog.records)
        for handle in handles:
            jobs.finish(handle.id, 1)
        await asyncio.gather(*tasks)
    (record,) = caplog.records
    assert "(2 more are waited for.)" in record.getMessage()


async def test_closing_the_app_tells_who_waits(redis_url: str, jobs: Endings) -> None:
    app = TaskQ(redis_url)
    jobs.queued("a")
    task = asyncio.ensure_future(app.handle("a").aresult())
    await until(jobs.blocked)
    await app.aclose()
    with pytest.raises(TaskQError, match="closed while waiting"):
        await task
    jobs.finish("a", 1)
    assert await app.handle("a") == 1  # it reopens when used again
    await app.aclose()


def test_loops_of_several_threads_and_no_aclose(redis_url: str, jobs: Endings) -> None:
    """`asyncio.run` closes our connections with the loop, also if nobody else does."""
    app = TaskQ(redis_url)
    found: list[int] = []

    async def main(first: int) -> None:
        found.extend(await gather(*[app.handle(f"j{first + n}") for n in range(10)]))

    handles_of(app, jobs, 30)
    threads = [threading.Thread(target=asyncio.run, args=(main(n * 10),)) for n in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: jobs.blocked(3))
    for n in range(30):
        jobs.finish(f"j{n}", n)
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(30))
    gc.collect()
    assert not jobs.blocked()
    app.close()
