"""What the JSON under /api looks like, as OpenAPI: made from the types that it is made from."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from taskq.dashboard.pages import SPANS
from taskq.dashboard.timeline import Moment
from taskq.inspector import (
    Concern,
    FailureGroup,
    JobRow,
    Progress,
    QueueInfo,
    Rates,
    ScheduleRow,
    Series,
    ServerInfo,
    WorkerInfo,
)

Keys = dict[str, Any]

_QUEUE: Keys = {"queue": QueueInfo, "rates": Rates | None}
_VALUE: Keys = {"form": str, "size_bytes": int, "value": Any, "is_cut": bool}
_STEP: Keys = {
    "place": str, "kind": str, "name": str, "began_at": float, "took_s": float | None,
    "tries": int | None, "due_at": float, "size_bytes": int, "value": _VALUE,
}  # fmt: skip
_CALL: Keys = {"form": str, "size_bytes": int, "signed": bool, "task": str,
               "args": list[Any], "kwargs": dict[str, Any]}  # fmt: skip

ANSWERS: dict[str, Keys] = {
    "overview": {
        "at": float,
        "concerns": list[Concern],
        "redis": ServerInfo,
        "suspended": bool,
        "totals": dict[str, int],
        "queues": [_QUEUE],
        "queue_count": int,
        "worker_count": int,
        "rates": Rates | None,
        "series": Series,
        "failures": list[FailureGroup],
        "schedules": list[ScheduleRow],
    },
    "queue": {
        "at": float,
        **_QUEUE,
        "concerns": list[Concern],
        "series": Series,
        "failures": list[FailureGroup],
        "workers": list[WorkerInfo],
        "jobs": list[JobRow],
    },
    "jobs": {
        "at": float,
        "jobs": list[JobRow],
        "total": int,
        "scanned": int,
        "after": str | None,
    },
    "job": {
        "at": float,
        "job": JobRow,
        "description": str,
        "call": _CALL,
        "meta": _VALUE,
        "options": dict[str, str],
        "progress": Progress | None,
        "ahead": int | None,
        "expires_s": float | None,
        "timeline": list[Moment],
        "result": _VALUE,
        "stream": {"length": int, "newest": [{"id": str, **_VALUE}]},
        "sent_count": int,
        "steps": [_STEP],
        "needs": list[JobRow],
        "needed_by": list[JobRow],
        "needed_by_count": int,
        "callbacks": list[str],
        "schedule": str,
        "other_fields": list[str],
        "too_large": dict[str, int],
    },
    "workers": {
        "at": float,
        "workers": list[WorkerInfo],
        "worker_count": int,
        "fitting": int,
        "page": int,
        "concerns": list[Concern],
        "elapsed_s": dict[str, float],
    },
    "schedules": {"at": float, "schedules": list[ScheduleRow], "total": int, "overdue": int},
    "failures": {"at": float, "days": int, "failures": list[FailureGroup], "failed_now": int},
    "series": {"series": Series},
}
"""Keys of each answer, with their types; keys are only ever added."""

_FILTER = ("status", "queue", "task", "q", "since", "until", "limit", "after")
PARAMETERS: dict[str, tuple[str, ...]] = {
    "overview": ("span",),
    "queue": ("name", "span"),
    "jobs": _FILTER,
    "job": ("id",),
    "workers": ("q", "page"),
    "schedules": ("q",),
    "failures": ("days", "queue", "q"),
    "series": ("queue", "span"),
}
_WORDS = {
    "span": f"One of {', '.join(SPANS)}.",
    "status": "RQ's word; may be repeated.",
    "q": "Text to look for.",
    "task": "A whole name, its last parts, or a pattern with *.",
    "since": "A duration back from now (15m, 2h, 7d) or a date with its zone.",
    "until": "The same.",
    "limit": "Jobs in one answer, at most 200.",
    "after": "From the answer before: where the next one begins.",
    "days": "1, 7, 30 or 90.",
}


def openapi() -> dict[str, Any]:
    """The description of all answers."""
    seen: dict[str, Any] = {}
    error = {"error": str, "advice": str}
    paths = {}
    for name, keys in ANSWERS.items():
        failed = {"description": "Why there is no answer", "content": _content(error, seen)}
        paths[f"/api/{name}"] = {
            "get": {
                "parameters": [
                    {"name": one, "in": "query", "schema": {"type": "string"},
                     "description": _WORDS.get(one, "")}
                    for one in PARAMETERS[name]
                ],
                "responses": {
                    "200": {"description": "The answer", "content": _content(keys, seen)},
                    "default": failed,
                },
            }
        }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "taskq dashboard", "version": "1"},
        "paths": paths,
        "components": {"schemas": seen},
    }


def _content(keys: Keys, seen: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": _of(keys, seen)}}


def _of(kind: Any, seen: dict[str, Any], name: str = "") -> dict[str, Any]:
    """JSON Schema of a type; dataclasses go to `seen` and are named."""
    if name == "at" or name.endswith("_at"):
        return {"type": ["string", "null"], "format": "date-time"}
    if isinstance(kind, dict):
        return {"type": "object", "properties": {k: _of(v, seen, k) for k, v in kind.items()}}
    if isinstance(kind, list):
        return {"type": "array", "items": _of(kind[0], seen)}
    simple = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if kind in simple:
        return {"type": simple[kind]}
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(part, seen) for part in parts]}
    if origin in (list, tuple):
        return {"type": "array", "items": _of(parts[0], seen)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(parts[1], seen)}
    if is_dataclass(kind):
        return _named(kind, seen)
    return {}


def _named(kind: Any, seen: dict[str, Any]) -> dict[str, Any]:
    title: str = kind.__name__
    if title not in seen:
        seen[title] = {}  # for types that hold themselves
        hints = get_type_hints(kind)
        names = [one.name for one in fields(kind) if not one.name.startswith("_")]
        seen[title] = {
            "type": "object",
            "description": (kind.__doc__ or "").strip(),
            "properties": {name: _of(hints[name], seen, name) for name in names},
            "required": names,
        }
    return {"$ref": f"#/components/schemas/{title}"}
