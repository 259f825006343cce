"""Recorded steps of a durable job, as people see them: heads, and the beginning of values.

The hash is written by `broker/lua/record.lua`: field `7` is the record of step 7 for its worker
(through the codec), field `7h` its kind and a head in JSON. Signatures are not checked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from taskq.inspector.query import Query
from taskq.inspector.values import count, items, number, raw, text, whole
from taskq.keys import Keys
from taskq.serializers.peek import Peeked, peek

MAX_STEPS = 200
"""Steps that are read: the last ones."""
MAX_BODY = 10_000
"""Larger records are not read: only their size is told."""
_PLACE = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?h")
_KINDS = {"v": "done", "x": "failed", "t": "timer", "a": "retrying", "b": "begun"}


@dataclass(frozen=True)
class StepRow:
    """One step.

    Attributes:
        place: "7", or "7.0" of several at once.
        kind: done, failed, timer, retrying, begun; or unreadable.
        name: of the step.
        began_at: when it was run last, or the timer set; seconds since 1970.
        seconds: how long that took.
        tries: how often it was run.
        due_at: when its timer, or its next try, is due.
        value: what it gave, or an error's names, message and tries; None where it is not read.
        size_bytes: of its record.
    """

    place: str
    kind: str
    name: str
    began_at: float | None
    seconds: float | None
    tries: int | None
    due_at: float | None
    value: Peeked | None
    size_bytes: int


def steps(keys: Keys, job_id: str) -> Query[tuple[StepRow, ...]]:
    """Ask for the last steps of a job, in their order; empty where none are recorded."""
    key = raw(keys.steps(job_id))
    (names,) = yield [("HKEYS", key)]
    found = [m for m in (_PLACE.fullmatch(text(name)) for name in items(names)) if m]
    found.sort(key=lambda m: (int(m[1]), int(m[2] or 0)))
    places = [match[0][:-1] for match in found[-MAX_STEPS:]]
    if not places:
        return ()
    heads, *sizes = yield [
        ("HMGET", key, *(f"{place}h" for place in places)),
        *(("HSTRLEN", key, place) for place in places),
    ]
    small = [place for place, size in zip(places, sizes) if 0 < count(size) <= MAX_BODY]
    bodies: Any = []
    if small:
        (bodies,) = yield [("HMGET", key, *small)]
    known = dict(zip(small, items(bodies)))
    return tuple(
        _row(place, head, count(size), known.get(place))
        for place, head, size in zip(places, items(heads), sizes)
    )


def _row(place: str, head: Any, size: int, body: Any) -> StepRow:
    content = text(head)
    kind = _KINDS.get(content[:1], "unreadable")
    try:
        name, began, seconds, tries, due = json.loads(content[1:])
    except (ValueError, TypeError, RecursionError):
        return StepRow(place, "unreadable", "", None, None, None, None, None, size)
    return StepRow(
        place=place,
        kind=kind,
        name=text(name),
        began_at=number(began),
        seconds=number(seconds),
        tries=whole(tries),
        due_at=number(due),
        value=_value(body) if kind in ("done", "failed") and isinstance(body, bytes) else None,
        size_bytes=size,
    )


def _value(body: bytes) -> Peeked:
    """The last of the five parts of a record."""
    seen = peek(body)
    if seen.form != "json" or seen.cut:
        return seen
    if not isinstance(seen.value, list) or len(seen.value) != 5:
        return seen._replace(form="unreadable", value=None)
    return seen._replace(value=seen.value[4])
