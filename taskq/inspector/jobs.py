"""Lists of jobs: by status, queue, task, error and age, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from taskq.inspector.overview import queue_names
from taskq.inspector.query import Query
from taskq.inspector.rows import PAGE, Entry, JobRow, listed, read_rows
from taskq.inspector.values import count, items, number, raw, text
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

ROUND = 2_000
"""Jobs read in one round trip."""


@dataclass(frozen=True)
class Criteria:
    """Which jobs. Empty means any.

    Attributes:
        statuses: RQ's words.
        task: a whole name, its last parts, or a pattern with `*`.
        error: text within "type: message", in any case.
        since: something happened to the job after this (seconds since 1970).
        until: nothing happened to the job after this.
        text: within its id, its task's name, its worker's, or "type: message", in any case.
    """

    statuses: tuple[Status, ...] = tuple(REGISTRIES)
    queues: tuple[str, ...] = ()
    task: str = ""
    error: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""

    @property
    def looks_inside(self) -> bool:
        """Whether a job must be read to know if it fits."""
        ambiguous = (Status.FAILED in self.statuses) != (Status.STOPPED in self.statuses)
        times = self.since is not None or self.until is not None
        return bool(self.task or self.error or self.text or times or ambiguous)

    def fits(self, row: JobRow) -> bool:
        """Whether the job is one of these; one that does not tell its status fits any."""
        if row.status in REGISTRIES and row.status not in self.statuses:
            return False
        if self.since is not None and row.changed_at < self.since:
            return False
        if self.until is not None and row.changed_at > self.until:
            return False
        if self.task and not _names(self.task, row.task):
            return False
        error = f"{row.error_type}: {row.error}"
        if self.error and self.error.lower() not in error.lower():
            return False
        anywhere = f"{row.id}\n{row.task}\n{row.worker}\n{error}"
        return not self.text or self.text.lower() in anywhere.lower()


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

    def read(self, reply: Any, length: int) -> list[Entry]:
        """What one page holds that was not seen before, newest first."""
        found = items(reply)
        if self.kind == "queue":
            self.done = len(found) < length
            entries = [Entry(text(member), self.queue) for member in reversed(found)]
        else:
            if found and isinstance(found[0], (list, tuple)):  # RESP3 pairs them
                found = [part for pair in found for part in pair]
            self.done = len(found) < 2 * length
            entries = [self._entry(found[at], found[at + 1]) for at in range(0, len(found), 2)]
        # Jobs that come in while we read push others to the next page.
        fresh = [entry for entry in entries if entry.id not in self.seen]
        self.seen.update(entry.id for entry in fresh)
        return fresh

    def _entry(self, member: Any, score: Any) -> Entry:
        name = text(member)
        if self.kind == "wip":  # job_id:execution_id
            name = name.rpartition(":")[0] or name
        return Entry(name, self.queue, number(score) if self.kind == "scheduled" else None)


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
    found = _Found(criteria, limit, keep, errors or bool(criteria.error or criteria.text))
    length = PAGE if criteria.looks_inside or limit is None else min(limit, PAGE)
    while turn := [source for source in sources if not source.done][: max(ROUND // length, 1)]:
        if max_scan is not None and found.scanned >= max_scan:
            break
        replies = yield [source.page(length) for source in turn]
        pages = [source.read(reply, length) for source, reply in zip(turn, replies, strict=True)]
        yield from found.take(keys, turn, pages)
    if limit is not None:
        found.keep_newest(limit)
    elif not found.inside:
        found.rows = yield from listed(keys, found.ids[:keep], errors=errors)
    return JobList(
        ids=tuple(dict.fromkeys(found.ids)),
        jobs=tuple(found.rows),
        total=total,
        scanned=found.scanned,
        complete=all(source.done for source in sources),
    )


class _Found:
    """What a search has gathered so far."""

    def __init__(self, criteria: Criteria, limit: int | None, keep: int, errors: bool) -> None:
        self.ids: list[str] = []
        self.rows: list[JobRow] = []
        self.scanned = 0
        self.inside = criteria.looks_inside or limit is not None
        self._criteria = criteria
        self._limit = limit
        self._keep = keep
        self._errors = errors

    def take(
        self, keys: Keys, turn: Sequence[_Source], pages: Sequence[Sequence[Entry]]
    ) -> Query[None]:
        """Add what fits of one page of each source; a source with enough is done."""
        entries = [entry for page in pages for entry in page]
        self.scanned += len(entries)
        if not self.inside:
            self.ids += [entry.id for entry in entries]
            return
        rows = iter((yield from read_rows(keys, entries, self._errors)))
        for source, page in zip(turn, pages, strict=True):
            fitting = [row for row in islice(rows, len(page)) if self._criteria.fits(row)]
            self.ids += [row.id for row in fitting]
            if self._limit is None:
                self.rows += fitting[: max(self._keep - len(self.rows), 0)]
                continue
            self.rows += fitting
            source.taken += len(fitting)
            source.done = source.done or source.taken >= self._limit

    def keep_newest(self, limit: int) -> None:
        """Sort by time of change, without what was found twice, and drop the rest."""
        different = {row.id: row for row in self.rows}.values()
        self.rows = sorted(different, key=lambda row: row.changed_at, reverse=True)[:limit]
        self.ids = [row.id for row in self.rows]


def _sources(keys: Keys, criteria: Criteria, names: Sequence[str]) -> list[_Source]:
    kinds = dict.fromkeys(REGISTRIES[status] for status in criteria.statuses)
    return [_Source(raw(keys.registry(kind, name)), kind, name) for name in names for kind in kinds]


def _names(wanted: str, task: str) -> bool:
    """Whether `wanted` means this task: all of its name, its end, or a pattern."""
    if "*" in wanted or "?" in wanted:
        return fnmatchcase(task, wanted)
    return task == wanted or task.endswith(f".{wanted}")
