"""Runs generator tasks: `def` ones in one cooperative thread, async ones on the event loop.

A job's end is recorded when all that it has yielded is in Redis, so a reader that sees the
end can read the rest.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from taskq.worker.generator_async import AsyncDriver
from taskq.worker.generator_run import Run
from taskq.worker.generator_turns import Turns
from taskq.worker.journal import Journal
from taskq.worker.mail import Mail
from taskq.worker.outcome import Interrupted, TimeLimit, overran
from taskq.worker.yields import Yields

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.broker.alink import AsyncLink
    from taskq.worker.async_runner import AsyncRunner
    from taskq.worker.claim import Claim
    from taskq.worker.steps import Steps

log = logging.getLogger("taskq.worker")

STUCK_S = 0.7
"""Seconds after the limit until a generator that has not stopped is left behind."""
HELD_S = 1.0
"""A generator that holds its turn for so long is named in the log: the others stand still."""
_AHEAD_BYTES = 32_000_000
"""What all of them may have yielded and Redis not yet confirmed."""


class GeneratorRunner:
    """All generator tasks of a process; the async ones are handed on to the async runner."""

    def __init__(
        self,
        slots: int,
        begin: Callable[[Claim], None],
        done: Callable[[Claim, Any, BaseException | None], None],
        steps: Steps,
        coroutines: AsyncRunner,
        app: TaskQ,
        link: AsyncLink,
    ) -> None:
        """Run nothing yet.

        Args:
            slots: `def` generators at the same time.
            begin: called in the thread just before a job's code.
            done: called on the event loop with (claim, value, error).
            steps: runs what durable tasks yield.
            coroutines: runs async generators.
            app: its codec writes what is yielded and reads what is sent.
            link: a connection of its own.
        """
        self.slots = slots
        self.waiting: dict[str, Claim] = {}
        self.running: dict[str, Claim] = {}
        self.mail = Mail(app.broker, link, app.codec)
        self._runs: dict[str, Run] = {}
        self._done = done
        self._coroutines = coroutines
        self._codec = app.codec
        self._steps = steps
        self._loading: dict[Run, asyncio.Task[None]] = {}
        self._yields = Yields(app.broker, link, steps.wake)
        self._turns = Turns(begin, self._yields, self._ended, steps.wake)
        self._ahead_bytes = _AHEAD_BYTES // max(slots, 1)
        self._held: tuple[Run, int, float] | None = None

    @property
    def busy(self) -> int:
        """Jobs in hand: begun and waiting."""
        return len(self.waiting) + len(self.running)

    @property
    def stuck(self) -> int:
        """Threads that were left to generators which do not stop."""
        return self._turns.stuck

    # -- taking jobs ---------------------------------------------------------------------

    def hand_on(self, claim: Claim) -> None:
        """Make an async generator a job of the async runner. Before it is submitted."""
        if inspect.isasyncgenfunction(claim.fn):
            run = self._new_run(claim)
            claim.fn = AsyncDriver(run, self._yields, self.mail, claim.fn)
            claim.mode = "asyncio"

    def submit(self, claim: Claim) -> None:
        """Run a job now, or when a slot is free."""
        if len(self.running) < self.slots:
            self._start(claim)
        else:
            self.waiting[claim.id] = claim

    def _start(self, claim: Claim) -> None:
        self.running[claim.id] = claim
        run = self._runs[claim.id] = self._new_run(claim)
        if run.journal is not None:
            self._loading[run] = asyncio.get_running_loop().create_task(self._load(run))
            return
        self.mail.add(run)
        self._turns.add(run)

    def _new_run(self, claim: Claim) -> Run:
        run = Run(claim, self._ahead_bytes, self._dump)
        if is_durable(claim):
            claim.durable = True
            run.journal, run.steps = Journal(claim, self._codec), self._steps
        return run

    async def _load(self, run: Run) -> None:
        """A durable job begins when its records are here."""
        try:
            await self._steps.records.load(run)
        except Exception as err:  # noqa: BLE001 (whatever stands in Redis, the job ends with a reason)
            self._loading.pop(run, None)
            self._conclude(run, None, err)
            return
        self._loading.pop(run, None)
        self._turns.add(run)

    def take_back(self, claim: Claim) -> bool:
        """Withdraw a job whose code has not begun; False when it is too late."""
        if self.waiting.pop(claim.id, None) is not None:
            return True
        run = self._runs.get(claim.id)
        if run is None or run.claim is not claim:
            return False
        loading = self._loading.pop(run, None)
        if loading is not None:
            loading.cancel()
        elif not self._turns.take_back(run):
            return False
        self._forget(run)
        return True

    def _dump(self, run: Run, item: Any) -> bytes:
        claim = run.claim
        return self._codec.dump_value(item, job_id=claim.id, kind="yield", name=claim.name)

    # -- their ends ----------------------------------------------------------------------

    def _ended(self, run: Run, value: Any, error: BaseException | None) -> None:
        """Its code has ended: when the rest of its stream is written, so has the job."""
        if run.is_over:
            return
        run.is_over = True
        self.mail.remove(run)
        if run.journal is not None:
            self._steps.abort(run, strike=not _is_canceled(error))
            if error is None:
                error = run.journal.check_end()
        is_cut = isinstance(error, Interrupted) and str(error) not in ("cancel", "asleep")
        if is_cut or run.lost:
            self._conclude(run, value, error)
        else:
            again = run.may_run_again(error)
            self._yields.end(run, again, lambda: self._conclude(run, value, error))

    def _conclude(self, run: Run, value: Any, error: BaseException | None) -> None:
        claim = run.claim
        if self.running.get(claim.id) is claim:
            self._forget(run)
            self._done(claim, value, error)

    def _forget(self, run: Run) -> None:
        claim = run.claim
        del self.running[claim.id], self._runs[claim.id]
        self.mail.remove(run)
        self._yields.forget(run)
        if self.waiting and len(self.running) < self.slots:
            self._start(self.waiting.pop(next(iter(self.waiting))))

    # -- limits --------------------------------------------------------------------------

    def check_limits(self, now: float) -> None:
        """Close what is over its limit, leave behind what does not stop. Every 25 or 50 ms."""
        for run in list(self._runs.values()):
            if run.timed:
                run.expire(now)
            claim = run.claim
            if run.is_over or not claim.begun_mono:
                continue
            if run.doom is None:
                if claim.deadline and now - claim.begun_mono > claim.deadline:
                    run.condemn(overran(claim, None))
                    self._turns.strike(run)
            elif isinstance(run.doom, TimeLimit):
                late_s = now - run.doomed_mono
                if late_s > STUCK_S:
                    self._leave_behind(run)
                elif late_s > STUCK_S / 2:
                    self._turns.strike(run)  # it does not even close
        self._watch_turn(now)

    def _leave_behind(self, run: Run) -> None:
        run.is_over = True
        text = "and was not given a turn to stop in: another generator holds the thread"
        if self._turns.abandon(run):
            text = "and could not be stopped: its thread was abandoned"
        claim = run.claim
        self._steps.abort(run, strike=True)
        log.error("%s (job %s) is over its time limit of %g s %s (%d threads stuck in this worker)",
                  claim.name, claim.id, claim.deadline, text, self.stuck)  # fmt: skip
        limit = TimeLimit(f"{overran(claim, None)} {text}")
        self.mail.remove(run)
        self._yields.end(run, run.may_run_again(limit), lambda: self._conclude(run, None, limit))

    def _watch_turn(self, now: float) -> None:
        """Name a generator that keeps the others from their turns."""
        run, held = self._turns.current, self._held
        if run is None or len(self._runs) == 1:
            self._held = None
        elif held is None or held[0] is not run or held[1] != run.number:
            self._held = (run, run.number, now)
        elif 0 < held[2] < now - HELD_S:
            self._held = (run, run.number, 0.0)  # said once
            log.warning(
                "%s (job %s) has not yielded for %g s: %d other generators stand still. "
                "Long work belongs into a thread or process task",
                run.claim.name, run.claim.id, HELD_S, len(self._runs) - 1,
            )  # fmt: skip

    def request_cancel(self, claim: Claim) -> None:
        """Close a running job's generator at its `yield`."""
        claim.context.cancel_requested = True
        self._condemn(claim, "cancel")

    def end_now(self, claim: Claim, why: str) -> None:
        """End a running job by a command."""
        claim.why = why
        claim.context.cancel_requested = True
        self._condemn(claim, why)

    def interrupt(self, claim: Claim) -> None:
        """The grace time of a shutdown is over."""
        self._condemn(claim, "shutdown")

    def _condemn(self, claim: Claim, why: str) -> None:
        run = self._runs.get(claim.id)
        if run is None or run.claim is not claim:
            return
        loading = self._loading.pop(run, None)
        if loading is not None:  # its code has not begun
            loading.cancel()
            self._conclude(run, None, Interrupted(why))
        elif not run.is_over:
            run.condemn(Interrupted(why))
        elif why == "shutdown":  # it has ended, and Redis is away: it runs again
            self._conclude(run, None, Interrupted(why))

    def abandon(self) -> list[Claim]:
        """Forget what still runs, and let the thread end."""
        self._turns.stop()
        left = list(self.running.values())
        for run in self._runs.values():
            run.is_over = True
        for loading in self._loading.values():
            loading.cancel()
        self.running.clear()
        self._runs.clear()
        return left


def is_durable(claim: Claim) -> bool:
    """Whether steps are recorded: as its record says, else as the task does."""
    said = claim.fields.get(b"tq_durable")
    return said == b"1" if said is not None else bool(claim.spec and claim.spec.opts.durable)


def _is_canceled(error: BaseException | None) -> bool:
    return isinstance(error, Interrupted) and str(error) == "cancel"
