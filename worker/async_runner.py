"""Runs `async def` tasks on the worker's event loop, many at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from taskq import context
from taskq.worker.outcome import Interrupted, TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim

SHORT_LIMIT_S = 1.0
"""Limits below it get a timer of their own; the others are swept every 50 ms."""
AGAIN_S = 1.0
"""A task that swallows its cancellation is cancelled again after this long."""


class AsyncRunner:
    """One asyncio task for each job, at most `slots` of them."""

    def __init__(
        self,
        slots: int,
        begin: Callable[[Claim], None],
        done: Callable[[Claim, Any, BaseException | None], None],
    ) -> None:
        """Run nothing yet.

        Args:
            slots: jobs at the same time.
            begin: called just before a job's code.
            done: called with (claim, value, error).
        """
        self.slots = slots
        self._begin = begin
        self._done = done
        self._loop = asyncio.get_running_loop()
        self.waiting: dict[str, Claim] = {}
        self.running: dict[str, Claim] = {}

    @property
    def busy(self) -> int:
        """Jobs in hand: begun and waiting."""
        return len(self.waiting) + len(self.running)

    def submit(self, claim: Claim) -> None:
        """Run a job now, or when a slot is free."""
        if len(self.running) < self.slots:
            self._start(claim)
        else:
            self.waiting[claim.id] = claim

    def take_back(self, claim: Claim) -> bool:
        """Withdraw a job whose code has not begun; False when it is too late."""
        if self.waiting.pop(claim.id, None) is not None:
            return True
        if claim.begun_mono == 0.0 and claim.task is not None and claim.id in self.running:
            del self.running[claim.id]
            claim.why = "back"
            claim.task.cancel()
            return True
        return False

    def _start(self, claim: Claim) -> None:
        self.running[claim.id] = claim
        claim.task = self._loop.create_task(self._run(claim))

    async def _run(self, claim: Claim) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            self._begin(claim)
            assert claim.fn is not None
            context.enter(claim)
            if 0 < claim.deadline < SHORT_LIMIT_S:
                claim.timer = self._loop.call_later(claim.deadline, self.cancel, claim, "timeout")
            value = await claim.fn(*claim.args, **claim.kwargs)
        except asyncio.CancelledError as err:
            error = self._why(claim, err)
        except BaseException as err:  # noqa: BLE001 (SystemExit in a task ends the job, not the worker)
            error = err
        if claim.timer is not None:
            claim.timer.cancel()
        self.running.pop(claim.id, None)
        if self.waiting:
            self._start(self.waiting.pop(next(iter(self.waiting))))
        claim.task = None
        self._done(claim, value, error)
        # the frames of a traceback refer to this one: what a failed job held would stay
        del claim, value, error

    @staticmethod
    def _why(claim: Claim, err: BaseException) -> BaseException:
        if claim.why == "timeout":
            text = f"{claim.name} ran longer than its time limit of {claim.deadline:g} s"
            return TimeLimit(text).with_traceback(err.__traceback__)
        if claim.why:
            return Interrupted(claim.why)
        return err  # the task cancelled itself

    def cancel(self, claim: Claim, why: str) -> None:
        """Cancel a running job's coroutine; the first reason counts."""
        if claim.task is None or claim.id not in self.running:
            return
        claim.why = claim.why or why
        claim.task.cancel()
        if not claim.begun_mono:  # its coroutine has not started and never will
            del self.running[claim.id]
            self._done(claim, None, Interrupted(claim.why))

    def request_cancel(self, claim: Claim) -> None:
        """Somebody asked for the job to be canceled."""
        claim.context.cancel_requested = True
        self.cancel(claim, "cancel")

    def interrupt(self, claim: Claim) -> None:
        """The grace time of a shutdown is over."""
        self.cancel(claim, "shutdown")

    def abandon(self) -> list[Claim]:
        """Nothing: what does not end in a second has its lease and runs again elsewhere."""
        return []

    def check_limits(self, now: float) -> None:
        """Cancel what is over its limit. Called every 50 ms."""
        for claim in list(self.running.values()):
            over = now - claim.begun_mono - claim.deadline
            if claim.deadline and claim.begun_mono and over > 0:
                if claim.why and over % AGAIN_S > 0.06:
                    continue
                self.cancel(claim, "timeout")
