"""Runs a task's function with its dependencies: made before, closed after, in reverse.

A worker calls this instead of the function itself, and so does a plain call; tasks
without dependencies never come here. What closes sees the job's exception, as in a
`with` statement, but cannot make a failed job a finished one.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

from taskq.depends import Need, Replaced, needs_of
from taskq.errors import InvalidArguments
from taskq.held import finish
from taskq.opened import InThread, OnLoop, Opened, Place
from taskq.resources import Home

Rebuild = Callable[[Sequence[Any], Mapping[str, Any]], tuple[Any, Any]]


class Injection:
    """A task's function and what it depends on.

    Attributes:
        names: parameters that are dependencies.
        runnable: takes the function's place; of the same kind, and called like it.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        needs: Mapping[str, Need],
        home: Callable[[], Home | None],
        *,
        awaited: bool,
    ) -> None:
        """Prepare; nothing is made before a call.

        Args:
            fn: the function.
            name: what messages call it.
            needs: what its parameters ask for.
            home: gives the app, or None where none is known.
            awaited: whether it runs on an event loop.
        """
        self.names = frozenset(needs)
        self._fn = fn
        self._name = name
        self._needs = needs
        self._home = home
        self._replaced: tuple[Replaced, Mapping[str, Need]] = ({}, needs)
        self.runnable: Callable[..., Any] = self._run
        if inspect.isasyncgenfunction(fn):
            self.runnable = self._stream_async
        elif inspect.isgeneratorfunction(fn):
            self.runnable = self._stream
        elif awaited:
            self.runnable = self._run_async

    def guarded(self, rebuild: Rebuild | None) -> Rebuild:
        """Return `rebuild`, with a look at what a payload must not contain."""

        def guard(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
            for name in self.names.intersection(kwargs):
                raise InvalidArguments(
                    f"{self._name}() got {name!r} from the job's payload, and that is a dependency "
                    "which the worker makes. Whoever enqueues leaves it out."
                )
            return (args, kwargs) if rebuild is None else rebuild(args, kwargs)

        return guard

    # -- a call, in each kind of function ------------------------------------------------

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        opened, needs = self._begin(in_thread=True)
        value = error = None
        try:
            values = finish(opened.values(needs, kwargs))
            value = self._fn(*args, **kwargs, **values)
        except BaseException as err:  # noqa: BLE001 (also a time limit closes what is open)
            error = err
        error = finish(opened.close(error))
        try:
            if error is not None:
                raise error
            return value
        finally:
            del value, error  # a traceback refers to this frame: what the job held would stay

    async def _run_async(self, *args: Any, **kwargs: Any) -> Any:
        opened, needs = self._begin()
        value = error = None
        try:
            values = await opened.values(needs, kwargs)
            value = self._fn(*args, **kwargs, **values)
            if inspect.isawaitable(value):
                value = await value
        except BaseException as err:  # noqa: BLE001 (also a cancellation closes what is open)
            error = err
        error = await opened.close(error)
        try:
            if error is not None:
                raise error
            return value
        finally:
            del value, error  # as above

    def _stream(self, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        opened, needs = self._begin(in_thread=True)
        value = error = None
        try:
            values = finish(opened.values(needs, kwargs))
            value = yield from self._fn(*args, **kwargs, **values)
        except BaseException as err:  # noqa: BLE001 (also a closed generator closes what is open)
            error = err
        error = finish(opened.close(error))
        try:
            if error is not None:
                raise error
            return value
        finally:
            del value, error  # as above

    async def _stream_async(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        opened, needs = self._begin()
        error = None
        try:
            values = await opened.values(needs, kwargs)
            inner = self._fn(*args, **kwargs, **values)
            item = await inner.asend(None)
            while True:  # what `yield from` does
                try:
                    sent = yield item
                except GeneratorExit:
                    await inner.aclose()
                    raise
                except BaseException as err:  # noqa: BLE001 (whatever is thrown in is passed on)
                    item = await inner.athrow(err)
                else:
                    item = await inner.asend(sent)
        except StopAsyncIteration:
            pass
        except BaseException as err:  # noqa: BLE001 (as above)
            error = err
        error = await opened.close(error)
        try:
            if error is not None:
                raise error
        finally:
            del error  # as above

    def _begin(self, *, in_thread: bool = False) -> tuple[Opened, Mapping[str, Need]]:
        """What a call opens, and what it needs now: tests may have replaced something."""
        home = self._home()
        resources = None if home is None else home.resources
        if resources is not None and not resources.is_here:
            resources = None
        place: Place = InThread(self._name, resources) if in_thread else OnLoop(resources)
        needs = self._needs
        if home is not None and home.overrides:
            if self._replaced[0] is not home.overrides:
                fakes = home.overrides
                self._replaced = (fakes, needs_of(self._fn, self._name, fakes))
            needs = self._replaced[1]
        return Opened(self._name, place), needs
