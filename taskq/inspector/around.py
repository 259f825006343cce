"""What stands around one job: executions under way, its stream, jobs it waits for or holds up.

Keys read: RQ's execution records and dependency sets, our stream and box of a generator task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskq.inspector.query import Query
from taskq.inspector.rows import JobRow, listed
from taskq.inspector.values import count, fields, items, moment, raw, text
from taskq.keys import Keys
from taskq.serializers.peek import Peeked, peek

MAX_SHOWN = 20
MAX_VALUE_BYTES = 20_000
"""A longer value of a stream is named by its size."""

_EXECUTION = ("created_at", "last_heartbeat", "worker_name")


@dataclass(frozen=True)
class Execution:
    """One execution under way, as the worker reports it after its first second.

    Attributes:
        started_at: when it began.
        beat_at: when its worker said last that it goes on.
    """

    id: str
    worker: str
    started_at: float | None
    beat_at: float | None


@dataclass(frozen=True)
class StreamValue:
    """One value that a generator task yielded; `id` is its execution's generation and number."""

    id: str
    value: Peeked


@dataclass(frozen=True)
class Around:
    """The surroundings of a job.

    Attributes:
        executions: under way now.
        stream_length: values in its stream.
        stream: the newest of them, newest first.
        sent_count: values that were sent to it.
        needs: jobs that it waits for.
        needed_by: jobs that wait for it, some of them.
        needed_by_count: all of those.
    """

    executions: tuple[Execution, ...] = ()
    stream_length: int = 0
    stream: tuple[StreamValue, ...] = ()
    sent_count: int = 0
    needs: tuple[JobRow, ...] = ()
    needed_by: tuple[JobRow, ...] = ()
    needed_by_count: int = 0


def around(keys: Keys, job_id: str) -> Query[Around]:
    """Ask what stands around a job. At most five round trips, a bounded number of commands."""
    job = raw(keys.job(job_id))
    stream = raw(keys.stream(job_id))
    dependents = job + b":dependents"
    needed = raw(f"{keys.prefix}:job::{job_id}:dependencies")  # RQ's own two colons
    head = yield [
        ("ZRANGE", raw(f"{keys.prefix}:executions:{job_id}"), 0, MAX_SHOWN - 1),
        ("XLEN", stream),
        ("XREVRANGE", stream, "+", "-", "COUNT", MAX_SHOWN),
        ("XLEN", raw(keys.sent(job_id))),
        ("SRANDMEMBER", needed, MAX_SHOWN),
        ("SRANDMEMBER", dependents, MAX_SHOWN),
        ("SCARD", dependents),
        ("HGET", job, "dependency_ids"),
        ("HGET", job, "dependency_id"),
    ]
    running = yield from _executions(keys, job_id, [text(one) for one in items(head[0])])
    wanted = [text(member) for member in items(head[4])]
    wanted += [one for value in head[7:9] for one in _ids(text(value))]
    needs = list(dict.fromkeys(wanted))[:MAX_SHOWN]
    held = [text(member) for member in items(head[5])]
    rows = yield from listed(keys, [*needs, *held])
    return Around(
        executions=running,
        stream_length=count(head[1]),
        stream=tuple(_values(head[2])),
        sent_count=count(head[3]),
        needs=tuple(rows[: len(needs)]),
        needed_by=tuple(rows[len(needs) :]),
        needed_by_count=count(head[6]),
    )


def begun(keys: Keys, ids: Sequence[str]) -> Query[dict[str, float]]:
    """Ask when these jobs began; those that do not tell are left out."""
    replies = (yield [("HGET", raw(keys.job(one)), "started_at") for one in ids]) if ids else []
    times = {one: moment(reply) for one, reply in zip(ids, replies)}
    return {one: at for one, at in times.items() if at is not None}


def _executions(keys: Keys, job_id: str, ids: list[str]) -> Query[tuple[Execution, ...]]:
    if not ids:
        return ()
    records = [raw(f"{keys.prefix}:execution:{job_id}:{one}") for one in ids]
    replies = yield [("HMGET", key, *_EXECUTION) for key in records]
    found = []
    for one, reply in zip(ids, replies):
        values: dict[str, Any] = fields(_EXECUTION, reply)
        if any(value is not None for value in values.values()):
            started, beat = moment(values["created_at"]), moment(values["last_heartbeat"])
            found.append(Execution(one, text(values["worker_name"]), started, beat))
    return tuple(found)


def _values(reply: Any) -> list[StreamValue]:
    found = []
    for pair in map(items, items(reply)):
        flat = items(pair[1]) if len(pair) == 2 else []
        if len(flat) >= 2 and isinstance(flat[1], bytes):
            value = flat[1]
            seen = peek(value) if len(value) <= MAX_VALUE_BYTES else None
            found.append(
                StreamValue(
                    text(pair[0]), seen or Peeked("json", False, None, len(value), cut=True)
                )
            )
    return found


def _ids(value: str) -> list[str]:
    """Ids of `dependency_ids` as RQ writes them: a JSON list, or words."""
    return [part.strip(' "[]') for part in value.split(",") if part.strip(' "[]')]
