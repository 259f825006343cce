"""Whatever lies in the keys that sweeps read, the jobs of dead workers come back."""

from __future__ import annotations

import json

import pytest
import rq

from tests.engine import Engine, misplaced, places, reason, status

DEAD, LIVING = "dead0001", "alive001"


@pytest.fixture
def engine(broker) -> Engine:
    return Engine(broker)


def buried(engine: Engine, client, count: int = 1) -> list[str]:
    """Jobs of a worker that died."""
    ids = engine.enqueue(count)
    engine.beat(DEAD)
    engine.reserve(DEAD)
    engine.age(client, 100, DEAD)
    return ids


def test_thousands_of_strange_leases_hide_none_of_ours(engine, redis_client):
    [job_id] = buried(engine, redis_client)
    redis_client.zadd("rq:wip:default", {f"job{n}:strange": float("-inf") for n in range(2_500)})
    back = 0
    for _ in range(3):
        back += engine.sweep()[1]
    assert back == 1
    assert places(redis_client, job_id) == ["rq:queue:default"]
    assert redis_client.zcard("rq:wip:default") == 2_500
    engine.reserve(DEAD)  # and the next sweeps begin anew
    engine.age(redis_client, 100, DEAD)
    assert sum(engine.sweep()[1] for _ in range(4)) == 1


@pytest.mark.parametrize("spoil", ["delete", "string"])
def test_rqs_set_of_queues_is_lost(engine, redis_client, spoil):
    [job_id] = buried(engine, redis_client)
    redis_client.delete("rq:queues")
    if spoil == "string":
        redis_client.set("rq:queues", "rubbish")
    engine.sweep()
    assert places(redis_client, job_id) == ["rq:queue:default"]
    assert redis_client.smembers("rq:queues") == {b"rq:queue:default"}


@pytest.mark.parametrize("field", ["last", "hold", "skip:default"])
@pytest.mark.parametrize("value", ["1e300", "inf", "nan", "-1e300", "-7", "1.5", "x", "", "\x00"])
def test_any_text_in_the_marks_of_sweeps(engine, redis_client, field, value):
    [job_id] = buried(engine, redis_client)
    redis_client.hset("taskq:sweep", field, value)
    engine.sweep()
    second, micro = redis_client.time()
    if redis_client.hexists("taskq:sweep", "hold"):
        hold = float(redis_client.hget("taskq:sweep", "hold"))
        assert not hold > second + micro / 1e6 + 10
        redis_client.hset("taskq:sweep", "hold", "0")
    engine.sweep()
    assert places(redis_client, job_id) == ["rq:queue:default"]


@pytest.mark.parametrize("score", [1e300, float("inf"), 1e10])
def test_a_heartbeat_from_the_future_keeps_no_dead_worker_alive(engine, redis_client, score):
    [job_id] = buried(engine, redis_client)
    redis_client.zadd("taskq:alive", {DEAD: score})
    engine.sweep()
    engine.age(redis_client, 100, DEAD)
    engine.sweep()
    assert places(redis_client, job_id) == ["rq:queue:default"]


@pytest.mark.parametrize("key", ["queue", "wip", "finished", "failed", "scheduled", "canceled"])
def test_a_key_of_the_wrong_type_is_set_aside(engine, redis_client, key):
    engine.enqueue()
    redis_client.delete(f"rq:{key}:default")
    redis_client.set(f"rq:{key}:default", "rubbish")
    engine.age(redis_client, 0)
    engine.sweep()
    assert redis_client.get(f"taskq:quarantine:rq:{key}:default") == b"rubbish"
    [again] = engine.enqueue()
    assert again in [job.id for job in engine.reserve(LIVING)]
    redis_client.delete(f"rq:{key}:default")
    redis_client.set(f"rq:{key}:default", "more")
    engine.sweep()
    assert len(redis_client.keys(f"taskq:quarantine:rq:{key}:default*")) == 2


def test_a_lease_that_ended_is_not_taken_for_the_next_execution(engine, redis_client):
    """Somebody queued a job again whose old lease was never swept: it runs once, not twice."""
    [job_id] = engine.enqueue()
    engine.reserve(DEAD)
    [member] = redis_client.zrange("rq:wip:default", 0, -1)
    redis_client.zadd("rq:wip:default", {member: 1})
    redis_client.rpush("rq:queue:default", job_id)
    [job] = engine.reserve(LIVING)
    engine.beat(LIVING)
    engine.age(redis_client, 0)
    engine.sweep()
    assert places(redis_client, job_id) == ["rq:wip:default"]
    assert engine.settle(job, "f") == 1


def test_a_due_job_that_says_queued_is_not_dropped(engine, redis_client):
    [job_id] = engine.enqueue(delay_s=0.0)
    redis_client.hset(f"rq:job:{job_id}", "status", "queued")
    engine.promote()
    assert places(redis_client, job_id) == ["rq:queue:default"]


def test_a_reader_of_rqs_registries_fails_no_job_that_can_come_back(engine, redis_client):
    """`rq info` an hour after the last worker died; RQ's own sweep would fail what has expired."""
    [job_id] = buried(engine, redis_client)
    engine.age(redis_client, 3_600, DEAD)
    registry = rq.Queue("default", connection=redis_client).started_job_registry
    assert registry.count == 1
    registry.cleanup()
    assert status(redis_client, job_id) == "started"
    engine.sweep()
    assert places(redis_client, job_id) == ["rq:queue:default"]


def test_the_story_of_a_crash_loop(engine, redis_client):
    [job_id] = engine.enqueue()
    for uid in ("worker01", "worker02", "worker03"):
        [job] = engine.reserve(uid)
        engine.beat(uid, job.id, job.exec_id)
        engine.release(uid, "dead")
    assert status(redis_client, job_id) == "failed"
    kind, text, crashes = json.loads(reason(redis_client, job_id))
    assert kind == "taskq.errors.JobFailed"
    assert text.startswith("Crash loop: 3 worker processes died while running this job: ")
    assert [text.count(f"host.{uid} at 20") for uid in ("worker01", "worker02", "worker03")] == [
        1
    ] * 3
    assert crashes == 3


def test_hostile_names_in_the_story(engine, redis_client):
    [job_id] = engine.enqueue()
    for uid in ("worker01", "worker02", "worker03"):
        [job] = engine.reserve(uid)
        engine.beat(uid, job.id, job.exec_id)
        redis_client.hset(f"rq:job:{job_id}", mapping={"worker_name": b'"\xff]\x00' * 99})
        engine.release(uid, "dead")
    assert json.loads(reason(redis_client, job_id))[2] == 3
    assert misplaced(redis_client, [job_id]) == {}
