"""The runners of a process as one: all jobs that it has in hand, begun or waiting."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from taskq.worker import items
from taskq.worker.async_runner import AsyncRunner
from taskq.worker.generator_runner import GeneratorRunner
from taskq.worker.outcome import Interrupted, cut_short_item
from taskq.worker.process_runner import ProcessRunner
from taskq.worker.settings import LOOKAHEAD_S
from taskq.worker.steps import Steps
from taskq.worker.thread_runner import ThreadRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.broker.alink import AsyncLink
    from taskq.worker.claim import Claim
    from taskq.worker.pace import Pace
    from taskq.worker.runner import Runner
    from taskq.worker.settings import WorkerSettings
    from taskq.worker.settle import Settler

log = logging.getLogger("taskq.worker")

UNBEGUN_S = 0.15
"""A job that waited this long in a worker without a free slot goes back to its queue."""
HELD_UP_S = 0.04
"""No job has begun for so long while others wait: long ones have all slots."""


class Runners:
    """Threads, the event loop for `async def` tasks, turns for generators, job processes.

    Attributes:
        threads: runs `def` tasks.
        coroutines: runs `async def` tasks, async generators too.
        generators: runs generator tasks.
        processes: runs `process` tasks.
        callbacks: calls RQ's callbacks of coroutines.
        steps: runs the steps of durable tasks, in slots of their own.
        by_mode: all of them that run tasks.
        came: when the last job of each mode was reserved (monotonic).
    """

    def __init__(  # noqa: PLR0913 (assembled once, by name)
        self,
        settings: WorkerSettings,
        settler: Settler,
        begin: Callable[[Claim], None],
        done: Callable[[Claim, Any, BaseException | None], None],
        wake: Callable[[Callable[[], None]], None],
        pace: Pace,
        app: TaskQ,
        link: AsyncLink,
        follow: Callable[[Claim, Any, BaseException | None], Callable[[], None] | None]
        | None = None,
    ) -> None:
        """Run nothing yet.

        Args:
            settings: how many jobs of each kind run at the same time.
            settler: gets what is given back or cut short.
            begin: called just before a job's code; in its thread, or on the loop.
            done: called on the event loop with (claim, value, error).
            wake: runs a function on the event loop, from any thread.
            pace: knows how long jobs take.
            app: its broker and codec carry what generators yield.
            link: a connection of its own for that.
            follow: says what is to be called in its thread after a special job has ended.
        """
        self.threads = ThreadRunner(settings.threads, begin, done, wake, follow)
        self.callbacks = ThreadRunner(settings.threads, begin, done, wake, follow)
        self.coroutines = AsyncRunner(settings.concurrency, begin, done)
        self.steps = Steps(settings, app, link, wake)
        self.generators = GeneratorRunner(
            settings.concurrency, begin, done, self.steps, self.coroutines, app, link
        )
        self.processes = ProcessRunner(settings, begin, done)
        self.by_mode: dict[str, Runner] = {
            "thread": self.threads,
            "asyncio": self.coroutines,
            "generator": self.generators,
            "process": self.processes,
        }
        self.came: dict[str, float] = {}
        self._all: tuple[Runner, ...] = (*self.by_mode.values(), self.callbacks)
        self._settler = settler
        self._done = done
        self._pace = pace

    def of(self, claim: Claim) -> Runner:
        """The runner for a job."""
        return self.callbacks if claim.ended is not None else self.by_mode[claim.mode]

    @property
    def busy(self) -> int:
        """Jobs in hand: begun and waiting."""
        return sum(runner.busy for runner in self._all)

    @property
    def waiting(self) -> bool:
        """Whether jobs are here that have not begun."""
        return any(runner.waiting for runner in self._all)

    @property
    def stuck(self) -> int:
        """Threads and coroutines that were abandoned and have not ended: they hold memory."""
        stuck = (
            self.threads.stuck
            + self.callbacks.stuck
            + self.coroutines.stuck
            + self.generators.stuck
        )
        return stuck + self.steps.slots.stuck

    @property
    def closing(self) -> bool:
        """Whether jobs run that can be made to end: coroutines and generators."""
        return bool(self.coroutines.running or self.generators.running)

    def running(self) -> list[Claim]:
        """Jobs that were handed to a slot and have not ended."""
        return [claim for runner in self._all for claim in list(runner.running.values())]

    def runs(self, claim: Claim) -> bool:
        """Whether this execution was handed to a slot and has not ended."""
        return self.of(claim).running.get(claim.id) is claim

    def in_hand(self) -> list[Claim]:
        """Jobs that are here, begun or not."""
        waiting = [claim for runner in self._all for claim in list(runner.waiting.values())]
        return waiting + self.running()

    def check(self, now: float) -> None:
        """Hold jobs to their limits, return what waits too long. Called every 25 or 50 ms."""
        for runner in self._all:
            runner.check_limits(now)
        self.steps.check_limits(now)
        for runner in self._all:
            if runner.waiting:
                self._spread(runner, now)

    def _spread(self, runner: Runner, now: float) -> None:
        """What the slots will not begin at once goes back, the last first: others may be idle."""
        waiting = list(runner.waiting.values())  # a copy: threads take from it
        if not waiting:
            return
        keep = len(waiting)
        free = max(runner.slots - len(runner.running), 0)  # whose threads only have to wake up
        longest_s = longest_running_s(runner, now)
        if now - waiting[0].reserved_mono > UNBEGUN_S or held_up(runner, self._pace.average_s, now):
            keep = free
        elif longest_s > LOOKAHEAD_S:
            keep = max(free, int(runner.slots * LOOKAHEAD_S / longest_s))
        for claim in reversed(waiting[keep:]):
            self.give_back(claim)

    def give_back(self, claim: Claim) -> None:
        """To the head of its queue, unless it has begun or ended meanwhile."""
        if self.of(claim).take_back(claim):
            self._settler.add(claim, items.GIVEN_BACK)

    def give_back_unbegun(self) -> None:
        """Everything that has not begun, in the order in which it came."""
        unbegun = [claim for claim in self.in_hand() if not claim.begun_mono]
        # each goes to the head of its queue: the last one first
        for claim in sorted(unbegun, key=lambda c: c.reserved_mono)[::-1]:
            self.give_back(claim)

    def interrupt(self) -> None:
        """End what runs, for a shutdown: coroutines end soon, threads only if they look."""
        for claim in self.running():
            self.of(claim).interrupt(claim)

    def abandon(self) -> None:
        """Settle what still runs as it is."""
        for runner in self._all:
            for claim in runner.abandon():
                self._settler.add(claim, cut_short_item(claim))
        self.steps.abandon()

    def end_now(self, claim: Claim, why: str) -> None:
        """End a job by a command, whatever it does ("stop" or "kill")."""
        if self.of(claim).take_back(claim):
            self._done(claim, None, Interrupted(why))
        else:
            self.of(claim).end_now(claim, why)

    def cancel(self, job_id: str) -> bool:
        """Stop a job of this worker: its coroutine is cancelled, a thread is asked.

        Returns:
            Whether it is here.
        """
        for runner in self._all:
            claim = runner.waiting.get(job_id)
            if claim is not None and runner.take_back(claim):
                self._settler.add(claim, items.canceled(claim.unique))
                return True
            claim = runner.running.get(job_id)  # perhaps only since a moment ago
            if claim is not None:
                if not claim.context.cancel_requested:  # asked twice, it may be cleaning up
                    log.info("Job %s is to be canceled", job_id)
                    runner.request_cancel(claim)
                return True
        return False


def longest_running_s(runner: Runner, now: float) -> float:
    """Seconds since the oldest running job of a runner began."""
    try:
        first = next(iter(runner.running.values()), None)  # dicts keep order
    except RuntimeError:  # a thread began or ended a job at this moment
        return 0.0
    return now - first.begun_mono if first is not None and first.begun_mono else 0.0


def held_up(runner: Runner, average_s: float, now: float) -> bool:
    """Whether jobs longer than usual have all slots of a runner, so that no other begins."""
    running = runner.running
    if len(running) < runner.slots or longest_running_s(runner, now) < average_s + HELD_UP_S:
        return False
    try:
        last = next(reversed(running.values()), None)  # dicts keep order
    except RuntimeError:  # a thread began or ended a job at this moment
        return False
    return last is not None and 0 < last.begun_mono < now - HELD_UP_S
