"""What the checkers must accept of `queue.testing()`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from typing_extensions import assert_type

from taskq import Handle, TaskQ
from taskq.testing import Calls, Session

queue = TaskQ("redis://localhost:6379/0")


@queue.task
def size(path: str) -> int:
    return len(path)


@queue.task
async def fetch(url: str) -> bytes:
    return url.encode()


def blocking() -> None:
    with queue.testing("manual", now=datetime(2026, 1, 1, tzinfo=timezone.utc)) as t:
        assert_type(t, Session)
        assert_type(t.enqueued(size), Calls[int])
        assert_type(t.enqueued(fetch), Calls[bytes])
        assert_type(t.enqueued(size).last.handle, Handle[int])
        assert_type(t.enqueued(fetch)[0].handle.result(), bytes)
        assert_type(t.run(limit=3), int)
        assert_type(t.advance(timedelta(days=1)), int)
        assert_type(t.now, datetime)


async def asynchronous() -> None:
    async with queue.testing(dependencies={blocking: lambda: 1}) as t:
        assert_type(await t.arun(), int)
        assert_type(await t.aadvance(1.5), int)
