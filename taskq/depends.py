"""`Depends`: what a task asks for, and what has to be made for it, in which order.

A dependency is a function without arguments of its own: what it returns, or yields, is
made by the worker and handed to the task. Worked out when the task is decorated, so a
task without dependencies costs nothing; what is asked for wrongly is refused then.
"""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from inspect import Parameter
from typing import IO, Any, Literal, Protocol, TypeVar, overload

from taskq.errors import ConfigError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=IO[Any])

Scope = Literal["job", "process"]
"""How long a value lives: as long as one execution of the job, or as the worker process."""
_SCOPES = ("job", "process")

Maker = Callable[..., Any]
Replaced = Mapping[Maker, Maker]
"""Dependencies and what stands in for them, in tests."""


class Dependency:
    """What `Depends(f)` is at run time: a default that says how the value is made.

    Attributes:
        make: the function.
        scope: how long the value lives.
    """

    __slots__ = ("make", "scope")

    def __init__(self, make: Maker, scope: Scope) -> None:
        self.make = make
        self.scope: Scope = scope

    def __repr__(self) -> str:
        """As in the source; signatures show it."""
        scope = "" if self.scope == "job" else f", scope={self.scope!r}"
        return f"Depends({shown(self.make)}{scope})"


class _Managed(Protocol[T_co]):
    """What a function made by `contextlib.contextmanager` returns."""

    @property
    def gen(self) -> Generator[Any, Any, Any]: ...
    def __enter__(self) -> T_co: ...


class _AsyncManaged(Protocol[T_co]):
    """What a function made by `contextlib.asynccontextmanager` returns."""

    @property
    def gen(self) -> AsyncGenerator[Any, Any]: ...
    async def __aenter__(self) -> T_co: ...


@overload
def Depends(f: Callable[..., _Managed[T]], /, *, scope: Scope = "job") -> T: ...
@overload
def Depends(f: Callable[..., _AsyncManaged[T]], /, *, scope: Scope = "job") -> T: ...
@overload
def Depends(f: Callable[..., AsyncIterator[T]], /, *, scope: Scope = "job") -> T: ...
@overload
def Depends(f: Callable[..., Awaitable[T]], /, *, scope: Scope = "job") -> T: ...
@overload
def Depends(f: Callable[..., F], /, *, scope: Scope = "job") -> F: ...  # files iterate, too
@overload
def Depends(f: Callable[..., Iterator[T]], /, *, scope: Scope = "job") -> T: ...
@overload
def Depends(f: Callable[..., T], /, *, scope: Scope = "job") -> T: ...
def Depends(f: Callable[..., Any], /, *, scope: Scope = "job") -> Any:  # noqa: N802 (reads as a declaration)
    """Let the worker make an argument: the default of a keyword-only parameter.

    Args:
        f: called without arguments; it returns the value or yields it once, also
            asynchronously. What follows its `yield` runs after the job. Its own
            parameters may have `Depends` as default.
        scope: "job": made for each execution, once however many ask for it. "process":
            made at first use in a worker process, closed when that ends.

    Raises:
        ConfigError: `f` is not a function, or there is no such scope.
    """
    if isinstance(f, Dependency) or not callable(f):
        raise ConfigError(
            f"Depends() takes a function, and got {_described(f)}. Write Depends(get_client): "
            "the function itself, not what it returns."
        )
    if scope not in _SCOPES:
        raise ConfigError(
            f"Depends({shown(f)}): scope={scope!r}: must be 'job' (made for each execution) or "
            "'process' (made once for each worker process)."
        )
    return Dependency(f, scope)


@dataclass(frozen=True, eq=False)
class Need:
    """One value that has to be made.

    Attributes:
        make: the function that makes it.
        scope: how long the value lives.
        key: the same for needs that one value serves.
        needs: what `make` itself asks for, by the name of its parameter.
    """

    make: Maker
    scope: Scope
    key: Hashable
    needs: Mapping[str, Need]

    @property
    def name(self) -> str:
        """What messages call it."""
        return shown(self.make)


def needs_of(fn: Maker, who: str, replaced: Replaced | None = None) -> dict[str, Need]:
    """Return what the parameters of a task ask for, by name; empty for most tasks.

    Args:
        fn: the task's function.
        who: what messages call it.
        replaced: functions that stand in for others.

    Raises:
        ConfigError: a dependency is asked for by position, needs arguments, lives longer
            than what it is made from, or needs itself.
        ValueError: `fn` has no signature (some functions written in C).
    """
    asked: dict[str, Dependency] = {}
    for parameter in inspect.signature(fn).parameters.values():
        if isinstance(parameter.default, Dependency):
            if parameter.kind is not Parameter.KEYWORD_ONLY:
                raise ConfigError(
                    f"{who}(): {parameter.name!r} has {parameter.default!r} as its default and "
                    "could be passed by position. Only keyword-only parameters can be "
                    f"dependencies: put a * before it, def {who}(..., *, {parameter.name}=...)."
                )
            asked[parameter.name] = parameter.default
    graph = _Graph(who, replaced or {})
    return {name: graph.need(one, ()) for name, one in asked.items()}


def check_replacement(real: object, fake: object) -> None:
    """Let a pair pass that `override_dependencies` can use.

    Raises:
        ConfigError: one of them is no function, or `fake` cannot be called without arguments.
    """
    if isinstance(real, Dependency) or not callable(real):
        raise ConfigError(
            f"Dependencies are replaced by function, {{get_client: fake}}, and {_described(real)} "
            "is none."
        )
    if isinstance(fake, Dependency) or not callable(fake):
        raise ConfigError(
            f"{shown(real)} is replaced by a function that is called in its place, and "
            f"{_described(fake)} is none: {{{shown(real)}: lambda: value}}."
        )
    _Graph("override_dependencies", {}).need(Dependency(fake, "job"), ())


class _Graph:
    """Makes one `Need` of each function and scope that one task asks for."""

    def __init__(self, who: str, replaced: Replaced) -> None:
        self._who = who
        self._replaced = replaced
        self._known: dict[Hashable, Need] = {}

    def need(self, asked: Dependency, path: tuple[Maker, ...]) -> Need:
        """Return what `asked` stands for; `path` are the functions that led to it."""
        make = asked.make
        if self._replaced and isinstance(make, Hashable):
            make = self._replaced.get(make, make)
        if make in path:
            around = " -> ".join(shown(one) for one in (*path[path.index(make) :], make))
            raise ConfigError(f"{self._who}(): a dependency needs itself: {around}.")
        place = (make if isinstance(make, Hashable) else id(make), asked.scope)
        known = self._known.get(place)
        if known is None:
            needs = {
                name: self.need(one, (*path, make)) for name, one in self._asked_by(make).items()
            }
            if asked.scope == "process":
                self._check_life(make, needs)
            key = (place, tuple((name, one.key) for name, one in needs.items()))
            known = self._known[place] = Need(make, asked.scope, key, needs)
        return known

    def _asked_by(self, make: Maker) -> dict[str, Dependency]:
        """What the parameters of a dependency ask for."""
        try:
            parameters = inspect.signature(make).parameters.values()
        except ValueError:  # some written in C: they are called without arguments
            return {}
        asked: dict[str, Dependency] = {}
        for parameter in parameters:
            if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                continue
            if isinstance(parameter.default, Dependency):
                if parameter.kind is Parameter.POSITIONAL_ONLY:
                    raise ConfigError(
                        f"{self._who}(): {shown(make)}() asks for {parameter.name!r} by position; "
                        "dependencies are passed by name. Take the / out of its signature."
                    )
                asked[parameter.name] = parameter.default
            elif parameter.default is Parameter.empty:
                raise ConfigError(
                    f"{self._who}(): {shown(make)}() needs an argument {parameter.name!r}, and "
                    "dependencies are called without any. Give it a default, or Depends(...)."
                )
        return asked

    def _check_life(self, make: Maker, needs: Mapping[str, Need]) -> None:
        for one in needs.values():
            if one.scope == "job":
                raise ConfigError(
                    f"{self._who}(): {shown(make)} lives as long as the worker process and needs "
                    f"{one.name}, which is closed after each job. Make that scope='process', too."
                )


def shown(make: object) -> str:
    """What messages call a function."""
    name = getattr(make, "__qualname__", None) or getattr(make, "__name__", None)
    return str(name).replace("<locals>.", "") if name else repr(make)


def _described(value: object) -> str:
    return repr(value) if isinstance(value, Dependency) else f"a {type(value).__name__}"
