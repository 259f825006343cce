"""Runs `async def` tasks on the worker's event loop, many at once.

A time limit cancels the coroutine. One that goes on all the same (it swallows its
`CancelledError`, or cleans up for long) is abandoned: its job is settled as timed out and
its place is free, while it ends by itself when it can.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from taskq import context
from taskq.worker.outcome import ENDED_NOW, Interrupted, TimeLimit, overran

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim

log = logging.getLogger("taskq.worker")

SHORT_LIMIT_S = 1.0
"""Limits below it get a timer of their own; the others are swept every 50 ms."""
STUCK_S = 0.7
"""Seconds after the limit until a coroutine that has not ended is abandoned."""
_FINAL = ("timeout", *ENDED_NOW)
AGAIN_S = 5.0
"""An abandoned coroutine is cancelled again each time it has cleaned up for so long."""


class AsyncRunner:
    """One asyncio task for each job, at most `slots` of them.

    Attributes:
        stuck: coroutines that were abandoned and have not ended.
    """

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
        self._context: Context | None = None
        self._earliest = math.inf  # no limit of a running job ends before
        self._over: dict[Claim, float] = {}  # over their limit, and when they were cancelled
        self._left: dict[Claim, float] = {}  # abandoned, and when they were cancelled last

    @property
    def stuck(self) -> int:
        """Coroutines that were abandoned and have not ended."""
        return len(self._left)

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
        base = self._context
        if base is None:
            # Of the first who brings a job, never of one that ends and lets the next begin:
            # what a job sets in its context is its own.
            base = self._context = copy_context()
        claim.task = base.run(self._loop.create_task, self._run(claim))

    async def _run(self, claim: Claim) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            self._begin(claim)
            assert claim.fn is not None
            context.enter(claim)
            limit_s = claim.deadline
            if limit_s:
                if limit_s < SHORT_LIMIT_S:
                    claim.timer = self._loop.call_later(limit_s, self._overdue, claim)
                elif claim.begun_mono + limit_s < self._earliest:
                    self._earliest = claim.begun_mono + limit_s
            value = await claim.fn(*claim.args, **claim.kwargs)
        except asyncio.CancelledError as err:
            asked = claim.why not in ("", "timeout")
            error = Interrupted(claim.why) if asked else err  # "": it cancelled itself
        except BaseException as err:  # noqa: BLE001 (SystemExit in a task ends the job, not the worker)
            error = err
        if claim.timer is not None:
            claim.timer.cancel()
        claim.task = None
        if claim.why in _FINAL:  # also if it swallowed that and returned
            self._over.pop(claim, None)
            error = overran(claim, error)
        if self.running.get(claim.id) is claim:
            del self.running[claim.id]
            self._next()
            self._done(claim, value, error)
        else:
            self._left.pop(claim, None)  # settled long ago
        # the frames of a traceback refer to this one: what a failed job held would stay
        del claim, value, error

    def _next(self) -> None:
        if self.waiting and len(self.running) < self.slots:
            self._start(self.waiting.pop(next(iter(self.waiting))))

    def cancel(self, claim: Claim, why: str) -> None:
        """Cancel a running job's coroutine; the first reason counts, but for a time limit."""
        if claim.task is None or self.running.get(claim.id) is not claim:
            return
        claim.why = why if why == "timeout" else claim.why or why
        claim.task.cancel()
        if not claim.begun_mono:  # its coroutine has not started and never will
            del self.running[claim.id]
            self._done(claim, None, Interrupted(claim.why))

    def request_cancel(self, claim: Claim) -> None:
        """Somebody asked for the job to be canceled."""
        claim.context.cancel_requested = True
        self.cancel(claim, "cancel")

    def end_now(self, claim: Claim, why: str) -> None:
        """End a running job by a command. What goes on all the same is left alone."""
        claim.context.cancel_requested = True
        self.cancel(claim, why)
        self._over.setdefault(claim, time.monotonic())

    def interrupt(self, claim: Claim) -> None:
        """The grace time of a shutdown is over."""
        self.cancel(claim, "shutdown")

    def abandon(self) -> list[Claim]:
        """Forget what does not end."""
        left = list(self.running.values())
        self.running.clear()
        return left

    # -- time limits -----------------------------------------------------------------------

    def check_limits(self, now: float) -> None:
        """Cancel what is over its limit, abandon what goes on. Called every 25 or 50 ms."""
        if now >= self._earliest:  # else thousands would be looked at 20 times a second
            self._sweep(now)
        for claim, since in list(self._over.items()):
            if now - since > STUCK_S:
                self._abandon(claim)
        for claim, since in list(self._left.items()):
            if now - since > AGAIN_S and claim.task is not None:
                self._left[claim] = now
                claim.task.cancel()

    def _sweep(self, now: float) -> None:
        earliest = math.inf
        for claim in list(self.running.values()):
            if not claim.deadline or not claim.begun_mono or claim in self._over:
                continue
            end = claim.begun_mono + claim.deadline
            if end < now:
                self._overdue(claim)
            elif end < earliest:
                earliest = end
        self._earliest = earliest

    def _overdue(self, claim: Claim) -> None:
        if claim not in self._over:
            self._over[claim] = time.monotonic()
            self.cancel(claim, "timeout")

    def _abandon(self, claim: Claim) -> None:
        since = self._over.pop(claim)
        if self.running.get(claim.id) is not claim:
            return
        del self.running[claim.id]
        self._left[claim] = since
        log.error(
            "%s (job %s) (limit %g s) goes on after it was cancelled (%s): "
            "it is left alone (%d stuck in this worker)",
            claim.name, claim.id, claim.deadline, claim.why, self.stuck,
        )  # fmt: skip
        self._next()
        if claim.why in ENDED_NOW:
            self._done(claim, None, Interrupted(claim.why))
            return
        text = (
            f"{claim.name} ran longer than its time limit of {claim.deadline:g} s "
            "and went on after it was cancelled: it was left alone"
        )
        self._done(claim, None, TimeLimit(text))
