"""`queue.testing(...)`: jobs of an app in this process, while a test says so.

Invariant: the app's own broker is put aside and is back at the end, whatever happens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from taskq.broker.records import Accepted
from taskq.callbacks import CALLBACKS
from taskq.errors import ConfigError, TaskQError
from taskq.future import Handle
from taskq.options import DEFAULTS
from taskq.pending import running_loop
from taskq.resources import standing_alone
from taskq.testing.calls import Calls, EnqueuedCall
from taskq.testing.engine import Engine
from taskq.testing.inline import InlineBroker
from taskq.testing.memory import MemoryRedis
from taskq.testing.planned import Planned
from taskq.testing.still_clock import StillClock, seconds_to_move
from taskq.testing.swap import replaced_broker
from taskq.testing.waits import StepWaits

if TYPE_CHECKING:
    import redis

    from taskq.app import TaskQ
    from taskq.broker.records import NewJob
    from taskq.endings import Ending
    from taskq.tasks import Task

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
Mode = Literal["inline", "manual"]
Duration = float | timedelta

_CALLBACKS_S = 5.0
"""Callbacks of handles run in a thread; a test goes on when they have run, or after that."""


_SAME_S = 1e-5
"""Due times are sums of fractions: two that mean the same may differ by a microsecond."""


class Session:
    """What `with queue.testing(...) as t` gives."""

    __test__ = False  # no class of tests, whatever pytest thinks of names

    def __init__(
        self,
        app: TaskQ,
        mode: Mode = "inline",
        *,
        now: datetime | None = None,
        dependencies: Mapping[Callable[..., Any], Any] | None = None,
    ) -> None:
        """Prepare; the app is as it was until the `with`.

        Args:
            app: whose jobs are to run here.
            mode: "inline": each job runs when it is enqueued; "manual": when the test says.
            now: an aware datetime at which time stands still; by default the present one.
            dependencies: what stands for what, for `Depends`.

        Raises:
            ConfigError: a wrong argument, or fakeredis is not installed.
        """
        if mode not in ("inline", "manual"):
            raise ConfigError(f"testing({mode!r}): must be 'inline' or 'manual'.")
        self._app = app
        self._mode = mode
        self._dependencies = dict(dependencies or {})
        self._clock = StillClock(now)
        self._calls: list[EnqueuedCall[Any]] = []
        self._entering = threading.Lock()
        self._exits: ExitStack | None = None
        memory = MemoryRedis(self._clock)
        self._memory = memory
        self._broker = InlineBroker(memory, self._clock, self._arrived)
        self._engine = Engine(app, self._broker, self._ended)
        self._planned = Planned(app, self._broker, self._fired)
        self._waits = StepWaits(self._broker, self._engine, mode)
        self._broker.use(self._waits, self._told)
        if mode == "inline":
            self._broker.run_by(self._engine)

    def __repr__(self) -> str:
        return f"<testing({self._mode!r}) of {self._app}, {len(self._calls)} calls>"

    # -- the context ---------------------------------------------------------------------

    def __enter__(self) -> Session:
        with self._entering:
            if self._exits is not None:
                raise TaskQError("This testing() is in use, or has been; make another.")
            self._exits = ExitStack()
        with ExitStack() as stack:
            stack.callback(self._engine.close)
            stack.callback(self._waits.end)
            self._app.load()
            stack.enter_context(replaced_broker(self._app, self._broker))
            stack.enter_context(self._app.override_dependencies(self._dependencies))
            stack.enter_context(standing_alone(self._app, for_tests=True))
            self._planned.begin()
            self._exits = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._exits is not None, "entered"
        self._exits.close()

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    # -- looking -------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time here (aware, UTC); it moves only by `advance`."""
        return self._clock.now()

    @property
    def redis(self) -> redis.Redis:
        """The Redis in memory: for RQ's own classes, and to look."""
        return self._memory.client()

    @overload
    def enqueued(self, task: Task[P, Coroutine[Any, Any, R]]) -> Calls[R]: ...
    @overload
    def enqueued(self, task: Task[P, C]) -> Calls[C]: ...
    @overload
    def enqueued(self, task: None = None) -> Calls[Any]: ...
    def enqueued(self, task: Any = None) -> Calls[Any]:
        """The calls that were enqueued so far, of one task or of all, run or not.

        A call that `unique` merged into an earlier one is none.
        """
        if task is None:
            return Calls("", self._calls)
        names = {task.name, *task.aliases}
        return Calls(task.name, [call for call in self._calls if call.task in names])

    @property
    def webhooks(self) -> list[tuple[str, Ending]]:
        """The webhooks of jobs that ended, with their URLs: kept here instead of being sent."""
        return list(self._engine.webhooks)

    # -- going on ------------------------------------------------------------------------

    def run(self, limit: int | None = None) -> int:
        """Run what waits and is due, with what it enqueues; retries that are due at once, too.

        Args:
            limit: executions at most; by default all, up to 10,000.

        Returns:
            How many executions there were.

        Raises:
            TaskQError: in a running event loop (`await t.arun()`), or there is no end of them.
        """
        _refuse_in_loop("t.run()", "await t.arun()")
        before = self._engine.executions
        try:
            self._engine.drain(limit=limit)
            while limit is None and self._planned.release():
                self._engine.drain()
        finally:
            CALLBACKS.drain(_CALLBACKS_S)
        return self._engine.executions - before

    async def arun(self, limit: int | None = None) -> int:
        """`run` for asyncio tests."""
        before = self._engine.executions
        await self._engine.adrain(limit=limit)
        while limit is None and self._planned.release():
            await self._engine.adrain()
        return self._engine.executions - before

    def advance(self, delta: Duration) -> int:
        """Let time pass, and run what becomes due, each at its time, with what it enqueues.

        That is delayed jobs, retries, and the occurrences of schedules.

        What waits already goes on waiting: `run` is for that. Results, and jobs with a
        `ttl`, are forgotten when their time is over.

        Args:
            delta: seconds, or a timedelta.

        Returns:
            How many executions there were.

        Raises:
            TaskQError: in a running event loop (`await t.aadvance(...)`).
        """
        _refuse_in_loop("t.advance()", "await t.aadvance(...)")
        until = self._clock.time() + seconds_to_move(delta)
        before = self._engine.executions
        with self._engine.holding_back():
            while self._to_next_due(until):
                self._engine.drain()
                while self._planned.release():
                    self._engine.drain()
        self._move_to(until)
        CALLBACKS.drain(_CALLBACKS_S)
        return self._engine.executions - before

    async def aadvance(self, delta: Duration) -> int:
        """`advance` for asyncio tests."""
        until = self._clock.time() + seconds_to_move(delta)
        before = self._engine.executions
        with self._engine.holding_back():
            while self._to_next_due(until):
                await self._engine.adrain()
                while self._planned.release():
                    await self._engine.adrain()
        self._move_to(until)
        return self._engine.executions - before

    def _to_next_due(self, until: float) -> bool:
        """Go to when the next job or schedule is due, if that is before `until`."""
        dues = [
            due for due in (self._engine.next_due(), self._planned.next_due()) if due is not None
        ]
        due = min(dues, default=until + 1)
        if due > until + _SAME_S:
            return False
        self._move_to(due)
        self._engine.promote()
        self._planned.fire()
        return True

    def _move_to(self, at: float) -> None:
        self._clock.move_to(at)
        self._waits.tell()

    # -- what happens --------------------------------------------------------------------

    def _arrived(self, jobs: Sequence[NewJob], accepted: Sequence[Accepted]) -> None:
        """Jobs were accepted: keep the calls."""
        app = self._app
        self._engine.know([job.queue for job in jobs])
        for job, (job_id, is_new) in zip(jobs, accepted, strict=True):
            if not is_new:
                continue
            name, _instance, args, kwargs = app.codec.load_call(
                job.data, job_id=job.id, queue=job.queue
            )
            task = app.tasks.get(name)
            if task is not None and task.rebuild_args is not None:
                args, kwargs = task.rebuild_args(args, kwargs)
            options = job.options or DEFAULTS.merge("testing", {"queue": job.queue})
            handle = Handle[Any](app, job_id, task, True)
            self._calls.append(EnqueuedCall(name, tuple(args), dict(kwargs), options, handle))

    def _fired(self, jobs: list[NewJob]) -> None:
        """A schedule has enqueued jobs."""
        self._arrived(jobs, [Accepted(job.id, True) for job in jobs])

    def _ended(self, job_ids: list[str]) -> None:
        self._waits.tell(job_ids)

    def _told(self, name: str, args: Sequence[Any]) -> None:
        """A script has run for the program under test."""
        self._waits.told(name, args)
        if name == "cancel":
            CALLBACKS.drain(_CALLBACKS_S)


def _refuse_in_loop(what: str, instead: str) -> None:
    if running_loop() is not None:
        raise TaskQError(f"{what} would block the running event loop. Use: {instead}.")
