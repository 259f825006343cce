"""Bytes that nobody wrote on purpose, for every field and every key that taskq or RQ owns."""

from __future__ import annotations

import pickle
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import redis

FIELDS = """
    status origin created_at enqueued_at started_at ended_at data description timeout result_ttl
    failure_ttl ttl meta worker_name last_heartbeat retries_left retry_intervals number_of_retries
    enqueue_at_front enqueue_at_front_on_retry exc_info success_callback_name
    failure_callback_name stopped_callback_name success_callback_timeout group_id repeats_left
    repeat_intervals webhooks rate_limit_key dependency_ids dependency_id allow_dependency_failures
    tq_token tq_attempts tq_crashes tq_unknown tq_begun tq_cancel tq_progress tq_retry tq_retries
    tq_timeout tq_redeliver tq_unique tq_on_success tq_on_failure tq_of_at tq_of_status tq_stream
    tq_read tq_story tq_signed_as tq_for tq_due tq_durable tq_seen tq_step_of tq_steps tq_timer
    tq_runs
""".split()
"""Of a job's hash."""

KEYS = {
    "rq:queues": "set", "rq:workers": "set", "rq:workers:default": "set",
    "rq:queue:default": "list", "rq:queue:default:intermediate": "list",
    "rq:wip:default": "zset", "rq:finished:default": "zset", "rq:failed:default": "zset",
    "rq:scheduled:default": "zset", "rq:deferred:default": "zset", "rq:canceled:default": "zset",
    "rq:ready:default": "zset", "rq:rl-keys": "set", "rq:suspended": "string",
    "taskq:alive": "zset", "taskq:serves": "hash", "taskq:fence": "hash", "taskq:sweep": "hash",
    "taskq:expiring": "zset", "taskq:paused": "set", "taskq:scratch": "stream",
    "taskq:rolling": "hash", "taskq:schedules": "zset",
}  # fmt: skip
"""Shared keys and their types."""

MAKERS: dict[str, Callable[[redis.Redis, str, bytes], Any]] = {
    "string": lambda client, key, value: client.set(key, value),
    "list": lambda client, key, value: client.rpush(key, value, b""),
    "set": lambda client, key, value: client.sadd(key, value, b""),
    "zset": lambda client, key, value: client.zadd(key, {value: float("inf"), b"": -1e300}),
    "hash": lambda client, key, value: client.hset(key, mapping={value: b"\xff", b"": b""}),
    "stream": lambda client, key, value: client.xadd(key, {value: b"\xff"}),
}

TEXTS = (
    b"", b" ", b"0", b"-1", b"-0", b"1e999", b"nan", b"inf", b"-inf", b"0x10", b"1_0", b"9" * 400,
    b"\x00", b"\xff\xfe\x80", b"\xed\xa0\x80", b"None", b"null", b"[]", b"{}", b"[[", b"[1,", b'"',
    b"true", b"%s%n", b"a:b:c", b"\n\r\n", b"3:abc,", b"999999999999:x", b"'; return 1 --",
    b"2024-13-45T99:99:99Z", b"\x80\x04.", b"\x01" + b"A" * 60, b"x\x9c", "\u202e".encode(),
    pickle.dumps({"a": 1}), zlib.compress(b"[" * 100_000), b"[" * 20_000,
)  # fmt: skip


def garbage(chosen: random.Random) -> bytes:
    """Something from the list, or random bytes, or both."""
    kind = chosen.randrange(3)
    if kind == 0:
        return chosen.choice(TEXTS)
    noise = chosen.randbytes(chosen.randrange(1, 60))
    return noise if kind == 1 else chosen.choice(TEXTS)[:50] + noise


def mutations(seeds: list[bytes], chosen: random.Random, count: int) -> Iterator[bytes]:
    """Payloads that were cut, flipped, doubled, spliced, or replaced."""
    for _ in range(count):
        data = bytearray(chosen.choice(seeds))
        for _ in range(chosen.randrange(1, 4)):
            at = chosen.randrange(len(data) + 1)
            kind = chosen.randrange(6)
            if kind == 0 and data:
                data[at % len(data)] ^= 1 << chosen.randrange(8)
            elif kind == 1:
                del data[at : at + chosen.randrange(1, 9)]
            elif kind == 2:
                data[at:at] = garbage(chosen)[:64]
            elif kind == 3:
                data[at:at] = data[:at]
            elif kind == 4:
                other = chosen.choice(seeds)
                data[at:] = other[chosen.randrange(len(other)) :]
            else:
                data[at : at + 1] = chosen.choice((b"[", b"{", b'"', b"\\", b"\x00", b"]", b"9"))
        yield bytes(data)
