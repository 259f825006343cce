"""Redis cuts, forgets, refuses and comes back: no worker ends for it, no job is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from taskq.broker.client import Broker
from taskq.broker.scripts import script as find_script
from taskq.embedded import EmbeddedRedis
from taskq.worker.presence import Presence
from tests.conftest import AppModule
from tests.engine import Engine, Proxy, drained, misplaced
from tests.inprocess import work
from tests.support import LEDGER, Ledger, wait_until

APP = (
    LEDGER
    + """
import asyncio, time
from taskq import TaskQ

queue = TaskQ()

@queue.task
def number(n):
    note("number", n)
    return n

@queue.task
async def slow(n, seconds):
    await asyncio.sleep(seconds)
    note("number", n)
    return n

@queue.task(result_ttl=0)
def trace(n):
    note("number", n)
"""
)


@pytest.fixture
def cut(redis_server: EmbeddedRedis) -> Iterator[Cut]:
    made = Cut(redis_server)
    yield made
    made.proxy.close()


class Cut:
    """A proxy that spoils the n-th request holding the digest of a script."""

    def __init__(self, server: EmbeddedRedis) -> None:
        assert server.port is not None
        self._sha = b""
        self._at: set[int] = set()
        self._fate = ""
        self.seen = 0
        self.spoiled = 0
        self._lock = threading.Lock()
        self.proxy = Proxy(server.port, self._watch)

    def plan(self, script: str, fate: str, *at: int) -> None:
        self._sha, self._fate, self._at, self.seen = (
            find_script(script).sha.encode(),
            fate,
            set(at),
            0,
        )

    def _watch(self, request: bytes) -> str | None:
        if not self._sha or self._sha not in request:
            return None
        with self._lock:
            self.seen += 1
            if self.seen in self._at:
                self.spoiled += 1
                return self._fate
        return None


@pytest.mark.parametrize("fate", ["drop reply", "drop request"])
@pytest.mark.parametrize("script", ["reserve", "settle", "beat", "promote"])
def test_lost_answers_in_a_worker(app, target, cut, worker, ledger, redis_client, script, fate):
    handles = [*app.number.map(range(300)), *app.trace.map(range(300, 400))]
    handles += [app.slow.options(delay=0.1).delay(n, 0.01) for n in range(400, 420)]
    cut.plan(script, fate, 1, 2, 4, 7)
    worker(target, env={"TASKQ_REDIS_URL": cut.proxy.url})
    wait_until(lambda: drained(redis_client), 15)
    wait_until(lambda: cut.spoiled >= (1 if script == "beat" else 2), 15)
    assert ledger.numbers() == Counter(range(420))
    assert misplaced(redis_client, [h.id for h in handles]) == {}


@pytest.mark.parametrize("fate", ["drop reply", "drop request"])
def test_lost_answers_of_enqueue(redis_client, cut, fate):
    broker = Broker(cut.proxy.url)
    engine = Engine(broker)
    cut.plan("enqueue", fate, 1, 3, 4, 6)
    accepted = [engine.enqueue(1)[0] for _ in range(3)] + engine.enqueue(50)
    assert cut.spoiled == 4
    assert redis_client.llen("rq:queue:default") == 53
    assert misplaced(redis_client, accepted) == {}
    broker.close()


def test_a_cancellation_that_nobody_heard_is_looked_up(app, target, worker, redis_client):
    """Published while the worker did not listen: its connection was cut, or it had just started."""
    worker(target)
    running = app.slow.options(timeout=None).delay(1, 60)
    wait_until(lambda: running.status() == "started")
    wait_until(lambda: redis_client.pubsub_numsub("taskq:cancel")[0][1] == 1)
    redis_client.client_kill_filter(_type="pubsub")
    assert running.cancel()
    wait_until(lambda: running.status() == "canceled", 5)


def test_one_of_a_job_that_was_on_its_way_then_is_found_at_a_second_look(
    app, redis_url, redis_client, monkeypatch: pytest.MonkeyPatch
):
    looks: list[Presence] = []
    look = Presence.canceled

    async def without_it_at_first(presence: Presence) -> list[str]:
        looks.append(presence)
        return await look(presence) if len(looks) > 1 else []

    monkeypatch.setattr(Presence, "canceled", without_it_at_first)
    running = app.slow.options(timeout=None).delay(1, 60)

    def canceled() -> bool:
        if looks and running.status() == "started":  # nobody listens to this one
            redis_client.hset(f"rq:job:{running.id}", "tq_cancel", 1)
        return running.status() == "canceled"

    work(app.queue, redis_url, canceled, limit_s=10)
    assert len(looks) == 2


def test_every_connection_is_killed_again_and_again(app, target, worker, ledger, redis_client):
    handles = app.number.map(range(4000))
    process = worker(target, processes=2)
    for _ in range(10):
        if drained(redis_client):
            break
        redis_client.client_kill_filter(_type="normal", skipme=True)
        redis_client.client_kill_filter(_type="pubsub", skipme=True)
        done = len(ledger.lines())
        wait_until(lambda done=done: len(ledger.lines()) > done + 20 or drained(redis_client), 10)
    wait_until(lambda: drained(redis_client), 15)
    assert ledger.numbers() == Counter(range(4000))
    assert misplaced(redis_client, [h.id for h in handles]) == {}
    assert process.running
    # no process was replaced: both say once that they are ready
    wait_until(lambda: process.log().count("ready (process") == 2)


def test_scripts_are_loaded_again(app, target, worker, ledger, redis_client):
    handles = app.number.map(range(2000))
    worker(target)
    wait_until(lambda: redis_client.script_flush() and drained(redis_client), 15, interval=0.01)
    assert ledger.numbers() == Counter(range(2000))
    assert misplaced(redis_client, [h.id for h in handles]) == {}


def test_a_pause_of_redis(app, target, worker, ledger, redis_client):
    handles = app.number.map(range(1000))
    process = worker(target)
    wait_until(lambda: len(ledger.lines()) > 100)
    redis_client.client_pause(1500)
    wait_until(lambda: drained(redis_client), 10)
    assert ledger.numbers() == Counter(range(1000))
    assert misplaced(redis_client, [h.id for h in handles]) == {}
    assert process.running


@pytest.mark.slow
def test_redis_is_killed_and_comes_back(
    app_module: AppModule, worker, tmp_path: Path, redis_program, monkeypatch, redis_url
):
    """With appendfsync always: all that was accepted runs, what ran meanwhile is recorded."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(data))
    home = tmp_path / "home"
    server = EmbeddedRedis.start(home, extra_args=options, binary=redis_program)
    try:
        monkeypatch.setenv("TASKQ_REDIS_URL", server.url)
        app = app_module(APP)
        ledger = Ledger(tmp_path / "ledger.txt")
        handles = [app.slow.delay(n, 1.0) for n in range(20)]
        handles += [app.number.delay(n) for n in range(20, 300)]
        process = worker(f"{app.__name__}:queue", env={"TASKQ_REDIS_URL": server.url}, ready=False)
        wait_until(ledger.lines)
        server.stop()
        long = set(range(20))  # they end while there is no Redis
        wait_until(lambda: long <= set(ledger.numbers()) or not process.running)
        server = EmbeddedRedis.start(home, extra_args=options, binary=redis_program)
        with redis.Redis.from_url(server.url) as client:
            wait_until(lambda: drained(client), 10)
            assert ledger.numbers() == Counter(range(300))
            assert misplaced(client, [h.id for h in handles]) == {}
        assert process.running
        process.stop()
        app.queue.close()
    finally:
        server.stop()


def test_a_server_out_of_memory(app, target, worker, ledger, redis_client):
    handles = [app.slow.delay(n, 0.3) for n in range(50)]
    handles += app.number.map(range(50, 400))
    process = worker(target)
    redis_client.config_set("maxmemory", 1)
    try:
        wait_until(lambda: drained(redis_client), 10)
    finally:
        redis_client.config_set("maxmemory", 0)
    assert ledger.numbers() == Counter(range(400))
    assert misplaced(redis_client, [h.id for h in handles]) == {}
    assert app.number.delay(400).result(timeout=10) == 400
    assert process.log().count("ready (process") == 1


def test_rights_that_are_taken_away_and_given_back(
    app, target, worker, ledger, redis_client, redis_server
):
    """Jobs that end meanwhile are recorded as what they were, once the password works again."""
    redis_client.acl_setuser(
        "w", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all"]
    )
    url = f"redis://w:pw@127.0.0.1:{redis_server.port}/0"
    try:
        process = worker(target, env={"TASKQ_REDIS_URL": url})
        handles = [app.slow.delay(n, 0.5) for n in range(20)]
        wait_until(lambda: redis_client.zcard("rq:wip:default") == 20)
        redis_client.acl_setuser("w", enabled=True, passwords=["-pw", "+other"])
        redis_client.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: len(ledger.lines()) == 20)
        process.wait_for_log("ended jobs wait to be settled")
        redis_client.acl_setuser("w", enabled=True, passwords=["+pw"])
        assert sorted(h.result(timeout=10) for h in handles) == list(range(20))
        # commands forbidden, connections kept
        redis_client.acl_log_reset()
        redis_client.acl_setuser("w", enabled=True, commands=["-evalsha", "-eval"])
        late = app.number.delay(20)
        wait_until(lambda: any(e["reason"] == "command" for e in redis_client.acl_log()))
        redis_client.acl_setuser("w", enabled=True, commands=["+@all"])
        assert late.result(timeout=10) == 20
        assert process.log().count("ready (process") == 1
        assert misplaced(redis_client, [h.id for h in [*handles, late]]) == {}
        process.stop()
    finally:
        redis_client.acl_deluser("w")


def test_no_redis_at_the_start_is_waited_for(app, target, worker, tmp_path, redis_program):
    home = tmp_path / "late"
    process = worker(target, env={"TASKQ_REDIS_URL": f"unix://{home}/redis.sock"}, ready=False)
    process.wait_for_log("waits for it")
    with EmbeddedRedis.start(home, binary=redis_program):
        process.wait_for_log("ready (process")
        assert process.stop() == 0


def test_a_stop_while_redis_is_away_ends_in_time(
    app, target, worker, ledger, tmp_path, redis_program
):
    home = tmp_path / "gone"
    server = EmbeddedRedis.start(home, binary=redis_program)
    process = worker(target, env={"TASKQ_REDIS_URL": server.url}, ready=False)
    process.wait_for_log("ready (process")
    server.stop()
    began = time.monotonic()
    assert process.stop(timeout=19) == 0
    assert time.monotonic() - began < 7
