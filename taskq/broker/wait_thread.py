"""The thread that waits for results on behalf of others: batches, `wait`, callbacks.

One daemon thread and one connection for each broker, started when first needed, gone
after ten idle seconds. See `pump` for what it says to Redis.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from taskq.broker.link import backoff_s
from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.pump import Ask, Block, Pause, Pump, Step
from taskq.broker.reader import BREAKS, READ_TIMEOUT_S, Reader
from taskq.broker.tap import Tap
from taskq.broker.watch import Conversation, Sink, Target, unblock
from taskq.errors import BrokerUnavailable, TaskQError
from taskq.keys import Keys

logger = logging.getLogger("taskq.handle")

_IDLE_S = 10.0
_UNBLOCK_TRIES = 20


class Connects(Protocol):
    """What waiting needs of a broker."""

    keys: Keys

    def connection(self, socket_timeout_s: float | None = None) -> Any:
        """Open a blocking connection."""

    async def aconnection(self) -> Any:
        """Open an asyncio connection."""

    async def apipe(self, commands: Any) -> Any:
        """Run a pipeline."""


class ThreadWaiter:
    """Waits in a thread of its own. All methods may be called from any thread."""

    def __init__(self, broker: Connects, converse: Callable[[Conversation[Any]], Any]) -> None:
        """Nothing is started yet.

        Args:
            broker: gives connections.
            converse: runs a short conversation on another connection.
        """
        self.pump = Pump(broker.keys)
        self._broker = broker
        self._converse = converse
        self._work = threading.Condition(self.pump.lock)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reader: Reader | None = None
        self._client_id: Any = 0
        self._failures = 0

    def add(self, requests: Iterable[tuple[Target, Any]], sink: Sink) -> None:
        """Watch jobs; `sink(tag, outcome)` is called once for each, in the waiting thread.

        Raises:
            TaskQError: the app was closed.
        """
        if self._stop.is_set():
            raise TaskQError("The app was closed: nobody waits for results any more.")
        self._start(self.pump.add(requests, sink))

    def tap(self, tap: Tap) -> None:
        """Read a stream; its sink is called in the waiting thread.

        Raises:
            TaskQError: the app was closed.
        """
        if self._stop.is_set():
            raise TaskQError("The app was closed: nobody waits for results any more.")
        self._start(self.pump.tap(tap))

    def untap(self, tap: Tap) -> None:
        """Forget a reader."""
        self.pump.untap(tap)

    def _start(self, interrupt: int | None) -> None:
        """Make the thread wait for what has been added."""
        with self._work:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._main, name="taskq-results", daemon=True
                )
                self._thread.start()
            else:
                self._work.notify()
        if interrupt is not None:
            self._interrupt(interrupt)

    def remove(self, job_ids: Iterable[str], sink: Sink) -> None:
        """Forget a caller that stopped waiting."""
        self.pump.remove(job_ids, sink)

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread; callers that still wait are told. Idempotent."""
        self._stop.set()
        with self._work:
            thread, reader = self._thread, self._reader
            self._work.notify()
        if reader is not None:
            reader.hang_up()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        self.pump.end_all(Outcome(Kind.CLOSED))

    def _interrupt(self, number: int) -> None:
        """Make the XREAD under way return, so that the next one has the newcomers' streams."""
        for _ in range(_UNBLOCK_TRIES):
            if not self.pump.is_blocked_in(number):
                return
            try:
                answer = self._converse(unblock(self._client_id))
            except BrokerUnavailable:
                return  # the waiting thread meets the same trouble and begins anew
            if isinstance(answer, Exception):
                self._cannot_interrupt(answer)
            if answer:
                return
            time.sleep(0.0005)  # written to the socket, but not yet read by Redis

    def _cannot_interrupt(self, err: object) -> None:
        if self.pump.can_interrupt:
            logger.info("CLIENT UNBLOCK is not allowed (%s): newcomers wait a little longer", err)
        self.pump.can_interrupt = False

    def _main(self) -> None:
        while self._has_work():
            try:
                self._turn()
            except BREAKS as err:
                self._recover(err)
            except Exception as err:
                logger.exception("Waiting for results failed")
                self._drop()
                self.pump.end_all(Outcome(Kind.BROKEN, note=f"{type(err).__name__}: {err}"))

    def _has_work(self) -> bool:
        with self._work:
            if not self._stop.is_set() and not len(self.pump):
                self._work.wait_for(lambda: len(self.pump) or self._stop.is_set(), _IDLE_S)
            if len(self.pump) and not self._stop.is_set():
                return True
            self._drop()
            self._thread = None  # under the lock: who adds next starts another
            return False

    def _turn(self) -> None:
        """Wait on the connection until nobody waits any more."""
        if self._reader is None:
            self._connect()
        steps = self.pump.steps()
        reply: Any = None
        try:
            step = next(steps)
            while not self._stop.is_set():
                reply = self._do(step)
                self._failures = 0
                step = steps.send(reply)
        except StopIteration:
            return

    def _do(self, step: Step) -> Any:
        if isinstance(step, Pause):
            self._stop.wait(step.seconds)
            return None
        reader = self._reader
        assert reader is not None
        if isinstance(step, Ask):
            return reader.ask(step.commands, READ_TIMEOUT_S)
        assert isinstance(step, Block)
        return reader.ask([step.command], step.seconds + READ_TIMEOUT_S)[0]

    def _connect(self) -> None:
        reader = Reader(self._broker.connection)
        self._reader = reader
        answer = reader.ask([("CLIENT", "ID")], READ_TIMEOUT_S)[0]
        if isinstance(answer, Exception):
            self._cannot_interrupt(answer)
        else:
            self._client_id = answer
        if self._failures:
            logger.info("Waiting for results goes on: Redis is back")

    def _drop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _recover(self, err: Exception) -> None:
        self._drop()
        self.pump.reset()
        if self._stop.is_set():
            return
        self._failures += 1
        if self._failures == 2:  # one lost connection is no news; the second try failed, too
            logger.warning("Waiting for results is interrupted, trying again: %s", err)
        self._stop.wait(backoff_s(self._failures))
