"""Readers of single values: wrong types, garbage and error replies become None or ""."""

from __future__ import annotations

import math
from typing import Any

from taskq.clock import parse_iso

MAX_TEXT = 10_000
"""Longest text that is kept of a field meant for a short one (a name, a date)."""


def text(value: Any) -> str:
    """UTF-8 text; other bytes survive as surrogates, so that `raw` gives them back."""
    if isinstance(value, bytes):
        return value[:MAX_TEXT].decode("utf-8", "surrogateescape")
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def raw(name: str) -> bytes:
    """The bytes of a `text`: key names are built from what was read."""
    return name.encode("utf-8", "surrogateescape")


def number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """An integer, or None."""
    found = number(value)
    return None if found is None else int(found)


def count(value: Any) -> int:
    """The integer reply of a command that counts; 0 where the key is something else."""
    return value if isinstance(value, int) else 0


def moment(value: Any) -> float | None:
    """Seconds since 1970 of a date as RQ writes it, or of a number; else None."""
    content = text(value)
    if not content:
        return None
    try:
        return parse_iso(content)
    except (ValueError, OverflowError):
        return number(content)


def items(value: Any) -> list[Any]:
    """A list reply (sets and maps of RESP3 too); empty where the key is something else."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    return []


def fields(names: tuple[str, ...], reply: Any) -> dict[str, Any]:
    """HMGET's reply by name; empty where the key is no hash."""
    found = items(reply)
    return dict(zip(names, found)) if len(found) == len(names) else {}
