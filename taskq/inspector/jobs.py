"""Lists of jobs: by status, queue, task, error and age, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, NamedTuple

from taskq.inspector.overview import queue_names
from taskq.inspector.peek import task_of
from taskq.inspector.query import Query
from taskq.inspector.results import ResultEntry, read_entries
from taskq.inspector.values import count, fields, items, moment, number, raw, text, whole
from taskq.keys import Keys
from taskq.states import Status

REGISTRIES = {
    Status.QUEUED: "queue",
    Status.STARTED: "wip",
    Status.SCHEDULED: "scheduled",
    Status.DEFERRED: "deferred",
    Status.FAILED: "failed",
    Status.STOPPED: "failed",  # as RQ does
    Status.FINISHED: "finished",
    Status.CANCELED: "canceled",
}
"""Where jobs of a status stand."""

PAGE = 200
"""Jobs read from one queue or registry at a time."""

ROUND = 2_000
"""Jobs read in one round trip."""

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


@dataclass(frozen=True)
class Criteria:
    """Which jobs. Empty means any.

    Attributes:
        statuses: RQ's words.
        task: a whole name, its last parts, or a pattern with `*`.
        error: text within "type: message", in any case.
        since: something happened to the job after this (seconds since 1970).
    """

    statuses: tuple[Status, ...] = tuple(REGISTRIES)
    queues: tuple[str, ...] = ()
    task: str = ""
    error: str = ""
    since: float | None = None

    @property
    def looks_inside(self) -> bool:
        """Whether a job must be read to know if it fits."""
        ambiguous = (Status.FAILED in self.statuses) != (Status.STOPPED in self.statuses)
        return bool(self.task or self.error or self.since is not None or ambiguous)

    def fits(self, row: JobRow) -> bool:
        """Whether the job is one of these; one that does not tell its status fits any."""
        if row.status in REGISTRIES and row.status not in self.statuses:
            return False
        if self.since is not None and row.changed_at < self.since:
            return False
        if self.task and not _names(self.task, row.task):
            return False
        return not self.error or self.error.lower() in f"{row.error_type}: {row.error}".lower()


@dataclass(frozen=True)
class JobList:
    """The answer to `find`.

    Attributes:
        ids: all that fit, newest first.
        jobs: the first of them, read.
        total: jobs in the queues and registries that were asked, fitting or not.
        scanned: how many of these were looked at.
        complete: whether nothing can have been missed.
    """

    ids: tuple[str, ...]
    jobs: tuple[JobRow, ...]
    total: int
    scanned: int
    complete: bool


class _Entry(NamedTuple):
    """One id as found: in which queue, and when it is due if it is scheduled."""

    id: str
    queue: str = ""
    due_at: float | None = None


@dataclass
class _Source:
    """A queue or registry, being read from its newest end."""

    key: bytes
    kind: str
    queue: str
    offset: int = 0
    taken: int = 0
    done: bool = False
    seen: set[str] = field(default_factory=set)

    def size(self) -> tuple[Any, ...]:
        return ("LLEN" if self.kind == "queue" else "ZCARD", self.key)

    def page(self, length: int) -> tuple[Any, ...]:
        start, stop = self.offset, self.offset + length - 1
        self.offset += length
        if self.kind == "queue":
            return ("LRANGE", self.key, -stop - 1, -start - 1)
        return ("ZRANGE", self.key, start, stop, "REV", "WITHSCORES")

    def read(self, reply: Any, length: int) -> list[_Entry]:
        """What one page holds that was not seen before, newest first."""
        found = items(reply)
        if self.kind == "queue":
            self.done = len(found) < length
            entries = [_Entry(text(member), self.queue) for member in reversed(found)]
        else:
            if found and isinstance(found[0], (list, tuple)):  # RESP3 pairs them
                found = [part for pair in found for part in pair]
            self.done = len(found) < 2 * length
            entries = [self._entry(found[at], found[at + 1]) for at in range(0, len(found), 2)]
        # Jobs that come in while we read push others to the next page.
        fresh = [entry for entry in entries if entry.id not in self.seen]
        self.seen.update(entry.id for entry in fresh)
        return fresh

    def _entry(self, member: Any, score: Any) -> _Entry:
        name = text(member)
        if self.kind == "wip":  # job_id:execution_id
            name = name.rpartition(":")[0] or name
        return _Entry(name, self.queue, number(score) if self.kind == "scheduled" else None)


def find(
    keys: Keys,
    criteria: Criteria,
    *,
    limit: int | None = None,
    keep: int = 10,
    max_scan: int | None = None,
    errors: bool = False,
) -> Query[JobList]:
    """Ask for the jobs that fit.

    Args:
        keys: key names.
        criteria: which jobs.
        limit: how many, the newest; all of them are read and sorted. None: every one.
        keep: with `limit=None`: how many to read; of the others only the id is kept.
        max_scan: stop after looking at this many jobs; None: look at all.
        errors: whether to read how failed jobs failed.

    Raises:
        TaskQError: Redis refuses to list the queues.
    """
    names = list(criteria.queues) or (yield from queue_names(keys))
    sources = _sources(keys, criteria, names)
    total = sum(map(count, (yield [source.size() for source in sources]))) if sources else 0
    inside = criteria.looks_inside or limit is not None
    length = PAGE if criteria.looks_inside or limit is None else min(limit, PAGE)
    ids: list[str] = []
    rows: list[JobRow] = []
    scanned = 0
    while turn := [source for source in sources if not source.done][: max(ROUND // length, 1)]:
        if max_scan is not None and scanned >= max_scan:
            break
        replies = yield [source.page(length) for source in turn]
        pages = [source.read(reply, length) for source, reply in zip(turn, replies)]
        entries = [entry for page in pages for entry in page]
        scanned += len(entries)
        if not inside:
            ids += [entry.id for entry in entries]
            continue
        found = iter((yield from _read(keys, entries, errors or bool(criteria.error))))
        for source, page in zip(turn, pages):
            fitting = [row for row in islice(found, len(page)) if criteria.fits(row)]
            source.taken += len(fitting)
            source.done = source.done or (limit is not None and source.taken >= limit)
            ids += [row.id for row in fitting]
            rows += fitting if limit is not None else fitting[: max(keep - len(rows), 0)]
    complete = all(source.done for source in sources)
    if limit is not None:
        newest = {row.id: row for row in rows}.values()
        rows = sorted(newest, key=lambda row: row.changed_at, reverse=True)[:limit]
        ids = [row.id for row in rows]
    elif not inside:
        rows = yield from listed(keys, ids[:keep], errors=errors)
    return JobList(tuple(dict.fromkeys(ids)), tuple(rows), total, scanned, complete)


def listed(keys: Keys, ids: Sequence[str], *, errors: bool = False) -> Query[list[JobRow]]:
    """Ask for these jobs, in this order; unknown ones have the status "missing"."""
    rows: list[JobRow] = []
    for start in range(0, len(ids), PAGE):
        page = [_Entry(job_id) for job_id in ids[start : start + PAGE]]
        rows += yield from _read(keys, page, errors)
    return rows


def _sources(keys: Keys, criteria: Criteria, names: Sequence[str]) -> list[_Source]:
    kinds = dict.fromkeys(REGISTRIES[status] for status in criteria.statuses)
    return [_Source(raw(keys.registry(kind, name)), kind, name) for name in names for kind in kinds]


def _read(keys: Keys, entries: Sequence[_Entry], errors: bool) -> Query[list[JobRow]]:
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


def _row(entry: _Entry, reply: Any, task: str) -> JobRow:
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


def _names(wanted: str, task: str) -> bool:
    """Whether `wanted` means this task: all of its name, its end, or a pattern."""
    if "*" in wanted or "?" in wanted:
        return fnmatchcase(task, wanted)
    return task == wanted or task.endswith(f".{wanted}")
