"""Hashes of arguments that are the same in every process: how a recorded step is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from taskq.serializers.json import encode
from taskq.serializers.tags import MARK
from taskq.serializers.unfit import Unfit

_MOST_ITEMS = 1_000_000


def fingerprint(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A hash of arguments, the same in every process.

    Of what JSON cannot carry (a client, a connection) only the class counts.
    """
    parts = [[_canonical(one) for one in args], {k: _canonical(v) for k, v in kwargs.items()}]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    try:
        return json.loads(encode(value, _MOST_ITEMS), object_hook=_sorted_sets)
    except Unfit:
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}"}


def _sorted_sets(found: dict[str, Any]) -> Any:
    """The members of a set in one order: Python's differs from process to process."""
    if found.get(MARK) in ("set", "frozenset") and isinstance(found.get("v"), list):
        found["v"] = sorted(found["v"], key=lambda one: json.dumps(one, sort_keys=True))
    return found
