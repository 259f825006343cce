"""The part of an app that provides: its lifespan, and what stands in for dependencies."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from taskq.depends import Replaced, check_replacement, shown
from taskq.errors import ConfigError, TaskQError
from taskq.resources import Resources

Lifespan = TypeVar(
    "Lifespan", bound=Callable[[], AsyncIterator[Any] | AbstractAsyncContextManager[Any]]
)


class Provider:
    """Base of `TaskQ`.

    Attributes:
        resources: what is open in this process, if it is a worker's.
        overrides: dependencies and what stands in for them now.
        lifespan_function: what `@queue.lifespan` decorated, or None.
    """

    resources: Resources | None = None
    overrides: Replaced = {}  # noqa: RUF012 (replaced as a whole, never changed)
    lifespan_function: Callable[[], Any] | None = None

    def lifespan(self, fn: Lifespan) -> Lifespan:
        """Run `fn` once for each worker process, around all its jobs: `@queue.lifespan`.

        What stands before its `yield` runs before the first job is taken, what follows
        after the last one has ended. What it yields is `queue.state` meanwhile.

        Args:
            fn: an async generator function without arguments that yields once, or a
                function that returns an async context manager.

        Raises:
            ConfigError: it is something else, or the app has another lifespan.
        """
        inner = inspect.unwrap(fn) if callable(fn) else fn
        if (
            not callable(fn)
            or inspect.iscoroutinefunction(inner)
            or inspect.isgeneratorfunction(inner)
            or _required(fn)
        ):
            raise ConfigError(
                f"@queue.lifespan takes an async def without arguments that yields once, and "
                f"{shown(fn)} is none."
            )
        before = self.lifespan_function
        if before is not None and _place(before) != _place(fn):  # the same place: a reload
            raise ConfigError(
                f"The app has a lifespan already, {shown(before)}; {shown(fn)} would be its "
                "second. Enter both in one, with contextlib.AsyncExitStack."
            )
        self.lifespan_function = fn
        return fn

    @property
    def state(self) -> Any:
        """What the lifespan yielded, in a worker process.

        Raises:
            TaskQError: this is none, or the lifespan has not come to its `yield`.
        """
        if self.resources is None or not self.resources.started:
            raise TaskQError(
                "queue.state is what @queue.lifespan yields in a worker process, and none runs "
                "here. In tests, put a function that returns it behind Depends and replace that."
            )
        return self.resources.state

    @contextmanager
    def override_dependencies(
        self, fakes: Mapping[Callable[..., Any], Callable[..., Any]]
    ) -> Iterator[None]:
        """Let functions stand in for dependencies: `{get_client: fake}`, for tests.

        Each is called like the one it replaces: it may yield, be asynchronous, and have
        dependencies. Nested ones add to the outer ones.

        Raises:
            ConfigError: a key or value is no function, or the value needs arguments.
        """
        for real, fake in fakes.items():
            check_replacement(real, fake)
        before = self.overrides
        self.overrides = {**before, **fakes}
        try:
            yield
        finally:
            self.overrides = before


def _place(fn: Callable[..., Any]) -> tuple[str, str]:
    return getattr(fn, "__module__", ""), getattr(fn, "__qualname__", repr(fn))


def _required(fn: Callable[..., Any]) -> bool:
    """Whether it cannot be called without arguments."""
    try:
        inspect.signature(fn).bind()
    except TypeError:
        return True
    except ValueError:  # some functions written in C
        return False
    return False
