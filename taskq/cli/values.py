"""Payloads for people: a call as it is written in Python, a result as its repr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from taskq.terminal import safe

if TYPE_CHECKING:
    from taskq.serializers.peek import Peeked

MAX_SHOWN = 2_000
"""Characters of a value; `--json` gives all of it."""


def call_text(call: Peeked) -> str:
    """`thumbnail('a.png', size=64)`, or what can be said of a payload that is no JSON."""
    value = call.value
    if call.form != "json" or not isinstance(value, list) or len(value) != 4:
        return _unreadable(call)
    name, _, args, kwargs = value
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return _unreadable(call)
    parts = [_repr(arg) for arg in args]
    parts += [f"{name}={_repr(arg)}" for name, arg in kwargs.items()]
    short = str(name).rpartition(".")[2]
    return _cut(f"{short}({', '.join(parts)})") + _mark(call)


def value_text(value: Peeked | None) -> str:
    """The repr of what a task returned; "None" where nothing was stored."""
    if value is None:
        return "None"
    if value.form != "json" or value.cut:
        return _unreadable(value)
    return _cut(_repr(value.value)) + _mark(value)


def data(value: Peeked | None) -> Any:
    """A payload in `--json`: what it holds, or how it is written and its size."""
    if value is None:
        return None
    if value.form == "json" and not value.cut:
        return value.value
    return {"form": value.form, "size_bytes": value.size_bytes}


def _repr(value: Any) -> str:
    """The repr with our tags resolved: `datetime.date(2026, 11, 22)`."""
    from taskq.serializers.tags import unpack  # noqa: PLC0415 (late: a command imports what it needs)

    try:
        return repr(json.loads(json.dumps(value), object_hook=unpack))
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return json.dumps(value)  # a tag that is none: as it stands there


def _mark(value: Peeked) -> str:
    return "  (signed)" if value.signed else ""


def _cut(text: str) -> str:
    shown = safe(text)
    if len(shown) <= MAX_SHOWN:
        return shown
    return f"{shown[:MAX_SHOWN]}… ({len(shown):,} characters; --json shows all)"


def _unreadable(value: Peeked) -> str:
    kind = {"pickle": "pickled", "json": "JSON", "empty": "empty"}.get(value.form, "unreadable")
    return f"({kind}, {value.size_bytes:,} bytes: not shown)"
