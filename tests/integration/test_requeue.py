"""Ended jobs run again because somebody asked for it: as if they had never run."""

from __future__ import annotations

import pytest
import redis
import rq

from taskq import Retry, operations
from taskq.broker.client import Broker, BrokerError
from tests.conftest import AppModule
from tests.engine import Engine, places, status
from tests.support import LEDGER, Ledger, WorkerStarter, wait_until

A = "aaaaaaaa"


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker, "default", "other")


def fail(engine: Engine, count: int = 1, queue: str = "default", **options: object) -> list[str]:
    """Jobs that have failed."""
    ids = engine.enqueue(count, queue, **options)
    for job in engine.reserve(A):
        assert engine.settle(job, "x") == 1
    return ids


def field(client: redis.Redis, job_id: str, name: str) -> bytes | None:
    return client.hget(f"rq:job:{job_id}", name)


def retry(engine: Engine, client: redis.Redis, job_id: str) -> None:
    """Fail it once so that it runs again, as a worker does with a job that has retries left."""
    [job] = engine.reserve(A)
    assert job.id == job_id
    left = int(job.fields[b"retries_left"]) - 1
    assert engine.settle(job, "r", "", "", left, "") == 1
    assert field(client, job_id, "retries_left") == str(left).encode()


# -- all or nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize("front", [False, True])
def test_a_queue_that_is_no_list_refuses_all_before_anything_is_written(
    engine: Engine, broker: Broker, redis_client: redis.Redis, front: bool
):
    good = fail(engine, 2)
    [bad] = fail(engine, queue="other")
    redis_client.set("rq:queue:other", "in the way")
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    with pytest.raises(BrokerError, match="WRONGKEY rq:queue:other is a string, not a list"):
        operations.retry(broker, [*good, bad], at_front=front)
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before
    redis_client.delete("rq:queue:other")
    assert operations.retry(broker, [*good, bad], at_front=front).queued == [*good, bad]


def test_an_id_given_twice_is_queued_once(engine: Engine, broker: Broker, redis_client):
    [one] = fail(engine)
    done = operations.retry(broker, [one, one])
    assert (done.queued, done.refused) == ([one], [one])
    assert places(redis_client, one) == ["rq:queue:default"]


@pytest.mark.parametrize(
    "key", ["rq:failed:default", "rq:queues", "rq:results:{}", "taskq:stats:default:{}"]
)
def test_other_keys_of_a_wrong_type_do_not_matter(
    engine: Engine, broker: Broker, redis_client: redis.Redis, key: str
):
    [one] = fail(engine)
    now = int(redis_client.time()[0]) // 60
    for n in (now, now + 1) if "stats" in key else (one,):
        redis_client.set(key.format(n), "in the way")
    assert operations.retry(broker, [one]).queued == [one]
    assert status(redis_client, one) == "queued"
    assert redis_client.lrange("rq:queue:default", 0, -1) == [one.encode()]


def test_it_is_done_when_the_server_is_out_of_memory(
    engine: Engine, broker: Broker, redis_client: redis.Redis
):
    ids = fail(engine, 3)
    redis_client.config_set("maxmemory", 1)
    try:
        assert operations.retry(broker, ids).queued == ids
    finally:
        redis_client.config_set("maxmemory", 0)
    assert [places(redis_client, one) for one in ids] == [["rq:queue:default"]] * 3


# -- a clean slate -----------------------------------------------------------------------------


def test_its_retries_are_given_back(engine: Engine, broker: Broker, redis_client: redis.Redis):
    [one] = engine.enqueue(fields=["retries_left", "2"])
    assert field(redis_client, one, "tq_retries") is None  # nothing more to store at the enqueue
    for _ in range(2):  # a second time as well
        retry(engine, redis_client, one)
        retry(engine, redis_client, one)
        [job] = engine.reserve(A)
        assert engine.settle(job, "x") == 1
        assert operations.retry(broker, [one]).queued == [one]
        assert field(redis_client, one, "retries_left") == b"2"
        assert field(redis_client, one, "tq_attempts") is None


def test_retries_that_were_not_used_stay_as_they_are(engine: Engine, broker, redis_client):
    [one] = fail(engine, fields=["retries_left", "3"])
    [none] = fail(engine)
    assert operations.retry(broker, [one, none]).queued == [one, none]
    assert field(redis_client, one, "retries_left") == b"3"
    assert not redis_client.hexists(f"rq:job:{none}", "retries_left")


def test_a_retry_that_the_task_asks_for_is_not_counted(engine: Engine, broker, redis_client):
    """`Retry.later()` uses up none."""
    [one] = engine.enqueue(fields=["retries_left", "2"])
    [job] = engine.reserve(A)
    assert engine.settle(job, "r", "", "", "", "") == 1
    assert field(redis_client, one, "tq_retries") is None
    assert field(redis_client, one, "retries_left") == b"2"


def test_nothing_of_its_earlier_executions_counts(engine: Engine, broker, redis_client):
    [one] = fail(engine)
    old = ["tq_attempts", "tq_crashes", "tq_unknown", "tq_begun", "tq_cancel", "tq_progress"]
    old += ["number_of_retries", "ended_at", "started_at", "exc_info", "worker_name"]
    redis_client.hset(f"rq:job:{one}", mapping=dict.fromkeys(old, "3"))
    assert operations.retry(broker, [one]).queued == [one]
    assert redis_client.hmget(f"rq:job:{one}", old) == [None] * len(old)
    assert not redis_client.exists(f"rq:results:{one}")


def test_a_crash_loop_starts_from_zero(engine: Engine, broker: Broker, redis_client: redis.Redis):
    [one] = engine.enqueue()

    def crash(uid: str) -> tuple[int, int]:
        engine.beat(uid)
        [job] = engine.reserve(uid)
        assert job.id == one
        return engine.release(uid, "dead", one)

    for turn in "bc":
        assert [crash(f"aaaaaa{turn}{n}") for n in range(3)] == [(1, 0), (1, 0), (0, 1)]
        assert status(redis_client, one) == "failed"
        assert operations.retry(broker, [one]).queued == [one]


# -- in real workers ---------------------------------------------------------------------------

APP = (
    LEDGER
    + """
from taskq import Retry, TaskQ

queue = TaskQ()

@queue.task(retry=Retry(2, base=0.05, on=(OSError,)))
def read(word):
    note(word)
    raise OSError("no")
"""
)


def test_a_job_that_is_run_again_retries_again(
    app_module: AppModule,
    worker: WorkerStarter,
    broker: Broker,
    redis_client,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv("TASKQ_REDIS_URL", broker.url)
    module = app_module(APP)
    ledger = Ledger(tmp_path / "ledger.txt")
    worker(f"{module.__name__}:queue")
    handle = module.read.delay("a")
    for runs in (3, 6):
        wait_until(lambda: status(redis_client, handle.id) == "failed")
        assert ledger.count("a") == runs
        error = module.read.handle(handle.id).exception(5)
        assert (error.exc_type, error.attempts) == ("builtins.OSError", 3)
        if runs == 3:
            assert operations.retry(broker, [handle.id]).queued == [handle.id]
    module.queue.close()


def test_a_job_of_rq_is_given_its_retries_back(
    app_module: AppModule, worker: WorkerStarter, broker: Broker, redis_client, tmp_path
):
    """Also where RQ's own code settles it: here because of its callback."""
    module = app_module(LEDGER + "\ndef fail(word):\n    note(word)\n    raise OSError\n\n"
                        "def told(job, connection, *error):\n    pass\n")  # fmt: skip
    ledger = Ledger(tmp_path / "ledger.txt")
    queue = rq.Queue(connection=redis_client)
    more = {"a": {}, "b": {"on_failure": rq.Callback(module.told)}}
    jobs = [
        queue.enqueue(module.fail, word, retry=rq.Retry(max=1), **options)
        for word, options in more.items()
    ]
    ids = [job.id for job in jobs]
    worker(None, "--rq")
    for runs in (2, 4):
        wait_until(lambda: {status(redis_client, one) for one in ids} == {"failed"})
        assert [ledger.count(word) for word in more] == [runs, runs]
        if runs == 2:
            assert operations.retry(broker, ids).queued == ids


def test_the_other_fields_of_a_policy_stay(engine: Engine, broker: Broker, redis_client):
    policy = Retry(2, backoff="linear", on=(OSError,)).to_field()
    [one] = engine.enqueue(
        fields=["retries_left", "2", "retry_intervals", "[1,2]", "tq_retry", policy]
    )
    retry(engine, redis_client, one)
    [job] = engine.reserve(A)
    engine.settle(job, "x")
    operations.retry(broker, [one])
    kept = redis_client.hmget(f"rq:job:{one}", "retries_left", "retry_intervals", "tq_retry")
    assert kept == [b"2", b"[1,2]", policy.encode()]
