"""Pages of jobs, newest first, with a cursor that goes on where the last page ended.

A page reads a bounded part of each queue and registry, however many jobs there are. They
are merged by what happened last, each keeps its own order. The cursor remembers how far
each was read and which job was the last one there, so that what comes in or goes meanwhile
neither repeats nor skips a job.

Keys read: RQ's queues and registries, job hashes, result streams.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import json
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from taskq.inspector.jobs import REGISTRIES, Criteria
from taskq.inspector.overview import queue_names
from taskq.inspector.query import Query
from taskq.inspector.rows import Entry, JobRow, read_rows
from taskq.inspector.values import count, items, number, raw, text
from taskq.keys import Keys

MAX_SCANNED = 600
"""Jobs that are read for one page at most; the cursor goes on behind them."""
MAX_SOURCES = 1_000
_SEARCHED = 50_000
"""How far into a queue the last page's end is looked for."""
_NAMED = 100
"""Ends of pages that a cursor names; with more of them it only counts."""
_CURSOR = 100_000
"""Most that a cursor may unpack to: it comes from the address bar."""


@dataclass(frozen=True)
class JobPage:
    """One page.

    Attributes:
        jobs: newest first.
        total: jobs in the queues and registries that were asked, fitting or not.
        scanned: jobs read for this page.
        cursor: where the next page begins, or "" at the end.
    """

    jobs: tuple[JobRow, ...]
    total: int
    scanned: int
    cursor: str


@dataclass
class _Source:
    """One queue or registry, read from its newest end.

    Attributes:
        offset: elements read so far.
        given: elements of these that the page shows or has passed over.
        turns: how often it was read for this page.
        last: id of the last of those.
        waiting: rows that were read and are not given yet, newest first.
    """

    key: bytes
    kind: str
    queue: str
    size: int = 0
    offset: int = 0
    given: int = 0
    turns: int = 0
    last: str = ""
    waiting: deque[JobRow] = field(default_factory=deque)

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.queue}"

    def measure(self) -> tuple[Any, ...]:
        return ("LLEN" if self.kind == "queue" else "ZCARD", self.key)

    def locate(self) -> tuple[Any, ...]:
        """Where the last page's end is now, counted from the newest."""
        if self.kind == "queue":
            return ("LPOS", self.key, raw(self.last), "RANK", -1, "MAXLEN", _SEARCHED)
        return ("ZREVRANK", self.key, raw(self.last))

    def located(self, reply: Any) -> None:
        if isinstance(reply, int):
            place = self.size - reply if self.kind == "queue" else reply + 1
            self.offset = self.given = place

    def page(self, length: int) -> tuple[Any, ...]:
        start, stop = self.offset, self.offset + length - 1
        if self.kind == "queue":
            return ("LRANGE", self.key, -stop - 1, -start - 1)
        return ("ZRANGE", self.key, start, stop, "REV", "WITHSCORES")

    def entries(self, reply: Any) -> list[Entry]:
        found = items(reply)
        if self.kind == "queue":
            return [Entry(text(member), self.queue) for member in reversed(found)]
        if found and isinstance(found[0], (list, tuple)):  # RESP3 pairs them
            found = [part for pair in found for part in pair]
        return [self._entry(found[at], found[at + 1]) for at in range(0, len(found) - 1, 2)]

    def _entry(self, member: Any, score: Any) -> Entry:
        name = text(member)
        due_at = number(score) if self.kind == "scheduled" else None
        return Entry(name, self.queue, due_at)


def page(
    keys: Keys, criteria: Criteria, *, limit: int = 50, cursor: str = "", errors: bool = False
) -> Query[JobPage]:
    """Ask for one page of the jobs that fit.

    Args:
        keys: key names.
        criteria: which jobs.
        limit: jobs on the page.
        cursor: of the page before, or "" for the first.
        errors: whether to read how failed jobs failed.

    Raises:
        TaskQError: Redis refuses to list the queues.
        ValueError: the cursor is none.
    """
    names = list(criteria.queues) or (yield from queue_names(keys))
    kinds = dict.fromkeys(REGISTRIES[status] for status in criteria.statuses)
    sources = [
        _Source(raw(keys.registry(kind, name)), kind, name) for kind in kinds for name in names
    ][:MAX_SOURCES]
    yield from _begin(sources, _decoded(cursor))
    merge = _Merge(keys, criteria, sources, errors or bool(criteria.error or criteria.text))
    jobs: list[JobRow] = []
    while len(jobs) < limit:
        row = yield from merge.next(limit)
        if row is None:
            break
        jobs.append(row)
    more = any(source.given < source.size for source in sources)
    return JobPage(
        jobs=tuple(jobs),
        total=sum(source.size for source in sources),
        scanned=merge.scanned,
        cursor=_encoded(sources) if more else "",
    )


def _begin(sources: Sequence[_Source], places: dict[str, tuple[int, str]]) -> Query[None]:
    """Measure all, and find again where the last page ended."""
    sizes = (yield [source.measure() for source in sources]) if sources else []
    for source, size in zip(sources, sizes):
        source.size = count(size)
        source.offset, source.last = places.get(source.name, (0, ""))
        source.given = source.offset
    known = [source for source in sources if source.last]
    replies = (yield [source.locate() for source in known]) if known else []
    for source, reply in zip(known, replies):
        source.located(reply)


class _Merge:
    """Rows of all sources in one order, read in growing portions as they are needed."""

    def __init__(
        self, keys: Keys, criteria: Criteria, sources: Sequence[_Source], errors: bool
    ) -> None:
        self.scanned = 0
        self._keys = keys
        self._criteria = criteria
        self._sources = sources
        self._errors = errors
        self._shown: set[str] = set()
        self._empty = [source for source in sources if source.offset < source.size]
        self._heads: list[tuple[float, int, _Source]] = []
        self._turn = 0

    def next(self, limit: int) -> Query[JobRow | None]:
        """The next row that fits; None at the end, or when enough was looked at."""
        while True:
            if self._empty and not (yield from self._fill(limit)):
                return None
            if not self._heads:
                return None
            _, _, source = heapq.heappop(self._heads)
            row = source.waiting.popleft()
            source.given += 1
            source.last = row.id
            if source.waiting:
                self._push(source)
            elif source.offset < source.size:
                self._empty.append(source)
            # a job may move from one registry to another while they are read
            if row.id not in self._shown and self._criteria.fits(row):
                self._shown.add(row.id)
                return row

    def _push(self, source: _Source) -> None:
        self._turn += 1
        heapq.heappush(self._heads, (-source.waiting[0].changed_at, self._turn, source))

    def _fill(self, limit: int) -> Query[bool]:
        """Read on where a source has nothing waiting; False where too much was looked at."""
        if self.scanned >= MAX_SCANNED:
            return False
        empty, self._empty = self._empty, []
        first = 200 if self._criteria.looks_inside and len(self._sources) <= 3 else limit
        lengths = [self._length(source, first) for source in empty]
        replies = yield [source.page(length) for source, length in zip(empty, lengths)]
        pages = [source.entries(reply) for source, reply in zip(empty, replies)]
        flat = [_job_entry(source, e) for source, found in zip(empty, pages) for e in found]
        self.scanned += len(flat)
        rows = iter((yield from read_rows(self._keys, flat, self._errors)))
        for source, found in zip(empty, pages):
            source.waiting.extend(next(rows) for _ in found)
            source.offset += len(found)
            source.turns += 1
            if found:
                self._push(source)
            else:  # it has shrunk meanwhile, or is something else
                source.size = source.given = source.offset
        return True

    def _length(self, source: _Source, most: int) -> int:
        """Of many sources most are not on this page: first one or two of each, then more."""
        few = 1 if len(self._sources) > 120 else 2
        return most if len(self._sources) <= 3 else min(few * 4**source.turns, most)


def _job_entry(source: _Source, entry: Entry) -> Entry:
    """The job behind a member: of running ones, these are `job_id:execution_id`."""
    if source.kind != "wip":
        return entry
    return entry._replace(id=entry.id.rpartition(":")[0] or entry.id)


def _encoded(sources: Sequence[_Source]) -> str:
    """How far each was read, as text for an address."""
    begun = [source for source in sources if source.given]
    named = len(begun) <= _NAMED
    places = {
        source.name: [source.given, source.last if named and source.kind != "wip" else ""]
        for source in begun
    }
    packed = zlib.compress(json.dumps(places, separators=(",", ":")).encode(), 9)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _decoded(cursor: str) -> dict[str, tuple[int, str]]:
    """The text taken apart.

    Raises:
        ValueError: it is none of ours.
    """
    if not cursor:
        return {}
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        plain = zlib.decompressobj().decompress(base64.urlsafe_b64decode(padded), _CURSOR)
        found = json.loads(plain)
        return {str(name): _place(*place) for name, place in found.items()}
    except (
        binascii.Error,
        zlib.error,
        UnicodeError,
        AttributeError,
        TypeError,
        RecursionError,
        ValueError,
    ) as error:
        raise ValueError("This is no place in a list.") from error


def _place(offset: object, last: object) -> tuple[int, str]:
    if not isinstance(offset, int) or not isinstance(last, str) or not 0 <= offset < 2**40:
        raise ValueError("This is no place in a list.")
    return offset, last[:1_000]
