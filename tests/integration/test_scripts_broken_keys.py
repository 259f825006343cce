"""Every key with everything that does not belong there: no script fails, no job is nowhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from taskq.broker.client import Broker, BrokerError
from tests.engine import Engine, misplaced, places, reason, status

A = "aaaaaaaa"

TYPES: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, b"\xff\x00garbage"),
    "list": lambda client, key: client.rpush(key, "x"),
    "hash": lambda client, key: client.hset(key, "x", "y"),
    "set": lambda client, key: client.sadd(key, "x"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "stream": lambda client, key: client.xadd(key, {"x": "y"}),
}

KEYS = {
    "rq:queue:default": "list",
    "rq:wip:default": "zset",
    "rq:scheduled:default": "zset",
    "rq:finished:default": "zset",
    "rq:failed:default": "zset",
    "rq:canceled:default": "zset",
    "rq:queues": "set",
    "rq:worker:host.worker": "hash",
    "taskq:alive": "zset",
    "taskq:serves": "hash",
    "taskq:fence": "hash",
    "taskq:sweep": "hash",
    "taskq:paused": "set",
    "taskq:expiring": "zset",
    "taskq:scratch": "stream",
    f"taskq:claim:{A}:default": "list",
}
CASES = [(key, kind) for key, right in KEYS.items() for kind in TYPES if kind != right]


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker)


def clobber(client: redis.Redis, key: str, kind: str) -> None:
    client.delete(key)
    TYPES[kind](client, key)


@pytest.mark.parametrize(("key", "kind"), CASES)
def test_a_shared_key_of_the_wrong_type_loses_nothing(engine, redis_client, key, kind):
    """Jobs in hand are settled in every way, others reserved, swept, promoted: all have a place."""
    ids = engine.enqueue(8)
    engine.beat(A)
    in_hand = engine.reserve(A, 6)
    clobber(redis_client, key, kind)
    if key == "rq:queue:default":
        ids = ids[:6]  # those that waited were destroyed with the key
    if key == "rq:wip:default":
        ids = ids[6:]
    try:
        ids += engine.enqueue(1)
    except BrokerError as error:
        assert "WRONGKEY" in str(error)  # noqa: PT017 (refused, nothing written; or accepted)
    engine.beat(A)
    engine.sweep()
    engine.promote()
    taken = engine.reserve_all("bbbbbbbb")[1]
    for job, end in zip(in_hand, "fxrguc", strict=True):
        engine.settle(job, end)
    engine.release("bbbbbbbb", "bye")
    for job in taken:
        engine.settle(job, "g")
    engine.age(redis_client, 30, A)
    engine.sweep()

    def lost() -> dict[str, list[str]]:
        ends = {"finished", "failed", "canceled"}  # their registry may be the broken key
        return {
            one: where
            for one, where in misplaced(redis_client, ids).items()
            if where or status(redis_client, one) not in ends
        }

    assert lost() == {}
    if redis_client.type(key).decode() != KEYS[key]:
        redis_client.delete(key)
    engine.beat("cccccccc")
    for job in engine.reserve_all("cccccccc")[1]:
        assert engine.settle(job, "f") == 1
    assert lost() == {}


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "hash"])
def test_a_record_that_is_no_hash_is_failed_and_kept_aside(engine, redis_client, kind):
    first, bad, last = engine.enqueue(3)
    clobber(redis_client, f"rq:job:{bad}", kind)
    assert [job.id for job in engine.reserve(A)] == [first, last]
    assert places(redis_client, bad) == ["rq:failed:default"]
    assert "record in Redis is broken" in reason(redis_client, bad)
    assert redis_client.type(f"taskq:quarantine:{bad}").decode() == kind
    assert redis_client.hget(f"rq:job:{bad}", "origin") == b"default"


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "hash"])
def test_a_record_that_breaks_while_its_job_runs(engine, redis_client, kind):
    ids = engine.enqueue(4)
    engine.beat(A)
    ended, raised, crashed, retried = engine.reserve(A)
    for job_id in ids:
        clobber(redis_client, f"rq:job:{job_id}", kind)
    assert (
        engine.settle(ended, "f") == engine.settle(raised, "x") == engine.settle(retried, "r") == 1
    )
    engine.release(A, "dead")
    engine.reserve("bbbbbbbb")
    assert places(redis_client, crashed.id) == ["rq:failed:default"]
    assert places(redis_client, retried.id) == ["rq:failed:default"]
    assert places(redis_client, raised.id) == ["rq:failed:default"]
    assert places(redis_client, ended.id) == ["rq:finished:default"]


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "stream"])
def test_something_else_under_the_key_of_the_results(engine, redis_client, kind):
    for end in "fx":
        [one] = engine.enqueue()
        clobber(redis_client, f"rq:results:{one}", kind)
        [job] = engine.reserve(A)
        assert engine.settle(job, end) == 1
        [(_, fields)] = redis_client.xrange(f"rq:results:{one}")
        assert fields[b"type"] == {"f": b"1", "x": b"2"}[end]


def test_a_missing_record_is_failed_with_that_reason(engine, redis_client):
    first, gone, last = engine.enqueue(3)
    redis_client.delete(f"rq:job:{gone}")
    assert [job.id for job in engine.reserve(A)] == [first, last]
    assert "record was gone" in reason(redis_client, gone)
    assert places(redis_client, gone) == ["rq:failed:default"]


def test_a_record_without_status_is_failed_with_that_reason(engine, redis_client):
    [one] = engine.enqueue()
    redis_client.hdel(f"rq:job:{one}", "status")
    assert engine.reserve(A) == []
    assert places(redis_client, one) == ["rq:failed:default"]


def test_ids_that_are_no_text(engine, redis_client):
    raw = b"\xff\xfe:id\r\n\x00"
    redis_client.hset(b"rq:job:" + raw, mapping={"status": "queued", "origin": "default"})
    redis_client.rpush("rq:queue:default", raw, b"", b"x" * 100_000)
    [job] = engine.reserve(A)
    member = raw + b":" + job.exec_id.encode()
    assert redis_client.zscore("rq:wip:default", member) is not None
    engine.beat(A)
    assert engine.release(A, "dead") == (1, 0)
    assert redis_client.lrange("rq:queue:default", 0, -1) == [raw]
    assert redis_client.zcard("rq:failed:default") == 2  # the two without a record
