"""Entries of a job's result stream: how an execution ended, without rebuilding its value."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from typing import Any

from taskq.inspector.values import items, number, text, whole
from taskq.serializers.peek import Peeked, peek

_KINDS = {1: "finished", 2: "failed", 3: "stopped", 4: "retried", 5: "failed"}
MAX_TRACEBACK = 1_000_000


@dataclass(frozen=True)
class ResultEntry:
    """How one execution ended.

    Attributes:
        kind: finished, failed, stopped, retried, or unreadable.
        at: when it was written, seconds since 1970.
        value: what the task returned, where it was stored as JSON.
        error_type: dotted name of the exception's class, as text.
        attempts: executions so far, where the entry says so.
    """

    kind: str
    at: float | None = None
    worker: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    value: Peeked | None = None
    error_type: str = ""
    error: str = ""
    attempts: int | None = None
    traceback: str = ""


def read_entries(reply: Any) -> list[ResultEntry]:
    """The reply to XREVRANGE, taken apart, newest first."""
    return [_entry(pair[0], pair[1]) for pair in map(items, items(reply)) if len(pair) == 2]


def _entry(entry_id: Any, content: Any) -> ResultEntry:
    flat = items(content)
    found = {text(flat[at]): flat[at + 1] for at in range(0, len(flat) - 1, 2)}
    at_ms = number(text(entry_id).partition("-")[0])
    trace = _traceback(found.get("exc_string"))
    kind, message, attempts = _error(found.get("tq_error"), trace)
    returned = found.get("return_value")
    return ResultEntry(
        kind=_KINDS.get(whole(found.get("type")) or 0, "unreadable"),
        at=None if at_ms is None else at_ms / 1000,
        worker=text(found.get("worker_name")),
        started_at=number(found.get("execution_started_at")),
        ended_at=number(found.get("execution_ended_at")),
        value=_value(returned) if isinstance(returned, bytes) else None,
        error_type=kind,
        error=message,
        attempts=attempts,
        traceback=trace,
    )


def _value(encoded: bytes) -> Peeked:
    try:
        return peek(base64.b64decode(encoded))
    except (binascii.Error, ValueError):
        return Peeked("unreadable", signed=False, value=None, size_bytes=len(encoded))


def _traceback(encoded: Any) -> str:
    """RQ stores it as base64 of a zlib stream; read at most `MAX_TRACEBACK` of it."""
    if not isinstance(encoded, bytes) or not encoded:
        return ""
    try:
        plain = zlib.decompressobj().decompress(base64.b64decode(encoded), MAX_TRACEBACK)
    except (binascii.Error, ValueError, zlib.error):
        return "(unreadable traceback)"
    return plain.decode("utf-8", "backslashreplace")


def _error(raw_error: Any, trace: str) -> tuple[str, str, int | None]:
    """Type, message, attempts: from our own field, else from the traceback."""
    if isinstance(raw_error, bytes):
        try:
            kind, message, attempts = json.loads(raw_error)
            return str(kind), str(message), int(attempts)
        except (ValueError, TypeError, RecursionError):
            pass  # written by somebody else: the traceback may say more
    line = _raised(trace.splitlines())
    kind, colon, message = line.partition(": ")
    if colon and " " not in kind:
        return kind, message, None
    return ("", line, None) if " " in line else (line, "", None)


def _raised(lines: list[str]) -> str:
    """The line that names the exception: the first behind the last frame, messages may go on."""
    frames = [at for at, line in enumerate(lines) if line.startswith('  File "')]
    behind = lines[frames[-1] :] if frames else lines[::-1]
    return next((line for line in behind if line[:1].strip()), "")
