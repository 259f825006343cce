"""Python's usual types in JSON: objects `{"$t": type, "v": value}`.

==============  =========================================================
type            value
==============  =========================================================
datetime        ISO text with its offset (the name of a zone is not kept)
date, time      ISO text
timedelta       microseconds
uuid, decimal   text
bytes           base64, also for bytearray
set, frozenset  list, also for tuple
complex         real and imaginary part
path            text; posixpath, windowspath: the pure classes
enum            the member's value, with the class's name in "c"
int             hexadecimal text, for more digits than Python reads as decimal
dict            list of pairs: a dict of the user's that has the key "$t"
==============  =========================================================

Nothing is ever imported or called by name when reading. Enum members come back as
their values, dataclasses and pydantic models as dicts: only the annotations of the
task make them what they were (`models.rebuilder`). Subclasses of str, int, float,
list, dict, tuple, set, bytes and datetime travel as what they inherit from.

A tag is exactly such an object, so that other JSON with a "$t" (Google's feeds have
it) stays what it is.

`pack` writes tags, this module reads them.
"""

from __future__ import annotations

import base64
import datetime as dt
import pathlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

MARK = "$t"
MAX_DEPTH = 128
"""Levels of JSON arrays and objects, both when writing and when reading."""

_FEW_MEMBERS = 1_000


def _of(kind: type, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`make` for values of exactly `kind`; anything else is not what we wrote."""

    def checked(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"a tag holds a {type(value).__name__}, not a {kind.__name__}")
        return make(value)

    return checked


def _checked_members(members: list[Any]) -> list[Any]:
    """The members of a set, unless they were chosen to have one hash: building takes n² then."""
    if len(members) > _FEW_MEMBERS and len(set(map(hash, members))) < len(members) // 4:
        raise ValueError("the members of a set have the same hash")
    return members


def _unpack_complex(parts: list[Any]) -> complex:
    real, imag = parts
    return complex(_number(real), _number(imag))


def _number(value: Any) -> float:
    if type(value) is not float:
        raise ValueError("a complex number's parts are not numbers")
    return value


def _unpack_dict(pairs: list[Any]) -> dict[str, Any]:
    unpacked = {}
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str:
            raise ValueError("a tagged dict is no list of pairs")
        unpacked[pair[0]] = pair[1]
    return unpacked


_UNPACK: dict[str, Callable[[Any], Any]] = {
    "datetime": _of(str, dt.datetime.fromisoformat),
    "date": _of(str, dt.date.fromisoformat),
    "time": _of(str, dt.time.fromisoformat),
    "timedelta": _of(int, lambda us: dt.timedelta(microseconds=us)),
    "uuid": _of(str, UUID),
    "decimal": _of(str, Decimal),
    "bytes": _of(str, lambda text: base64.b64decode(text, validate=True)),
    "bytearray": _of(str, lambda text: bytearray(base64.b64decode(text, validate=True))),
    "set": _of(list, lambda members: set(_checked_members(members))),
    "frozenset": _of(list, lambda members: frozenset(_checked_members(members))),
    "tuple": _of(list, tuple),
    "complex": _of(list, _unpack_complex),
    "path": _of(str, pathlib.Path),
    "posixpath": _of(str, pathlib.PurePosixPath),
    "windowspath": _of(str, pathlib.PureWindowsPath),
    "enum": lambda value: value,
    "int": _of(str, lambda text: int(text, 16)),
    "dict": _of(list, _unpack_dict),
}


def unpack(found: dict[str, Any]) -> Any:
    """Give what a JSON object stands for (an `object_hook`: what it contains is unpacked).

    Raises:
        ValueError, TypeError, ArithmeticError: a tag that we did not write.
    """
    name = found.get(MARK)
    if type(name) is not str or "v" not in found:
        return found
    if len(found) != 2 and not (len(found) == 3 and "c" in found):
        return found
    make = _UNPACK.get(name)
    if make is None:
        raise ValueError(f"unknown type {name[:40]!r}: written by a newer taskq?")
    return make(found["v"])
