"""What the reserve script hands out of the records that stock RQ writes."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from rq import Callback, Queue, Retry

from taskq.broker import Broker
from taskq.worker.claim import AS_RQ_WROTE, Claim
from taskq.worker.process_wire import pack_order, read_order
from tests.engine import Engine


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    return Queue(connection=redis_client)


def function() -> None: ...


def reserved(broker: Broker) -> Claim:
    engine = Engine(broker)
    _now, state, jobs, _paused = engine.run(
        "reserve", "aaaaaaaa", "host.a", 1, 1, 15, broker.clock.iso(), "", "default"
    )
    assert state == b"ok"
    ((_position, job_id, flat),) = jobs
    return Claim(1, "default", job_id.decode(), "tqaaaaaaaa1", flat, 0.0)


def test_a_plain_job_comes_with_the_fields_that_say_something(broker: Broker, queue: Queue):
    job = queue.enqueue(function, job_timeout=7, result_ttl=60, description="a description")
    record: Any = queue.connection.hgetall(job.key)
    claim = reserved(broker)
    assert claim.is_plain
    assert claim.fields == {name: record[name] for name in AS_RQ_WROTE}
    assert claim.timeout_s == 7
    claim.read_result_ttl()
    assert claim.result_ttl_s == 60
    again = read_order(pack_order(claim), 0.0)  # as a job process gets it
    assert (again.is_plain, again.fields) == (True, claim.fields)


def test_without_a_result_ttl(broker: Broker, queue: Queue):
    queue.enqueue(function)
    claim = reserved(broker)
    assert claim.is_plain
    claim.result_ttl_s = 77  # the worker's own
    claim.read_result_ttl()
    assert claim.result_ttl_s == 77
    assert read_order(pack_order(claim), 0.0).fields == claim.fields


@pytest.mark.parametrize(
    "more",
    [{"on_success": Callback(function)}, {"on_failure": Callback(function)},
     {"on_stopped": Callback(function)}, {"retry": Retry(1)}, {"meta": {"a": 1}}, {"ttl": 100},
     {"failure_ttl": 0}],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
def test_whatever_else_a_record_says_comes_whole(
    broker: Broker, queue: Queue, more: dict[str, Any]
):
    job = queue.enqueue(function, **more)
    record: Any = queue.connection.hgetall(job.key)
    claim = reserved(broker)
    assert not claim.is_plain
    assert claim.fields == record


def test_a_job_that_somebody_canceled_is_not_plain(
    broker: Broker, queue: Queue, redis_client: redis.Redis
):
    job = queue.enqueue(function)
    redis_client.hset(job.key, "tq_cancel", "1")
    assert not reserved(broker).is_plain
