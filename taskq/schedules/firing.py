"""One look of a scheduler: read what is due, decide, fire it.

The decision is made here and carried out by a script that checks it, so any number of
schedulers may do this at the same time, and any of them may die at any point.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.errors import PayloadError
from taskq.schedules import changes, occurrences, record
from taskq.schedules.asking import Run, Steps
from taskq.schedules.changes import as_dict
from taskq.schedules.record import Record, job_id
from taskq.schedules.template import occurrence

if TYPE_CHECKING:
    from taskq.broker.records import NewJob
    from taskq.clock import Clock
    from taskq.serializers import Codec

log = logging.getLogger("taskq.scheduler")

PAGE = 200
"""Schedules read at once."""
_MOST_JOBS, _MOST_BYTES = 500, 4_000_000
"""In one call of the script that fires: longer ones would stall Redis's other clients."""
HELD_S = 1.0
"""How often is looked whether the job before an occurrence that waits has ended."""
_MOST_TOLD = 10_000


class Look(NamedTuple):
    """What a look found and did.

    Attributes:
        now_ms: Redis's time.
        fired: jobs enqueued.
        pause_s: seconds until the next look is due; None: nothing is coming.
    """

    now_ms: int
    fired: int
    pause_s: float | None


class _Order(NamedTuple):
    """One schedule as the script is told of it.

    Attributes:
        is_due: else an occurrence of it waits for the one before.
        fires_ms: when it fires next, if it does.
    """

    is_due: bool
    fires_ms: int | None
    args: list[Any]
    jobs: list[NewJob]


class _Done(NamedTuple):
    """What became of a page of orders: jobs, schedules moved on by us, and by others."""

    fired: int
    ours: int
    others: int


class Firing:
    """Fires schedules for one app. Keeps only what it cannot fire, to say so once."""

    def __init__(
        self, codec: Codec, clock: Clock, fired: Callable[[list[NewJob]], None] | None = None
    ) -> None:
        """Nothing is looked at yet.

        Args:
            codec: of the app: it signs.
            clock: for the dates in the jobs' records.
            fired: called with the jobs that were enqueued.
        """
        self._codec = codec
        self._clock = clock
        self._fired = fired
        self._told: dict[str, str] = {}
        self._offset = 0

    def look(self, now_ms: int | None = None) -> Steps[Look]:
        """Fire what is due, a page of it.

        Args:
            now_ms: for tests; else Redis's time.
        """
        given = "" if now_ms is None else now_ms
        answer = yield Run("schedule_due", [given, PAGE, self._offset])
        now, count, due, held = int(answer[0]), int(answer[1]), answer[3], answer[4]
        orders: list[_Order] = []
        broken = 0
        for op, flat in (("due", due), ("held", held)):
            for raw, found in zip(flat[::2], flat[1::2]):
                fields = as_dict(found)
                try:
                    order = self._order(op, raw.decode(), fields, now)
                except Exception as error:  # noqa: BLE001 (one that is broken must not hold up the rest)
                    broken += 1
                    log.error("The schedule %r cannot be fired, set aside: %s",
                              raw.decode("utf-8", "replace"), error)  # fmt: skip
                    yield from changes.park(raw, fields.get(b"v", b""), str(error))
                    continue
                if order is not None:
                    orders.append(order)
        done = yield from self._fire(orders, given, now)
        seen = len(due) // 2
        more = self._turn(count, seen, done, moved=done.ours + done.others + broken > 0)
        if more:
            return Look(now, done.fired, 0.0)
        coming = [order.fires_ms for order in orders if order.fires_ms is not None]
        coming += [int(answer[2])] if answer[2] else []
        pauses = [max(at - now, 0) / 1000 for at in coming] + ([HELD_S] if held else [])
        return Look(now, done.fired, min(pauses, default=None))

    def _turn(self, count: int, seen: int, done: _Done, *, moved: bool) -> bool:
        """Decide where the next look begins among those that are due; whether it is due now.

        At the head, where the longest overdue are. But others may be firing the same page:
        then somewhere else. And behind a page of which this app can fire nothing.
        """
        behind = count - self._offset - seen
        if not moved:
            self._offset = self._offset + seen if behind > 0 else 0
            return behind > 0
        self._offset = 0
        if done.others > done.ours and count > 2 * PAGE:
            self._offset = random.randrange(count - PAGE)  # noqa: S311 (no secret)
        return count > seen

    def _fire(self, orders: list[_Order], given: Any, now: int) -> Steps[_Done]:
        """Have the script fire them."""
        fired = ours = others = 0
        for page in _pages(orders):
            args: list[Any] = [given, self._clock.iso(now / 1000)]  # Redis's time, not ours
            for order in page:
                args += order.args
            answers = yield Run("schedule_fire", args)
            new: list[NewJob] = []
            for order, answer in zip(page, answers):
                if isinstance(answer, int):
                    # one that waits for the job before it says -1, too, and that is no progress
                    others += answer == -1 and order.is_due
                    continue
                ours += 1
                ids = {raw.decode() for raw in answer}
                new += [job for job in order.jobs if job.id in ids]
            fired += len(new)
            if new and self._fired is not None:
                self._fired(new)
        return _Done(fired, ours, others)

    def _order(self, op: str, name: str, flat: dict[bytes, bytes], now: int) -> _Order | None:
        """What is to be done with one schedule; None: nothing, or not by this app.

        Raises:
            ValueError: it is broken.
        """
        if not flat:
            raise ValueError("its hash taskq:schedule:... is gone, or something else")
        found = record.read(name, flat)
        try:
            order = self._due(found, now) if op == "due" else self._held(found)
        except PayloadError as error:
            self._tell_once(name, found.state.version, str(error))
            return None
        self._told.pop(name, None)
        return order

    def _due(self, found: Record, now: int) -> _Order | None:
        name, terms, state = found.name, found.terms, found.state
        if state.paused:  # its score was changed by hand
            return None
        if state.next_ms is None:
            raise ValueError("it has no next time")
        plan = occurrences.plan(name, terms, state.next_ms, now, state.anchor_ms)
        jobs = [self._job(found, due) for due in plan.fire]
        fires_ms = None
        if plan.next_ms is not None:
            fires_ms = occurrences.fires_at(name, terms, plan.next_ms)
        head = [
            name, "due", state.version, state.next_ms,
            "" if plan.next_ms is None else plan.next_ms, "inf" if fires_ms is None else fires_ms,
            plan.dropped, len(jobs),
        ]  # fmt: skip
        return _Order(True, fires_ms, head + _job_args(plan.fire, jobs), jobs)

    def _held(self, found: Record) -> _Order | None:
        name, state = found.name, found.state
        if state.held_ms is None:
            return None
        job = self._job(found, state.held_ms)
        head = [name, "held", state.version, state.held_ms, "", "inf", 0, 1]
        return _Order(False, None, head + _job_args((state.held_ms,), [job]), [job])

    def _job(self, found: Record, due_ms: int) -> NewJob:
        where = (due_ms, found.terms.tz)
        name = found.name
        return occurrence(self._codec, name, found.template, job_id(name, due_ms), where)

    def _tell_once(self, name: str, version: str, why: str) -> None:
        """This app cannot fire it; another one can, which has its secret."""
        if self._told.get(name) != version:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told[name] = version
            log.warning("The schedule %r is left to other schedulers: %s", name, why)


def _job_args(dues: tuple[int, ...], jobs: list[NewJob]) -> list[Any]:
    args: list[Any] = []
    for due, job in zip(dues, jobs):
        args += (
            due, job.id, job.queue, job.place(), job.unique,
            "" if job.ttl_s is None else job.ttl_s,
            len(job.fields) + 2, "data", job.data, *job.fields,
        )  # fmt: skip
    return args


def _pages(orders: list[_Order]) -> list[list[_Order]]:
    """Cut orders into calls of the script."""
    pages: list[list[_Order]] = []
    jobs = size = 0
    for order in orders:
        bytes_ = sum(len(job.data) for job in order.jobs)
        full = jobs + len(order.jobs) > _MOST_JOBS or size + bytes_ > _MOST_BYTES
        if not pages or full:
            pages.append([])
            jobs = size = 0
        pages[-1].append(order)
        jobs += max(len(order.jobs), 1)
        size += bytes_
    return pages
