"""Executions after which a job was to run again, as the scripts write them (`lua/runs.lua`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from taskq.inspector.values import moment

FIELD = "tq_runs"
MOST = 20
_TEXT = 1_000
_ENDS = frozenset({"retried", "postponed", "crashed", "lost", "given_back"})


@dataclass(frozen=True)
class Run:
    """How one execution ended that was not the last.

    Attributes:
        kind: retried (it failed), postponed (it asked to be run later), crashed (its process died),
            lost (its worker was gone; whether it had begun is not known), given_back (its worker
            was stopped).
        started_at: when its code began; of a lost one, when the worker took it.
        ended_at: when it ended; of a crashed or lost one, when that was seen.
        error_type: dotted name of the exception's class.
        error: the beginning of the first line of its message.
    """

    kind: str
    started_at: float | None
    ended_at: float | None
    worker: str
    error_type: str
    error: str


def read_runs(content: bytes) -> tuple[Run, ...]:
    """The field of a job's hash, oldest first; lines that cannot be read are left out."""
    lines = content.decode("utf-8", "replace").split("\n")
    return tuple(filter(None, map(_run, lines[-MOST:])))


def _run(line: str) -> Run | None:
    try:
        parts: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parts, list) or len(parts) != 6:
        return None
    kind, started, ended, error_type, error, worker = parts
    if not isinstance(kind, str) or kind not in _ENDS:
        return None
    words = [str(one)[:_TEXT] for one in (worker, error_type, error)]
    return Run(kind, _at(started), _at(ended), *words)


def _at(value: Any) -> float | None:
    return moment(str(value)[:40]) if isinstance(value, (str, int, float)) else None
