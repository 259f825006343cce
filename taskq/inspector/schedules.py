"""Schedules, as they stand in Redis: what `taskq schedules` and the dashboard show.

Reads `taskq:schedules`, `taskq:schedule:*`, and the status of their latest jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from taskq.inspector.query import Query
from taskq.inspector.server import server_time
from taskq.inspector.values import count, fields, items, moment, number, raw, text
from taskq.keys import Keys
from taskq.schedules import occurrences, record
from taskq.schedules.record import ScheduleKeys

PAGE = 200
SHOWN = 100
"""Schedules listed unless more are asked for."""
UPCOMING = 5

_FIELDS = (
    "v", "when", "tz", "missed", "window", "overlap", "jitter", "start", "end", "max_runs", "task",
    "queue", "app", "anchor", "next", "last", "last_job", "runs", "skipped", "dropped", "held",
    "paused", "ended", "error",
)  # fmt: skip
"""All but the prepared job, which may be large."""


@dataclass(frozen=True)
class ScheduleRow:
    """One schedule. Times are seconds since 1970; None where there is none.

    Attributes:
        expression: the cron expression, or "every 30 s".
        words: the same in English.
        tz: zone that a cron expression is read in.
        fires_at: when it fires next: `next_at` and its jitter; None: paused or ended.
        next_at: its next occurrence.
        upcoming: its next five occurrences, that one included; empty when paused or ended.
        last_at: the last occurrence that was enqueued.
        last_job: id of its job.
        last_status: status of that job; "" when it is gone.
        last_ended_at: when that job ended.
        missed: what becomes of overdue ones: run_once, run_all, skip.
        window_s: how late one may be to run at all.
        overlap: what is done while the one before has not ended: allow, skip, queue_one.
        held_at: the occurrence that waits for the one before.
        runs: occurrences enqueued; skipped: dropped for overlap; dropped: missed, not run.
        app: whose code defines it; "": made at run time.
        error: why it cannot be fired.
    """

    name: str
    expression: str = ""
    words: str = ""
    tz: str = ""
    task: str = ""
    queue: str = ""
    fires_at: float | None = None
    next_at: float | None = None
    upcoming: tuple[float, ...] = ()
    last_at: float | None = None
    last_job: str = ""
    last_status: str = ""
    last_ended_at: float | None = None
    missed: str = ""
    window_s: float | None = None
    overlap: str = ""
    jitter_s: float = 0.0
    start_at: float | None = None
    end_at: float | None = None
    max_runs: int | None = None
    runs: int = 0
    skipped: int = 0
    dropped: int = 0
    held_at: float | None = None
    paused: bool = False
    ended: bool = False
    app: str = ""
    error: str = ""


@dataclass(frozen=True)
class ScheduleList:
    """The answer to `schedules`.

    Attributes:
        at: time of the server, seconds since 1970.
        total: schedules there are.
        overdue: those that should have fired (no scheduler runs, or it cannot keep up).
        rows: those listed: the next to fire first, paused and ended ones last.
    """

    at: float
    total: int
    overdue: int
    rows: tuple[ScheduleRow, ...]


def schedules(keys: Keys, *, limit: int = SHOWN, offset: int = 0) -> Query[ScheduleList]:
    """Ask for schedules, the next to fire first: two round trips, and two for each 200 listed.

    Args:
        keys: names of keys.
        limit: list so many.
        offset: leave out so many at the beginning.
    """
    names = ScheduleKeys(keys)
    head = yield [
        ("TIME",),
        ("ZCARD", names.due),
        ("ZRANGE", names.due, offset, offset + limit - 1, "WITHSCORES"),
    ]
    at = server_time(head[0])
    (late,) = yield [("ZCOUNT", names.due, "-inf", f"({round(at * 1000) - 1000}")]
    scores = _scores(items(head[2]))
    rows: list[ScheduleRow] = []
    listed = list(scores)
    for start in range(0, len(listed), PAGE):
        rows += yield from _rows(keys, names, listed[start : start + PAGE], scores)
    return ScheduleList(at, count(head[1]), count(late), tuple(rows))


def schedule(keys: Keys, name: str) -> Query[ScheduleRow | None]:
    """Ask for one schedule by its name; None: there is none."""
    names = ScheduleKeys(keys)
    (score, there) = yield [("ZSCORE", names.due, raw(name)), ("EXISTS", raw(names.one(name)))]
    if isinstance(score, Exception) or (score is None and not count(there)):
        return None
    (row,) = yield from _rows(keys, names, [name], {name: number(score)})
    return row


def _scores(flat: list[Any]) -> dict[str, float | None]:
    """Names and scores; RESP3 gives them in pairs."""
    if flat and isinstance(flat[0], (list, tuple)):
        flat = [part for pair in flat for part in pair]
    pairs = iter(flat)
    return {text(name): number(score) for name, score in zip(pairs, pairs)}


def _rows(
    keys: Keys, names: ScheduleKeys, listed: Sequence[str], scores: dict[str, float | None]
) -> Query[list[ScheduleRow]]:
    replies = yield [("HMGET", raw(names.one(name)), *_FIELDS) for name in listed]
    found = [fields(_FIELDS, reply) for reply in replies]
    jobs = [text(values.get("last_job")) for values in found]
    asked = [("HMGET", raw(keys.job(job)), "status", "ended_at") for job in jobs]
    ends = (yield asked) if asked else []
    return [
        _row(name, values, scores.get(name), job, items(end))
        for name, values, job, end in zip(listed, found, jobs, ends)
    ]


def _row(
    name: str, values: dict[str, Any], score: float | None, job: str, end: list[Any]
) -> ScheduleRow:
    flat = {key.encode(): value for key, value in values.items() if isinstance(value, bytes)}
    task, queue = text(values.get("task")), text(values.get("queue"))
    if not flat:
        return ScheduleRow(name, error="its hash is gone, or something else")
    try:
        terms, state = record.read_terms(flat)
    except ValueError as error:
        why = text(values.get("error")) or str(error)
        return ScheduleRow(name, task=task, queue=queue, error=why)
    active = not state.paused and not state.ended and state.next_ms is not None
    upcoming: tuple[float, ...] = ()
    if active and state.next_ms is not None:
        left = UPCOMING if terms.max_runs is None else min(UPCOMING, terms.max_runs - state.runs)
        later = occurrences.following(terms, state.next_ms, state.anchor_ms)
        upcoming = tuple(_s(ms) for ms in islice(later, max(left - 1, 0)))
        upcoming = (_s(state.next_ms), *upcoming)
    status, ended_at = (*end, None, None)[:2] if job else (None, None)
    return ScheduleRow(
        name,
        task=task,
        queue=queue,
        expression=terms.expression,
        words=terms.when.words,
        tz=terms.tz,
        fires_at=None if score is None or not active else score / 1000,
        next_at=_seconds(state.next_ms),
        upcoming=upcoming,
        last_at=_seconds(state.last_ms),
        last_job=job,
        last_status=text(status),
        last_ended_at=moment(ended_at),
        missed=terms.missed,
        window_s=_seconds(terms.latest_ms),
        overlap=terms.overlap,
        jitter_s=terms.jitter_ms / 1000,
        start_at=_seconds(terms.start_ms),
        end_at=_seconds(terms.end_ms),
        max_runs=terms.max_runs,
        runs=state.runs,
        skipped=state.skipped,
        dropped=state.dropped,
        held_at=_seconds(state.held_ms),
        paused=state.paused,
        ended=state.ended,
        app=text(values.get("app")),
        error=state.error,
    )


def _s(ms: int) -> float:
    return ms / 1000


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
