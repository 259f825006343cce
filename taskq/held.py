"""Values that are opened and closed: generators and what `contextlib` makes of them.

All have the same two methods, `open` and `close`, as coroutines. Those for the use in
threads never wait in them: `finish` runs such a coroutine without an event loop, so that
what opens and closes several in order is written once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from types import AsyncGeneratorType, GeneratorType, TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Manager = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]

_LAST_S = 1.0
"""What is cut off while it closes has so long to clean up."""


class Held(Protocol):
    """One value that has to be closed."""

    async def open(self) -> Any:
        """Return the value."""
        ...

    async def close(self, error: BaseException | None) -> BaseException | None:
        """Close it, with what the job raised; returns what came out of that, if anything did."""
        ...


def manager_of(made: Any) -> Manager | None:
    """Return how to open and close what a dependency returned; None for a plain value.

    Of context managers only those that `contextlib` makes of a generator are entered: any
    other, like a client or a lock, may be meant as it is.
    """
    if isinstance(made, GeneratorType):
        return contextmanager(lambda: made)()
    if isinstance(made, AsyncGeneratorType):
        return asynccontextmanager(lambda: made)()
    inner = getattr(made, "gen", None)
    if isinstance(made, AbstractContextManager) and isinstance(inner, GeneratorType):
        return made
    if isinstance(made, AbstractAsyncContextManager) and isinstance(inner, AsyncGeneratorType):
        return made
    return None


class Plain:
    """A context manager, where it was made: in a thread, or on the event loop."""

    def __init__(self, manager: AbstractContextManager[Any]) -> None:
        self._manager = manager

    async def open(self) -> Any:
        """Enter; never waits."""
        return self._manager.__enter__()

    async def close(self, error: BaseException | None) -> BaseException | None:
        """Exit; never waits."""
        try:
            self._manager.__exit__(*_parts(error))
        except BaseException as err:  # noqa: BLE001 (told to the caller, who closes the others)
            return err
        return None


class Awaited:
    """An async context manager, within the asyncio task that uses it."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager

    async def open(self) -> Any:
        """Enter."""
        return await self._manager.__aenter__()

    async def close(self, error: BaseException | None) -> BaseException | None:
        """Exit."""
        try:
            await self._manager.__aexit__(*_parts(error))
        except BaseException as err:  # noqa: BLE001 (told to the caller, who closes the others)
            return err
        return None


class Kept:
    """An async context manager that one asyncio task of its own enters, and exits later.

    Cancel scopes (anyio's, `asyncio.timeout`) have to be left by the task that entered
    them; who asks for the value and who closes it are different ones here. Whatever the
    manager raises, also SystemExit, stays out of the event loop.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._task: asyncio.Task[BaseException | None] | None = None
        self._opened: asyncio.Future[tuple[Any, BaseException | None]]
        self._over: asyncio.Future[BaseException | None]

    async def open(self) -> Any:
        """Enter, on the event loop; cancelled, it cancels that."""
        loop = asyncio.get_running_loop()
        self._opened, self._over = loop.create_future(), loop.create_future()
        self._task = loop.create_task(self._live())
        try:
            value, error = await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if error is not None:
            raise error
        return value

    async def close(self, error: BaseException | None) -> BaseException | None:
        """Exit, on the event loop; cancelled, it cancels that and waits a moment."""
        task = self._task
        if task is None:
            return None
        if not self._over.done():
            self._over.set_result(error)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task], timeout=_LAST_S)
            raise
        return None if task.cancelled() else task.result()

    async def _live(self) -> BaseException | None:
        try:
            value = await self._manager.__aenter__()
        except BaseException as err:  # noqa: BLE001 (told to `open`)
            self._opened.set_result((None, err))
            return None
        self._opened.set_result((value, None))
        try:
            error = await self._over
        except asyncio.CancelledError as err:  # nobody waits for the value any more
            error = err
        return await Awaited(self._manager).close(error)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise AssertionError("it waits")


def _parts(
    error: BaseException | None,
) -> tuple[type[BaseException] | None, BaseException | None, TracebackType | None]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)
