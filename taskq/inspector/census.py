"""Where every job is: one pass over all keys in bounded steps, for `taskq doctor`.

An accepted job has to be in exactly one place: waiting in a queue (or just claimed by a
worker), scheduled, deferred, running, or in one of the registries of what has ended. What
is read moves while it is read: a single pass accuses jobs that were on their way. Only what
several passes find in the same state is a finding (`doctor.examine`).

Memory: about 230 bytes for each job. Commands: SCAN, TYPE, LRANGE, ZRANGE, HMGET, TTL, GET.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from taskq.inspector.query import Command, Query
from taskq.inspector.server import server_time
from taskq.inspector.suspects import SILENT_S, Census, Pass
from taskq.inspector.values import items, number, raw, text
from taskq.keys import Keys
from taskq.states import ENDED, Status

PAGE = 1000
"""Keys, ids or members in one step."""

REGISTRIES = ("wip", "finished", "failed", "scheduled", "deferred", "canceled", "ready")
"""Sorted sets of RQ, `PREFIX:KIND:QUEUE`."""

_RIGHT = {
    Status.QUEUED: ("queue", "claim", "intermediate"),
    Status.SCHEDULED: ("scheduled",),
    Status.DEFERRED: ("deferred", "ready"),
    Status.READY: ("ready", "deferred", "queue"),
    Status.STARTED: ("wip", "intermediate"),
    Status.FINISHED: ("finished",),
    Status.FAILED: ("failed",),
    Status.STOPPED: ("failed", "canceled"),
    Status.CANCELED: ("canceled",),
}
_UNPLACED = {Status.RATE_LIMITED, Status.CREATED, ""}
"""RQ keeps these elsewhere, or nowhere: a job that was made and not enqueued yet."""


def census(keys: Keys) -> Query[Census]:
    """Look at everything once."""
    here = Pass(keys)
    replies = yield [
        ("TIME",),
        ("SMEMBERS", keys.queues),
        ("ZRANGE", keys.alive, 0, -1, "WITHSCORES"),
    ]
    here.out.at = server_time(replies[0])
    head = len(raw(keys.queue("")))
    here.queues = {text(key[head:]) for key in items(replies[1]) if isinstance(key, bytes)}
    beats = items(replies[2])
    here.alive = {text(uid): number(at) or 0.0 for uid, at in zip(beats[::2], beats[1::2])}
    lists, sets, claims, locks = yield from _structure(here)
    for key, place in lists:
        yield from _read_list(here, key, place)
    for key, place, uid in claims:
        yield from _read_claim(here, key, place, uid)
    for key, kind, queue in sets:
        yield from _read_registry(here, key, kind, queue)
    yield from _read_entries(here)
    yield from _read_locks(here, locks)
    yield from _read_jobs(here)
    _nobody(here)
    return here.out


Step = Generator[Sequence[Command], list[Any], Any]


def _sorted_keys(
    here: Pass, starts: Sequence[bytes]
) -> Generator[Sequence[Command], list[Any], dict[bytes, list[bytes]]]:
    """The keys that begin in one of these ways; most keys are of jobs, and do not. One SCAN."""
    found: dict[bytes, list[bytes]] = {start: [] for start in starts}
    many = tuple(raw(f"{here.keys.prefix}:{kind}:") for kind in ("job", "results"))
    cursor: Any = b"0"
    while True:
        [reply] = yield [("SCAN", cursor, "COUNT", PAGE)]
        parts = items(reply)
        if len(parts) != 2:
            return found
        cursor = parts[0]
        for key in items(parts[1]):
            if not key.startswith(many):
                for start in starts:
                    if key.startswith(start):
                        found[start].append(key)
        if cursor in (b"0", 0):
            return {start: list(dict.fromkeys(keys)) for start, keys in found.items()}


def _structure(here: Pass) -> Generator[Sequence[Command], list[Any], tuple[Any, ...]]:
    """Find lists and registries, whatever `rq:queues` says; set wrong types aside."""
    keys, prefix, own = here.keys, raw(here.keys.prefix), raw(here.keys.own)
    lists: list[tuple[bytes, str]] = []
    sets: list[tuple[bytes, str, str]] = []
    claims: list[tuple[bytes, str, str]] = []
    typed: dict[bytes, str] = {raw(keys.queues): "set", raw(keys.workers): "set"}
    typed |= {raw(keys.alive): "zset", raw(keys.paused): "set", own + b"serves": "hash"}
    typed |= {own + b"expiring": "zset", own + b"fence": "hash", own + b"sweep": "hash"}
    kinds = {kind: prefix + b":" + kind.encode() + b":" for kind in REGISTRIES}
    queue_start, claim_start, lock_start = prefix + b":queue:", own + b"claim:", own + b"unique:"
    rq_locks = [prefix + start for start in RQ_LOCKS]
    found = yield from _sorted_keys(
        here, [queue_start, claim_start, lock_start, *kinds.values(), *rq_locks]
    )
    for key in found[queue_start]:
        name = text(key[len(prefix) + 7 :])
        typed[key] = "list"
        is_inner = name.endswith(":intermediate")
        name = name.removesuffix(":intermediate")
        lists.append((key, f"intermediate:{name}" if is_inner else f"queue:{name}"))
        if name not in here.queues:
            here.suspect("unlisted-queue", key, f"queue:{name}")
    for kind, start in kinds.items():
        for key in found[start]:
            queue = text(key[len(start) :])
            typed[key] = "zset"
            sets.append((key, kind, queue))
            if queue not in here.queues:
                here.suspect("unlisted-queue", raw(keys.queue(queue)), f"queue:{queue}")
    for key in found[claim_start]:
        uid, _, queue = text(key[len(own) + 6 :]).partition(":")
        typed[key] = "list"
        claims.append((key, f"claim:{queue}", uid))
    for start in rq_locks:
        yield from _check_rq_locks(here, found[start])
    yield from _check_types(here, typed)
    return lists, sets, claims, found[lock_start]


RQ_LOCKS = (b":clean_registries:", b":scheduler-lock:", b":scheduler_lock")
"""Locks of RQ's maintenance and schedulers, which always carry a TTL."""


def _check_rq_locks(here: Pass, locks: list[bytes]) -> Step:
    for start in range(0, len(locks), PAGE):
        page = locks[start : start + PAGE]
        for key, ttl in zip(page, (yield [("TTL", key) for key in page])):
            if ttl == -1:
                here.suspect("stale-lock", key, "", "no TTL")


def _check_types(here: Pass, typed: dict[bytes, str]) -> Step:
    wanted = list(typed.items())
    for start in range(0, len(wanted), PAGE):
        page = wanted[start : start + PAGE]
        for (key, want), kind in zip(page, (yield [("TYPE", key) for key, _ in page])):
            if text(kind) not in (want, "none", ""):
                here.suspect("wrong-type", key, want, text(kind))


def _glob(start: bytes) -> bytes:
    """A MATCH pattern for all keys that begin so."""
    for special in b"\\*?[]":
        start = start.replace(bytes([special]), b"\\" + bytes([special]))
    return start + b"*"


def _read_list(here: Pass, key: bytes, place: str) -> Step:
    """From the tail: what is taken from the head meanwhile moves nothing."""
    at = -1
    while True:
        [reply] = yield [("LRANGE", key, at - PAGE + 1, at)]
        ids = items(reply)
        for job_id in ids:
            here.put(job_id, place)
        if len(ids) < PAGE:
            return
        at -= PAGE


def _read_claim(here: Pass, key: bytes, place: str, uid: str) -> Step:
    [reply] = yield [("LRANGE", key, 0, -1)]
    ids = items(reply)
    for job_id in ids:
        here.put(job_id, place)
    if ids and here.out.at - here.alive.get(uid, 0.0) > SILENT_S:
        here.suspect("dead-claim", key, place)


def _read_registry(here: Pass, key: bytes, kind: str, queue: str) -> Step:
    start, place, now = 0, f"{kind}:{queue}", here.out.at
    while True:
        [reply] = yield [("ZRANGE", key, start, start + PAGE - 1, "WITHSCORES")]
        flat = items(reply)
        for member, score in zip(flat[::2], flat[1::2]):
            job_id, at = member, number(score)
            if kind == "wip":
                job_id, _, execution = member.rpartition(b":")
                job_id = job_id or member
                _check_lease(here, member, text(execution), at or 0.0, place)
            elif kind in ("finished", "failed", "canceled") and (at is None or at < 0):
                here.forever.add(job_id)
            elif kind in ("finished", "failed") and at is not None and at < now:
                here.expired.add(job_id)
            here.put(job_id, place)
        if len(flat) < 2 * PAGE:
            return
        start += PAGE


def _read_entries(here: Pass) -> Step:
    """Jobs that rq-scheduler will enqueue, some of them again and again under one id."""
    start, key = 0, here.keys.prefix + ":scheduler:scheduled_jobs"
    while True:
        [reply] = yield [("ZRANGE", key, start, start + PAGE - 1)]
        members = items(reply)
        here.entries.update(members)
        if len(members) < PAGE:
            return
        start += PAGE


def _check_lease(here: Pass, member: bytes, execution: str, at: float, place: str) -> None:
    if execution.startswith("tq") and len(execution) > 10:
        if here.out.at - here.alive.get(execution[2:10], 0.0) > SILENT_S:
            here.suspect("dead-lease", member, place)
    elif at < here.out.at:
        here.suspect("rq-lease", member, place)


def _read_locks(here: Pass, locks: list[bytes]) -> Step:
    """Locks of unique jobs whose holder has ended or is gone."""
    for start in range(0, len(locks), PAGE):
        page = locks[start : start + PAGE]
        holders = yield [("GET", key) for key in page]
        named = [h if isinstance(h, bytes) else b"" for h in holders]
        states = yield [("HGET", here.keys.job(text(h)), "status") for h in named]
        for key, holder, status in zip(page, named, states):
            found = text(status)
            if not found or found in ENDED:
                here.suspect("stale-lock", key, text(holder), found)


def _read_jobs(here: Pass) -> Step:
    """All job records against the places of their ids."""
    start = raw(here.keys.job(""))
    cursor: Any = b"0"
    while True:
        [reply] = yield [("SCAN", cursor, "MATCH", _glob(start), "COUNT", PAGE)]
        parts = items(reply)
        if len(parts) != 2:
            return
        cursor = parts[0]
        page = [key for key in items(parts[1]) if b":" not in key[len(start) :]]
        if page:
            commands: list[Command] = []
            for key in page:
                commands += [("HMGET", key, "status", "origin"), ("TTL", key)]
            replies = yield commands
            for key, record, ttl in zip(page, replies[::2], replies[1::2]):
                _judge(here, key, key[len(start) :], record, ttl)
        if cursor in (b"0", 0):
            return


def _judge(here: Pass, key: bytes, job_id: bytes, record: Any, ttl: Any) -> None:
    """One job: is it where its status says, once, and will it be forgotten some day?"""
    if job_id in here.met:  # SCAN may give a key twice
        return
    here.met.add(job_id)
    place: str = here.where.get(job_id, "")
    if isinstance(record, Exception):
        here.suspect("wrong-type", key, "hash", "no hash")
        return
    here.out.jobs += 1
    status, origin = (text(part) for part in [*items(record), b"", b""][:2])
    kinds = [one.partition(":")[0] for one in place.split(" ")] if place else []
    if len(kinds) > 1:
        here.suspect("doubled", job_id, place, status)
    elif not kinds:
        if status in ENDED:
            if ttl == -1:
                here.suspect("endless", job_id, f"{_kind_of(status)}:{origin}", status)
        elif status not in _UNPLACED and job_id not in here.entries:
            here.suspect("orphan", job_id, f"queue:{origin}" if origin else "", status)
    elif status not in _UNPLACED and kinds[0] not in _RIGHT.get(status, ()):  # type: ignore[call-overload]
        here.suspect("misplaced", job_id, place, status)
    elif status in ENDED and ttl == -1 and kinds[0] != "canceled" and job_id not in here.forever:
        here.suspect("endless", job_id, place, status)


def _kind_of(status: str) -> str:
    return "failed" if status == Status.STOPPED else status


def _nobody(here: Pass) -> None:
    """Ids that are somewhere and have no record. What has expired is cleared by any sweep."""
    for job_id, place in here.where.items():
        if job_id not in here.met and job_id not in here.expired:
            here.suspect("lost", job_id, place)
