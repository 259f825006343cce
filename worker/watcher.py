"""Waiting for work without polling: one blocked `BLMOVE queue -> claim list` for each queue.

Exactly one worker wakes for one job. What was moved is in the claim list, whatever
becomes of the connection; the reserve script adopts it from there. That script's call
goes out together with the BLMOVE, so that the job is here one round trip after it came.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions as rexc

from taskq.broker.link import backoff_s, is_passing, pack
from taskq.errors import BrokerUnavailable
from taskq.worker.cancelling import cancel_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink

log = logging.getLogger("taskq.worker")

_BLOCK_S = 20
_PATIENCE_S = 10.0


class Call(NamedTuple):
    """A reserve: its number, how many jobs it asks for, positions of its queues, as it is sent."""

    seq: str
    limit: int
    order: list[int]
    packed: bytes


class Watcher:
    """One blocked connection: waits for an id in one queue."""

    def __init__(
        self,
        broker: Broker,
        uid: str,
        queue: str,
        follow: Callable[[], Call | None],
        fired: Callable[[Call | None, Any], None],
    ) -> None:
        """Wait for nothing yet.

        Args:
            broker: for key names and connections.
            uid: of this worker.
            queue: to look at.
            follow: gives the reserve to send behind a BLMOVE, or None.
            fired: called with that and its answer, once an id has been moved to the claim
                list or may have been; the answer is None where it was not heard.
        """
        self._broker = broker
        self._follow = follow
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
        self.call: Call | None = None
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
        """End the task and the connection; `call` may have been carried out unheard."""
        await cancel_all(self._task)
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
                moved, answer = await self._wait_once()
                call, self.call = self.call, None
                if moved or _took(answer):
                    self.armed = False
                    self._go.clear()
                    self._fired(call, answer)
                attempt = 0
            except (rexc.RedisError, BrokerUnavailable, OSError) as err:
                await self._drop()
                attempt += 1
                # a master that becomes a replica says UNBLOCKED: that is as a lost connection
                if isinstance(err, rexc.ResponseError) and not is_passing(err):
                    log.error("Cannot wait on queue %r: %s", self._queue, err)
                self._unheard()
                await asyncio.sleep(backoff_s(attempt))
            except Exception:
                # a watcher that ended would leave its queue to the idle check alone
                log.exception("Waiting on queue %r failed; it is tried again", self._queue)
                await self._drop()
                self._unheard()
                await asyncio.sleep(1.0)
            finally:
                self._at_rest.set()

    def _unheard(self) -> None:
        """Something may be in the claim list, or reserved: whoever adopts it looks."""
        call, self.call = self.call, None
        self._fired(call, None)

    async def _wait_once(self) -> tuple[bool, Any]:
        """Whether an id was moved, and the answer of the call behind; None: not heard."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            connection = await self._broker.aconnection()
            await connection.send_packed_command(pack(("CLIENT", "ID")))
            self.client_id = int(await connection.read_response())
            self._connection = connection
        connection = self._connection
        if not self._go.is_set():
            return False, None
        self.call = self._follow()
        behind = b"" if self.call is None else self.call.packed
        await connection.send_packed_command(self._command + behind)
        me = asyncio.current_task()
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            if me is not None:
                me.cancel()

        timer = loop.call_later(_BLOCK_S + 10, expire)
        try:
            moved = await connection.read_response(disable_decoding=True) is not None
            answer = await self._behind(connection) if behind else None
            return moved, answer
        except asyncio.CancelledError:
            if late:
                raise rexc.TimeoutError("a blocked connection did not answer") from None
            raise
        finally:
            timer.cancel()

    @staticmethod
    async def _behind(connection: Any) -> Any:
        try:
            answer = await connection.read_response(disable_decoding=True)
        except rexc.ResponseError as err:  # nothing was taken: the fetcher's own call finds out why
            log.debug("The reserve behind a BLMOVE was refused: %s", err)
            return None
        return answer


def _took(answer: Any) -> bool:
    """Whether a reserve's answer has jobs, or says that this worker was taken for dead."""
    return answer is not None and (bool(answer[2]) or answer[1] == b"fenced")
