"""New jobs run at once, in the process that enqueues them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from taskq.pending import running_loop
from taskq.testing.bench import depth
from taskq.testing.broker import MemoryBroker

if TYPE_CHECKING:
    from taskq.broker.records import Accepted, NewJob
    from taskq.clock import Clock
    from taskq.testing.engine import Engine
    from taskq.testing.memory import MemoryRedis
    from taskq.worker.claim import Claim

DEEPEST = 8
"""Jobs that enqueue jobs that enqueue jobs run inside each other down to here, and deeper ones
when the job above has ended: a chain may be longer than Python's stack."""


class InlineBroker(MemoryBroker):
    """Once it knows an engine, jobs have run when `enqueue` returns."""

    def __init__(
        self,
        memory: MemoryRedis,
        clock: Clock,
        arrived: Callable[[Sequence[NewJob], Sequence[Accepted]], None],
    ) -> None:
        """Jobs only wait so far; see `MemoryBroker`."""
        super().__init__(memory, clock, arrived)
        self._engine: Engine | None = None
        self._step = threading.RLock()

    def run_by(self, engine: Engine) -> None:
        """From now on new jobs run at once."""
        self._engine = engine

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Accept jobs, and run those that are due."""
        accepted, claims = self._take(jobs)
        engine = self._engine
        if engine is not None and claims is not None:
            if running_loop() is None:
                engine.drain(claims)
            else:
                _in_a_thread(lambda: engine.drain(claims))
        return accepted

    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """`enqueue` for asyncio programs."""
        accepted, claims = self._take(jobs)
        if self._engine is not None and claims is not None:
            await self._engine.adrain(claims)
        return accepted

    def _take(self, jobs: Sequence[NewJob]) -> tuple[list[Accepted], Sequence[Claim] | None]:
        """Accept and reserve in one step, so that no other thread runs these jobs.

        Returns:
            What became of them, and those to run now; None: nothing is to be run.
        """
        with self._step:
            accepted = self.accept(jobs)
            if self._engine is None or depth() >= DEEPEST:
                return accepted, None
            return accepted, self._engine.take_all()


def _in_a_thread(run: Callable[[], Any]) -> None:
    """Run jobs where no event loop is in the way; the caller, and its loop, wait meanwhile."""
    errors: list[BaseException] = []

    def main() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 (handed on)
            errors.append(error)

    # the context says how deep we are; jobs have contexts of their own
    thread = threading.Thread(
        target=copy_context().run, args=(main,), name="taskq-inline", daemon=True
    )
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
