"""Redis forgets how jobs ended: a failover to a replica that had not heard of it, an older file.

What it still calls started by a living worker is then in nobody's hands.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from taskq import JobFailed
from taskq.broker.client import Broker
from tests.engine import NO_TEXT, Engine, misplaced, places, status
from tests.support import LEDGER, wait_until

APP = (
    LEDGER
    + """
import time
from pathlib import Path
from taskq import TaskQ

queue = TaskQ()

def gate(n, path):
    note("at gate", n)
    while not Path(path).exists():
        time.sleep(0.005)
    note("through", n)
    return n

wait_at = queue.task(gate)
once = queue.task(gate, name="once", redeliver=False)
"""
)


def cut_all_connections(client: redis.Redis) -> None:
    client.client_kill_filter(_type="normal", skipme=True)
    client.client_kill_filter(_type="pubsub", skipme=True)


def back_to(client: redis.Redis, keys: dict[bytes, bytes]) -> None:
    """Let Redis have exactly these keys, in one step, and cut all connections."""
    with client.pipeline() as pipeline:
        pipeline.flushdb()
        for key, value in keys.items():
            pipeline.restore(key, 0, value)
        pipeline.execute()
    cut_all_connections(client)


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    with client.pipeline() as pipeline:
        keys = client.keys("*")
        for key in keys:
            pipeline.dump(key)
        return dict(zip(keys, pipeline.execute(), strict=True))


def test_jobs_whose_end_was_forgotten_run_again(
    app, target, worker, ledger, redis_client, tmp_path: Path
):
    gate, later = tmp_path / "gate", tmp_path / "later"
    forgotten = [app.wait_at.delay(n, str(gate)) for n in range(3)]
    still_running = app.wait_at.delay(3, str(later))
    at_most_once = app.once.delay(4, str(gate))
    worker(target)
    wait_until(lambda: len(ledger.lines()) == 5)
    before = everything(redis_client)
    gate.touch()
    assert [handle.result(timeout=10) for handle in forgotten] == [0, 1, 2]
    assert at_most_once.result(timeout=10) == 4
    back_to(redis_client, before)

    fresh = [app.queue.handle(handle.id) for handle in forgotten]
    assert [handle.result(timeout=15) for handle in fresh] == [0, 1, 2]
    assert [ledger.count(f"through {n}") for n in range(3)] == [2, 2, 2]
    with pytest.raises(JobFailed, match="redeliver=False"):
        app.queue.handle(at_most_once.id).result(timeout=5)
    assert ledger.count("through 4") == 1
    assert status(redis_client, still_running.id) == "started"
    later.touch()
    assert still_running.result(timeout=5) == 3
    assert ledger.count("through 3") == 1
    ids = [handle.id for handle in [*forgotten, still_running, at_most_once]]
    assert misplaced(redis_client, ids) == {}


# --- the script -------------------------------------------------------------------

A, B = "aaaaaaaa", "bbbbbbbb"


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker, "default", "other")


def strays(engine: Engine, uid: str, *members: object) -> list[object]:
    iso = engine.broker.clock.iso()
    _now, requeued, failed, found = engine.run(
        "strays", uid, iso, 3, NO_TEXT, len(engine.queues), *engine.queues, *members
    )
    return [requeued, failed, *found]


def test_a_worker_is_told_what_it_holds(engine: Engine):
    first, second = engine.enqueue(1)[0], engine.enqueue(1, "other")[0]
    assert strays(engine, A) == [0, 0]
    engine.reserve(A)
    engine.enqueue(1)
    engine.reserve(B)
    expected = [0, 0, 1, f"{first}:tq{A}1".encode(), 2, f"{second}:tq{A}1".encode()]
    assert strays(engine, A) == expected


def test_what_is_taken_back_is_first_and_no_crash(engine: Engine, redis_client: redis.Redis):
    ids = engine.enqueue(3)
    jobs = engine.reserve(A)
    engine.beat(A, ids[1], jobs[1].exec_id)  # its code is known to have begun
    engine.enqueue(1)
    engine.settle(jobs[0], "f")
    members = [part for job in jobs for part in (1, f"{job.id}:{job.exec_id}")]
    assert strays(engine, A, *members) == [2, 0]
    assert redis_client.lrange("rq:queue:default", 0, 1) == [ids[1].encode(), ids[2].encode()]
    assert redis_client.hget(f"rq:job:{ids[1]}", "tq_crashes") is None
    assert places(redis_client, ids[0]) == ["rq:finished:default"]
    assert strays(engine, A, *members) == [0, 0]
