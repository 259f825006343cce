"""Delayed jobs and retries: exactly once, on time, also beside RQ's own scheduler."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import Retry

from taskq.broker.client import Broker
from taskq.embedded import EmbeddedRedis
from taskq.errors import BrokerUnavailable
from tests.conftest import AppModule
from tests.engine import Engine, Proxy, misplaced, places
from tests.rq_support import stock_worker
from tests.support import WorkerStarter, wait_until

FUNCTIONS = """
import os, time
import redis

def note(key):
    with redis.Redis.from_url(os.environ["NOTES_URL"]) as client:
        client.rpush("notes", f"{key} {time.time()}")

def flaky(key):
    with redis.Redis.from_url(os.environ["NOTES_URL"]) as client:
        if client.incr(f"tries-{key}") < 3:
            raise OSError(key)
    note(key)
"""


@pytest.fixture
def functions(
    app_module: AppModule, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    monkeypatch.setenv("NOTES_URL", redis_url)
    module = app_module(FUNCTIONS)
    return lambda name: f"{module.__name__}.{name}"


def notes(client: redis.Redis) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in client.lrange("notes", 0, -1):
        key, at = line.decode().split()
        found.setdefault(key, []).append(float(at))
    return found


def each_once(client: redis.Redis, keys: set[str], timeout: float = 40.0) -> dict[str, float]:
    """Wait until all have run; nothing may have run twice. Returns when each ran."""
    wait_until(lambda: client.llen("notes") >= len(keys), timeout, interval=0.02)
    found = notes(client)
    assert {key for key, times in found.items() if len(times) > 1} == set()
    assert set(found) == keys
    return {key: times[0] for key, times in found.items()}


def test_stock_delays_and_retries_without_any_scheduler(
    functions, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    worker(None, "--rq")
    queue = Queue(connection=redis_client)
    due = datetime.now(timezone.utc) + timedelta(seconds=1.5)
    queue.enqueue_at(due, functions("note"), "at")
    queue.enqueue_in(timedelta(seconds=1), functions("note"), "in")
    queue.enqueue(functions("flaky"), "retried", retry=Retry(3, interval=1))
    ran = each_once(redis_client, {"at", "in", "retried"})
    assert ran["at"] >= int(due.timestamp())  # stock RQ keeps whole seconds


def test_never_early(
    app_module: AppModule, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    module = app_module(
        """
        import time
        from taskq import TaskQ
        queue = TaskQ()

        @queue.task
        def now():
            return time.time()
        """
    )
    worker(f"{module.__name__}:queue")
    start = time.time()
    delays = [0.15 + 0.07 * n for n in range(12)]
    handles = [module.now.options(delay=delay).delay() for delay in delays]
    late = [handle.result(10) - start - delay for handle, delay in zip(handles, delays)]
    assert min(late) >= 0
    assert sorted(late)[len(late) // 2] < 5  # milliseconds where nothing else runs: benchmarks


def test_stock_scheduler_beside_ours_doubles_and_loses_nothing(
    functions, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    queue = Queue(connection=redis_client)
    keys = {f"k{n}" for n in range(400)}
    with stock_worker(redis_url, tmp_path, "--with-scheduler"):
        wait_until(lambda: redis_client.exists("rq:scheduler-lock:default"), 40)
        for key in sorted(keys):  # all due in the same two seconds: both movers have a backlog
            queue.enqueue_in(timedelta(seconds=2), functions("note"), key, result_ttl=0)
        queue.enqueue(functions("flaky"), "retried", retry=Retry(3, interval=1))
        worker(None, "--rq", "--threads", "4")
        each_once(redis_client, keys | {"retried"})
    assert redis_client.zcard("rq:scheduled:default") == 0


class TestLock:
    """Who moves what, in the script itself."""

    @pytest.fixture
    def engine(self, broker: Broker) -> Engine:
        return Engine(broker)

    def test_left_to_the_holder_until_it_is_late(
        self, engine: Engine, redis_client: redis.Redis
    ) -> None:
        (job,) = engine.enqueue(delay_s=0)
        redis_client.set("rq:scheduler-lock:default", "stock", ex=61)
        redis_client.hset("rq:scheduler:stock", "last_heartbeat", "one")
        assert engine.promote()[0] == 0
        redis_client.zincrby("rq:scheduled:default", -3, job)
        assert engine.promote()[0] == 0  # taken over; the other may still be at it
        assert redis_client.get("rq:scheduler-lock:default") == b"taskq stock one"
        assert engine.promote()[0] == 0
        redis_client.hset("rq:scheduler:stock", "last_heartbeat", "two")  # it has noticed
        assert engine.promote()[0] == 1
        assert redis_client.get("rq:scheduler-lock:default") == b"taskq"
        assert places(redis_client, job) == ["rq:queue:default"]

    def test_a_holder_without_a_heartbeat_is_dead(
        self, engine: Engine, redis_client: redis.Redis
    ) -> None:
        (job,) = engine.enqueue(delay_s=0)
        redis_client.zincrby("rq:scheduled:default", -3, job)
        redis_client.set("rq:scheduler-lock:default", "stock", ex=61)
        assert engine.promote()[0] == 0
        assert engine.promote()[0] == 1

    def test_one_that_never_notices_is_waited_for_some_seconds(
        self, engine: Engine, redis_client: redis.Redis
    ) -> None:
        (job,) = engine.enqueue(delay_s=0)
        redis_client.zincrby("rq:scheduled:default", -3, job)
        redis_client.hset("rq:scheduler:stock", "last_heartbeat", "one")
        redis_client.set("rq:scheduler-lock:default", "taskq stock one", ex=61)
        assert engine.promote()[0] == 0
        redis_client.expire("rq:scheduler-lock:default", 57)
        assert engine.promote()[0] == 1

    def test_ours_is_renewed_and_nonsense_ignored(
        self, engine: Engine, redis_client: redis.Redis
    ) -> None:
        engine.enqueue(delay_s=0)
        redis_client.set("rq:scheduler-lock:default", "taskq", ex=10)
        assert engine.promote()[0] == 1
        assert redis_client.ttl("rq:scheduler-lock:default") > 50
        engine.enqueue(delay_s=0)
        redis_client.delete("rq:scheduler-lock:default")
        redis_client.rpush("rq:scheduler-lock:default", "no string")
        assert engine.promote()[0] == 1


@pytest.mark.parametrize("how", ["cut before", "cut after", "dead before", "dead after"])
def test_crash_points_of_the_mover(
    how: str, redis_server: EmbeddedRedis, redis_client: redis.Redis, broker: Broker
) -> None:
    """At its n-th request, for every n: the connection breaks, or the mover is dead from there on
    and another one follows; before Redis sees that request, or when it has carried it out."""
    ids = Engine(broker).enqueue(60, delay_s=0)
    struck = 1
    while redis_client.zcard("rq:scheduled:default"):
        seen: list[bytes] = []

        def watch(request: bytes, at: int = struck, seen: list[bytes] = seen) -> str | None:
            seen.append(request)
            if len(seen) == at:
                return "drop request" if "before" in how else "drop reply"
            return "drop request" if len(seen) > at and "dead" in how else None

        proxy = Proxy(redis_server.port, watch)
        cut = Broker(proxy.url, deadline_s=10.0 if "cut" in how else 0.05)
        args = [cut.clock.iso(), 5, "default"]
        with suppress(BrokerUnavailable):
            cut.script("promote", [cut.keys.prefix, cut.keys.own], args)
        cut.close()
        proxy.close()
        if "dead" in how:
            broker.script("promote", [cut.keys.prefix, cut.keys.own], args)
        assert misplaced(redis_client, ids) == {}
        struck = struck + 1 if len(seen) >= struck else 1
    assert Counter(redis_client.lrange("rq:queue:default", 0, -1)) == Counter(
        one.encode() for one in ids
    )
