"""Packs what is not plain data: into tags (`tags`), or into an error that names it."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from taskq.serializers.tags import MARK, MAX_DEPTH
from taskq.serializers.unfit import Unfit, advice, article

Path = tuple[Any, Any] | None
"""The indexes and keys that lead to a value: (path of its container, last step)."""

_MOST_BITS = 2000  # of an int written as decimal text; Python may be set to read 640 digits only

_NO_STACK = "is nested too deeply for what is left of Python's stack. {Pass} something flatter."


def _tag(name: str, value: object) -> dict[str, object]:
    return {MARK: name, "v": value}


def _steps(path: Path) -> tuple[Any, ...]:
    """The steps of a path, outermost first."""
    steps = []
    while path is not None:
        path, step = path
        steps.append(step)
    return tuple(reversed(steps))


class Pack:
    """Turns a value into plain data; one object for one payload.

    Args:
        max_items: items of all containers together, at most; a value in which lists
            are shared can be small in memory and endless as text.
    """

    def __init__(self, max_items: int) -> None:
        """Start counting."""
        self._items_left = max_items
        self._named_steps = 0  # of a path; what is too deep is named by its argument only

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Pack RQ's four parts of a call."""
        self._named_steps = 1
        try:
            return [
                self._text(name, None),
                None,
                [self._value(v, (None, i), 2, False) for i, v in enumerate(args)],
                self._dict(kwargs, None, 1, False),
            ]
        except RecursionError:
            raise Unfit((), _NO_STACK) from None

    def one(self, value: Any) -> Any:
        """Pack one value."""
        try:
            return self._value(value, None, 0, False)
        except RecursionError:
            raise Unfit((), _NO_STACK) from None

    def _value(self, value: Any, path: Path, depth: int, in_set: bool) -> Any:
        """Pack `value`, found at `path`; `depth` levels of JSON are around it."""
        kind = type(value)
        if kind is str:
            return self._text(value, path)
        if value is None or kind is bool:
            return value
        if kind is int:
            return self._int(value)
        if kind is float:
            return self._float(value, path)
        if kind is list:
            return self._list(value, path, depth, in_set)
        if kind is dict:
            return self._dict(value, path, depth, in_set)
        if kind is tuple:
            return _tag("tuple", self._items(value, path, depth + 2, in_set))
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            return scalar(value, path)
        return self._by_ancestry(value, path, depth, in_set)

    def _by_ancestry(self, value: Any, path: Path, depth: int, in_set: bool) -> Any:
        """Pack what is no exact built-in type; Enum first, for IntEnum is an int, too."""
        kind = type(value)
        if isinstance(value, Enum):
            self._enter(1, path, depth + 1)
            packed = self._value(value.value, path, depth + 1, in_set)
            return {**_tag("enum", packed), "c": f"{kind.__module__}.{kind.__qualname__}"}
        if isinstance(value, (set, frozenset)):
            name = "frozenset" if isinstance(value, frozenset) else "set"
            if in_set and name == "set":
                raise _not_hashable(path, kind)
            return _tag(name, self._items(_in_order(value), path, depth + 2, True))
        if isinstance(value, tuple):
            return _tag("tuple", self._items(value, path, depth + 2, in_set))
        if isinstance(value, list):
            return self._list(value, path, depth, in_set)
        if isinstance(value, dict):
            return self._dict(value, path, depth, in_set)
        for base, scalar in _SCALARS.items():  # datetime stands before date, its base
            if isinstance(value, base):
                return scalar(value, path)
        if isinstance(value, str):
            return self._text(str.__str__(value), path)
        if isinstance(value, int):
            return self._int(int.__int__(value))
        if isinstance(value, float):
            return self._float(float.__float__(value), path)
        return self._value(_content(value, path), path, depth, in_set)

    def _text(self, value: str, path: Path) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Unfit(
                _steps(path),
                f"has a lone surrogate ({value[error.start]!a} at {error.start}), which UTF-8 "
                "cannot carry. {Pass} bytes instead, for file names os.fsencode(name).",
            ) from None
        return value

    def _int(self, value: int) -> Any:
        return value if value.bit_length() <= _MOST_BITS else _tag("int", hex(value))

    def _float(self, value: float, path: Path) -> float:
        if not math.isfinite(value):
            raise Unfit(
                _steps(path),
                f"is {value}, which JSON cannot carry. {{Pass}} None or a text instead.",
            )
        return value

    def _list(self, value: list[Any], path: Path, depth: int, in_set: bool) -> Any:
        if in_set:
            raise _not_hashable(path, type(value))
        return self._items(value, path, depth + 1, False)

    def _items(self, values: Sequence[Any], path: Path, depth: int, in_set: bool) -> list[Any]:
        self._enter(len(values), path, depth)
        return [self._value(v, (path, i), depth, in_set) for i, v in enumerate(values)]

    def _dict(
        self, value: Mapping[Any, Any], path: Path, depth: int, in_set: bool
    ) -> dict[str, Any]:
        if in_set:
            raise _not_hashable(path, type(value))
        escaped = MARK in value
        below = depth + (3 if escaped else 1)
        self._enter(len(value), path, below)
        packed: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise Unfit(_steps(path), _wrong_key(key))
            text = self._text(str.__str__(key), path)
            packed[text] = self._value(item, (path, text), below, False)
        return _tag("dict", [[k, v] for k, v in packed.items()]) if escaped else packed

    def _enter(self, count: int, path: Path, depth: int) -> None:
        """Count what a container holds before going into it."""
        if depth > MAX_DEPTH:
            raise Unfit(
                _steps(path)[: self._named_steps],
                f"is nested more than {MAX_DEPTH} levels deep, or contains itself. "
                "{Pass} something flatter.",
            )
        self._items_left -= count
        if self._items_left < 0:
            raise Unfit(_steps(path)[: self._named_steps], "", is_too_large=True)


def _in_order(values: set[Any] | frozenset[Any]) -> list[Any]:
    """The members in an order that is the same on each run where they have one."""
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _not_hashable(path: Path, kind: type) -> Unfit:
    return Unfit(
        _steps(path),
        f"is a {kind.__name__} inside a set, which would come back as something that no set "
        "can hold. {Pass} a list instead of the set.",
    )


def _wrong_key(key: object) -> str:
    shown = f"{key!r} " if type(key) in (int, bool, float, bytes, type(None)) else ""
    return (
        f"has the key {shown}({article(key)}), but keys are text in JSON. "
        "{Pass} text keys or a list of pairs instead."
    )


def _content(value: Any, path: Path) -> Any:
    """What a dataclass instance or a pydantic model contains: a dict, mostly."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        try:
            return {f.name: getattr(value, f.name) for f in dataclasses.fields(kind)}
        except AttributeError as error:
            raise Unfit(
                _steps(path), f"is {article(value)} without all its fields: {error}."
            ) from None
    # pydantic is recognised by its marks: whoever passes a model has imported it.
    if hasattr(kind, "__pydantic_core_schema__") and hasattr(kind, "model_dump"):
        try:
            return value.model_dump(by_alias=True, round_trip=True)
        except Exception as error:  # the model's own serializers run in it
            raise Unfit(
                _steps(path), f"is {article(value)} whose model_dump() failed: {error}."
            ) from error
    raise Unfit(_steps(path), f"is {article(value)}, which JSON cannot carry. {advice(value)}")


def _pack_time(value: dt.time, path: Path) -> dict[str, object]:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise Unfit(
            _steps(path),
            "is a time whose zone needs a date to know its offset. "
            "{Pass} a datetime, or the time and the zone's name.",
        )
    return _tag("time", dt.time.isoformat(value))


def _pack_datetime(value: dt.datetime, path: Path) -> dict[str, object]:
    try:
        return _tag("datetime", dt.datetime.isoformat(value))
    except ValueError:  # pandas.NaT calls itself a datetime
        raise Unfit(_steps(path), "is no point in time. {Pass} None instead.") from None


def _base64(name: str) -> Callable[[Any, Path], dict[str, object]]:
    return lambda value, _path: _tag(name, base64.b64encode(value).decode())


def _pack_path(value: pathlib.PurePath, path: Path) -> dict[str, object]:
    if isinstance(value, pathlib.Path):
        name = "path"
    else:
        name = "windowspath" if isinstance(value, pathlib.PureWindowsPath) else "posixpath"
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unfit(
            _steps(path), "is a path that is not UTF-8. {Pass} os.fsencode(path) instead."
        ) from None
    return _tag(name, text)


def _pack_complex(value: complex, path: Path) -> dict[str, object]:
    if not (math.isfinite(value.real) and math.isfinite(value.imag)):
        raise Unfit(
            _steps(path), f"is {value}, which JSON cannot carry. {{Pass}} None or a text instead."
        )
    return _tag("complex", [value.real, value.imag])


_SCALARS: dict[type, Callable[[Any, Path], dict[str, object]]] = {
    dt.datetime: _pack_datetime,
    dt.date: lambda value, _path: _tag("date", dt.date.isoformat(value)),
    dt.time: _pack_time,
    dt.timedelta: lambda value, _path: _tag(
        "timedelta", int(value // dt.timedelta(microseconds=1))
    ),
    UUID: lambda value, _path: _tag("uuid", str(value)),
    Decimal: lambda value, _path: _tag("decimal", Decimal.__str__(value)),
    bytes: _base64("bytes"),
    bytearray: _base64("bytearray"),
    complex: _pack_complex,
    pathlib.PurePath: _pack_path,
}
