"""Runs `def` tasks: a fixed number of threads, each one job at a time.

A time limit raises `Overrun` in the thread. A thread that does not stop (blocked
in C code, `time.sleep(600)`, or it swallows every exception) is abandoned: its job is
settled as timed out, a fresh thread takes its place, and the stuck one ends by itself
when it can. Each job has a context of its own: what it sets there is gone after it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from taskq import context
from taskq.worker.outcome import (
    ENDED_NOW,
    Interrupted,
    Overrun,
    TimeLimit,
    over_limit,
    overran,
)
from taskq.worker.thread_slot import Slot, is_due

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim

log = logging.getLogger("taskq.worker")

STUCK_S = 0.7
"""Seconds after the limit until a thread that has not stopped is abandoned."""
END_NOW_S = 0.02
"""The same for a thread that somebody ends by a command: who asked wants to see it."""


class ThreadRunner:
    """A pool of threads fed from one queue.

    Attributes:
        stuck: threads that were abandoned and have not ended.
    """

    def __init__(
        self,
        slots: int,
        begin: Callable[[Claim], None],
        done: Callable[[Claim, Any, BaseException | None], None],
        wake: Callable[[Callable[[], None]], None],
        follow: Callable[[Claim, Any, BaseException | None], Callable[[], None] | None]
        | None = None,
    ) -> None:
        """Start nothing yet: threads start when there is work for them.

        Args:
            slots: jobs at the same time.
            begin: called in the thread just before a job's code.
            done: called on the event loop with (claim, value, error).
            wake: runs a function on the event loop, from any thread.
            follow: called in the thread with (claim, value, error) when the code of a special job
                has ended; gives what is to be called next, under the claim's limit of then.
        """
        self.slots = slots
        self._begin = begin
        self._follow = follow
        self._done = done
        self._wake = wake
        self._queue: SimpleQueue[Claim | None] = SimpleQueue()
        self._threads: list[Slot] = []
        self._ended: deque[tuple[Claim, Any, BaseException | None]] = deque()
        self._woken = False
        self.waiting: dict[str, Claim] = {}
        self._unbegun: set[Claim] = set()
        self.running: dict[str, Claim] = {}
        self.stuck = 0
        self._context: Context | None = None

    @property
    def busy(self) -> int:
        """Jobs in hand: begun and waiting."""
        return len(self.waiting) + len(self.running)

    def submit(self, claim: Claim) -> None:
        """Run a job as soon as a thread is free. Called on the event loop."""
        self.waiting[claim.id] = claim
        self._unbegun.add(claim)
        self._start_if_needed()
        self._queue.put(claim)

    def call(self, claim: Claim) -> None:
        """Call what follows a job that has ended elsewhere, as soon as a thread is free."""
        self.running[claim.id] = claim
        self._start_if_needed()
        self._queue.put(claim)

    def _start(self) -> None:
        slot = Slot()
        if self._context is None:
            self._context = copy_context()  # of the worker's own code
        slot.thread = threading.Thread(
            target=self._context.copy().run,
            args=(self._work, slot),
            name=f"taskq-{len(self._threads)}",
            daemon=True,
        )
        self._threads.append(slot)
        slot.thread.start()

    def take_back(self, claim: Claim) -> bool:
        """Withdraw a job whose code has not begun; False when it is too late."""
        try:
            self._unbegun.remove(claim)  # atomic: a thread does the same, and one of us is too late
        except KeyError:
            return False
        self._no_longer_waits(claim)
        return True

    def _no_longer_waits(self, claim: Claim) -> None:
        # after a lost lease the same job may wait here a second time
        if self.waiting.get(claim.id) is claim:
            self.waiting.pop(claim.id, None)

    # -- in the thread -------------------------------------------------------------------

    def _work(self, slot: Slot) -> None:
        take = self._queue.get
        while True:
            claim = take()
            if claim is None:
                return
            if claim.ended is None:
                try:
                    self._unbegun.remove(claim)
                except KeyError:  # given back meanwhile, and perhaps here again under a new lease
                    continue
                # In one of the two at every instant: a shutdown between them must not miss it.
                self.running[claim.id] = claim
                self._no_longer_waits(claim)
            try:
                value, error = self._run(slot, claim)
            except Overrun as err:  # between two statements that should have caught it
                slot.claim = None
                value, error = None, overran(claim, err)
            except BaseException as err:  # noqa: BLE001 (of ours: the job fails, the thread lives)
                slot.claim = None
                value, error = None, err
            if slot.abandoned:
                self._wake(self._unstick)
                return
            self._ended.append((claim, value, error))
            if not self._woken:
                self._woken = True
                self._wake(self._flush)
            # the frames of a traceback refer to this one: what a failed job held would stay
            claim = value = error = None

    def _run(self, slot: Slot, claim: Claim) -> tuple[Any, BaseException | None]:
        value: Any = None
        error: BaseException | None = None
        own = following = raised = None
        try:
            self._begin(claim)
            assert claim.fn is not None
            context.enter(claim)
            if context.thread_hooks:
                context.run_hooks()
            own = copy_context()
        except BaseException as err:  # noqa: BLE001 (a hook's SystemExit ends the job, not the worker)
            error = err
        else:
            if claim.ended is None:
                value, error = slot.call(claim, own, claim.fn, claim.args, claim.kwargs)
            else:
                value, error = claim.ended
            # it may have been given back or settled meanwhile
            while claim.special and self._follow and self.running.get(claim.id) is claim:
                following = self._follow(claim, value, error)
                if following is None:
                    break
                _nothing, raised = slot.call(claim, own, following)
                if raised is not None:
                    error = raised
        context.leave()
        if context.thread_hooks:
            _tidy(claim)
        try:
            return value, error
        finally:
            del claim, value, error, own, following, raised  # as in _work

    # -- on the event loop ---------------------------------------------------------------

    def _flush(self) -> None:
        self._woken = False
        ended, done, running = self._ended, self._done, self.running
        while ended:
            claim, value, error = ended.popleft()
            if running.get(claim.id) is claim:
                del running[claim.id]
            done(claim, value, error)

    def _unstick(self) -> None:
        self.stuck -= 1

    def check_limits(self, now: float) -> None:
        """Strike what is over its limit, abandon what does not stop. Called every 50 ms."""
        for slot in list(self._threads):
            claim = slot.claim
            if claim is None or not (claim.deadline or claim.why):
                continue
            if not slot.fired:
                if is_due(claim, now):
                    slot.strike(claim, now)
            elif now - slot.fired_mono >= (END_NOW_S if claim.why in ENDED_NOW else STUCK_S):
                self._abandon(slot, claim)

    def end_now(self, claim: Claim, why: str) -> None:
        """End a running job by a command. What does not stop is left behind."""
        claim.why = why
        claim.context.cancel_requested = True
        for slot in list(self._threads):
            if slot.claim is claim:
                slot.strike(claim, time.monotonic())
        asyncio.get_running_loop().call_later(
            END_NOW_S, lambda: self.check_limits(time.monotonic())
        )

    def _abandon(self, slot: Slot, claim: Claim) -> None:
        with slot.lock:
            if slot.claim is not claim or not slot.fired:
                return
            slot.abandoned = True
        self._threads.remove(slot)
        self.running.pop(claim.id, None)
        self.stuck += 1
        if claim.why in ENDED_NOW:
            self._leave_behind(claim)
            return
        limit = over_limit(claim)
        log.error("%s (job %s) and does not stop: its thread is abandoned "
                  "(%d stuck in this worker)", limit, claim.id, self.stuck)  # fmt: skip
        self._start_if_needed()
        text = f"{limit} and could not be stopped: its thread was abandoned"
        self._done(claim, None, TimeLimit(text))

    def _start_if_needed(self) -> None:
        """Start a thread where there are fewer than jobs in hand."""
        if len(self._threads) < min(self.slots, self.busy):
            self._start()

    def _leave_behind(self, claim: Claim) -> None:
        log.error("%s (job %s) was ended by a command and does not stop: its thread is abandoned "
                  "(%d stuck in this worker)", claim.name, claim.id, self.stuck)  # fmt: skip
        self._start_if_needed()
        self._done(claim, None, Interrupted(claim.why))

    def request_cancel(self, claim: Claim) -> None:
        """Tell a running job that it should stop; its code has to look (`cancel_requested`)."""
        claim.context.cancel_requested = True

    interrupt = request_cancel

    def abandon(self) -> list[Claim]:
        """Forget what still runs, and let idle threads end."""
        left = [self.running.pop(job_id, None) for job_id in list(self.running)]
        for _ in self._threads:
            self._queue.put(None)
        return [claim for claim in left if claim is not None]


def _tidy(claim: Claim) -> None:
    """The hooks after a job: it has ended, whatever they raise."""
    try:
        context.run_hooks()
    except Exception:
        log.exception("A hook failed after %s (job %s)", claim.name, claim.id)
