"""Waiting for jobs of a test on an event loop; see `waits`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.tap import Entries, Tap
from taskq.broker.wait_loop import LoopWaiter
from taskq.broker.watch import Conversation, Sink, T, Target
from taskq.errors import ResultTimeout

if TYPE_CHECKING:
    from taskq.testing.engine import Engine

IDLE_S = 5.0
"""Who waits without a limit gives up when nothing has happened for so long."""


class Watching(Protocol):
    """What is needed of `StepWaits`."""

    @property
    def changes(self) -> int:
        """Grows with whatever happens to a job."""
        ...

    def watch(self, requests: Iterable[tuple[Target, Any]], sink: Sink) -> None:
        """Tell `sink` of those that have ended, now, and of the others later."""
        ...

    def remove(self, job_ids: Iterable[str], sink: Sink) -> None:
        """Forget a caller that stopped waiting."""
        ...

    def follow(self, tap: Tap) -> bool:
        """Hand over what is there, and what will come."""
        ...

    def untap(self, tap: Tap) -> None:
        """Forget a reader."""
        ...

    def why(self, job_id: str) -> str:
        """Why there is no result."""
        ...

    def converse(self, conversation: Conversation[T], limit_s: float = ...) -> T:
        """Run a short conversation."""
        ...


class StepLoopWaiter(LoopWaiter):
    """The same for one event loop."""

    def __init__(self, waits: Watching, engine: Engine) -> None:
        """Nobody waits."""
        self.loop = asyncio.get_running_loop()
        self.is_closed = False
        self._waits = waits
        self._engine = engine
        self._sinks: dict[Sink, Sink] = {}
        self._taps: dict[Tap, Tap] = {}
        self._helping: set[asyncio.Task[int]] = set()

    async def one(self, target: Target, timeout_s: float | None, tag: Any) -> Outcome:
        """Wait for the end of one job.

        Raises:
            ResultTimeout: there is no time limit, and nothing has happened for long.
        """
        future: asyncio.Future[Outcome] = self.loop.create_future()

        def sink(_tag: Any, outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        self.add([(target, tag)], sink, is_patient=timeout_s is None)
        try:
            if timeout_s is None:
                outcome = await future
                if outcome.kind is Kind.LATE:
                    raise ResultTimeout(outcome.note)
                return outcome
            done, _pending = await asyncio.wait([future], timeout=timeout_s)
            return future.result() if done else Outcome(Kind.LATE)
        finally:
            self.remove([target.job_id], sink)

    def add(
        self, requests: Iterable[tuple[Target, Any]], sink: Sink, *, is_patient: bool = False
    ) -> None:
        """Watch jobs; `sink(tag, outcome)` is called once for each, on this loop."""
        listed = list(requests)
        open_: dict[str, Any] = {target.job_id: tag for target, tag in listed}
        is_adding = True

        def here(tag: Any, outcome: Outcome) -> None:
            if is_adding:
                sink(tag, outcome)
            elif not self.loop.is_closed():
                self.loop.call_soon_threadsafe(sink, tag, outcome)

        def told(tag: tuple[str, Any], outcome: Outcome) -> None:
            open_.pop(tag[0], None)
            here(tag[1], outcome)

        self._sinks[sink] = told
        self._waits.watch([(target, (target.job_id, tag)) for target, tag in listed], told)
        is_adding = False
        if open_ and self._engine.is_inside():  # this job waits: let others run meanwhile
            task = self.loop.create_task(self._engine.adrain())
            self._helping.add(task)
            task.add_done_callback(self._helped)
        if open_ and is_patient:
            self.loop.call_later(IDLE_S, self._impatient, open_, sink, told, self._waits.changes)

    def _helped(self, task: asyncio.Task[int]) -> None:
        self._helping.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler({"message": "A job failed", "exception": error})

    def _impatient(self, open_: dict[str, Any], sink: Sink, told: Sink, seen: int) -> None:
        """Nothing has happened: whoever waits without a limit would wait for ever."""
        if not open_:
            return
        if self._waits.changes != seen or self._engine.running:
            seen = self._waits.changes
            self.loop.call_later(IDLE_S, self._impatient, open_, sink, told, seen)
            return
        for job_id, tag in list(open_.items()):
            self._waits.remove([job_id], told)
            sink(tag, Outcome(Kind.LATE, note=self._waits.why(job_id)))
        open_.clear()

    def remove(self, job_ids: Iterable[str], sink: Sink) -> None:
        """Forget a caller that stopped waiting."""
        told = self._sinks.pop(sink, None)
        if told is not None:
            self._waits.remove(job_ids, told)

    def tap(self, tap: Tap) -> None:
        """Read a stream; its sink is called on this loop."""
        mine = self._taps.get(tap)
        if mine is None:

            def sink(entries: Entries) -> None:
                if not self.loop.is_closed():
                    self.loop.call_soon_threadsafe(tap.sink, entries)

            mine = self._taps[tap] = Tap(tap.key, tap.cursor, sink, tap.is_full)
        self._waits.follow(mine)

    def untap(self, tap: Tap) -> None:
        """Forget a reader."""
        mine = self._taps.pop(tap, None)
        if mine is not None:
            self._waits.untap(mine)

    async def converse(self, conversation: Conversation[T], limit_s: float) -> T:
        """Run a short conversation."""
        return self._waits.converse(conversation, limit_s)

    async def aclose(self) -> None:
        """Nothing to close."""
