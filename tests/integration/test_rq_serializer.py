"""A stock RQ worker runs our jobs, and each side reads the other's results."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest
import redis
from rq import Queue, SimpleWorker
from rq.job import Job

from taskq.serializers import Codec

PATH = "taskq.serializers.rq"


def describe(name: str, parts: tuple[int, ...], *, when: dt.date) -> dict[str, Any]:
    assert type(parts) is tuple
    return {"name": name, "total": sum(parts), "year": when.year, "when": (when,)}


EXPECTED = {"name": "a", "total": 3, "year": 2026, "when": (dt.date(2026, 1, 1),)}


def work(client: redis.Redis) -> None:
    SimpleWorker([Queue("default", connection=client)], connection=client, serializer=PATH).work(
        burst=True, logging_level="ERROR"
    )


@pytest.mark.parametrize("secret", [None, "new,old"])
def test_a_stock_worker_runs_our_job_and_we_read_its_result(
    secret: str | None, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret:
        monkeypatch.setenv("TASKQ_SECRET", secret)
    codec = Codec(secret=secret)
    name = f"{__name__}.describe"
    data = codec.dump_call(
        name, ("a", (1, 2)), {"when": dt.date(2026, 1, 1)}, job_id="abc", queue="default"
    )
    redis_client.hset("rq:job:abc", mapping={"data": data, "origin": "default", "status": "queued"})
    redis_client.sadd("rq:queues", "rq:queue:default")
    redis_client.rpush("rq:queue:default", "abc")
    work(redis_client)

    entries: Any = redis_client.xrevrange("rq:results:abc", count=1)
    fields = entries[0][1]
    assert fields[b"type"] == b"1", fields
    raw = base64.b64decode(fields[b"return_value"])
    assert raw[:1] == (b"\x01" if secret else b"{")
    assert codec.load_value(raw, job_id="abc", kind="result") == EXPECTED
    job = Job.fetch("abc", connection=redis_client, serializer=codec.rq_serializer())
    assert job.return_value() == EXPECTED


@pytest.mark.parametrize("secret", [None, "hush"])
def test_a_job_that_rq_enqueues_with_our_serializer_runs_on_a_stock_worker(
    secret: str | None, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret:
        monkeypatch.setenv("TASKQ_SECRET", secret)
    queue = Queue("default", connection=redis_client, serializer=PATH)
    job = queue.enqueue(describe, "a", (1, 2), when=dt.date(2026, 1, 1))
    work(redis_client)
    assert job.return_value() == EXPECTED


def test_a_payload_that_rq_cannot_read_fails_the_job_and_not_the_worker(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_SECRET", "hush")
    queue = Queue("default", connection=redis_client, serializer=PATH)
    redis_client.hset(
        "rq:job:bad", mapping={"data": b"[]", "origin": "default", "status": "queued"}
    )
    redis_client.rpush(queue.key, "bad")
    good = queue.enqueue(divmod, 7, 2)
    work(redis_client)
    assert good.return_value() == (3, 1)
    assert redis_client.zscore("rq:failed:default", "bad") is not None
