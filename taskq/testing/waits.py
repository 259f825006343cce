"""Waiting for jobs that run in this very process.

Nothing blocks in Redis: the engine tells of each job whose record has changed. A job that
waits for another lets that one run meanwhile. A test that waits for what nobody will run
is told so, instead of hanging.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.tap import PAGE, Tap
from taskq.broker.wait import Waits
from taskq.broker.wait_loop import LAST_LOOK_S, LoopWaiter
from taskq.broker.watch import Conversation, Sink, T, Target, Watch, converse, look
from taskq.callbacks import CALLBACKS
from taskq.errors import ResultTimeout
from taskq.patience import Picture, paint
from taskq.testing.loop_waits import IDLE_S, StepLoopWaiter

if TYPE_CHECKING:
    from taskq.broker import Broker
    from taskq.testing.engine import Engine

_CALLBACKS_S = 5.0
_LOOK_AT_MOST = 500
_TO_RUN = {"inline": "t.advance(...)", "manual": "t.run()"}


class StepWaits(Waits):
    """Who waits for which job."""

    def __init__(self, broker: Broker, engine: Engine, mode: str) -> None:
        """Nobody waits.

        Args:
            broker: in memory.
            engine: runs the jobs.
            mode: "inline", "manual" or "eager", for messages.
        """
        self._memory = broker
        self._engine = engine
        self._mode = mode
        self._watched: dict[str, list[tuple[Watch, Sink, Any]]] = {}
        self._change = threading.Condition()
        self._changes = 0
        self._taps: list[Tap] = []
        self._told = 0  # how often somebody got what was waited for
        self._owner = threading.get_ident()
        self._waiters: dict[asyncio.AbstractEventLoop, StepLoopWaiter] = {}

    # -- what the engine tells -----------------------------------------------------------

    def tell(self, job_ids: Sequence[str] | None = None) -> None:
        """Look at these jobs (all: None) and tell those who wait for them what became of them."""
        with self._change:
            self._changes += 1
            self._change.notify_all()
            chosen = list(self._watched) if job_ids is None else job_ids
            entries = [entry for id_ in chosen for entry in self._watched.get(id_, ())]
        for entry, outcome in self._ended(entries):
            self._drop(entry)
            _watch, sink, tag = entry
            self._told += 1
            sink(tag, outcome)

    def told(self, name: str, args: Sequence[Any]) -> None:
        """A script has run for the program (its name), or a request of a runner ("")."""
        if name == "cancel":
            self.tell([args[0]])
        elif name == "send":
            self._engine.post()
        elif not name:
            for tap in list(self._taps):
                self._pour(tap)

    # -- streams -------------------------------------------------------------------------

    def tap(self, tap: Tap) -> None:
        """Read a stream, for a caller that will block until something comes.

        Raises:
            ResultTimeout: nothing will come unless the test goes on.
        """
        if self.follow(tap):
            return
        before = self._told
        while self._engine.is_inside() and self._engine.drain(limit=1):
            if self._pour(tap) or self._told != before:
                return
        if self._is_stuck():
            raise ResultTimeout(self.why(tap.key.decode().rpartition(":")[2]))

    def follow(self, tap: Tap) -> bool:
        """Hand over what is there, and what will come; whether there was something."""
        if tap not in self._taps:
            self._taps.append(tap)
        return self._pour(tap)

    def untap(self, tap: Tap) -> None:
        """Forget a reader."""
        if tap in self._taps:
            self._taps.remove(tap)

    def _pour(self, tap: Tap) -> bool:
        before = tap.cursor
        if not tap.is_full():
            tap.take(self._memory.call("XRANGE", tap.key, b"(" + before, "+", "COUNT", PAGE))
        return tap.cursor != before

    def _ended(
        self, entries: Sequence[tuple[Watch, Sink, Any]]
    ) -> list[tuple[tuple[Watch, Sink, Any], Outcome]]:
        found: list[tuple[tuple[Watch, Sink, Any], Outcome]] = []
        for start in range(0, len(entries), _LOOK_AT_MOST):
            chunk = entries[start : start + _LOOK_AT_MOST]
            owner = {id(entry[0]): entry for entry in chunk}
            seen = self.converse(look(self._memory.keys, [entry[0] for entry in chunk]))
            found += [(owner[id(watch)], outcome) for watch, outcome in seen]
        return found

    def _drop(self, entry: tuple[Watch, Sink, Any]) -> None:
        with self._change:
            left = [one for one in self._watched.get(entry[0].job_id, ()) if one is not entry]
            if left:
                self._watched[entry[0].job_id] = left
            else:
                self._watched.pop(entry[0].job_id, None)

    # -- plain programs ------------------------------------------------------------------

    def one(
        self,
        target: Target,
        timeout_s: float | None = None,
        on_slow: Callable[[], None] | None = None,  # noqa: ARG002 (nobody waits long here)
    ) -> Outcome:
        """Wait for the end of one job.

        Raises:
            ResultTimeout: nothing will happen to it unless the test goes on.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        idle_until = time.monotonic() + IDLE_S
        while True:
            with self._change:
                seen = self._changes
            found = self.converse(look(self._memory.keys, [Watch(self._memory.keys, target)]))
            if found:
                return found[0][1]
            now = time.monotonic()
            if until is not None and now >= until:
                return Outcome(Kind.LATE)
            if self._engine.is_inside() and self._engine.drain(limit=1):
                continue
            if self._is_stuck():
                raise ResultTimeout(self.why(target.job_id))
            end = idle_until if until is None else until
            with self._change:
                if self._changes == seen and not self._change.wait(max(end - now, 0.0)):
                    if until is None and not self._engine.running:
                        raise ResultTimeout(self.why(target.job_id))
                elif until is None:
                    idle_until = time.monotonic() + IDLE_S

    def before_blocking(self, *, is_timed: bool) -> None:
        """A job lets others run before it waits; a test that would hang is told so.

        Raises:
            ResultTimeout: nothing will happen unless the test goes on.
        """
        before = self._told
        while self._engine.is_inside() and self._engine.drain(limit=1):
            if self._told != before:
                return
        if not is_timed and self._is_stuck():
            with self._change:
                first = next(iter(self._watched), None)
            if first is not None:
                raise ResultTimeout(self.why(first))

    def _is_stuck(self) -> bool:
        """Whether the calling thread is the one that has to go on for anything to happen."""
        mine = self._engine.is_inside() or threading.get_ident() == self._owner
        return mine and not self._engine.runs_elsewhere()

    def add(self, requests: Iterable[tuple[Target, Any]], sink: Sink) -> None:
        """Watch jobs; `sink(tag, outcome)` is called once for each."""
        self.watch(requests, sink)
        CALLBACKS.drain(_CALLBACKS_S)

    def watch(self, requests: Iterable[tuple[Target, Any]], sink: Sink) -> None:
        """Tell `sink` of those that have ended, now, and of the others later."""
        entries = [(Watch(self._memory.keys, target), sink, tag) for target, tag in requests]
        with self._change:
            for entry in entries:
                self._watched.setdefault(entry[0].job_id, []).append(entry)
        for entry, outcome in self._ended(entries):
            self._drop(entry)
            sink(entry[2], outcome)

    def remove(self, job_ids: Iterable[str], sink: Sink) -> None:
        """Forget a caller of `add` that stopped waiting."""
        with self._change:
            for job_id in job_ids:
                left = [one for one in self._watched.get(job_id, ()) if one[1] != sink]
                if left:
                    self._watched[job_id] = left
                else:
                    self._watched.pop(job_id, None)

    def converse(self, conversation: Conversation[T], limit_s: float = LAST_LOOK_S) -> T:  # noqa: ARG002 (no time passes)
        """Run a short conversation."""
        return converse(conversation, self._memory.pipe)

    def why(self, job_id: str) -> str:
        """Why there is no result, and what the test can do."""
        picture = self.converse(paint(self._memory.keys, job_id))
        head = f"No result of job {job_id}: "
        if not picture.status:
            return head + "there is no job of that id in this testing()."
        return head + _advice(picture, self._mode)

    # -- asyncio -------------------------------------------------------------------------

    def loop(self, on_slow: Callable[[Any, int], None] | None = None) -> LoopWaiter:  # noqa: ARG002 (as in `one`)
        """The waiter of the running event loop."""
        running = asyncio.get_running_loop()
        waiter = self._waiters.get(running)
        if waiter is None:
            for loop in [loop for loop in self._waiters if loop.is_closed()]:
                del self._waiters[loop]
            waiter = self._waiters[running] = StepLoopWaiter(self, self._engine)
        return waiter

    # -- the end -------------------------------------------------------------------------

    def end(self) -> None:
        """The test is over: those who still wait are told."""
        with self._change:
            left = [entry for entries in self._watched.values() for entry in entries]
            self._watched.clear()
        for _watch, sink, tag in left:
            sink(tag, Outcome(Kind.CLOSED))
        CALLBACKS.drain(_CALLBACKS_S)

    def close(self) -> None:
        """Nothing: what the program under test closes is still there for the test."""

    async def aclose(self) -> None:
        """Nothing, as `close`."""

    def after_fork(self) -> None:
        """Nothing: no thread, no socket."""

    @property
    def changes(self) -> int:
        """Grows with whatever happens to a job."""
        return self._changes


def _advice(picture: Picture, mode: str) -> str:
    if picture.status == "scheduled":
        due_in_s = picture.due_in_s or 0.0
        if mode == "eager":
            return "it was put off again and again, and is given up (TASKQ_EAGER)."
        return (
            f"it is due in {due_in_s:g} s, and the clock of testing() stands still. "
            f"Move it: t.advance({due_in_s:g})."
        )
    if picture.status == "queued":
        return (
            f"it waits in {picture.queue!r}, and here jobs run only when the test says so. "
            f"Run them before you wait: {_TO_RUN.get(mode, 't.run()')}; in asyncio tests, "
            "await t.arun()."
        )
    if picture.status == "started":
        return "it is running, and what waits for it here is in its way."
    return f"it is {picture.status}, and nothing happens to it by itself."
