"""Which occurrences of a schedule are to run now, and which one is next.

Drift-free: the next time follows from the last due time, never from now. Late
occurrences follow the schedule's `missed`: see `plan`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from taskq.schedules.record import job_id
from taskq.schedules.terms import Terms
from taskq.timing import Cron

MOST_AT_ONCE = 1_000
"""`run_all` catches up with so many at most, the newest: more would be a flood, not a schedule."""
PAGE = 100
"""Occurrences of one schedule in one call of the script."""


class Plan(NamedTuple):
    """What is to be done with a schedule that is due.

    Attributes:
        fire: due times of the occurrences to enqueue, in order.
        next_ms: the next due time after these; None: there is none.
        dropped: how many were missed and do not run; at least so many where they are many.
    """

    fire: tuple[int, ...]
    next_ms: int | None
    dropped: int = 0


def first(terms: Terms, now_ms: int, anchor_ms: int) -> int | None:
    """The first occurrence of a schedule that begins now: later than now, not before `start`."""
    if terms.start_ms is not None and terms.start_ms > now_ms:
        return _after(terms, terms.start_ms - 1, anchor_ms)
    return _after(terms, now_ms, anchor_ms)


def following(terms: Terms, due_ms: int, anchor_ms: int) -> Iterator[int]:
    """The occurrences after `due_ms`, until `end`."""
    due: int | None = due_ms
    while due is not None:
        due = _after(terms, due, anchor_ms)
        if due is not None:
            yield due


def fires_at(name: str, terms: Terms, due_ms: int) -> int:
    """When an occurrence fires: its due time, and its part of the jitter."""
    if not terms.jitter_ms:
        return due_ms
    # not random: all schedulers must come to the same, and a restart must change nothing
    return due_ms + zlib.crc32(job_id(name, due_ms).encode()) % (terms.jitter_ms + 1)


def plan(name: str, terms: Terms, due_ms: int, now_ms: int, anchor_ms: int) -> Plan:
    """Decide about a schedule whose next occurrence was due at `due_ms`.

    On time, that is the one occurrence. If several are overdue: the latest ("run_once"),
    the latest unless it is late as well ("skip"), or all ("run_all"), at most the newest
    `MOST_AT_ONCE`. None that is later than the schedule's window.

    Args:
        name: of the schedule: its jitter follows from it.
        terms: of the schedule.
        due_ms: its next occurrence, not in the future.
        now_ms: Redis's time.
        anchor_ms: what intervals are counted from.
    """
    upcoming = _after(terms, due_ms, anchor_ms)
    if upcoming is None or fires_at(name, terms, upcoming) > now_ms:
        overdue, next_ms, older = [due_ms], upcoming, 0
    else:
        overdue, older = _overdue(name, terms, due_ms, now_ms, anchor_ms)
        next_ms = _after(terms, overdue[-1], anchor_ms)
    count = len(overdue)
    window = terms.latest_ms
    if terms.missed != "run_all":
        overdue = overdue[-1:]
    if window is not None:
        overdue = [due for due in overdue if now_ms - fires_at(name, terms, due) <= window]
    dropped = older + count - len(overdue)
    if len(overdue) > PAGE:  # the rest at the next look, which begins with the next of them
        return Plan(tuple(overdue[:PAGE]), overdue[PAGE], dropped)
    return Plan(tuple(overdue), next_ms, dropped)


def _overdue(
    name: str, terms: Terms, due_ms: int, now_ms: int, anchor_ms: int
) -> tuple[list[int], int]:
    """The occurrences from `due_ms` until now, the newest `MOST_AT_ONCE`; and how many older ones.

    Found backwards from now: after a year away, an occurrence a minute would be half a
    million. The older ones are counted up to ten times as many.
    """
    most = MOST_AT_ONCE if terms.missed == "run_all" else 1
    found: list[int] = []
    older = 0
    until = now_ms if terms.end_ms is None else min(now_ms, terms.end_ms)
    while (at := _latest(terms, until, anchor_ms)) is not None and at >= due_ms:
        if not found and fires_at(name, terms, at) > now_ms:
            pass  # its jitter is not over: it comes next
        elif len(found) < most:
            found.append(at)
        else:
            older += 1
            if older >= 10 * MOST_AT_ONCE:
                break
        until = at - 1
    return (found[::-1] or [due_ms]), older


def _after(terms: Terms, ms: int, anchor_ms: int) -> int | None:
    when = terms.when
    found = when.after(ms) if isinstance(when, Cron) else when.after(ms, anchor_ms)
    if found is None or (terms.end_ms is not None and found > terms.end_ms):
        return None
    return found


def _latest(terms: Terms, ms: int, anchor_ms: int) -> int | None:
    when = terms.when
    return when.latest(ms) if isinstance(when, Cron) else when.latest(ms, anchor_ms)
