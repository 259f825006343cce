"""Runs the steps of durable jobs and has their outcomes recorded. On the event loop.

Steps have slots of their own (threads, coroutines, job processes); see
docs/decisions/0009-durable-steps.md. The task goes on when the record is in Redis.
A job whose only concern is time (a timer, a retry that is more than a second away) is
put away: it comes back when that is over.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from taskq.errors import PayloadError, PayloadTooLarge, StepFailed
from taskq.retry import RetryLater
from taskq.steps import Sleep
from taskq.worker import journal, step_records
from taskq.worker.outcome import (
    Asleep,
    Crashed,
    Interrupted,
    NotHere,
    message_of,
    names_of,
    result_value,
)
from taskq.worker.settings import MAX_CRASHES
from taskq.worker.step_claim import StepClaim
from taskq.worker.step_records import Record, StepRecords
from taskq.worker.step_slots import StepSlots

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.broker.alink import AsyncLink
    from taskq.worker.claim import Claim
    from taskq.worker.generator_run import Run
    from taskq.worker.journal import Part, Pending
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.worker")
job_log = logging.getLogger("taskq.job")

HOLD_S = 1.0
"""A retry that is due so soon is waited for here."""


class Steps:
    """The steps of all durable jobs of a process.

    Attributes:
        slots: where they run.
        in_threads: whether steps of mode "process" run in threads (in tests).
        closing: whether the worker stops: no further step begins.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        app: TaskQ,
        link: AsyncLink,
        wake: Callable[[Callable[[], None]], None],
    ) -> None:
        """Run nothing yet.

        Args:
            settings: how many at the same time.
            app: its codec writes records.
            link: carries them.
            wake: runs a function on the event loop, from any thread.
        """
        self.slots = StepSlots(settings, self._ended, wake)
        self.records = StepRecords(app.broker, link)
        self.wake = wake
        self.in_threads = False
        self.closing = False
        self._app = app
        self._clock = app.broker.clock
        self._loop = asyncio.get_running_loop()
        self._active: dict[Run, Pending] = {}

    def now(self) -> float:
        """Seconds since 1970, by Redis's clock."""
        return self._clock.time()

    # -- one `yield` ---------------------------------------------------------------------

    def begin(self, run: Run, pending: Pending) -> None:
        """See to what a task waits for."""
        if run.is_over or run.doom is not None:
            return
        if self._gives_back(run):
            run.condemn(Interrupted("shutdown"))
            return
        self._active[run] = pending
        for part in pending.parts:
            if not part.is_done:
                self._see_to(run, part)
        self._look(run)

    def _gives_back(self, run: Run) -> bool:
        """Whether the worker stops, and the job can go on elsewhere."""
        return self.closing and run.claim.fields.get(b"tq_redeliver") != b"0"

    def _see_to(self, run: Run, part: Part) -> None:
        """Begin with a part whose outcome is not recorded."""
        if isinstance(part.command, Sleep):
            if not part.due:
                part.due = part.command.due(self.now())
                self._record(run, part, journal.TIMER, part.due, lambda: self._timer_set(part))
        elif part.due:
            self._wait(run, part)
        elif part.has_begun and not part.command.redeliver:
            gone = "its worker was gone before its end was recorded, and it says redeliver=False"
            self._failed(run, part, ["taskq.errors.JobFailed"], gone)
        else:
            self._launch(run, part)

    def _timer_set(self, part: Part) -> None:
        if part.due <= self.now():
            part.finish(None)

    def _look(self, run: Run) -> None:
        """Whether the task can go on, or has nothing to wait for but time."""
        pending = self._active.get(run)
        if pending is None:
            return
        first = pending.first_open
        if first is None:
            del self._active[run]
            run.answer(*pending.result())
            run.nudge()
            return
        if first.at_work or not first.due:
            return
        open_ = [part for part in pending.parts if not part.is_done]
        if any(part.at_work or not part.due for part in open_):
            return
        first = min(open_, key=lambda part: part.due)
        if isinstance(first.command, Sleep) or first.due - self.now() > HOLD_S:
            self._drop(run)
            run.condemn(Asleep(first.due, first.place))

    def _wait(self, run: Run, part: Part) -> None:
        """A retry is due later."""
        pending = self._active[run]
        delay = max(part.due - self.now(), 0.0)
        pending.timers.append(self._loop.call_later(delay, self._again, run, part))

    def _again(self, run: Run, part: Part) -> None:
        if self._active.get(run) is None or part.at_work:
            return
        if self._gives_back(run):
            self.abort(run, strike=True)
            run.condemn(Interrupted("shutdown"))
        else:
            self._launch(run, part)

    def _launch(self, run: Run, part: Part) -> None:
        """Run a step; of one that must not run twice it is written first that it begins."""
        if part.command.redeliver:  # type: ignore[union-attr]
            self._start(run, part)
        else:
            part.due = 0.0
            self._record(run, part, journal.BEGUN, part.tries, lambda: self._start(run, part))

    # -- a try ---------------------------------------------------------------------------

    def _start(self, run: Run, part: Part) -> None:
        part.at_work = True
        part.due = 0.0
        part.tries += 1
        part.began = self.now()
        claim = part.claim = StepClaim(run, part)
        if claim.mode == "process" and self.in_threads:
            claim.mode = "thread"
        try:
            if claim.mode == "process":
                self._app.lookup(claim.name)  # else its process would not know it either
                claim.to_process(self._app.codec)
        except Exception as err:  # noqa: BLE001 (whatever the arguments do)
            self._ended(claim, None, err)
            return
        self.slots.submit(claim)

    def _ended(self, claim: Claim, value: Any, error: BaseException | None) -> None:
        """A try has ended: called by the runners."""
        assert isinstance(claim, StepClaim)
        run, part = claim.run, claim.part
        if part.claim is not claim or run not in self._active:
            return  # its job has gone on without it
        part.claim = None
        part.at_work = False
        if error is None:
            try:
                if claim.ready:
                    value = result_value(claim, self._app)
                self._record(run, part, journal.VALUE, value, lambda: None)
                return
            except Exception as err:  # noqa: BLE001 (what cannot be recorded is a failure of the step)
                self._failed(run, part, names_of(err), str(err), err)
                return
        self._raised(run, part, error)

    def _raised(self, run: Run, part: Part, error: BaseException) -> None:
        if isinstance(error, Crashed):
            part.crashes += 1
            if part.command.redeliver and part.crashes < MAX_CRASHES:  # type: ignore[union-attr]
                job_log.error("%s (step %s of job %s) is run again (crash %d of %d). %s\n%s",
                              part.name, part.place, run.claim.id, part.crashes, MAX_CRASHES,
                              error, error.trace)  # fmt: skip
                self._start(run, part)
                return
            self._failed(run, part, ["taskq.errors.JobFailed"], str(error), error)
            return
        if isinstance(error, Interrupted) and not isinstance(error, NotHere):
            return  # killed with its job
        names = names_of(error)
        pause: float | None = part.command.again_after(error, names, part.tries)  # type: ignore[union-attr]
        if pause is None:
            self._failed(run, part, names, message_of(error), error)
            return
        if isinstance(error, RetryLater):
            part.tries -= 1
        job_log.warning("%s (step %s of job %s) raised %r; tried again in %g s",
                        part.name, part.place, run.claim.id, error, pause)  # fmt: skip
        part.due = self.now() + pause
        content = [part.tries, part.due]
        self._record(run, part, journal.TRYING, content, lambda: self._wait(run, part))

    def _failed(
        self,
        run: Run,
        part: Part,
        names: list[str],
        message: str,
        cause: BaseException | None = None,
    ) -> None:
        """A step has failed for good."""
        error = StepFailed(part.name, names[0], message, max(part.tries, 1), tuple(names))
        error.__cause__ = cause  # its traceback, for the job's own; a replay has none
        content = [names, message, max(part.tries, 1)]
        self._record(run, part, journal.ERROR, content, lambda: part.finish(None, error))

    # -- recording -----------------------------------------------------------------------

    def _record(
        self, run: Run, part: Part, kind: str, content: Any, then: Callable[[], None]
    ) -> None:
        """Write a record; `then` is called when it is in Redis and the job goes on.

        Raises:
            NotSerializable, PayloadTooLarge: a value cannot be recorded.
        """
        assert run.journal is not None
        body = run.journal.pack(part, kind, content)
        if kind == journal.VALUE:
            content = part.command.rebuild(run.journal.unpack(body))  # type: ignore[union-attr]
        part.at_work = True
        now = self.now()
        seconds = round(now - part.began, 6) if part.began else None
        head = [part.name, round(part.began or now, 6), seconds, part.tries, part.due or None]

        def answered(answer: int) -> None:
            if self._active.get(run) is None:
                return
            part.at_work = False
            if answer == step_records.RECORDED:
                if kind == journal.VALUE:
                    part.finish(content)
                else:
                    then()
                self._look(run)
                return
            self.abort(run, strike=True)
            run.condemn(_refused(run, part, answer))

        self.records.add(Record(run.claim, part.place, kind, part.due - now, head, body, answered))

    # -- ends ----------------------------------------------------------------------------

    def _drop(self, run: Run) -> Pending | None:
        pending = self._active.pop(run, None)
        if pending is not None:
            for timer in pending.timers:
                timer.cancel()
            pending.timers.clear()
        return pending

    def abort(self, run: Run, *, strike: bool) -> None:
        """A job ends before its steps: stop them, with force or by asking; nobody hears of them."""
        pending = self._drop(run)
        for part in pending.parts if pending is not None else ():
            claim, part.claim = part.claim, None
            if claim is None:
                continue
            self.slots.stop(claim, strike=strike)

    def check_limits(self, now: float) -> None:
        """Hold steps to their time limits. Called every 25 or 50 ms."""
        self.slots.check_limits(now)

    def abandon(self) -> None:
        """Forget what runs, let threads and processes end."""
        self.slots.abandon()
        for run in list(self._active):
            self._drop(run)


def _refused(run: Run, part: Part, answer: int) -> BaseException:
    """Why a job ends whose record was not taken."""
    if answer == step_records.LOST:
        return Interrupted("lost")
    if answer == step_records.FULL:
        return PayloadTooLarge(
            f"The recorded steps of {run.claim.name} are over the limit of "
            f"{step_records.MOST_BYTES:,} bytes or {step_records.MOST_STEPS:,} steps: {part.name} "
            f"(step {part.place}) was run and could not be recorded. Keep data elsewhere and "
            "return ids from steps, or divide the work into several jobs."
        )
    return PayloadError("The job's record of steps in Redis is broken: its key is no hash.")
