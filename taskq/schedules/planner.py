"""`queue.schedule(...)` and `@queue.cron(...)`: the part of the app that plans."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from taskq.calls import Call
from taskq.errors import ConfigError, InvalidArguments
from taskq.provider import Provider
from taskq.schedules import declared
from taskq.schedules.store import Schedule, Schedules
from taskq.tasks import Task
from taskq.timing import Cron, When

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from typing_extensions import Unpack

    from taskq.schedules.terms import ScheduleOptions

P = ParamSpec("P")
R = TypeVar("R")


class Planner(Provider):
    """What a `TaskQ` knows of schedules."""

    @functools.cached_property
    def schedules(self) -> Schedules:
        """The schedules of this app: `queue.schedules["report"].pause()`."""
        return Schedules(self)

    def schedule(
        self, name: str, call: Call[Any], when: When, /, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """Have a call enqueued again and again: `queue.schedule("tick", tick.call(), Every(30))`.

        While a module is imported this defines: nothing is sent, and whoever runs the
        scheduler of this app (`taskq scheduler`, `taskq worker --with-scheduler`) brings it
        to Redis. Called later, in a program's functions, in a script or in an interactive
        session, it is `queue.schedules.set(...)`: written at once.

        Args:
            name: of the schedule, one of a kind.
            call: what to enqueue: `report.call(30)`, with options of its own by
                `report.options(queue="low").call(30)`.
            when: `Cron("0 7 * * mon-fri", tz="Europe/Berlin")` or `Every(seconds=30)`.
            **options: `missed`, `window`, `overlap`, `jitter`, `start`, `end`, `max_runs`.

        Raises:
            ConfigError: a wrong value.
            BrokerUnavailable: written at once, and no answer from Redis within 5 s.
        """
        _check_call(name, call)
        frame = sys._getframe(1)  # noqa: SLF001 (who calls)
        if declared.is_definition(frame, call):
            return self.schedules.declare(name, call, when, options, declared.place_of(frame))
        return self.schedules.set(name, call, when, **options)

    async def aschedule(
        self, name: str, call: Call[Any], when: When, /, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """`schedule` in asyncio programs: written at once, without blocking the loop."""
        _check_call(name, call)
        return await self.schedules.aset(name, call, when, **options)

    def cron(
        self,
        expression: str,
        /,
        *,
        tz: str | ZoneInfo = "UTC",
        name: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Callable[[Task[P, R]], Task[P, R]]:
        """Schedule a task that needs no arguments: `@queue.cron("0 7 * * *")` above `@queue.task`.

        Args:
            expression: five fields, or a name like `@daily`.
            tz: name of a time zone.
            name: of the schedule; by default the task's.
            **options: as for `schedule`.

        Raises:
            ConfigError: a wrong value.
            TypeError: it does not stand above `@queue.task`.
        """
        when = Cron(expression, tz=tz)
        place = declared.place_of(sys._getframe(1))  # noqa: SLF001 (who decorates)

        def decorate(task: Task[P, R]) -> Task[P, R]:
            if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"@queue.cron got {getattr(task, '__qualname__', task)!r}, which is no task: "
                    "write @queue.cron(...) above @queue.task."
                )
            call = _call_without_arguments(task)
            self.schedules.declare(name or task.name, call, when, options, place)
            return task

        return decorate


def _check_call(name: str, call: object) -> None:
    if not isinstance(call, Call):
        raise ConfigError(
            f"schedule({name!r}): {call!r} is no call that is not sent yet; write report.call(30), "
            "not report(30) or report.delay(30)."
        )


def _call_without_arguments(task: Task[Any, Any]) -> Call[Any]:
    anyhow: Any = task
    try:
        made: Call[Any] = anyhow.call()
    except InvalidArguments as error:
        raise ConfigError(
            f"@queue.cron of {task.qualname}(): it is called without arguments, and {error} "
            f"With arguments: queue.schedule(name, {task.qualname}.call(...), Cron(...))."
        ) from None
    return made
