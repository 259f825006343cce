"""Everything about one job: what `taskq job ID` shows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

from taskq.inspector.query import Query
from taskq.inspector.results import MAX_TRACEBACK, ResultEntry, read_entries
from taskq.inspector.rows import JobRow, listed
from taskq.inspector.runs import FIELD as RUNS
from taskq.inspector.runs import Run, read_runs
from taskq.inspector.steps import StepRow, steps
from taskq.inspector.values import count, fields, items, number, raw, text
from taskq.keys import Keys
from taskq.progress import FIELD, Progress, parse_progress
from taskq.serializers.peek import MAX_BYTES, Peeked, peek
from taskq.states import Status

MAX_ENTRIES = 10
MAX_FIELDS = 200
MAX_POSITION = 100_000
"""How far into its queue a job is looked for: the search takes Redis a millisecond."""

_SMALL = (
    "timeout",
    "tq_timeout",
    "result_ttl",
    "failure_ttl",
    "ttl",
    "retry_intervals",
    "last_heartbeat",
    "dependency_id",
    "dependency_ids",
    "group_id",
    "success_callback_name",
    "failure_callback_name",
    "stopped_callback_name",
    "repeats_left",
    "tq_unique",
    "tq_redeliver",
    "tq_attempts",
    "tq_crashes",
    "tq_cancel",
    "tq_durable",
    "tq_steps",
)
_LARGE = ("data", "description", "meta", "exc_info", RUNS)
_KNOWN = frozenset({*_SMALL, *_LARGE, "status", "origin", "created_at", "enqueued_at"}) | frozenset(
    {"started_at", "ended_at", "worker_name", "retries_left", "tq_retries", "tq_token", FIELD}
)
_CALLBACK = "tq_on_"
_OURS = (_CALLBACK, "tq_of_", "tq_signed_as", "tq_timer")
"""Beginnings of fields: the job's callbacks as prepared, what a callback is told, a timer."""


@dataclass(frozen=True)
class JobStory:
    """One job.

    Attributes:
        row: the same as in a list.
        description: RQ's, or "".
        call: the payload: name, instance, arguments, keyword arguments.
        meta: the job's meta, or None.
        options: small fields as they stand in the hash, without the empty ones.
        results: how its executions ended, newest first, at most ten.
        runs: executions after which it was to run again, oldest first, the last twenty.
        progress: what it reported last, or None.
        steps: what is recorded of a durable job, the last 200.
        callbacks: ids of the jobs that are enqueued at its end: "ID-success", "ID-failure".
        ahead: jobs before it in its queue, where it waits among the first 100,000.
        expires_s: seconds until Redis forgets it, or None.
        others: names of further fields.
        too_large: fields that were not read for their size, with their bytes.
    """

    row: JobRow
    description: str
    call: Peeked | None
    meta: Peeked | None
    options: dict[str, str]
    results: tuple[ResultEntry, ...]
    runs: tuple[Run, ...]
    progress: Progress | None
    steps: tuple[StepRow, ...]
    callbacks: tuple[str, ...]
    ahead: int | None
    expires_s: float | None
    others: tuple[str, ...]
    too_large: dict[str, int]


def story(keys: Keys, job_id: str) -> Query[JobStory | None]:
    """Ask for everything about one job; None where there is none of that id."""
    key = raw(keys.job(job_id))
    (row,) = yield from listed(keys, [job_id])
    head = yield [
        ("EXISTS", key),
        ("HMGET", key, *_SMALL),
        *(("HSTRLEN", key, name) for name in _LARGE),
        ("PTTL", key),
        ("HLEN", key),
        ("XREVRANGE", raw(keys.results(job_id)), "+", "-", "COUNT", MAX_ENTRIES),
        ("LPOS", raw(keys.queue(row.queue)), raw(job_id), "MAXLEN", MAX_POSITION),
        ("ZSCORE", raw(keys.scheduled(row.queue)), raw(job_id)),
        ("HGET", key, FIELD),
    ]
    sizes: dict[str, int] = dict(zip(_LARGE, map(count, head[2 : 2 + len(_LARGE)])))
    ttl_ms, length, stream, place, due, progress = head[2 + len(_LARGE) :]
    results = tuple(read_entries(stream))
    if count(head[0]) == 0 and not results:
        return None
    large = yield from _large(key, sizes)
    names: Any = []
    if 0 < count(length) <= MAX_FIELDS:
        (names,) = yield [("HKEYS", key)]
    known = sorted(text(name) for name in items(names))
    options = {name: text(value) for name, value in fields(_SMALL, head[1]).items()}
    recorded = (yield from steps(keys, job_id)) if options.get("tq_steps") else ()
    return JobStory(
        row=replace(_explained(row, results, large["exc_info"]), due_at=number(due)),
        description=text(large["description"]),
        call=peek(large["data"]) if large["data"] else None,
        meta=peek(large["meta"]) if large["meta"] else None,
        options={name: value for name, value in options.items() if value},
        results=results,
        runs=read_runs(large[RUNS]),
        progress=parse_progress(progress if isinstance(progress, bytes) else None),
        steps=recorded,
        callbacks=tuple(
            f"{job_id}-{name.removeprefix(_CALLBACK)}"
            for name in known
            if name.startswith(_CALLBACK)
        ),
        ahead=place if isinstance(place, int) and row.status == Status.QUEUED else None,
        expires_s=count(ttl_ms) / 1000 if count(ttl_ms) > 0 else None,
        others=tuple(name for name in known if name not in _KNOWN and not name.startswith(_OURS)),
        too_large={name: size for name, size in sizes.items() if size > MAX_BYTES},
    )


def _large(key: bytes, sizes: dict[str, int]) -> Query[dict[str, bytes]]:
    """The large fields, but for those that are too large."""
    wanted = [name for name, size in sizes.items() if 0 < size <= MAX_BYTES]
    replies = (yield [("HGET", key, name) for name in wanted]) if wanted else []
    found = {name: value for name, value in zip(wanted, replies) if isinstance(value, bytes)}
    return {name: found.get(name, b"") for name in _LARGE}


def _explained(row: JobRow, results: tuple[ResultEntry, ...], exc_info: bytes) -> JobRow:
    """The row with how the job failed; old RQ wrote the traceback into the hash."""
    last = results[0] if results else None
    if last is not None and last.kind != "finished":
        return replace(
            row,
            error_type=last.error_type,
            error=last.error,
            attempts=last.attempts or row.attempts,
        )
    if not results and exc_info:
        try:
            trace = zlib.decompressobj().decompress(exc_info, MAX_TRACEBACK)
        except zlib.error:
            trace = exc_info
        lines = trace.decode("utf-8", "backslashreplace").strip().splitlines()
        return replace(row, error=lines[-1] if lines else "")
    return row
