"""Durable tasks in tests: `queue.testing()` and TASKQ_EAGER."""

from __future__ import annotations

from datetime import timedelta
from types import ModuleType

import pytest

from taskq import JobFailed

APP = """
from taskq import Depends, Retry, StepFailed, TaskQ, current_job, sleep, step

queue = TaskQ("redis://127.0.0.1:1/0")          # nothing listens there
ran = []

def add(a, b):
    ran.append(("add", a, b, current_job().id))
    return a + b

async def aadd(a, b):
    return a + b

@queue.task(mode="process", retry=Retry(3, base=60))
def flaky(n):
    ran.append("flaky")
    if ran.count("flaky") < 3:
        raise OSError("not yet")
    return n

def never():
    raise KeyError("no")

@queue.task(durable=True)
def ship(n):
    yield "begun"
    one = yield step(add, n, 1)
    yield sleep(3600)
    two, three = yield [step(aadd, one, 1), step(flaky, 9)]
    yield "done"
    return [one, two, three, len(list_of(ran))]

def list_of(values):
    return [value for value in values if value != "flaky"]

@queue.task(durable=True)
async def aship(n):
    one = await step(add, n, 1)
    yield sleep(3600)
    try:
        yield step(never)
    except StepFailed as err:
        yield [one, err.message]

def client():
    ran.append("opens")
    try:
        yield "client"
    finally:
        ran.append("closes")

@queue.task
def ask(n, *, c=Depends(client)):
    return f"{c} {n}"

@queue.task
async def aask(n, *, c=Depends(client)):
    return f"{c} {n}"

@queue.task(durable=True)
def depends(*, c=Depends(client)):
    yield sleep(60)
    return [c, (yield step(ask, 1)), (yield step(aask, 2))]

@queue.task(durable=True)
def fails():
    yield step(never)
"""


@pytest.fixture
def shop(app_module) -> ModuleType:
    return app_module(APP)


@pytest.mark.parametrize("mode", ["inline", "manual"])
def test_timers_and_retries_follow_the_clock(shop, mode):
    with shop.queue.testing(mode) as t:
        handle = shop.ship.delay(1)
        t.run()
        assert handle.status() == "scheduled"
        t.advance(timedelta(minutes=59))
        assert handle.status() == "scheduled"
        t.advance(timedelta(minutes=1))
        assert handle.status() == "scheduled", "flaky is tried again a minute later"
        t.advance(timedelta(minutes=2))
        assert handle.result() == [2, 3, 9, 1]
        assert list(handle.stream()) == ["begun", "done"]
        assert shop.ran == [("add", 1, 1, handle.id), "flaky", "flaky", "flaky"]


def test_async_generators(shop):
    with shop.queue.testing() as t:
        handle = shop.aship.delay(1)
        t.advance(3600)
        assert list(handle.stream()) == [[2, "'no'"]]
        with pytest.raises(JobFailed, match=r"Step \w+\.never failed: builtins.KeyError"):
            shop.fails.delay().result()


def test_dependencies_of_the_task_and_of_its_steps(shop):
    """Those of the task are closed at a timer, and open again after it."""
    with shop.queue.testing() as t:
        handle = shop.depends.delay()
        assert shop.ran == ["opens", "closes"]
        t.advance(60)
        assert handle.result() == ["client", "client 1", "client 2"]
        assert shop.ran[2:] == ["opens", *["opens", "closes"] * 2, "closes"]


async def test_on_a_loop(shop):
    async with shop.queue.testing() as t:
        handle = await shop.ship.adelay(1)
        await t.aadvance(3600)
        await t.aadvance(120)
        assert await handle == [2, 3, 9, 1]


def test_eager_ends_timers_at_once(app_module, monkeypatch):
    monkeypatch.setenv("TASKQ_EAGER", "1")
    shop = app_module(APP)
    assert shop.ship.delay(1).result() == [2, 3, 9, 1]
    assert list(shop.aship.delay(1).stream()) == [[2, "'no'"]]
