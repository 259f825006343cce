"""Records of steps, by the scripts that a worker calls: fenced, idempotent, kept as the job."""

from __future__ import annotations

import pytest
import redis

from taskq.broker.client import Broker
from taskq.broker.records import NewJob
from tests.engine import Engine, Reserved, places, status

A, B = "aaaaaaaa", "bbbbbbbb"
DAY = 86_400


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker)


@pytest.fixture
def job(engine: Engine) -> Reserved:
    engine.enqueue()
    [got] = engine.reserve(A)
    return got


def record(
    engine: Engine, job: Reserved, place: str, kind: str, body: str = "body", *,
    wait: int = 0, most: tuple[int, int] = (1000, 100),
) -> int:  # fmt: skip
    args = ("default", job.id, job.exec_id, place, kind, wait, '["name"]', body)
    return int(engine.run("record", *most, 90 * DAY, *args)[0])


def stored(client: redis.Redis, job: Reserved) -> dict[str, str]:
    found = client.hgetall(f"taskq:steps:{job.id}")
    return {key.decode(): value.decode() for key, value in found.items()}


def field(client: redis.Redis, job: Reserved, name: str) -> bytes | None:
    return client.hget(f"rq:job:{job.id}", name)


def settle(engine: Engine, job: Reserved, kind: str, *rest: object, option: str = "") -> int:
    return engine.settle(job, kind, *rest, option=option)


def test_a_record_is_written_once(engine: Engine, job, redis_client):
    assert [record(engine, job, "1", "v", "one") for _ in range(3)] == [1, 1, 1]
    assert record(engine, job, "1", "a", "an attempt that comes late") == 1
    assert stored(redis_client, job) == {"1": "one", "1h": 'v["name"]', "b": "12", "n": "1"}
    assert field(redis_client, job, "tq_steps") == b"1"


def test_attempts_are_replaced_by_the_end(engine: Engine, job, redis_client):
    for kind in "bav":
        assert record(engine, job, "1", kind, kind) == 1
    assert stored(redis_client, job)["1"] == "v"
    assert stored(redis_client, job)["n"] == "1"
    assert stored(redis_client, job)["b"] == str(len("v" + 'v["name"]'))


def test_who_lost_the_lease_records_nothing(engine: Engine, job, redis_client):
    assert record(engine, job, "1", "v") == 1
    engine.beat(A)
    assert engine.release(A, "dead", job.id) == (1, 0)
    assert record(engine, job, "2", "v") == 0
    [again] = engine.reserve(B)
    assert record(engine, job, "2", "v", "of the dead") == 0
    assert record(engine, again, "2", "v", "of the living") == 1
    assert stored(redis_client, job)["2"] == "of the living"


def test_limits(engine: Engine, job, redis_client):
    assert record(engine, job, "1", "v", "x" * 80, most=(100, 2)) == 1
    assert record(engine, job, "2", "v", "x" * 80, most=(100, 2)) == 2
    assert record(engine, job, "2", "v", "x", most=(1000, 2)) == 1
    assert record(engine, job, "3", "v", "x", most=(1000, 2)) == 2
    assert set(stored(redis_client, job)) == {"1", "1h", "2", "2h", "b", "n"}


def test_a_key_that_is_no_hash_is_left_alone(engine: Engine, job, redis_client):
    redis_client.set(f"taskq:steps:{job.id}", "?")
    assert record(engine, job, "1", "v") == 3
    assert settle(engine, job, "r") == 1
    assert settle(engine, engine.reserve(B)[0], "f", option="d500") == 1
    assert status(redis_client, job.id) == "finished"


def test_progress_ends_a_row_of_crashes(engine: Engine, job, redis_client):
    redis_client.hset(f"rq:job:{job.id}", mapping={"tq_crashes": 2, "tq_attempts": 1})
    assert record(engine, job, "1", "a") == 1
    assert field(redis_client, job, "tq_crashes") == b"2", "a failed attempt is no progress"
    assert record(engine, job, "1", "v") == 1
    assert field(redis_client, job, "tq_crashes") is None
    assert field(redis_client, job, "tq_attempts") == b"3"


def test_records_live_as_long_as_the_job(engine: Engine, redis_client):
    for kind, option, least, most in (
        ("f", "d700", 600, 700),
        ("f", "d-1", -1, -1),
        ("f", "d0", -2, -2),
        ("f", "dm0", -2, -2),
        ("x", "900", 800, 900),
        ("x", "-1", -1, -1),
        ("x", "0", -2, -2),
        ("c", "", -2, -2),
    ):
        [job_id] = engine.enqueue()
        [job] = engine.reserve(A)
        record(engine, job, "1", "v", wait=DAY)
        key = f"taskq:steps:{job_id}"
        assert 90 * DAY < redis_client.ttl(key) <= 91 * DAY
        assert settle(engine, job, kind, option=option) == 1
        assert least <= redis_client.ttl(key) <= most, (kind, option)


def test_a_job_that_goes_to_sleep(engine: Engine, job, redis_client):
    record(engine, job, "1", "t")
    assert settle(engine, job, "s", "4102444800.5", "1") == 1
    assert settle(engine, job, "s", "4102444800.5", "1") == 0, "a resend"
    assert status(redis_client, job.id) == "scheduled"
    assert places(redis_client, job.id) == ["rq:scheduled:default"]
    assert field(redis_client, job, "tq_timer") == b"1"
    assert field(redis_client, job, "tq_attempts") is None
    redis_client.zadd("rq:scheduled:default", {job.id: 1})
    engine.promote()
    [again] = engine.reserve(B)
    assert again.fields[b"tq_timer"] == b"1"
    assert again.fields[b"tq_steps"] == b"1"


def test_a_job_that_is_canceled_on_its_way_to_sleep(engine: Engine, job, redis_client):
    record(engine, job, "1", "t")
    assert int(engine.run("cancel", job.id, engine.broker.clock.iso())) == 2
    assert settle(engine, job, "s", "4102444800", "1") == 1
    assert places(redis_client, job.id) == ["rq:canceled:default"]
    assert not stored(redis_client, job)
    assert field(redis_client, job, "tq_steps") is None


def test_a_sleeping_job_is_canceled(engine: Engine, job, redis_client):
    record(engine, job, "1", "t")
    settle(engine, job, "s", "4102444800", "1")
    assert int(engine.run("cancel", job.id, engine.broker.clock.iso())) == 1
    assert places(redis_client, job.id) == ["rq:canceled:default"]
    assert not stored(redis_client, job)


@pytest.mark.parametrize("what", ["cancel", "purge"])
def test_many_sleeping_jobs_are_cleared(engine: Engine, job, redis_client, what):
    record(engine, job, "1", "t")
    settle(engine, job, "s", "4102444800", "1")
    done = engine.run("clear", what, engine.broker.clock.iso(), "default", 0, 1000, 0, job.id)
    assert done[1:] == [1]
    assert not redis_client.exists(f"taskq:steps:{job.id}")
    assert field(redis_client, job, "tq_steps") is None


def again_by_retry(engine: Engine, job: Reserved) -> None:
    assert settle(engine, job, "r") == 1


def again_by_hand(engine: Engine, job: Reserved) -> None:
    assert settle(engine, job, "x") == 1
    assert engine.run("requeue", engine.broker.clock.iso(), "0", job.id) == [1]


@pytest.mark.parametrize("again", [again_by_retry, again_by_hand])
def test_what_failed_last_is_forgotten_when_the_job_runs_again(
    engine: Engine, job, redis_client, again
):
    for place, kind in (("1", "v"), ("2", "x"), ("3.0", "x"), ("3.1", "v"), ("3.2", "x")):
        record(engine, job, place, kind, kind * 5)
    assert stored(redis_client, job)["x"] == "3.0,3.2"
    again(engine, job)
    left = stored(redis_client, job)
    assert set(left) == {"1", "1h", "2", "2h", "3.1", "3.1h", "b", "n"}, "2 was caught"
    assert left["n"] == "3"
    assert left["b"] == str(3 * (5 + len('v["name"]')))
    assert field(redis_client, job, "tq_steps") == b"3"
    assert redis_client.ttl(f"taskq:steps:{job.id}") > 89 * DAY
    [next_] = engine.reserve(B)
    assert record(engine, next_, "3.0", "v") == 1


def test_crashes_and_what_is_given_back_keep_everything(engine: Engine, redis_client):
    for kind, worker in (("g", "cccccccc"), ("d", "dddddddd")):
        engine.enqueue()
        [job] = engine.reserve(worker)
        record(engine, job, "1", "x")
        before = stored(redis_client, job)
        assert settle(engine, job, kind) == 1
        assert stored(redis_client, job) == before
        [job] = engine.reserve(worker)
        engine.beat(worker)
        assert engine.release(worker, "dead", job.id) == (1, 0)
        assert stored(redis_client, job) == before
        redis_client.delete("rq:queue:default")


def test_a_job_that_takes_the_id_of_an_ended_one_begins_anew(engine: Engine, broker, redis_client):
    for token in ("one", "two"):
        broker.enqueue([NewJob("mine", "default", b'["app.task",null,[],{}]', token=token)])
        [job] = engine.reserve(A)
        assert stored(redis_client, job) == {}
        record(engine, job, "1", "v")
        assert settle(engine, job, "f", option="d500") == 1
