"""The life of one job in a worker process: its code begins, ends, and what that means.

Called for every job: no layer stands between the runners and these functions.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from taskq.errors import PayloadError, UnknownTask
from taskq.worker import items
from taskq.worker.outcome import (
    UNKNOWN_TRIES,
    Asleep,
    Crashed,
    Interrupted,
    Killed,
    NotHere,
    Stopped,
    TimeLimit,
    crash_verdict,
    crashed_item,
    crashes_so_far,
    cut_short_item,
    error_type,
    failure_item,
    success_item,
    unknown_item,
    untold_item,
)
from taskq.worker.rq_items import asks_again, callback_due, feature_item
from taskq.worker.settings import MAX_CRASHES
from taskq.worker.traces import unpacked, user_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.worker.begun import BegunTable
    from taskq.worker.claim import Claim
    from taskq.worker.items import Item
    from taskq.worker.pace import Pace
    from taskq.worker.rq_door import Door
    from taskq.worker.settle import Settler
    from taskq.worker.suspects import Suspects
    from taskq.worker.thread_runner import ThreadRunner

log = logging.getLogger("taskq.worker")
job_log = logging.getLogger("taskq.job")

_KILLED = "Work-horse terminated unexpectedly; the command kill-horse ended this job."
_YOUNG_S = 45.0
"""A caller may send the same job again for 30 s; the rest is for clocks that differ."""


class Life:
    """Begin and end of jobs.

    Attributes:
        pace: learns from each of them.
        jobs: how many have run here.
        watches: RQ's own code is to see every failure.
        callbacks: its threads call what follows a coroutine.
    """

    def __init__(
        self,
        app: TaskQ,
        worker: str,
        settler: Settler,
        door: Door,
        suspects: Suspects,
        pace: Pace,
        begun: BegunTable | None,
    ) -> None:
        """No job has begun.

        Args:
            app: its codec writes results.
            worker: this worker's name.
            settler: gets the ends.
            door: takes those that only RQ's own code can settle.
            suspects: are told when one of them has ended.
            pace: learns how long jobs run, and how late they begin.
            begun: memory shared with the supervisor, or None.
        """
        self.watches = False
        self.callbacks: ThreadRunner | None = None
        self._app = app
        self._worker = worker
        self._settler = settler
        self._door = door
        self._suspects = suspects
        self._begun = begun
        self.pace = pace
        self.jobs = 0

    @property
    def by_rq(self) -> int:
        """Jobs that have ended and wait for RQ's own code, or for a callback."""
        return len(self._door.inside) + (self.callbacks.busy if self.callbacks else 0)

    @property
    def sending(self) -> int:
        """Jobs whose webhooks are to be sent."""
        return self._door.sending

    def begin(self, claim: Claim) -> None:
        """Just before a job's code; in its thread, or on the loop. And before what follows it."""
        if claim.ended is None:
            claim.begin()
            self.pace.began(claim.begun_mono - claim.reserved_mono)
            if self._begun is not None:
                claim.slot = self._begun.begin(claim.id, claim.exec_id, _limit(claim))
            if job_log.isEnabledFor(logging.DEBUG):
                job_log.debug("Begun", extra=_extra(claim))
        if "rq.job" in sys.modules and claim.mode != "process":  # else nobody here can ask for it
            self._tell_rq(claim)

    def _tell_rq(self, claim: Claim) -> None:
        """Let RQ's `get_current_job()` know, in the context that the job's code runs in."""
        from taskq.worker import rq_current  # noqa: PLC0415 (RQ: only where it is there anyway)

        job = rq_current.enter(claim, self._app, self._worker)
        if claim.special:
            claim.job = job

    def follow(
        self, claim: Claim, value: Any, error: BaseException | None
    ) -> Callable[[], None] | None:
        """What is to be called in its thread after a special job has ended, if anything."""
        if "rq.job" not in sys.modules:
            return None
        from taskq.worker import rq_calls  # noqa: PLC0415 (as above)

        following = rq_calls.following(claim, value, error)
        if following is not None and self._begun is not None:
            self._begun.extend(claim.slot, _limit(claim))
        return following

    def done(self, claim: Claim, value: Any, error: BaseException | None) -> None:
        """A job's code has ended. On the loop."""
        try:
            if claim.special and self._follows(claim, value, error):
                return  # and comes here again
            if claim.slot >= 0 and self._begun is not None:
                self._begun.end(claim.slot)
                claim.slot = -1
            if claim is self._suspects.current:
                asyncio.get_running_loop().call_soon(self._suspects.next)
            seconds = 0.0
            if claim.begun_mono:
                seconds = time.monotonic() - claim.begun_mono
                self.pace.ran(seconds)
                self.jobs += 1
            if isinstance(error, Interrupted):
                self._cut_off(claim, error, seconds)
                return
            claim.outcome = (value, error)
            try:
                item = self._item(claim, value, error)
            except Exception as err:  # noqa: BLE001 (a result that cannot be stored fails the job)
                error = err
                claim.outcome = (None, err)
                item = self._item(claim, None, err)
            if item is None:
                self._settler.tally.began(claim)
                self._door.enter(claim)
                return
            self.end(claim, item, ok=error is None, error=error, seconds=seconds)
        except BaseException as err:  # noqa: BLE001 (values and exceptions may be hostile: the loop lives)
            self._end_untold(claim, err)

    def _follows(self, claim: Claim, value: Any, error: BaseException | None) -> bool:
        """Have a thread call what follows a coroutine; False: there is nothing."""
        if claim.mode != "asyncio" or claim.ended is not None or self.callbacks is None:
            return False
        if not callback_due(claim, value, error):
            return False
        claim.ended = value, error
        self.callbacks.call(claim)
        return True

    def _end_untold(self, claim: Claim, err: BaseException) -> None:
        item = untold_item(claim, err)
        log.error("What job %s ended with cannot be told: looking at it raised %s",
                  claim.id, error_type(item))  # fmt: skip
        self._settler.tally.failed(claim, error_type(item))
        self._settler.tally.end(claim, "failed", 0.0)
        self._settler.add(claim, item)

    def _item(self, claim: Claim, value: Any, error: BaseException | None) -> Item | None:
        """What became of a job; None: RQ's own code says it.

        Raises:
            NotSerializable, PayloadTooLarge: the result cannot be stored.
        """
        if error is not None and self.watches:
            return None
        if claim.special or asks_again(value):
            return feature_item(claim, value, error, self._app)
        if error is not None:
            return failure_item(claim, error)
        young = claim.result_ttl_s == 0 and self._young(claim)
        return success_item(claim, value, self._app, young=young)

    def _cut_off(self, claim: Claim, error: Interrupted, seconds: float) -> None:
        """A job's code did not come to its end."""
        self._settler.tally.began(claim)
        if isinstance(error, NotHere):
            self.unknown(claim, UnknownTask(str(error)))
        elif isinstance(error, Crashed):
            self._crashed(claim, error, seconds)
        elif isinstance(error, Asleep):
            self._settler.add(claim, items.asleep(error.due, error.place))
        elif str(error) == "stop":
            claim.stopped = claim.special = True
            claim.outcome = (None, Stopped("Job stopped by user, work-horse terminated."))
            self._door.enter(claim)
        elif str(error) == "kill":
            self.done(claim, None, Killed(_KILLED))
        else:
            self._settler.add(claim, _interrupted_item(claim, error))

    def _crashed(self, claim: Claim, error: Crashed, seconds: float) -> None:
        """Its process died: it runs again, or that was once too often."""
        self._settler.tally.crash(claim.position)
        verdict = crash_verdict(claim, error)
        if verdict is None:
            job_log.error("%s (job %s) is run again (crash %d of %d). %s\n%s",
                          claim.name, claim.id, crashes_so_far(claim) + 1, MAX_CRASHES, error,
                          error.trace, extra=_extra(claim))  # fmt: skip
            self._settler.add(claim, crashed_item(claim, error))
            return
        claim.fields.pop(b"retries_left", None)  # crashes have a limit of their own
        claim.outcome = (None, verdict)
        if claim.special:
            self._door.enter(claim)
        else:
            self.end(claim, failure_item(claim, verdict), ok=False, error=verdict, seconds=seconds)

    def unknown(self, claim: Claim, err: UnknownTask) -> None:
        """The task may be one of the next release: looked at again, some times."""
        try:
            tries = int(claim.number(b"tq_unknown", 0))
        except ValueError:
            tries = UNKNOWN_TRIES
        if tries >= UNKNOWN_TRIES:
            self.refuse(claim, err)
            return
        log.warning("Job %s: %s Looked at again in 10 s (%d of %d)",
                    claim.id, err, tries + 1, UNKNOWN_TRIES)  # fmt: skip
        self._settler.add(claim, unknown_item())

    def refuse(self, claim: Claim, err: Exception) -> None:
        """Fail a job whose code cannot be run."""
        claim.outcome = (None, err)
        if claim.is_special():  # its failure callback, its webhooks
            self._door.enter(claim)
        else:
            self.end(claim, failure_item(claim, err), ok=False, error=err)

    def end(
        self,
        claim: Claim,
        item: Item,
        *,
        ok: bool,
        error: BaseException | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Count and log an end, and settle it."""
        tally = self._settler.tally
        if not ok:
            _log_failure(claim, item, error)
            if item.kind == "x":
                tally.failed(claim, error_type(item))
        what = "retried" if item.kind in ("r", "y") else "finished" if ok else "failed"
        tally.end(claim, what, seconds)
        self._settler.add(claim, item)

    def _young(self, claim: Claim) -> bool:
        """Whether its caller may still be sending it again: a marker is left if it is deleted."""
        enqueued = claim.fields.get(b"enqueued_at", b"").decode("ascii", "replace")
        clock = self._app.broker.clock
        return enqueued >= clock.iso(clock.time() - _YOUNG_S)


def _limit(claim: Claim) -> float:
    """When its time is over (monotonic); 0: never."""
    return claim.begun_mono + claim.deadline if claim.deadline else 0.0


def _interrupted_item(claim: Claim, error: Interrupted) -> Item:
    if str(error) == "cancel":
        return items.canceled(claim.unique)
    return cut_short_item(claim) if claim.begun_mono else items.GIVEN_BACK


def _log_failure(claim: Claim, item: Item, error: BaseException | None) -> None:
    if item.kind == "r":
        pause = f" in {float(item.rest[0]):g} s" if item.rest[0] else ""
        job_log.warning("%s (job %s) raised %r; retried%s", claim.name, claim.id, error, pause,
                        extra=_extra(claim))  # fmt: skip
        return
    told = getattr(error, "traceback", "") or getattr(error, "trace", "")  # of a job process
    told = told and f"\n{told}"
    if error is None or told or isinstance(error, (PayloadError, UnknownTask, TimeLimit)):
        info, text = None, None
    else:  # formatted already, for the record of the job
        info = (type(error), error, user_part(error.__traceback__))
        text = unpacked(item.rest[2]).rstrip("\n")
    if job_log.isEnabledFor(logging.ERROR):
        record = job_log.makeRecord(
            job_log.name, logging.ERROR, __file__, 0, "%s (job %s) failed: %s%s",
            (claim.name or "A job", claim.id, error, told), info, "_log_failure", _extra(claim),
        )  # fmt: skip
        record.exc_text = text
        job_log.handle(record)


def _extra(claim: Claim) -> dict[str, Any]:
    return {
        "job_id": claim.id,
        "task": claim.name,
        "queue": claim.queue,
        "attempt": claim.attempt,
    }
