"""Queues, workers and the server, at one glance: what `taskq info` shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from taskq.errors import TaskQError
from taskq.inspector.query import Query
from taskq.inspector.server import ServerInfo, server_info, server_time
from taskq.inspector.values import count, fields, items, moment, number, raw, text, whole
from taskq.keys import Keys

MAX_QUEUES = 500
MAX_WORKERS = 500
"""More are counted, not described: the question stays bounded."""

MAX_NAMES = 5_000
"""Names read of a set. Of a larger one, which names these are is up to Redis."""

SHOWN_JOBS = 3

_WORKER_FIELDS = (
    "state",
    "hostname",
    "pid",
    "queues",
    "current_job",
    "last_heartbeat",
    "birth",
    "successful_job_count",
    "failed_job_count",
    "total_working_time",
    "version",
    "python_version",
    "tq_stuck",
    "tq_memory",
    "tq_slots",
)
_REGISTRIES = ("wip", "scheduled", "deferred", "canceled")
_EXPIRING = ("finished", "failed")


@dataclass(frozen=True)
class QueueInfo:
    """One queue: jobs by where they are, without sweeping anything.

    Attributes:
        oldest_waiting_s: age of the job that is next, or None.
        paused: whether workers leave it alone.
    """

    name: str
    queued: int = 0
    started: int = 0
    scheduled: int = 0
    deferred: int = 0
    finished: int = 0
    failed: int = 0
    canceled: int = 0
    oldest_waiting_s: float | None = None
    paused: bool = False


@dataclass(frozen=True)
class WorkerInfo:
    """One worker process.

    Attributes:
        state: RQ's word: idle, busy, suspended, started.
        queues: what it listens to.
        running: executions it has registered (those older than a second).
        jobs: ids of some of these.
        heartbeat_age_s: seconds since it last said that it lives.
        stuck: threads and coroutines that did not end at their time limit, and run on.
        memory_bytes: resident memory of the process, where it tells.
        slots: what it can run at once, in words: "8 threads, 100 async".
    """

    name: str
    host: str = ""
    pid: int | None = None
    state: str = ""
    queues: tuple[str, ...] = ()
    running: int = 0
    jobs: tuple[str, ...] = ()
    finished: int = 0
    failed: int = 0
    working_s: float = 0.0
    heartbeat_age_s: float | None = None
    uptime_s: float | None = None
    version: str = ""
    python: str = ""
    stuck: int = 0
    memory_bytes: int | None = None
    slots: str = ""


@dataclass(frozen=True)
class Overview:
    """The answer to `overview`.

    Attributes:
        at: time of the server, seconds since 1970.
        suspended: whether `rq suspend` stopped all workers.
        queue_count: queues there are; more than described above `MAX_QUEUES`.
        worker_count: workers there are.
    """

    at: float
    server: ServerInfo
    queues: tuple[QueueInfo, ...]
    workers: tuple[WorkerInfo, ...]
    suspended: bool = False
    queue_count: int = 0
    worker_count: int = 0
    totals: dict[str, int] = field(default_factory=dict)


def overview(keys: Keys) -> Query[Overview]:
    """Ask for everything at one glance: three round trips, commands by queues and workers.

    Raises:
        TaskQError: Redis refuses to list the queues.
    """
    head = yield [
        ("TIME",),
        ("INFO", "server"),
        ("INFO", "memory"),
        ("INFO", "clients"),
        some_of(keys.queues),
        some_of(keys.workers),
        some_of(keys.paused),
        ("EXISTS", keys.suspended),
        ("SCARD", keys.queues),
        ("SCARD", keys.workers),
    ]
    if isinstance(head[4], Exception):
        raise TaskQError(f"Redis refuses to list the queues ({keys.queues}): {head[4]}")
    at = server_time(head[0])
    queue_names = _names(head[4], f"{keys.prefix}:queue:")
    worker_names = _names(head[5], f"{keys.prefix}:worker:")
    paused = {text(name) for name in items(head[6])}
    shown_queues, shown_workers = queue_names[:MAX_QUEUES], worker_names[:MAX_WORKERS]
    queues = yield from _queues(keys, shown_queues, paused, at)
    workers = yield from _workers(keys, shown_workers, at)
    return Overview(
        at=at,
        server=server_info(*head[1:4]),
        queues=queues,
        workers=workers,
        suspended=head[7] == 1,
        queue_count=max(len(queue_names), count(head[8]) if len(queue_names) == MAX_NAMES else 0),
        worker_count=max(
            len(worker_names), count(head[9]) if len(worker_names) == MAX_NAMES else 0
        ),
        totals=_totals(queues),
    )


def queue_info(keys: Keys, name: str) -> Query[QueueInfo | None]:
    """Ask for one queue; None where there is none of that name."""
    head = yield [
        ("TIME",),
        ("SISMEMBER", keys.queues, raw(keys.queue(name))),
        some_of(keys.paused),
    ]
    paused = {text(one) for one in items(head[2])}
    (found,) = yield from _queues(keys, [name], paused, server_time(head[0]))
    return found if head[1] == 1 else None


def some_of(key: str) -> tuple[Any, ...]:
    """All members of a set, but never more than `MAX_NAMES`: what SMEMBERS does not promise."""
    return ("SRANDMEMBER", key, MAX_NAMES)


def queue_names(keys: Keys) -> Query[list[str]]:
    """Ask for the names of all queues, in order.

    Raises:
        TaskQError: Redis refuses to list them.
    """
    (reply,) = yield [some_of(keys.queues)]
    if isinstance(reply, Exception):
        raise TaskQError(f"Redis refuses to list the queues ({keys.queues}): {reply}")
    return _names(reply, f"{keys.prefix}:queue:")


def _names(reply: Any, prefix: str) -> list[str]:
    """Names behind the key prefix, in order; what does not begin with it is not ours."""
    members = (text(member) for member in items(reply))
    return sorted(name[len(prefix) :] for name in members if name.startswith(prefix))


def _queues(
    keys: Keys, names: list[str], paused: set[str], at: float
) -> Query[tuple[QueueInfo, ...]]:
    """Count each queue. Scores of finished and failed are the times at which they are forgotten.

    What has passed is not counted, though no sweep has removed it yet; scores below 0
    are RQ's way of writing "for ever" in the failed registry.
    """
    commands: list[Any] = []
    for name in names:
        commands.append(("LLEN", raw(keys.queue(name))))
        commands += [("ZCARD", raw(keys.registry(kind, name))) for kind in _REGISTRIES]
        for kind in _EXPIRING:
            key = raw(keys.registry(kind, name))
            commands.append(("ZCOUNT", key, f"({at}", "+inf"))
            commands.append(("ZCOUNT", key, "-inf", "(0"))
        commands.append(("LINDEX", raw(keys.queue(name)), 0))
    replies = (yield commands) if commands else []
    width = len(commands) // len(names) if names else 0
    rows = [replies[start : start + width] for start in range(0, len(replies), width or 1)]
    heads = [raw(keys.job(text(row[-1]))) for row in rows]
    dates = (yield [("HGET", key, "enqueued_at") for key in heads]) if heads else []
    found = []
    for name, row, date in zip(names, rows, dates):
        queued, started, scheduled, deferred, canceled, done, done_ever, bad, bad_ever = map(
            count, row[:-1]
        )
        since = moment(date)
        found.append(
            QueueInfo(
                name=name,
                queued=queued,
                started=started,
                scheduled=scheduled,
                deferred=deferred,
                finished=done + done_ever,
                failed=bad + bad_ever,
                canceled=canceled,
                oldest_waiting_s=None if since is None else max(at - since, 0.0),
                paused=name in paused,
            )
        )
    return tuple(found)


def _workers(keys: Keys, names: list[str], at: float) -> Query[tuple[WorkerInfo, ...]]:
    commands: list[Any] = []
    for name in names:
        running = raw(f"{keys.worker(name)}:executions")
        commands.append(("HMGET", raw(keys.worker(name)), *_WORKER_FIELDS))
        commands.append(("SCARD", running))
        commands.append(("SRANDMEMBER", running, SHOWN_JOBS))
    replies = (yield commands) if commands else []
    found = []
    for position, name in enumerate(names):
        values, running, members = replies[3 * position : 3 * position + 3]
        info = fields(_WORKER_FIELDS, values)
        if not any(value is not None for value in info.values()):
            continue  # its hash has expired; the set is swept by whoever registers next
        found.append(_worker(name, info, running, members, at))
    return tuple(found)


def _worker(name: str, info: dict[str, Any], running: Any, members: Any, at: float) -> WorkerInfo:
    jobs = [text(member).rpartition(":")[0] for member in items(members)]
    current = text(info["current_job"])
    if current and current not in jobs:
        jobs.append(current)
    beat, birth = moment(info["last_heartbeat"]), moment(info["birth"])
    return WorkerInfo(
        name=name,
        host=text(info["hostname"]),
        pid=whole(info["pid"]),
        state=text(info["state"]),
        queues=tuple(part for part in text(info["queues"]).split(",") if part),
        running=max(count(running), len(jobs)),
        jobs=tuple(jobs),
        finished=whole(info["successful_job_count"]) or 0,
        failed=whole(info["failed_job_count"]) or 0,
        working_s=number(info["total_working_time"]) or 0.0,
        heartbeat_age_s=None if beat is None else max(at - beat, 0.0),
        uptime_s=None if birth is None else max(at - birth, 0.0),
        version=text(info["version"]),
        python=text(info["python_version"]).split(" ")[0],
        stuck=whole(info["tq_stuck"]) or 0,
        memory_bytes=whole(info["tq_memory"]),
        slots=text(info["tq_slots"]),
    )


def _totals(queues: tuple[QueueInfo, ...]) -> dict[str, int]:
    names = ("queued", "started", "scheduled", "deferred", "finished", "failed", "canceled")
    return {name: sum(getattr(queue, name) for queue in queues) for name in names}
