"""A timed wait for several jobs asks Redis once more before it says that the time is over."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from taskq import JobCanceled, ResultTimeout, TaskQ, as_completed, wait
from taskq.broker.wait_loop import LoopWaiter
from taskq.broker.wait_thread import ThreadWaiter
from taskq.embedded import EmbeddedRedis
from taskq.handle import Batch
from tests.endings import Endings, Later


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
def jobs(redis_client: redis.Redis) -> Endings:
    return Endings(redis_client)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """No end of a job is ever noticed by who waits for it."""
    for waiter in (ThreadWaiter, LoopWaiter):
        monkeypatch.setattr(waiter, "add", lambda *_args, **_more: None)


def three(app: TaskQ, jobs: Endings) -> list[Any]:
    """Handles of one that finished, one that was canceled, one that waits."""
    handles = [app.handle(jobs.queued(name)) for name in ("ended", "canceled", "waits")]
    jobs.finish("ended", 7)
    jobs.status("canceled", "canceled")
    return handles


def test_canceled_a_moment_ago(app: TaskQ, jobs: Endings) -> None:
    """Which leaves nothing in the stream: statuses are looked at once a second."""
    handle = app.handle(jobs.queued("a"))
    later = Later(jobs.blocked, lambda: jobs.status("a", "canceled"))
    assert wait([handle], 0.5).done == {handle}
    later.join()


async def test_canceled_a_moment_ago_asyncio(loop_app: TaskQ, jobs: Endings) -> None:
    handle = loop_app.handle(jobs.queued("a"))
    later = Later(jobs.blocked, lambda: jobs.status("a", "canceled"))
    assert [h async for h in as_completed([handle], 0.5)] == [handle]
    later.join()
    with pytest.raises(JobCanceled):
        await handle


@pytest.mark.usefixtures("deaf")
def test_wait(app: TaskQ, jobs: Endings) -> None:
    ended, canceled, waits = three(app, jobs)
    assert wait([ended, canceled, waits], 0.05) == ({ended, canceled}, {waits})
    assert ended.result() == 7
    assert wait([waits, ended], 0.05, return_when="FIRST_COMPLETED").done == {ended}


@pytest.mark.usefixtures("deaf")
def test_as_completed(app: TaskQ, jobs: Endings) -> None:
    arrivals = iter(as_completed(three(app, jobs), 0.05))
    assert {next(arrivals).id, next(arrivals).id} == {"ended", "canceled"}
    with pytest.raises(ResultTimeout, match="job waits after 0.05 s: queued, 2 ahead"):
        next(arrivals)


@pytest.mark.usefixtures("deaf")
async def test_as_completed_asyncio(loop_app: TaskQ, jobs: Endings) -> None:
    arrivals = aiter(as_completed(three(loop_app, jobs), 0.05))
    assert {(await anext(arrivals)).id, (await anext(arrivals)).id} == {"ended", "canceled"}
    with pytest.raises(ResultTimeout, match="job waits after 0.05 s: queued, 2 ahead"):
        await anext(arrivals)


@pytest.mark.usefixtures("deaf")
async def test_batches(loop_app: TaskQ, jobs: Endings) -> None:
    first = Batch(
        loop_app, [loop_app.handle(jobs.queued("a")), loop_app.handle(jobs.queued("b"))], "x"
    )
    second = Batch(loop_app, [loop_app.handle("a"), loop_app.handle("b")], "y")
    jobs.finish_all({"a": 1, "b": 2})
    assert await asyncio.to_thread(first.results, 0.05) == [1, 2]
    assert await second.aresults(0.05) == [1, 2]


@pytest.mark.usefixtures("deaf")
def test_of_several_apps(app: TaskQ, redis_url: str, jobs: Endings) -> None:
    other = TaskQ(redis_url)
    handles = {app.handle(jobs.queued("a")), other.handle(jobs.queued("b"))}
    jobs.finish_all({"a": 1, "b": 2})
    assert wait(handles, 0.05).done == handles
    other.close()


@pytest.mark.usefixtures("deaf")
def test_more_than_one_look_holds(app: TaskQ, jobs: Endings) -> None:
    handles = [app.handle(f"j{n}") for n in range(2_500)]
    with jobs.client.pipeline() as pipe:
        for handle in handles:
            pipe.hset(f"rq:job:{handle.id}", "status", "canceled")
        pipe.execute()
    assert wait(handles, 0.05).done == set(handles)


@pytest.mark.parametrize("way", ["wait", "as_completed", "asyncio"])
def test_a_frozen_server_does_not_hold_the_caller(way: str) -> None:
    with EmbeddedRedis.start(port=0) as server, redis.Redis.from_url(server.url) as client:
        app, jobs = TaskQ(server.url), Endings(client)
        handles = [app.handle(jobs.queued("a")), app.handle(jobs.queued("b"))]

        async def in_a_loop() -> None:
            async with app:
                assert not [handle async for handle in as_completed(handles, 0.3)]

        wait(handles, 0.01)
        os.kill(server.pid, signal.SIGSTOP)
        start = time.monotonic()
        try:
            if way == "wait":
                assert wait(handles, 0.3).not_done == set(handles)
            else:
                with pytest.raises(ResultTimeout, match="Redis does not answer"):
                    asyncio.run(in_a_loop()) if way == "asyncio" else list(
                        as_completed(handles, 0.3)
                    )
            assert time.monotonic() - start < 4
        finally:
            os.kill(server.pid, signal.SIGCONT)
        app.close()
