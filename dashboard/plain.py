"""What the pages know, as JSON: for programs, and for the charts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from taskq.dashboard.words import iso

_TIMES = ("at",)


def plain(value: Any, name: str = "") -> Any:
    """Dataclasses as objects; `at` and what ends in `_at` as ISO dates in UTC, or null."""
    if type(value) in (int, float) and (name in _TIMES or name.endswith("_at")):
        return iso(value) or None
    if is_dataclass(value) and not isinstance(value, type):
        return {
            one.name: plain(getattr(value, one.name), one.name)
            for one in fields(value)
            if not one.name.startswith("_")
        }
    if isinstance(value, Mapping):
        return {str(key): plain(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        each = "at" if name == "upcoming" else ""
        return [plain(inner, each) for inner in value]
    return value


def to_json(value: Any) -> bytes:
    """The same as bytes; ASCII alone, so that broken text survives."""
    return json.dumps(plain(value), separators=(",", ":")).encode("ascii")
