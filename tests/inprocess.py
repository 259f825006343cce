"""A worker process without the process: `Runtime` in an event loop of this test, on any URL.

Starts in some 20 ms. What kills it is a proxy that lets nothing through any more: for Redis, and
for the other workers, it has died. What its tasks wrote down stays to be read.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from taskq import TaskQ
from taskq.broker.client import Broker
from taskq.worker.runtime import Runtime
from taskq.worker.settings import WorkerSettings

SETTINGS = WorkerSettings(threads=2, concurrency=4, grace_s=5.0)


def new_uid() -> str:
    return secrets.token_hex(4)


def attach(app: TaskQ, url: str) -> Broker:
    """Let an app talk to this Redis from now on; returns its broker."""
    app._broker = Broker(url)
    return app._broker


def work(
    app: TaskQ,
    url: str,
    until: Callable[[], bool],
    *,
    dead: Callable[[], bool] = lambda: False,
    settings: WorkerSettings = SETTINGS,
    uid: str | None = None,
    limit_s: float = 60.0,
) -> str:
    """Run a worker until a condition holds, then stop it; returns why it ended.

    Args:
        app: has the tasks.
        url: its Redis.
        until: looked at every few ms: stop now.
        dead: looked at as often: it was killed, so it does not stop but is gone.
        settings: of the worker.
        uid: of the worker, 8 characters.
        limit_s: the test fails after so long.

    Raises:
        AssertionError: the condition did not hold in time, or the worker did not stop.
    """
    attach(app, url)
    logging.getLogger("taskq").setLevel(logging.CRITICAL)  # thousands of outages on purpose
    try:
        return asyncio.run(_work(app, settings, uid or new_uid(), until, dead, limit_s))
    finally:
        app.broker.close()
        logging.getLogger("taskq").setLevel(logging.NOTSET)


async def _die(runtime: Runtime, running: asyncio.Task[str]) -> str:
    """What a process has in its memory dies with it."""
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    runtime._watch.stop()
    settler = runtime.settler
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) or settler._task:
        settler._items.clear()
        for one in left:
            one.cancel()
        await asyncio.sleep(0.002)
    await runtime._close_links()  # the sockets of a dead process are closed by its kernel
    return "killed"


async def _work(
    app: TaskQ,
    settings: WorkerSettings,
    uid: str,
    until: Callable[[], bool],
    dead: Callable[[], bool],
    limit_s: float,
) -> str:
    runtime = Runtime(app, settings, uid)
    running = asyncio.get_running_loop().create_task(runtime.run())
    deadline = time.monotonic() + limit_s
    while not running.done():
        if dead():
            return await _die(runtime, running)
        if until():
            break
        assert time.monotonic() < deadline, f"not done after {limit_s:g} s"
        await asyncio.sleep(0.003)
    runtime.stop()
    while not running.done():
        if dead():
            return await _die(runtime, running)
        assert time.monotonic() < deadline + 20, "the worker did not stop"
        await asyncio.sleep(0.003)
    return await running
