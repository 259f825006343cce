"""The key by which two calls count as the same job (`unique=`).

The same arguments give the same key however they were passed: by position, by name or
by default, and whatever the order of a dict's keys.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Mapping
from enum import Enum
from hashlib import blake2b
from typing import Any

from taskq.errors import ConfigError
from taskq.signature import CallCheck

_LONGEST = 60
"""Characters of a readable key. The key is stored in the job's hash, too, where a value
over 64 bytes would more than double the memory of the whole hash."""

_NO_REPR: Any = object.__repr__
"""Shows an address, which is another one in each process."""


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
    kind = type(value)
    if kind in (str, int, float, bool, type(None)):
        return value
    if kind in (list, tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, Mapping):
        pairs = [[_canonical(key), _canonical(item)] for key, item in value.items()]
        return {"map": sorted(pairs, key=json.dumps)}
    label = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, (set, frozenset)):
        return {label: sorted((_canonical(item) for item in value), key=json.dumps)}
    if isinstance(value, Enum):
        return {label: value.name}
    if dataclasses.is_dataclass(value):
        parts = ((part.name, getattr(value, part.name)) for part in dataclasses.fields(value))
        return {label: [[name, _canonical(part)] for name, part in parts]}
    if hasattr(value, "model_dump"):  # pydantic
        return {label: _canonical(value.model_dump())}
    if getattr(kind, "__repr__", None) is not _NO_REPR:  # datetime, UUID, Decimal, bytes, Path ...
        return {label: repr(value)}
    return {label: pickle.dumps(value).hex()}
