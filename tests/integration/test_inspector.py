"""Read-only queries: stock RQ's data, hostile data, an account that may only read."""

from __future__ import annotations

import json
import pickle
import random
import time
import zlib
from dataclasses import asdict
from datetime import timedelta

import pytest
import rq

from taskq.broker.client import Broker
from taskq.inspector import Criteria, Inspector, find, listed, overview, story
from taskq.inspector.jobs import REGISTRIES, _Source
from taskq.states import Status


def double(number):
    return 2 * number


def explode(text):
    raise ValueError(text)


@pytest.fixture
def inspector(broker):
    return Inspector(broker)


@pytest.fixture
def by_rq(redis_client):
    """Two queues of stock RQ: finished, failed, queued, scheduled and canceled jobs."""
    queue, other = (rq.Queue(name, connection=redis_client) for name in ("default", "other"))
    jobs = {
        "done": queue.enqueue(double, 4),
        "bad": queue.enqueue(explode, "as agreed"),
        "worse": queue.enqueue(explode, "also agreed"),
    }
    rq.SimpleWorker([queue], connection=redis_client).work(burst=True, logging_level="CRITICAL")
    jobs["waiting"] = other.enqueue(double, 1)
    jobs["later"] = other.enqueue_in(timedelta(hours=1), double, 2)
    jobs["dropped"] = other.enqueue(double, 3)
    jobs["dropped"].cancel()
    return {name: job.id for name, job in jobs.items()}


def put(client, job_id, status="queued", queue="default", **fields):
    """A job hash of ours, and its place."""
    content = {
        "status": status,
        "origin": queue,
        "created_at": "2026-11-22T18:00:00.000000Z",
        "data": json.dumps(["shop.images.resize", None, [1], {}]),
        **fields,
    }
    client.hset(f"rq:job:{job_id}", mapping=content)
    client.sadd("rq:queues", f"rq:queue:{queue}")
    kind = REGISTRIES[Status(status)]
    if kind == "queue":
        client.rpush(f"rq:queue:{queue}", job_id)
    else:
        client.zadd(f"rq:{kind}:{queue}", {job_id: time.time() + 1000})


# --- overview -------------------------------------------------------------------------


def test_counts_agree_with_stock_rq(inspector, by_rq, redis_client):
    answer = inspector.run(overview(inspector.keys))
    found = {queue.name: queue for queue in answer.queues}
    assert list(found) == ["default", "other"]
    assert (found["default"].finished, found["default"].failed) == (1, 2)
    other = found["other"]
    assert (other.queued, other.scheduled, other.canceled) == (1, 1, 1)
    assert 0 <= other.oldest_waiting_s < 60
    assert found["default"].oldest_waiting_s is None
    assert answer.totals["failed"] == len(rq.Queue("default", redis_client).failed_job_registry)


def test_what_has_expired_or_lives_for_ever_is_counted_right(inspector, redis_client):
    redis_client.sadd("rq:queues", "rq:queue:a")
    redis_client.zadd("rq:finished:a", {"gone": 1, "kept": time.time() + 9, "ever": "inf"})
    redis_client.zadd("rq:failed:a", {"gone": 1, "kept": time.time() + 9, "ever": -1})
    (queue,) = inspector.run(overview(inspector.keys)).queues
    assert (queue.finished, queue.failed) == (2, 2)


def test_a_stock_worker_is_shown(inspector, redis_client):
    queue = rq.Queue("default", connection=redis_client)
    worker = rq.SimpleWorker([queue], connection=redis_client, name="w1")
    worker.register_birth()
    worker.set_state("busy")
    redis_client.hset("rq:worker:w1", mapping={"successful_job_count": 7, "failed_job_count": 2})
    redis_client.sadd("rq:worker:w1:executions", "j1:e1", "j2:e2")
    (found,) = inspector.run(overview(inspector.keys)).workers
    assert (found.name, found.state, found.queues) == ("w1", "busy", ("default",))
    assert (found.finished, found.failed, found.running) == (7, 2, 2)
    assert set(found.jobs) == {"j1", "j2"}
    assert found.heartbeat_age_s < 60


def test_a_worker_whose_hash_has_expired_is_left_out(inspector, redis_client):
    redis_client.sadd("rq:workers", "rq:worker:ghost", "elsewhere:ghost")
    answer = inspector.run(overview(inspector.keys))
    assert answer.workers == ()


def test_the_server_says_what_it_is(inspector):
    server = inspector.run(overview(inspector.keys)).server
    assert server.kind in ("Redis", "Valkey")
    assert server.version[0].isdigit()
    assert server.memory_bytes > 100_000
    assert server.eviction == "noeviction"


def test_paused_and_suspended(inspector, redis_client):
    redis_client.sadd("rq:queues", "rq:queue:a", "rq:queue:b")
    redis_client.sadd("taskq:paused", "b")
    redis_client.set("rq:suspended", 1)
    answer = inspector.run(overview(inspector.keys))
    assert answer.suspended
    assert [queue.paused for queue in answer.queues] == [False, True]


# --- lists ----------------------------------------------------------------------------


def statuses(inspector, criteria, **settings):
    found = inspector.run(find(inspector.keys, criteria, limit=100, **settings))
    return {row.id: row.status for row in found.jobs}


def test_jobs_of_every_status(inspector, by_rq):
    assert statuses(inspector, Criteria()) == {
        by_rq["done"]: "finished",
        by_rq["bad"]: "failed",
        by_rq["worse"]: "failed",
        by_rq["waiting"]: "queued",
        by_rq["later"]: "scheduled",
        by_rq["dropped"]: "canceled",
    }


def test_pickled_jobs_have_their_names(inspector, by_rq):
    (row,) = inspector.run(listed(inspector.keys, [by_rq["later"]]))
    assert row.task.endswith("test_inspector.double")


def test_errors_of_stock_rq(inspector, by_rq):
    found = inspector.run(
        find(inspector.keys, Criteria(statuses=(Status.FAILED,)), limit=10, errors=True)
    )
    assert {(row.error_type, row.error) for row in found.jobs} == {
        ("ValueError", "as agreed"),
        ("ValueError", "also agreed"),
    }


@pytest.mark.parametrize(
    ("criteria", "names"),
    [
        (Criteria(queues=("other",)), {"waiting", "later", "dropped"}),
        (Criteria(task="double", statuses=(Status.FINISHED,)), {"done"}),
        (Criteria(task="*.explode"), {"bad", "worse"}),
        (Criteria(task="xplode"), set()),
        (Criteria(error="ALSO agreed"), {"worse"}),
        (Criteria(error="valueerror"), {"bad", "worse"}),
        (Criteria(since=time.time() + 1000), set()),
        (Criteria(statuses=(Status.STOPPED,)), set()),
        (Criteria(statuses=(Status.QUEUED, Status.SCHEDULED)), {"waiting", "later"}),
    ],
)
def test_filters(inspector, by_rq, criteria, names):
    assert set(statuses(inspector, criteria)) == {by_rq[name] for name in names}
    every = inspector.run(find(inspector.keys, criteria))
    assert set(every.ids) == {by_rq[name] for name in names}
    assert every.complete


def test_newest_first(inspector, redis_client):
    for number in random.sample(range(50), 50):
        put(redis_client, f"j{number:02}", created_at=f"2026-11-22T18:00:{number:02}.000000Z")
    found = inspector.run(find(inspector.keys, Criteria(task="resize"), limit=7))
    assert [row.id for row in found.jobs] == [f"j{number}" for number in range(49, 42, -1)]


def test_a_long_queue_is_read_from_its_end_in_pages(inspector, redis_client):
    for number in range(1000):
        put(redis_client, f"j{number:03}")
    every = inspector.run(find(inspector.keys, Criteria(task="resize"), keep=3))
    assert set(every.ids) == {f"j{number:03}" for number in range(1000)}
    assert every.ids[0] > every.ids[-1]
    assert len(every.jobs) == 3
    part = inspector.run(find(inspector.keys, Criteria(task="nope"), limit=5, max_scan=300))
    assert (part.jobs, part.complete, part.total) == ((), False, 1000)
    assert 300 <= part.scanned < 1000


def test_large_payloads_still_have_names(inspector, redis_client):
    large = json.dumps(["shop.images.resize", None, ["x" * 3_000_000], {}])
    for number in range(6):
        put(redis_client, f"j{number}", data=large)
    put(redis_client, "too-large", data="x" * 9_000_000)
    rows = inspector.run(listed(inspector.keys, [*(f"j{n}" for n in range(6)), "too-large"]))
    assert [row.task for row in rows] == ["shop.images.resize"] * 6 + [""]


# --- one job --------------------------------------------------------------------------


def test_the_story_of_a_failed_job(inspector, by_rq):
    found = inspector.run(story(inspector.keys, by_rq["bad"]))
    assert (found.row.status, found.row.error) == ("failed", "as agreed")
    assert "in explode" in found.results[0].traceback
    assert found.call.form == "pickle"
    assert found.call.value is None
    assert found.expires_s > 3600


def test_the_story_of_a_waiting_job(inspector, redis_client):
    for number in range(3):
        put(redis_client, f"j{number}", meta='{"a": 1}', tq_own="x", timeout="30")
    found = inspector.run(story(inspector.keys, "j2"))
    assert found.ahead == 2
    assert found.call.value == ["shop.images.resize", None, [1], {}]
    assert found.meta.value == {"a": 1}
    assert found.options == {"timeout": "30"}
    assert found.others == ("tq_own",)


def test_the_story_of_a_scheduled_job(inspector, by_rq):
    found = inspector.run(story(inspector.keys, by_rq["later"]))
    assert found.row.due_at == pytest.approx(time.time() + 3600, abs=60)


def test_no_story_of_nothing(inspector):
    assert inspector.run(story(inspector.keys, "nothing")) is None


def test_large_fields_are_named_not_read(inspector, redis_client):
    put(redis_client, "j", meta="x" * 1_500_000)
    found = inspector.run(story(inspector.keys, "j"))
    assert found.too_large == {"meta": 1_500_000}
    assert found.meta is None


def test_a_decompression_bomb_is_cut(inspector, redis_client):
    bomb = zlib.compress(b'["' + b"x" * 200_000_000, 9)
    put(redis_client, "j", data=bomb)
    found = inspector.run(story(inspector.keys, "j"))
    assert found.call.cut


# --- hostile data ---------------------------------------------------------------------

GARBAGE = (b"\xff\xfe", b"\x1b[2J", b"", b"-1", b"1e999", b"nan", b"\x00" * 50, "\u202e".encode())
VALUES = (
    b"[" * 100_000,
    b'{"$t":"int","v":"zz"}',
    b"x\x9c\x00",
    b"\x80\x04\x95garbage",
    b"\x01abc",
)


def test_garbage_in_every_field_breaks_nothing(inspector, redis_client):
    rng = random.Random(7)
    names = ["status", "origin", "created_at", "enqueued_at", "started_at", "ended_at", "data"]
    names += ["worker_name", "retries_left", "tq_attempts", "tq_crashes", "meta", "description"]
    names += ["exc_info", "timeout", "tq_unique", "dependency_ids", b"\xff"]
    ids = []
    for number in range(300):
        job_id = f"j{number}"
        ids.append(job_id)
        fields = {name: rng.choice(GARBAGE + VALUES) for name in rng.sample(names, 8)}
        redis_client.hset(f"rq:job:{job_id}", mapping=fields)
        redis_client.rpush("rq:queue:q\x1b", job_id)
        entry = {rng.choice(["type", "return_value", "exc_string", "tq_error", "worker_name"]): v
                 for v in rng.sample(GARBAGE[:2] + GARBAGE[3:] + VALUES, 3)}  # fmt: skip
        redis_client.xadd(f"rq:results:{job_id}", entry)
    redis_client.sadd("rq:queues", "rq:queue:q\x1b", b"rq:queue:\xff", "garbage")
    keys = inspector.keys
    assert sum(queue.queued for queue in inspector.run(overview(keys)).queues) == 300
    found = inspector.run(find(keys, Criteria(), limit=1000, errors=True))
    assert {row.id for row in found.jobs} == set(ids)
    for job_id in ids:
        assert inspector.run(story(keys, job_id)) is not None
    assert json.dumps([asdict(row) for row in found.jobs])


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "hash", "stream"])
def test_keys_of_a_wrong_type_break_nothing(inspector, redis_client, kind):
    def spoil(key):
        redis_client.delete(key)
        {
            "string": lambda: redis_client.set(key, "x"),
            "list": lambda: redis_client.rpush(key, "x"),
            "set": lambda: redis_client.sadd(key, "x"),
            "zset": lambda: redis_client.zadd(key, {"x": 1}),
            "hash": lambda: redis_client.hset(key, "x", "y"),
            "stream": lambda: redis_client.xadd(key, {"x": "y"}),
        }[kind]()

    redis_client.sadd("rq:queues", "rq:queue:default")
    redis_client.sadd("rq:workers", "rq:worker:w")
    redis_client.zadd("rq:failed:default", {"j": 9e9})
    for key in ("rq:job:j", "rq:results:j", "rq:worker:w", "rq:worker:w:executions"):
        spoil(key)
    for registry in ("queue", "wip", "finished", "scheduled", "canceled", "deferred"):
        spoil(f"rq:{registry}:default")
    spoil("taskq:paused")
    keys = inspector.keys
    assert len(inspector.run(overview(keys)).queues) == 1
    found = inspector.run(find(keys, Criteria(), limit=10, errors=True))
    assert "j" in {row.id for row in found.jobs}
    inspector.run(story(keys, "j"))


def test_reading_runs_no_code_of_the_payload(inspector, redis_client, tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return marker.write_text, ("x",)

    bomb = pickle.dumps(("os.system", None, (Bomb(),), {}))
    put(redis_client, "j", data=zlib.compress(bomb), meta=bomb, status="failed")
    redis_client.xadd("rq:results:j", {"type": 1, "return_value": bomb})
    found = inspector.run(find(inspector.keys, Criteria(), limit=10, errors=True))
    assert [row.task for row in found.jobs] == ["os.system"]
    assert inspector.run(story(inspector.keys, "j")).meta.form == "pickle"
    assert not marker.exists()


def test_ids_that_are_no_text_can_be_asked_for(inspector, redis_client):
    redis_client.hset(b"rq:job:\xff\x1b", mapping={"status": "failed", "data": "[]"})
    redis_client.zadd("rq:failed:default", {b"\xff\x1b": 9e9})
    redis_client.sadd("rq:queues", "rq:queue:default")
    (row,) = inspector.run(find(inspector.keys, Criteria(), limit=1)).jobs
    assert row.status == "failed"
    assert inspector.run(story(inspector.keys, row.id)).row.status == "failed"


# --- bounds ---------------------------------------------------------------------------


def everything(inspector, job_id):
    keys = inspector.keys
    inspector.run(overview(keys))
    inspector.run(find(keys, Criteria(), limit=20, errors=True))
    inspector.run(find(keys, Criteria(task="double")))
    inspector.run(story(keys, job_id))


def test_reading_changes_nothing(inspector, by_rq, redis_client):
    redis_client.zadd("rq:wip:default", {f"{by_rq['done']}:stale": 1})  # RQ's sweep would fail it

    def content(key):
        # Valkey dumps the fields of a hash in another order each time
        is_hash = redis_client.type(key) == b"hash"
        return redis_client.hgetall(key) if is_hash else redis_client.dump(key)

    def digest():
        return {key: (content(key), redis_client.ttl(key) > 0) for key in redis_client.scan_iter()}

    before = digest()
    everything(inspector, by_rq["done"])
    assert digest() == before


def test_an_account_that_may_only_read_is_enough(redis_client, redis_tcp_url, by_rq):
    redis_client.acl_setuser(
        "viewer",
        enabled=True,
        passwords=["+look"],
        keys=["*"],
        categories=["-@all", "+@read"],
        commands=["-keys", "+ping", "+select", "+info", "+time"],
    )
    broker = Broker(redis_tcp_url.replace("redis://", "redis://viewer:look@"))
    try:
        everything(Inspector(broker), by_rq["done"])
        answer = Inspector(broker).run(overview(broker.keys))
    finally:
        broker.close()
        redis_client.acl_deluser("viewer")
    assert answer.totals["failed"] == 2
    assert answer.server.version


def test_commands_do_not_grow_with_jobs(inspector, redis_client):
    def commands():
        before = redis_client.info("stats")["total_commands_processed"]
        inspector.run(overview(inspector.keys))
        inspector.run(find(inspector.keys, Criteria(), limit=20))
        return redis_client.info("stats")["total_commands_processed"] - before

    for number in range(20):
        put(redis_client, f"j{number}")
    commands()  # the first one connects
    few = commands()
    for number in range(20, 2000):
        put(redis_client, f"j{number}")
    assert commands() == few


async def test_the_same_queries_serve_asyncio(broker, by_rq):
    inspector = Inspector(broker)
    answer = await inspector.arun(overview(inspector.keys))
    assert answer.totals["finished"] == 1
    found = await inspector.arun(find(inspector.keys, Criteria(), limit=3))
    assert len(found.jobs) == 3
    await broker.aclose()


def test_a_refusal_to_list_the_queues_is_told(inspector, redis_client):
    redis_client.set("rq:queues", "x")
    with pytest.raises(Exception, match="refuses to list the queues"):
        inspector.run(overview(inspector.keys))
    with pytest.raises(Exception, match="refuses to list the queues"):
        inspector.run(find(inspector.keys, Criteria(), limit=1))


def test_pairs_of_resp3_are_read_as_well():
    source = _Source(b"rq:failed:a", "failed", "a")
    assert [entry.id for entry in source.read([[b"x", 2.0], [b"y", 1.0]], 10)] == ["x", "y"]
