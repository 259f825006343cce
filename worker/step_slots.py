"""Where steps of durable jobs run: threads, coroutines and job processes beside those of jobs.

In the jobs' own slots, tasks that wait for their steps could leave these no room.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from taskq.worker.process_runner import ProcessRunner
from taskq.worker.step_claim import StepCoroutines
from taskq.worker.thread_runner import ThreadRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim
    from taskq.worker.runner import Runner
    from taskq.worker.settings import WorkerSettings


class StepSlots:
    """A runner of each kind. Threads and processes start when a step needs one."""

    def __init__(
        self,
        settings: WorkerSettings,
        ended: Callable[[Claim, Any, BaseException | None], None],
        wake: Callable[[Callable[[], None]], None],
    ) -> None:
        """Run nothing yet.

        Args:
            settings: how many at the same time.
            ended: called on the event loop with (claim, value, error).
            wake: runs a function on the event loop, from any thread.
        """
        self.threads = ThreadRunner(settings.threads, _begin, ended, wake)
        self.coroutines = StepCoroutines(settings.concurrency, _begin, ended)
        self.processes = ProcessRunner(settings, _begin, ended)
        self._all: tuple[Runner, ...] = (self.threads, self.coroutines, self.processes)

    @property
    def stuck(self) -> int:
        """Threads and coroutines that were abandoned and have not ended."""
        return self.threads.stuck + self.coroutines.stuck

    def _of(self, claim: Claim) -> Runner:
        if claim.mode == "process":
            return self.processes
        return self.coroutines if claim.mode == "asyncio" else self.threads

    def submit(self, claim: Claim) -> None:
        """Run a step as soon as there is a slot."""
        self._of(claim).submit(claim)

    def stop(self, claim: Claim, *, strike: bool) -> None:
        """Nobody waits for a step any more: end it, with force or by asking."""
        runner = self._of(claim)
        if runner.take_back(claim):
            return
        if claim.mode == "thread":
            claim.context.cancel_requested = True
            if strike:  # its time is over now
                ran_s = time.monotonic() - claim.begun_mono
                claim.deadline = max(round(ran_s, 3) - 0.001, 0.001)
        elif strike:
            runner.interrupt(claim)
        else:
            runner.request_cancel(claim)

    def check_limits(self, now: float) -> None:
        """Hold steps to their time limits."""
        for runner in self._all:
            runner.check_limits(now)

    def abandon(self) -> None:
        """Forget what runs, let threads and processes end."""
        for runner in self._all:
            runner.abandon()


def _begin(claim: Claim) -> None:
    claim.begin()
