"""The key by which two calls count as the same job (`unique=`).

The same arguments give the same key however they were passed: by position, by name or
by default, and whatever the order of a dict's keys.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from hashlib import blake2b
from typing import Any, TypeGuard

from taskq.errors import ConfigError
from taskq.signature import CallCheck

_LONGEST = 60
"""Characters of a readable key. The key is stored in the job's hash, too, where a value
over 64 bytes would more than double the memory of the whole hash."""


def unique_key(
    task: str,
    unique: bool | str | Callable[..., str | None],
    check: CallCheck,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> str:
    """Return the key of a call, or "" when the function of the arguments gave None.

    Keys belong to a task: the same text in two tasks does not exclude each other.

    Raises:
        ConfigError: the function of the arguments gave something that is no text.
    """
    if unique is True:
        return f"{_digest(task)}:{_digest(_canonical(check.bind(args, kwargs)))}"
    text = unique(*args, **kwargs) if callable(unique) else unique
    if text is None:
        return ""
    if not isinstance(text, str) or not text:
        raise ConfigError(
            f"{task}: the function given as unique= returned {text!r}; it must return a text, "
            "or None for a call that is not unique. Nothing was enqueued."
        )
    key = f"{task}:{text}"
    return key if len(key.encode()) <= _LONGEST else f"{_digest(task)}:{_digest(text)}"


def _digest(value: Any) -> str:
    data = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return blake2b(data.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _canonical(value: Any) -> Any:
    """Return `value` as plain JSON that is the same for equal values, in any order."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if type(value) in (list, tuple):
        return [_canonical(item) for item in value]
    if _is_mapping(value):
        pairs = [[_canonical(key), _canonical(item)] for key, item in value.items()]
        return {"map": sorted(pairs, key=json.dumps)}
    return {_label(value): _content(value)}


def _content(value: Any) -> Any:
    if _is_set(value):
        return sorted((_canonical(item) for item in value), key=json.dumps)
    if isinstance(value, Enum):
        return value.name
    if dataclasses.is_dataclass(value):
        names = [part.name for part in dataclasses.fields(value)]
        return [[name, _canonical(getattr(value, name))] for name in names]
    if hasattr(value, "model_dump"):  # pydantic
        return _canonical(value.model_dump())
    if _has_repr(value):  # datetime, UUID, bytes, Path ...
        return repr(value)
    return pickle.dumps(value).hex()


def _label(value: Any) -> str:
    return f"{value.__class__.__module__}.{value.__class__.__qualname__}"


def _has_repr(value: Any) -> bool:
    """Whether it shows its content; what it inherits shows an address, new in each process."""
    return getattr(value.__class__, "__repr__", None) is not getattr(object, "__repr__", None)


def _is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_set(value: Any) -> TypeGuard[AbstractSet[Any]]:
    return isinstance(value, (set, frozenset))
