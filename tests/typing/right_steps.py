"""What the checkers must accept of durable tasks, and the types they must find."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from datetime import datetime, timedelta, timezone
from typing import Any

from typing_extensions import assert_type

from taskq import Retry, Step, StepFailed, StreamHandle, TaskQ, sleep, sleep_until, step

queue = TaskQ("redis://localhost:6379/0")


def reserve(order: int, *, shelf: str = "a") -> list[str]:
    return [shelf] * order


async def charge(order: int) -> bytes:
    return bytes(order)


@queue.task(mode="process", retry=3)
def label(order: int) -> float:
    return float(order)


@queue.task
async def mail(order: int) -> str:
    return str(order)


def steps_are_typed() -> None:
    assert_type(step(reserve, 1, shelf="b"), Step[list[str]])
    assert_type(step(charge, 1), Step[bytes])
    assert_type(step(label, 1), Step[float])
    assert_type(step(mail, 1), Step[str])
    assert_type(step(label.options(retry=1), 1).options(timeout=timedelta(1)), Step[float])
    assert_type(step(charge, 1).options(retry=Retry(2), redeliver=False, name="x"), Step[bytes])
    sleep(timedelta(hours=1))
    sleep_until(datetime.now(timezone.utc))


@queue.task(durable=True)
def ship(order: int) -> Generator[Any, Any, str]:
    items = yield from step(reserve, order)
    assert_type(items, list[str])
    untyped = yield step(charge, order)
    assert_type(untyped, Any)
    both = yield [step(charge, order), step(label, order)]
    assert_type(both, Any)
    yield sleep(3)
    try:
        text = yield from step(mail, order)
        assert_type(text, str)
    except StepFailed as err:
        assert_type(err.was(OSError, "shop.Declined"), bool)
        return err.message
    return items[0]


@queue.task(durable=True)
async def aship(order: int) -> AsyncGenerator[Any, Any]:
    items = await step(reserve, order)
    assert_type(items, list[str])
    assert_type(await step(charge, order), bytes)
    assert_type(await step(mail, order), str)
    yield sleep(3)


def handles_are_typed() -> None:
    assert_type(ship.delay(1), StreamHandle[Any, Any, str])
    assert_type(ship.delay(1).result(), str)
    assert_type(ship.options(durable=False).delay(1), StreamHandle[Any, Any, str])
    assert_type(aship.delay(1), StreamHandle[Any, Any, None])
