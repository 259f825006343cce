"""One scenario, run inline, step by step and by a real worker, ends in the same way."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from taskq import JobFailed, TaskQError, wait
from tests.support import WorkerStarter

APP = """
import asyncio, os
from taskq import Retry, TaskQ, current_job

queue = TaskQ()

@queue.task
def add(a: int, b: int = 0) -> int:
    return a + b

@queue.task
async def aadd(a: int, b: int = 0) -> tuple[int, str]:
    await asyncio.sleep(0)
    return a + b, current_job().task.rpartition(".")[2]

@queue.task(retry=2)
def flaky(good_at: int) -> int:
    attempt = current_job().attempt
    if attempt < good_at:
        raise OSError(f"attempt {attempt}")
    return attempt

@queue.task(retry=Retry(2, base=0.05))
def paused() -> int:
    return flaky.fn(2)

@queue.task
def unfit() -> object:
    return object()

@queue.task
def parent(n: int) -> int:
    return sum(add.map(range(n), b=1).results(timeout=10))

@queue.task(timeout=0.1)
def endless() -> None:
    while True:
        pass

@queue.task
def meta() -> dict:
    return current_job().meta
"""


def scenario(shop: ModuleType) -> list[Any]:
    return [
        shop.add.delay(1, b=2),
        shop.aadd.delay(1),
        shop.flaky.delay(3),
        shop.flaky.delay(9),
        shop.paused.delay(),
        shop.unfit.delay(),
        shop.parent.delay(3),
        shop.endless.delay(),
        shop.meta.options(meta={"who": "me"}, delay=0.1, queue="default").delay(),
        shop.add.options(result_ttl=0).delay(1),
    ]


def end_of(handle: Any) -> tuple[Any, ...]:
    try:
        return ("result", handle.result(timeout=10))
    except JobFailed as error:
        return (type(error).__name__, error.exc_type, error.message.split(": ")[0], error.attempts)
    except TaskQError as error:
        return (type(error).__name__,)


@pytest.fixture
def by_worker(app: ModuleType, target: str, worker: WorkerStarter) -> list[tuple[Any, ...]]:
    handles = scenario(app)
    worker(target)
    wait(handles, timeout=15)
    return [end_of(handle) for handle in handles]


@pytest.mark.timeout(60)
def test_the_same_ends(app, by_worker):
    with app.queue.testing() as t:
        handles = scenario(app)
        t.advance(1)
        assert [end_of(handle) for handle in handles] == by_worker
    with app.queue.testing("manual") as t:
        handles = scenario(app)
        t.run()
        t.advance(1)
        assert [end_of(handle) for handle in handles] == by_worker
    assert [end[0] for end in by_worker].count("result") == 6
