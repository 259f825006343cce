"""Does a call fit a function? Answered in well under a microsecond when it does.

`inspect.Signature.bind` takes 2 µs and its messages do not say what to do. So the
answer for each number of positional arguments is worked out once, and only a call
that does not fit is looked at closely, to say what is wrong with it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from taskq.depends import Dependency
from taskq.errors import InvalidArguments

_NOTHING_DONE = "Nothing was enqueued."


class CallCheck:
    """The signature of one function, prepared for checking calls. Immutable."""

    __slots__ = (
        "_allowed",
        "_last",
        "_passed",
        "_required",
        "_taken",
        "_var_keywords",
        "_var_positional",
        "name",
        "positional_names",
        "signature",
    )

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        """Read the signature of `fn`; `name` is what messages call it.

        Raises:
            ValueError: `fn` has no signature (some functions written in C).
        """
        self.name = name
        self.signature = inspect.signature(fn)
        parameters = self.signature.parameters.values()
        # Dependencies are made where the task runs: no call of a job has them.
        made = {p.name for p in parameters if isinstance(p.default, Dependency)}
        passed = [p for p in parameters if p.name not in made]
        self._passed = self.signature.replace(parameters=passed) if made else self.signature
        positional = [p for p in passed if p.kind in _POSITIONAL]
        named = [p for p in passed if p.kind is Parameter.KEYWORD_ONLY]
        self._var_positional = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        self._var_keywords = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        # Index: how many positional arguments the call has, at most all parameters.
        rests = [positional[count:] + named for count in range(len(positional) + 1)]
        self._last = len(positional)
        self.positional_names = tuple(p.name for p in positional)
        self._allowed = tuple(
            frozenset(p.name for p in rest if p.kind is not Parameter.POSITIONAL_ONLY)
            for rest in rests
        )
        self._required = tuple(
            frozenset(p.name for p in rest if p.default is Parameter.empty) for rest in rests
        )
        by_name = [p for p in positional if p.kind is not Parameter.POSITIONAL_ONLY]
        self._taken = tuple(
            frozenset(p.name for p in by_name) - self._allowed[count] | made
            for count in range(len(positional) + 1)
        )

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Let a call that fits pass.

        Raises:
            InvalidArguments: it does not fit; the message names the argument.
        """
        count = len(args)
        if count > self._last:
            if not self._var_positional:
                raise self._misfit(args, kwargs)
            count = self._last
        if kwargs:
            names = kwargs.keys()
            if self._var_keywords:
                fits = names.isdisjoint(self._taken[count])
            else:
                fits = names <= self._allowed[count]
            # A required parameter that is positional-only is no key, or lands in **kwargs.
            if fits and self._required[count] <= names & self._allowed[count]:
                return
        elif not self._required[count]:
            return
        raise self._misfit(args, kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments by name, defaults filled in, for a call that was checked."""
        bound = self._passed.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def position(self, name: str) -> int | None:
        """Return the index of the parameter among positional arguments, or None."""
        try:
            return self.positional_names.index(name)
        except ValueError:
            return None

    def single_parameters(self) -> list[str]:
        """Return the names of all that calls pass, but `*args` and `**kwargs`."""
        several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        return [p.name for p in self._passed.parameters.values() if p.kind not in several]

    def text(self) -> str:
        """Return the call as written in the source: `thumbnail(path: str, size: int = 256)`.

        Annotations that are texts (`from __future__ import annotations`) show without
        quotes; the type of the result is left out: it says nothing about a call.
        """
        shown = [
            parameter.replace(annotation=_Bare(parameter.annotation))
            if isinstance(parameter.annotation, str)
            else parameter
            for parameter in self.signature.parameters.values()
        ]
        return f"{self.name}{inspect.Signature(shown)}"

    def _misfit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> InvalidArguments:
        return InvalidArguments(
            f"{self.name}() {self._reason(args, kwargs)} Signature: {self.text()}. {_NOTHING_DONE}"
        )

    def _reason(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Say what is wrong with a call that does not fit, the most telling thing first."""
        count = len(args)
        if count > self._last and not self._var_positional:
            return f"takes {_at_most(self._last)}, got {count}."
        count = min(count, self._last)
        allowed = self._allowed[count]
        for name in kwargs:
            parameter = self.signature.parameters.get(name)
            if parameter is not None and isinstance(parameter.default, Dependency):
                return (
                    f"got {name!r}, which is a dependency: {parameter.default!r} is called where "
                    "the task runs, and what it gives is never part of a job. Leave it out."
                )
        if twice := sorted(self._taken[count] & kwargs.keys()):
            return f"got {twice[0]!r} twice: by position and by name."
        if not self._var_keywords and (unexpected := [n for n in kwargs if n not in allowed]):
            return self._unexpected(unexpected[0], allowed, kwargs)
        missing = [
            name
            for name in self.signature.parameters
            if name in self._required[count] and not (name in kwargs and name in allowed)
        ]
        plural = "s" if len(missing) > 1 else ""
        return f"misses the argument{plural} {', '.join(map(repr, missing))}."

    def _unexpected(self, name: str, allowed: frozenset[str], kwargs: Mapping[str, Any]) -> str:
        parameter = self.signature.parameters.get(name)
        if parameter is not None and parameter.kind is Parameter.POSITIONAL_ONLY:
            return f"takes {name!r} by position, not by name."
        free = sorted(allowed - kwargs.keys())
        near = difflib.get_close_matches(name, free, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"got an unexpected argument {name!r}.{hint}"


class _Bare:
    """An annotation whose repr is its own source text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _at_most(count: int) -> str:
    if count == 0:
        return "no positional arguments"
    return f"at most {count} positional argument{'s' if count > 1 else ''}"
