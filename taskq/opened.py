"""What is open for one execution: made in the order in which it is needed, closed in reverse.

Written once, for threads and for the event loop: a `Place` says how to open, to wait and to
ask for process-scoped values. In a thread nothing here ever suspends, see `held.finish`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Collection, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from taskq.depends import Need
from taskq.errors import TaskQError
from taskq.held import Awaited, Held, Kept, Manager, Plain, manager_of
from taskq.resources import Resources

log = logging.getLogger("taskq.job")


class Place(Protocol):
    """Where an execution runs.

    Attributes:
        resources: of the worker process; None outside of one.
    """

    resources: Resources | None

    def held(self, manager: Manager) -> Held:
        """Return how a manager is opened and closed here."""
        ...

    async def wait_for(self, made: Awaitable[Any]) -> Any:
        """Return what an awaitable gives."""
        ...

    async def obtain(self, need: Need, resources: Resources) -> Any:
        """Return a process-scoped value."""
        ...


class Opened:
    """The values of one execution."""

    def __init__(self, who: str, place: Place) -> None:
        """Open nothing yet; `who` is what messages call the task."""
        self._who = who
        self._place = place
        self._values: dict[Hashable, Any] = {}
        self._open: list[tuple[Need, Held]] = []

    async def values(self, needs: Mapping[str, Need], given: Collection[str]) -> dict[str, Any]:
        """Make what is needed, by name of the parameter, but for what was `given`."""
        return {name: await self._value(need) for name, need in needs.items() if name not in given}

    async def _value(self, need: Need) -> Any:
        if need.key not in self._values:
            resources = self._place.resources
            if need.scope == "process" and resources is not None and resources.keeps:
                value = await self._place.obtain(need, resources)
            else:
                value = await self._make(need)
            self._values[need.key] = value
        return self._values[need.key]

    async def _make(self, need: Need) -> Any:
        made = need.make(**await self.values(need.needs, ()))
        if inspect.isawaitable(made):
            return await self._place.wait_for(made)
        manager = manager_of(made)
        if manager is None:
            return made
        held = self._place.held(manager)
        # Before it is open: a time limit may strike while it opens.
        self._open.append((need, held))
        return await held.open()

    async def close(self, error: BaseException | None) -> BaseException | None:
        """Close what is open, the last first; each sees the job's error.

        Returns:
            The job's error. One that closing raises takes its place, as in a `with`
            statement, unless the job was stopped: canceled, over its time limit.
        """
        while self._open:
            need, held = self._open.pop()
            raised_at = None if error is None else error.__traceback__
            came = await held.close(error)
            if came is None or came is error:
                if error is not None:  # thrown in and out again it has grown, at the front
                    error.__traceback__ = raised_at
                continue
            if error is not None and not isinstance(error, Exception):
                log.warning("%s: closing %s raised %r", self._who, need.name, came, exc_info=came)
                continue
            error = came
        return error


class OnLoop:
    """On an event loop: the worker's, or that of a plain call."""

    def __init__(self, resources: Resources | None) -> None:
        self.resources = resources

    def held(self, manager: Manager) -> Held:
        """Enter and exit within the asyncio task that runs the job."""
        if isinstance(manager, AbstractAsyncContextManager):
            return Awaited(manager)
        return Plain(manager)

    async def wait_for(self, made: Awaitable[Any]) -> Any:
        """Await it."""
        return await made

    async def obtain(self, need: Need, resources: Resources) -> Any:
        """Ask the resources, which may be at home on another loop."""
        if resources.on_loop:
            return await resources.aobtain(need)
        return await asyncio.to_thread(resources.obtain, need)


class InThread:
    """In a thread: what is asynchronous runs on the worker's event loop meanwhile."""

    def __init__(self, who: str, resources: Resources | None) -> None:
        self._who = who
        self.resources = resources

    def held(self, manager: Manager) -> Held:
        """Enter and exit here, or on the worker's event loop."""
        if isinstance(manager, AbstractAsyncContextManager):
            return _FromThread(Kept(manager), self._worker())
        return Plain(manager)

    async def wait_for(self, made: Awaitable[Any]) -> Any:
        """Block until the worker's event loop has run it."""
        try:
            resources = self._worker()
        except TaskQError:
            if inspect.iscoroutine(made):
                made.close()
            raise
        return resources.run(_result(made))

    async def obtain(self, need: Need, resources: Resources) -> Any:
        """Block until it is there."""
        try:
            return resources.obtain(need)
        except KeyError:
            raise self._no_loop() from None

    def _worker(self) -> Resources:
        if self.resources is None or self.resources.on_loop:
            raise self._no_loop()
        return self.resources

    def _no_loop(self) -> TaskQError:
        if self.resources is None:
            return TaskQError(
                f"{self._who}() is a plain def with an asynchronous dependency. A worker runs that "
                "on its event loop; a plain call has none. Pass the dependency by name in this "
                f"call, or make {self._who} an async def."
            )
        return TaskQError(
            f"{self._who}() is a plain def with dependencies that the worker's event loop has to "
            "make, and was called on that loop, which cannot wait for itself. Call it with "
            f"await asyncio.to_thread({self._who}, ...), or make it an async def."
        )


class _FromThread:
    """An async context manager of the worker's event loop, used by a thread."""

    def __init__(self, kept: Kept, resources: Resources) -> None:
        self._kept = kept
        self._resources = resources

    async def open(self) -> Any:
        return self._resources.run(self._kept.open())

    async def close(self, error: BaseException | None) -> BaseException | None:
        try:
            return self._resources.run(self._kept.close(error))
        except BaseException as err:  # noqa: BLE001 (a time limit strikes while it closes)
            return err


async def _result(made: Awaitable[Any]) -> Any:
    return await made
