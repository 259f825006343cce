"""An asyncio link: one connection, many callers, their requests sent together.

What is asked while a round trip is under way goes out with the next one (group
commit: no timer, no added delay). Cancelling a caller never disturbs the
connection: the answer is read and thrown away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis import exceptions as rexc

from taskq.broker import connect
from taskq.broker.link import FINAL, PASSING, backoff_s, is_final, is_passing
from taskq.errors import BrokerUnavailable

_TOGETHER = 200
"""Requests sent in one write at most, so that one caller's wait stays short."""


class _Request:
    """One question: bytes (made anew for a resend), number of answers, who waits."""

    __slots__ = ("deadline", "future", "make", "once", "replies", "resend")

    def __init__(
        self,
        make: Callable[[bool], bytes],
        replies: int,
        deadline: float,
        future: asyncio.Future[list[Any]],
        once: bool,
    ) -> None:
        self.make = make
        self.once = once
        self.replies = replies
        self.deadline = deadline
        self.future = future
        self.resend = False


class AsyncLink:
    """One connection of one event loop."""

    def __init__(
        self,
        pool: Any,
        where: Callable[[Exception], str],
        on_state: Callable[[Exception | None], None] | None = None,
    ) -> None:
        """Use the pool's settings.

        Args:
            pool: settings for connections.
            where: turns a failure into a message for people.
            on_state: called with an error when the connection breaks, with None when it is back.
        """
        self._pool = pool
        self._where = where
        self._on_state = on_state
        self._connection: Any = None
        self._pending: list[_Request] = []
        self._pump_task: asyncio.Task[None] | None = None
        self._closed = False
        self.broken = False

    async def ask(
        self,
        make: Callable[[bool], bytes],
        replies: int,
        deadline_s: float,
        *,
        once: bool = False,
    ) -> list[Any]:
        """Send a request and wait for its answers; resent after a lost connection.

        Args:
            make: gives the bytes; its argument says whether they may have been sent before.
            replies: answers to read; an error answer stands in the list.
            deadline_s: seconds until giving up.
            once: never send it a second time: a lost answer is an error.

        Raises:
            BrokerUnavailable: no answer before the deadline, or the link was closed.
        """
        if self._closed:
            raise BrokerUnavailable("The connection to Redis was closed.")
        loop = asyncio.get_running_loop()
        request = _Request(make, replies, time.monotonic() + deadline_s, loop.create_future(), once)
        self._pending.append(request)
        if self._pump_task is None:
            self._pump_task = loop.create_task(self._pump())
        return await request.future

    async def aclose(self) -> None:
        """Drop the connection; callers that still wait get `BrokerUnavailable`."""
        self._closed = True
        task = self._pump_task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connect.drop(connection)

    async def _pump(self) -> None:
        attempt = 0
        batch: list[_Request] = []
        try:
            while self._pending:
                batch, self._pending = self._pending[:_TOGETHER], self._pending[_TOGETHER:]
                try:
                    await self._exchange(batch)
                    attempt = 0
                except (*FINAL, *PASSING) as err:
                    await self._drop()
                    if is_final(err):
                        self._fail([r for r in batch if not r.future.done()], err)
                        batch = []
                        continue
                    self._broken(err)
                    attempt += 1
                    await self._again(batch, err, backoff_s(attempt))
                except Exception as err:  # noqa: BLE001 (bytes that are no answer, arguments that cannot be sent)
                    await self._drop()
                    for request in batch:
                        if not request.future.done():
                            request.future.set_exception(err)
                batch = []
        finally:
            self._pump_task = None
            if self._closed:
                closed = BrokerUnavailable("The connection to Redis was closed.")
                for request in batch + self._pending:
                    if not request.future.done():
                        request.future.set_exception(closed)

    async def _exchange(self, batch: list[_Request]) -> None:
        """Send a batch and read its answers, under one deadline: the latest of the batch."""
        loop = asyncio.get_running_loop()
        last = max(r.deadline for r in batch)
        task = asyncio.current_task()
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            if task is not None:
                task.cancel()

        limit = last - time.monotonic()
        timer = loop.call_later(max(limit, 0.05), expire) if limit < 1e8 else None
        try:
            if self._connection is None:
                connection = connect.make(self._pool)
                await connection.connect()
                self._connection = connection
                if self.broken:
                    self.broken = False
                    if self._on_state is not None:
                        self._on_state(None)
            connection = self._connection
            packed = [r.make(r.resend) for r in batch]
            for request in batch:
                request.resend = True
            await connection.send_packed_command(packed)
            for request in batch:
                answers = [await self._read(connection) for _ in range(request.replies)]
                if not request.future.done():
                    request.future.set_result(answers)
        except asyncio.CancelledError:
            if late and not self._closed:
                connecting = self._connection is None
                words = "Timeout connecting to server" if connecting else "no answer in time"
                raise rexc.TimeoutError(words) from None
            raise
        finally:
            if timer is not None:
                timer.cancel()

    @staticmethod
    async def _read(connection: Any) -> Any:
        try:
            return await connection.read_response(disable_decoding=True)
        except rexc.ResponseError as err:
            if is_passing(err):
                raise rexc.ConnectionError(str(err)) from err
            return err

    def _broken(self, err: Exception) -> None:
        if not self.broken:
            self.broken = True
            if self._on_state is not None:
                self._on_state(err)

    async def _again(self, batch: list[_Request], err: Exception, pause_s: float) -> None:
        """Put what has time left before the others; tell the rest that it is over."""
        now = time.monotonic()
        open_ = [r for r in batch if not r.future.done()]
        over = [r for r in open_ if r.deadline <= now + pause_s or (r.once and r.resend)]
        self._fail(over, err)
        # requests that came meanwhile must not wait longer than they asked for either
        self._fail([r for r in self._pending if r.deadline <= now], err)
        self._pending = [r for r in open_ + self._pending if not r.future.done()]
        if self._pending:
            await asyncio.sleep(pause_s)

    def _fail(self, requests: list[_Request], err: Exception) -> None:
        for request in requests:
            if not request.future.done():
                request.future.set_exception(BrokerUnavailable(self._where(err)))
