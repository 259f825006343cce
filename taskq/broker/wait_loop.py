"""Waiting for results in an event loop: one task and one connection for each loop.

The task ends when nobody waits any more; the connection stays for the next one and is
closed with the loop's asynchronous generators (`asyncio.run` does that).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

from redis import exceptions as rexc

from taskq.broker import connect
from taskq.broker.link import backoff_s, is_passing, pack_all
from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.pump import Ask, Block, Pause, Pump, Step
from taskq.broker.reader import BREAKS, READ_TIMEOUT_S
from taskq.broker.tap import Tap
from taskq.broker.wait_thread import Connects
from taskq.broker.watch import (
    Command,
    Conversation,
    Sink,
    T,
    Target,
    Watch,
    aconverse,
    look,
    unblock,
)
from taskq.errors import BrokerUnavailable, TaskQError

logger = logging.getLogger("taskq.handle")

_UNBLOCK_TRIES = 20
LAST_LOOK_S = 0.5
"""When a caller's time is over, Redis is asked once more, and has this long to answer."""


class LoopWaiter:
    """Waits in the event loop that was running when it was made. Not thread-safe."""

    def __init__(self, broker: Connects, on_slow: Callable[[Any, int], None] | None = None) -> None:
        """Nothing is started yet.

        Args:
            broker: gives connections.
            on_slow: called with the tag of an untimed caller after five seconds.
        """
        self.loop = asyncio.get_running_loop()
        self.pump = Pump(broker.keys, on_slow)
        self._broker = broker
        self._task: asyncio.Task[None] | None = None
        self._interrupting: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._client_id: Any = 0
        self._failures = 0
        self._closer: AsyncGenerator[None, None] | None = None
        self.is_closed = False

    async def one(self, target: Target, timeout_s: float | None, tag: Any) -> Outcome:
        """Wait for the end of one job.

        Returns:
            The end of the job; of kind LATE when the time is over.
        """
        if timeout_s is not None and timeout_s <= 0:
            return await self._last_look(target)
        future: asyncio.Future[Outcome | None] = self.loop.create_future()

        def sink(_tag: Any, outcome: Outcome | None) -> None:
            if not future.done():
                future.set_result(outcome)

        timer = None
        if timeout_s is not None:
            timer = self.loop.call_later(timeout_s, sink, tag, None)
        self.add([(target, tag)], sink, is_patient=timeout_s is None)
        outcome = None
        try:
            outcome = await future
        finally:
            if timer is not None:
                timer.cancel()
            if outcome is None:  # cancelled, or too late
                self.remove([target.job_id], sink)
        return outcome or await self._last_look(target)

    def add(
        self, requests: Iterable[tuple[Target, Any]], sink: Sink, *, is_patient: bool = False
    ) -> None:
        """Watch jobs; `sink(tag, outcome)` is called once for each.

        Raises:
            TaskQError: the app was closed.
        """
        if self.is_closed:
            raise TaskQError("The app was closed: nobody waits for results any more.")
        self._start(self.pump.add(requests, sink, is_patient=is_patient))

    def tap(self, tap: Tap) -> None:
        """Read a stream.

        Raises:
            TaskQError: the app was closed.
        """
        if self.is_closed:
            raise TaskQError("The app was closed: nobody waits for results any more.")
        self._start(self.pump.tap(tap))

    def untap(self, tap: Tap) -> None:
        """Forget a reader."""
        self.pump.untap(tap)

    def _start(self, interrupt: int | None) -> None:
        if self._task is None:
            self._task = self.loop.create_task(self._main(), name="taskq-results")
        elif interrupt is not None:
            self._interrupting = self.loop.create_task(self._interrupt(interrupt))

    def remove(self, job_ids: Iterable[str], sink: Sink) -> None:
        """Forget a caller that stopped waiting."""
        self.pump.remove(job_ids, sink)

    async def converse(self, conversation: Conversation[T], limit_s: float) -> T:
        """Run a short conversation on the loop's common connection.

        Raises:
            BrokerUnavailable: no answer within `limit_s` seconds.
        """
        until = time.monotonic() + limit_s
        return await aconverse(conversation, lambda c: self._pipe(c, until - time.monotonic()))

    async def aclose(self) -> None:
        """End the task and the connection; callers that still wait are told. Idempotent."""
        closer, self._closer = self._closer, None
        if closer is not None:
            await closer.aclose()
        else:
            await self._shut()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        """Close when the loop shuts down its asynchronous generators, or in `aclose`."""
        try:
            yield
        finally:
            self._closer = None
            await self._shut()

    async def _shut(self) -> None:
        self.is_closed = True
        tasks = [task for task in (self._task, self._interrupting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._drop()
        self.pump.end_all(Outcome(Kind.CLOSED))

    # -- the task ------------------------------------------------------------------------

    async def _main(self) -> None:
        try:
            await asyncio.sleep(0)  # who begins to wait in the same turn of the loop comes along
            while len(self.pump):
                try:
                    await self._turn()
                except BREAKS as err:
                    await self._recover(err)
        except asyncio.CancelledError:
            # the loop ends, or aclose(): a reply is on its way that nobody will read
            await self._drop()
            self.pump.reset()
            raise
        except Exception as err:
            logger.exception("Waiting for results failed")
            await self._drop()
            self.pump.end_all(Outcome(Kind.BROKEN, note=f"{type(err).__name__}: {err}"))
        finally:
            self._task = None

    async def _turn(self) -> None:
        if self._connection is None:
            await self._connect()
        steps = self.pump.steps()
        try:
            step = next(steps)
            while True:
                reply = await self._do(step)
                self._failures = 0
                step = steps.send(reply)
        except StopIteration:
            return

    async def _do(self, step: Step) -> Any:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, Ask):
            return await self._ask(step.commands, READ_TIMEOUT_S)
        assert isinstance(step, Block)
        return (await self._ask([step.command], step.seconds + READ_TIMEOUT_S))[0]

    async def _ask(self, commands: Sequence[Command], wait_s: float) -> list[Any]:
        until = time.monotonic() + wait_s
        connection = self._connection
        await connection.send_packed_command([pack_all(commands)], check_health=False)
        return [await self._read(until) for _ in commands]

    async def _read(self, until: float) -> Any:
        left_s = max(until - time.monotonic(), 0.001)
        try:
            reply = await self._connection.read_response(disable_decoding=True, timeout=left_s)
        except rexc.ResponseError as err:
            if is_passing(err):
                raise rexc.ConnectionError(str(err)) from err
            return err
        if reply is None and time.monotonic() >= until:
            raise rexc.TimeoutError("no answer in time")  # redis-py gives None for that, too
        return reply

    async def _connect(self) -> None:
        self._connection = await self._broker.aconnection()
        answer = (await self._ask([("CLIENT", "ID")], READ_TIMEOUT_S))[0]
        if isinstance(answer, Exception):
            self._cannot_interrupt(answer)
        else:
            self._client_id = answer
        if self._failures:
            logger.info("Waiting for results goes on: Redis is back")
        if self._closer is None:
            self._closer = self._close_with_loop()
            await self._closer.__anext__()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connect.drop(connection)

    async def _recover(self, err: Exception) -> None:
        await self._drop()
        self.pump.reset()
        self._failures += 1
        if self._failures == 2:  # one lost connection is no news; the second try failed, too
            logger.warning("Waiting for results is interrupted, trying again: %s", err)
        await asyncio.sleep(backoff_s(self._failures))

    # -- others --------------------------------------------------------------------------

    async def _interrupt(self, number: int) -> None:
        """Make the XREAD under way return, so that the next one has the newcomers' streams."""
        for _ in range(_UNBLOCK_TRIES):
            if not self.pump.is_blocked_in(number):
                return
            try:
                answer = await aconverse(unblock(self._client_id), self._broker.apipe)
            except BrokerUnavailable:
                return  # the waiting task meets the same trouble and begins anew
            if isinstance(answer, Exception):
                self._cannot_interrupt(answer)
            if answer:
                return
            await asyncio.sleep(0.0005)  # written to the socket, but not yet read by Redis

    def _cannot_interrupt(self, err: object) -> None:
        if self.pump.can_interrupt:
            logger.info("CLIENT UNBLOCK is not allowed (%s): newcomers wait a little longer", err)
        self.pump.can_interrupt = False

    async def _last_look(self, target: Target) -> Outcome:
        """Ask once, without waiting: the job may have been canceled within the last second."""
        watch = Watch(self.pump.keys, target)
        try:
            ended = await self.converse(look(self.pump.keys, [watch]), LAST_LOOK_S)
        except BrokerUnavailable as err:
            return Outcome(Kind.LATE, note=str(err))
        return ended[0][1] if ended else Outcome(Kind.LATE)

    async def _pipe(self, commands: Sequence[Command], limit_s: float) -> list[Any]:
        asking = asyncio.ensure_future(self._broker.apipe(commands))
        # never cancelled, for the connection is shared; an answer that comes late is of no use
        asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        done, _pending = await asyncio.wait([asking], timeout=max(limit_s, 0.001))
        if not done:
            raise BrokerUnavailable(f"Redis did not answer within {limit_s:.1f} s.")
        replies: list[Any] = asking.result()
        return replies
