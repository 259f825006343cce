"""Runs the code of one job in this process, as a worker would: its runners, its time limits.

- `def` tasks run in the calling thread, so that what is bound to a thread (a database
  transaction of the test, a debugger) is theirs, too; tasks of mode "process" as well.
- On an event loop they run in a worker's threads, and all others on that loop.
- Without a loop, the others get one of ours, which stays until the bench is closed.

Each job has a context of its own, empty but for `current_job()`, as on a worker: what the
caller has in its context variables is not there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from taskq import context
from taskq.testing.limit import call_limited
from taskq.worker.life import Life
from taskq.worker.outcome import overran
from taskq.worker.pace import Pace
from taskq.worker.runners import Runners
from taskq.worker.settings import WorkerSettings
from taskq.worker.suspects import Suspects

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim
    from taskq.worker.rq_door import Door
    from taskq.worker.settle import Settler

HERE = frozenset({"thread", "process"})
"""Modes whose tasks are called; the others are driven by an event loop."""
_SLOTS = 10_000
_TICK_S = 0.025
_CLEAN_UP_S = 1.0

_depth: ContextVar[int] = ContextVar("taskq_testing_depth", default=0)


def depth() -> int:
    """How many jobs the calling code is inside of: 0 in the test itself."""
    return _depth.get()


class Bench:
    """The place where jobs run."""

    def __init__(
        self, app: TaskQ, broker: Broker, worker: str, settler: Settler, door: Door
    ) -> None:
        """Nothing runs yet.

        Args:
            app: whose jobs these are.
            broker: in memory; carries what generators yield.
            worker: name in their records.
            settler: gets their ends.
            door: gets those that only RQ's own code can settle.
        """
        pace = Pace()
        suspects = Suspects(_nobody)
        self.life = Life(app, worker, settler, door, suspects, pace, None)
        self._make_runners = lambda done: Runners(
            WorkerSettings(threads=_SLOTS, concurrency=_SLOTS),
            settler, _begin(self.life), done, _waker(), pace, app, broker.new_alink(),
        )  # fmt: skip
        self._lock = threading.Lock()
        self._free: list[asyncio.AbstractEventLoop] = []
        self._sides: dict[asyncio.AbstractEventLoop, LoopSide] = {}

    # -- blocking ------------------------------------------------------------------------

    def run(self, claim: Claim) -> None:
        """Run a job to its end. Not in a running event loop.

        Raises:
            BaseException: what the job raised if that is meant for the test as well, like
                KeyboardInterrupt and `pytest.fail()`; the job has failed with it.
        """
        error: BaseException | None
        if claim.mode in HERE:
            error = Context().run(self._call, claim, depth() + 1)
        else:
            with self._a_loop() as loop:
                error = loop.run_until_complete(self.arun(claim))
        if error is not None:
            raise error

    def _call(self, claim: Claim, level: int) -> BaseException | None:
        value: Any = None
        error: BaseException | None = None
        _depth.set(level)
        try:
            self.life.begin(claim)
            context.enter(claim)
            assert claim.fn is not None
            value, error, was_struck = call_limited(
                claim.deadline, claim.fn, claim.args, claim.kwargs
            )
            if was_struck:
                error = overran(claim, error)
        except BaseException as err:  # noqa: BLE001 (as a runner: it ends the job)
            error = err
        context.leave()
        self.life.done(claim, value, error)
        return for_the_test(error)

    @contextmanager
    def _a_loop(self) -> Generator[asyncio.AbstractEventLoop, None, None]:
        """A loop of ours that nobody uses."""
        with self._lock:
            loop = self._free.pop() if self._free else asyncio.new_event_loop()
        try:
            yield loop
        finally:
            with self._lock:
                self._free.append(loop)

    # -- asyncio -------------------------------------------------------------------------

    async def arun(self, claim: Claim) -> BaseException | None:
        """Run a job to its end on the running loop.

        Returns:
            What `run` raises.
        """
        loop = asyncio.get_running_loop()
        side = self._sides.get(loop)
        if side is None:
            for closed in [one for one in self._sides if one.is_closed()]:
                del self._sides[closed]
            side = self._sides[loop] = LoopSide(self.life, self._make_runners)
        return await side.run(claim, depth() + 1)

    def post(self) -> None:
        """Something was sent to a generator: those that run look for it."""
        for loop, side in list(self._sides.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(side.mail.heard, "")

    # -- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """Close our own loops; what jobs have left on them is cancelled. Threads end."""
        with self._lock:
            free, self._free = self._free, []
        if free:  # in a thread: another loop may run in this one
            closing = threading.Thread(target=_close_all, args=(free,))
            closing.start()
            closing.join()
        for side in self._sides.values():
            side.close()
        self._sides.clear()


class LoopSide:
    """One event loop with a worker's runners on it."""

    def __init__(self, life: Life, make_runners: Callable[[Any], Runners]) -> None:
        """Nothing runs yet."""
        self._life = life
        self._runners = make_runners(self._done)
        self._runners.steps.in_threads = True
        self.mail = self._runners.generators.mail
        self._ends: dict[str, asyncio.Future[BaseException | None]] = {}
        self._ticking: asyncio.Task[None] | None = None

    async def run(self, claim: Claim, level: int) -> BaseException | None:
        """Run a job to its end; if this is cancelled, the job is, and goes back to its queue."""
        loop = asyncio.get_running_loop()
        end: asyncio.Future[BaseException | None] = loop.create_future()
        self._ends[claim.exec_id + claim.id] = end
        if self._ticking is None:
            self._ticking = loop.create_task(self._tick())
        if claim.mode == "generator":
            self._runners.generators.hand_on(claim)
        runner = self._runners.by_mode["thread" if claim.mode in HERE else claim.mode]
        _levels[claim.exec_id + claim.id] = level
        Context().run(runner.submit, claim)
        try:
            return await asyncio.shield(end)
        except asyncio.CancelledError:
            runner.interrupt(claim)
            await asyncio.wait([end], timeout=_CLEAN_UP_S)
            raise

    def _done(self, claim: Claim, value: Any, error: BaseException | None) -> None:
        self._life.done(claim, value, error)
        end = self._ends.pop(claim.exec_id + claim.id, None)
        _levels.pop(claim.exec_id + claim.id, None)
        if end is not None and not end.done():
            end.set_result(for_the_test(error))
        if not self._ends and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    async def _tick(self) -> None:
        """Hold jobs to their time limits while there are any."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._runners.check(time.monotonic())

    def close(self) -> None:
        """Let the threads end."""
        self._runners.abandon()


_levels: dict[str, int] = {}
"""How deep the jobs are that runners have in hand: known when their code begins."""


def _begin(life: Life) -> Callable[[Claim], None]:
    """What runners call just before a job's code, in its thread or asyncio task."""

    def begin(claim: Claim) -> None:
        _depth.set(_levels.get(claim.exec_id + claim.id, 1))
        life.begin(claim)

    return begin


def _waker() -> Callable[[Callable[[], None]], None]:
    loop = asyncio.get_running_loop()

    def wake(fn: Callable[[], None]) -> None:
        try:
            loop.call_soon_threadsafe(fn)
        except RuntimeError:
            pass  # the loop is closed: a thread that was abandoned has come back too late

    return wake


def _nobody(claim: Claim) -> Any:
    raise AssertionError(f"{claim.id} was reserved here and cannot have crashed")


def for_the_test(error: BaseException | None) -> BaseException | None:
    """An error that is no job's own business: Ctrl-C, `pytest.fail()`, a test's time limit."""
    if error is None or isinstance(
        error, (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)
    ):
        return None
    return error


def _close_all(loops: list[asyncio.AbstractEventLoop]) -> None:
    for loop in loops:
        loop.run_until_complete(_tidy())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _tidy() -> None:
    """Cancel what is left on a loop."""
    me = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() if task is not me]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
