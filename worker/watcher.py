"""Waiting for work without polling: one blocked `BLMOVE queue -> claim list` for each queue.

Exactly one worker wakes for one job. What was moved is in the claim list, whatever
becomes of the connection; the reserve script adopts it from there.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from redis import exceptions as rexc

from taskq.broker.link import backoff_s, pack
from taskq.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink

log = logging.getLogger("taskq.worker")

_BLOCK_S = 20
_PATIENCE_S = 10.0


class Watcher:
    """One blocked connection: waits for an id in one queue."""

    def __init__(self, broker: Broker, uid: str, queue: str, fired: Callable[[], None]) -> None:
        """`fired` is called when an id has been moved to the claim list."""
        self._broker = broker
        self._command = pack(
            ("BLMOVE", broker.keys.queue(queue), broker.keys.claim(uid, queue), "LEFT", "RIGHT",
             _BLOCK_S)
        )  # fmt: skip
        self._queue = queue
        self._fired = fired
        self._go = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._connection: Any = None
        self.client_id = 0
        self.armed = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    def arm(self) -> None:
        """Wait for one id."""
        self.armed = True
        self._go.set()

    async def disarm(self, link: AsyncLink) -> None:
        """Stop waiting, without losing an id that comes at this moment: it is in the claim list."""
        if not self.armed:
            return
        self.armed = False
        self._go.clear()
        while not self._at_rest.is_set():
            if self.client_id:
                await self._unblock(link)
            try:
                await asyncio.wait_for(self._at_rest.wait(), 0.2)
            except asyncio.TimeoutError:
                continue

    async def _unblock(self, link: AsyncLink) -> None:
        packed = pack(("CLIENT", "UNBLOCK", self.client_id))
        answer = (await link.ask(lambda _resend: packed, 1, _PATIENCE_S))[0]
        if isinstance(answer, rexc.ResponseError):  # an ACL forbids it: hang up instead
            await self._drop()

    async def close(self) -> None:
        """End the task and the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection, self.client_id = self._connection, None, 0
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _run(self) -> None:
        attempt = 0
        while True:
            await self._go.wait()
            self._at_rest.clear()
            try:
                if await self._wait_once():
                    self.armed = False
                    self._go.clear()
                    self._fired()
                attempt = 0
            except (rexc.RedisError, BrokerUnavailable, OSError) as err:
                await self._drop()
                attempt += 1
                if isinstance(err, rexc.ResponseError):
                    log.error("Cannot wait on queue %r: %s", self._queue, err)
                # something may be in the claim list: whoever adopts it looks
                self._fired()
                await asyncio.sleep(backoff_s(attempt))
            except Exception:
                # a watcher that ended would leave its queue to the idle check alone
                log.exception("Waiting on queue %r failed; it is tried again", self._queue)
                await self._drop()
                self._fired()
                await asyncio.sleep(1.0)
            finally:
                self._at_rest.set()

    async def _wait_once(self) -> bool:
        loop = asyncio.get_running_loop()
        if self._connection is None:
            connection = await self._broker.aconnection()
            await connection.send_packed_command(pack(("CLIENT", "ID")))
            self.client_id = int(await connection.read_response())
            self._connection = connection
        connection = self._connection
        if not self._go.is_set():
            return False
        await connection.send_packed_command(self._command)
        me = asyncio.current_task()
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            if me is not None:
                me.cancel()

        timer = loop.call_later(_BLOCK_S + 10, expire)
        try:
            return await connection.read_response(disable_decoding=True) is not None
        except asyncio.CancelledError:
            if late:
                raise rexc.TimeoutError("a blocked connection did not answer") from None
            raise
        finally:
            timer.cancel()
