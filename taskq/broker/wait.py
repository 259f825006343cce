"""Waiting for the end of jobs: the entrance. One `Waits` for each broker.

- `one` in a plain program: the calling thread itself blocks in XREAD on a held connection,
  the shortest way from the result to the caller. Up to four threads at once; more go
  through the waiting thread.
- `add` and `remove`: many jobs at once through that thread (`wait_thread`).
- `loop`: the same for an event loop (`wait_loop`).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any

from taskq.broker.link import backoff_s
from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.pump import LOOK_EVERY_S, PATIENCE_S
from taskq.broker.reader import BREAKS, READ_TIMEOUT_S, Reader, Readers, discard
from taskq.broker.tap import Tap
from taskq.broker.wait_loop import LAST_LOOK_S, LoopWaiter
from taskq.broker.wait_thread import Connects, ThreadWaiter
from taskq.broker.watch import (
    Conversation,
    Sink,
    T,
    Target,
    Watch,
    converse,
    explain_failures,
    look,
)
from taskq.errors import BrokerUnavailable

DIRECT_AT_MOST = 4
"""Connections held for threads that wait for one job each. With up to four threads that is
a tenth to a third faster than the waiting thread (no interrupt, no thread switches); with
sixteen the waiting thread is, for it reads many results at once (measured)."""


class Waits:
    """All waiting on one Redis. Connects when first used; safe to use from any thread."""

    def __init__(self, broker: Connects) -> None:
        """Nothing is started yet.

        Args:
            broker: gives connections.
        """
        self._broker = broker
        self._start()
        _ALL.add(self)

    def _start(self) -> None:
        self._thread = ThreadWaiter(self._broker, self.converse)
        self._loops: dict[asyncio.AbstractEventLoop, LoopWaiter] = {}
        self._lock = threading.Lock()
        self._readers = Readers(self._broker.connection, DIRECT_AT_MOST)
        self._direct_count = 0
        self._closes = 0

    # -- plain programs ------------------------------------------------------------------

    def one(
        self,
        target: Target,
        timeout_s: float | None = None,
        on_slow: Callable[[], None] | None = None,
    ) -> Outcome:
        """Block until the job has ended. Survives lost connections.

        Args:
            target: the job.
            timeout_s: seconds to wait; 0 looks once; None: for ever.
            on_slow: called once when an untimed wait has lasted five seconds.

        Returns:
            The end of the job; of kind LATE when the time is over.
        """
        patience = _Patience(timeout_s, on_slow)
        with self._lock:
            is_direct = self._direct_count < DIRECT_AT_MOST
            self._direct_count += is_direct
        try:
            watch = Watch(self._broker.keys, target)
            if timeout_s is not None and timeout_s <= 0:
                return self._last_look(watch)
            if is_direct:
                outcome = self._wait_here(watch, patience)
            else:
                outcome = self._wait_there(target, patience)
            return outcome or self._last_look(watch)
        finally:
            with self._lock:
                self._direct_count -= is_direct

    def add(self, requests: Iterable[tuple[Target, Any]], sink: Sink) -> None:
        """Watch jobs; `sink(tag, outcome)` is called once for each, in the waiting thread."""
        self._thread.add(requests, sink)

    def remove(self, job_ids: Iterable[str], sink: Sink) -> None:
        """Forget a caller of `add` that stopped waiting."""
        self._thread.remove(job_ids, sink)

    def tap(self, tap: Tap) -> None:
        """Read a stream; its sink is called in the waiting thread."""
        self._thread.tap(tap)

    def untap(self, tap: Tap) -> None:
        """Forget a reader of `tap`."""
        self._thread.untap(tap)

    def before_blocking(self, *, is_timed: bool) -> None:
        """The calling thread is about to wait for what `add` watches: nothing to be done here.

        Where jobs run in this very process (`taskq.testing`), they may have to be run now.
        """

    def converse(self, conversation: Conversation[T], limit_s: float = LAST_LOOK_S) -> T:
        """Run a short conversation on a held connection.

        Raises:
            BrokerUnavailable: no answer within `limit_s` seconds.
        """
        return self._readers.converse(conversation, limit_s)

    # -- asyncio -------------------------------------------------------------------------

    def loop(self, on_slow: Callable[[Any, int], None] | None = None) -> LoopWaiter:
        """The waiter of the running event loop.

        Args:
            on_slow: called with the tag of an untimed caller after five seconds, and the
                number of others; the one given first is kept.
        """
        running = asyncio.get_running_loop()
        waiter = self._loops.get(running)
        if waiter is None or waiter.is_closed:
            for loop in [loop for loop in self._loops if loop.is_closed()]:
                self._loops.pop(loop, None)
            waiter = self._loops[running] = LoopWaiter(self._broker, on_slow)
        return waiter

    # -- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """End waiting in threads; callers that still wait are told. It may be used again."""
        with self._lock:
            self._closes += 1
            thread, self._thread = self._thread, ThreadWaiter(self._broker, self.converse)
        thread.close()
        self._readers.close()

    async def aclose(self) -> None:
        """End waiting in this event loop, and in threads."""
        waiter = self._loops.pop(asyncio.get_running_loop(), None)
        if waiter is not None:
            await waiter.aclose()
        self.close()

    def after_fork(self) -> None:
        """Begin anew in a forked child: threads are gone, sockets belong to the parent."""
        _INHERITED.append((self._thread, self._loops, self._readers))
        self._start()

    # -- one job, in the calling thread --------------------------------------------------

    def _wait_here(self, watch: Watch, patience: _Patience) -> Outcome | None:
        reader: Reader | None = None
        closes, attempt = self._closes, 0
        must_look = not watch.is_looked_up  # a fresh job cannot have ended before
        while self._closes == closes:
            outcome = None
            try:
                reader = reader or self._readers.take(patience.limit_s())
                if must_look:
                    outcome = self._look(reader, watch, patience)
                outcome = outcome or self._read(reader, watch, patience)
                must_look, attempt = True, 0
            except BREAKS:
                if not patience.is_over():
                    discard(reader)
                    reader = None
                    attempt += 1
                    patience.sleep(backoff_s(attempt))
                    must_look, watch.is_looked_up = True, False
            except BaseException:
                discard(reader)
                raise
            if outcome is not None or patience.is_over():
                self._readers.give_back(reader)  # a reply that is still to come is taken in later
                return outcome
            patience.tell()
        discard(reader)
        return Outcome(Kind.CLOSED)

    def _look(self, reader: Reader, watch: Watch, patience: _Patience) -> Outcome | None:
        found = converse(
            look(self._broker.keys, [watch]), lambda cmds: reader.ask(cmds, patience.limit_s())
        )
        return found[0][1] if found else None

    def _read(self, reader: Reader, watch: Watch, patience: _Patience) -> Outcome | None:
        """One XREAD of a second at most."""
        block_s = min(LOOK_EVERY_S, max(patience.left_s(), 0.001))
        command = ("XREAD", "BLOCK", int(block_s * 1000) + 1, "STREAMS", watch.key, watch.cursor)
        reply = reader.ask([command], patience.limit_s(block_s))[0]
        if isinstance(reply, Exception):
            return Outcome(Kind.BROKEN, note=str(reply))
        if not reply:
            return None
        entries = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
        outcome = watch.take(entries)
        if outcome is None:
            return None
        return converse(
            explain_failures(self._broker.keys, [(watch, outcome)]),
            lambda cmds: reader.ask(cmds, patience.limit_s(1.0)),
        )[0][1]

    def _wait_there(self, target: Target, patience: _Patience) -> Outcome | None:
        """The same through the waiting thread."""
        arrived: SimpleQueue[Outcome] = SimpleQueue()

        def sink(_tag: Any, outcome: Outcome) -> None:
            arrived.put(outcome)

        self._thread.add([(target, None)], sink)
        try:
            while True:
                try:
                    return arrived.get(timeout=min(max(patience.left_s(), 0.0), PATIENCE_S))
                except Empty:
                    if patience.is_over():
                        return None
                    patience.tell()
        finally:
            self._thread.remove([target.job_id], sink)

    def _last_look(self, watch: Watch) -> Outcome:
        """Ask once, without waiting: the job may have been canceled within the last second."""
        try:
            found = self.converse(look(self._broker.keys, [watch]))
        except BrokerUnavailable as err:
            return Outcome(Kind.LATE, note=str(err))
        return found[0][1] if found else Outcome(Kind.LATE)


class _Patience:
    """How long one caller waits."""

    def __init__(self, timeout_s: float | None, on_slow: Callable[[], None] | None) -> None:
        self._start = time.monotonic()
        self._end = None if timeout_s is None else self._start + timeout_s
        self._on_slow = on_slow if timeout_s is None else None

    def left_s(self) -> float:
        """Seconds until the caller gives up."""
        return float("inf") if self._end is None else self._end - time.monotonic()

    def is_over(self) -> bool:
        """Whether the caller has given up."""
        return self.left_s() <= 0

    def limit_s(self, block_s: float = 0.0) -> float:
        """How long to wait for a reply: a dead server is noticed, the caller's time kept."""
        return max(min(self.left_s(), block_s + READ_TIMEOUT_S), 0.0)

    def sleep(self, seconds: float) -> None:
        """Pause, but not beyond the caller's time."""
        time.sleep(max(min(seconds, self.left_s()), 0.0))

    def tell(self) -> None:
        """Call `on_slow` once the wait has lasted long."""
        if self._on_slow is not None and time.monotonic() - self._start >= PATIENCE_S:
            on_slow, self._on_slow = self._on_slow, None
            on_slow()


_ALL: weakref.WeakSet[Waits] = weakref.WeakSet()
_INHERITED: list[Any] = []
"""What a child got from its parent: kept, for closing an asyncio transport would take the
parent's socket out of the parent's epoll set, which both share."""


def _after_fork_in_child() -> None:
    for waits in list(_ALL):
        waits.after_fork()


def _at_exit() -> None:
    for waits in list(_ALL):
        waits.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
