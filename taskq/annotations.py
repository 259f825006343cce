"""Turn decoded arguments and results into the models that annotations name.

JSON carries a model as what it contains; the annotation says what it was. Worked out
at first use, in the worker or at the reader of a result, when all names can be resolved.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from taskq.serializers.models import rebuilder
from taskq.signature import CallCheck

Rebuild = Callable[[Sequence[Any], Mapping[str, Any]], tuple[list[Any], dict[str, Any]]]


def args_rebuilder(fn: Callable[..., Any], check: CallCheck) -> Rebuild | None:
    """Return what rebuilds the arguments of `fn`; None where nothing has to be.

    The parts of `*args` and `**kwargs` stay as they are decoded.
    """
    found: dict[str, Callable[[Any], Any]] = {}
    hints = _hints(fn)
    for name in check.single_parameters():
        if name in hints and (rebuild := rebuilder(hints[name])) is not None:
            found[name] = rebuild
    return functools.partial(_rebuild, check, found) if found else None


def result_rebuilder(fn: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Return what rebuilds the result of `fn`; None where nothing has to be."""
    hints = _hints(fn)
    if "return" not in hints:
        return None
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        return _part_rebuilder(hints["return"], 2)
    return rebuilder(hints["return"])


def item_rebuilder(fn: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Return what rebuilds the values that the generator function `fn` yields, or None."""
    return _part_rebuilder(_hints(fn).get("return"), 0)


def sent_rebuilder(fn: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Return what rebuilds the values that are sent to it, or None."""
    return _part_rebuilder(_hints(fn).get("return"), 1)


def _part_rebuilder(annotation: Any, place: int) -> Callable[[Any], Any] | None:
    """Of `Generator[Y, S, R]`, `AsyncGenerator[Y, S]`, `Iterator[Y]`: that of Y, S or R."""
    parts = typing.get_args(annotation)
    return rebuilder(parts[place]) if place < len(parts) else None


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """Resolve the annotations one by one: one that cannot be must not cost the rest."""
    inner = inspect.unwrap(fn)
    namespace = getattr(inner, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(inner).items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(alone, globalns=namespace, include_extras=True)
        except Exception:  # noqa: BLE001, S112 - whatever a user's annotation raises
            continue
    return hints


def _rebuild(
    check: CallCheck,
    rebuilders: Mapping[str, Callable[[Any], Any]],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    new_args = list(args)
    new_kwargs = dict(kwargs)
    for name, rebuild in rebuilders.items():
        index = check.position(name)
        if index is not None and index < len(new_args):
            new_args[index] = rebuild(new_args[index])
        elif name in new_kwargs:
            new_kwargs[name] = rebuild(new_kwargs[name])
    return new_args, new_kwargs
