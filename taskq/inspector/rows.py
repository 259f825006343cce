"""Jobs as rows of a list: small fields, the task's name, and how they failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from taskq.inspector.query import Query
from taskq.inspector.results import ResultEntry, read_entries
from taskq.inspector.values import count, fields, moment, raw, text, whole
from taskq.keys import Keys
from taskq.serializers.peek import task_of
from taskq.states import Status

PAGE = 200
"""Jobs read from one queue or registry at a time."""

PAYLOADS_BYTES = 8_000_000
"""Payloads read in one round trip; a larger one is not read at all."""

_FIELDS = (
    "status",
    "origin",
    "created_at",
    "enqueued_at",
    "started_at",
    "ended_at",
    "worker_name",
    "retries_left",
    "tq_attempts",
    "tq_crashes",
)


@dataclass(frozen=True)
class JobRow:
    """One job in a list. Times are seconds since 1970; None and "" where it does not say.

    Attributes:
        status: RQ's word, or "missing" (its hash is gone), or "unreadable" (it is no hash).
        attempts: executions that were begun, as far as the job knows.
        due_at: when it will run, of a scheduled job.
        error_type: dotted name of the exception's class.
        error: its message, the first line of it.
    """

    id: str
    status: str
    task: str = ""
    queue: str = ""
    created_at: float | None = None
    enqueued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    due_at: float | None = None
    worker: str = ""
    attempts: int | None = None
    retries_left: int | None = None
    error_type: str = ""
    error: str = ""

    @property
    def changed_at(self) -> float:
        """When something last happened to it: what lists are sorted by."""
        times = (self.created_at, self.enqueued_at, self.started_at, self.ended_at)
        return max((time for time in times if time is not None), default=0.0)


class Entry(NamedTuple):
    """One id as found: in which queue, and when it is due if it is scheduled."""

    id: str
    queue: str = ""
    due_at: float | None = None


def listed(keys: Keys, ids: Sequence[str], *, errors: bool = False) -> Query[list[JobRow]]:
    """Ask for these jobs, in this order; unknown ones have the status "missing"."""
    rows: list[JobRow] = []
    for start in range(0, len(ids), PAGE):
        page = [Entry(job_id) for job_id in ids[start : start + PAGE]]
        rows += yield from read_rows(keys, page, errors)
    return rows


def read_rows(keys: Keys, entries: Sequence[Entry], errors: bool) -> Query[list[JobRow]]:
    """Read the hashes behind ids: small fields first, payloads by size, errors where wanted."""
    hashes = [raw(keys.job(entry.id)) for entry in entries]
    commands: list[Any] = []
    for key in hashes:
        commands += [("HMGET", key, *_FIELDS), ("HSTRLEN", key, "data")]
    replies = (yield commands) if commands else []
    tasks = yield from _tasks(hashes, [count(size) for size in replies[1::2]])
    rows = [_row(entry, reply, task) for entry, reply, task in zip(entries, replies[::2], tasks)]
    if errors:
        rows = yield from _with_errors(keys, rows)
    return rows


def _tasks(hashes: Sequence[bytes], sizes: Sequence[int]) -> Query[list[str]]:
    """Task names, from payloads read in groups of bounded size."""
    names = [""] * len(hashes)
    group: list[int] = []
    group_bytes = 0
    for position, size in enumerate([*sizes, PAYLOADS_BYTES + 1]):
        if group and group_bytes + size > PAYLOADS_BYTES:
            replies = yield [("HGET", hashes[at], "data") for at in group]
            for at, data in zip(group, replies):
                names[at] = task_of(data) if isinstance(data, bytes) else ""
            group, group_bytes = [], 0
        if 0 < size <= PAYLOADS_BYTES:
            group.append(position)
            group_bytes += size
    return names


def _with_errors(keys: Keys, rows: Sequence[JobRow]) -> Query[list[JobRow]]:
    """Rows with how they last failed; RQ before 1.12 left it in the hash alone."""
    wanted = [row for row in rows if row.status not in (Status.FINISHED, Status.QUEUED, "missing")]
    streams = [raw(keys.results(row.id)) for row in wanted]
    replies = (
        (yield [("XREVRANGE", key, "+", "-", "COUNT", 1) for key in streams]) if wanted else []
    )
    found: dict[str, ResultEntry] = {}
    for row, reply in zip(wanted, replies):
        entries = read_entries(reply)
        if entries and entries[0].kind != "finished":
            found[row.id] = entries[0]
    return [
        replace(
            row,
            error_type=found[row.id].error_type,
            error=found[row.id].error,
            attempts=found[row.id].attempts or row.attempts,
        )
        if row.id in found
        else row
        for row in rows
    ]


def _row(entry: Entry, reply: Any, task: str) -> JobRow:
    if isinstance(reply, Exception):
        return JobRow(entry.id, "unreadable", queue=entry.queue)
    found = fields(_FIELDS, reply)
    if all(value is None for value in found.values()):
        return JobRow(entry.id, "missing", queue=entry.queue)
    begun = (whole(found["tq_attempts"]) or 0) + (whole(found["tq_crashes"]) or 0)
    started_at = moment(found["started_at"])
    return JobRow(
        id=entry.id,
        status=text(found["status"]) or "unreadable",
        task=task,
        queue=text(found["origin"]) or entry.queue,
        created_at=moment(found["created_at"]),
        enqueued_at=moment(found["enqueued_at"]),
        started_at=started_at,
        ended_at=moment(found["ended_at"]),
        due_at=entry.due_at,
        worker=text(found["worker_name"]),
        attempts=begun + 1 if started_at is not None else begun or None,
        retries_left=whole(found["retries_left"]),
    )
