"""The end of tasks that run for as long as their worker does."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from taskq.worker.cancelling import cancel_all


@pytest.mark.parametrize("turns", range(6))
async def test_a_loop_that_waits_for_something_ends_though_that_happens_at_the_same_time(turns):
    event = asyncio.Event()
    waits = asyncio.Event()

    async def service() -> None:
        while True:
            event.clear()
            with suppress(asyncio.TimeoutError):
                waits.set()
                await asyncio.wait_for(event.wait(), 60)

    task = asyncio.create_task(service())
    await waits.wait()
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(cancel_all(task), 10)
    assert task.cancelled()


async def test_one_that_takes_no_notice_is_asked_again_and_those_that_failed_are_done():
    asked = 0

    async def deaf() -> None:
        nonlocal asked
        while asked < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                asked += 1

    async def broken() -> None:
        raise OSError

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(broken())]
    await asyncio.sleep(0)
    await cancel_all(*tasks)
    assert asked == 2
    assert all(task.done() for task in tasks)
