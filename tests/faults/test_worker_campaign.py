"""What takes its time: whole servers that die, freeze, fall silent; hundreds of random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from taskq.broker.scripts import script
from taskq.embedded import EmbeddedRedis
from tests.conftest import AppModule
from tests.engine import Proxy, descendants, drained, misplaced, places
from tests.support import LEDGER, Ledger, WorkerStarter, random_moment, time_passes, wait_until

APP = (
    LEDGER
    + """
import asyncio, os, time
from taskq import Retry, TaskQ, current_job

queue = TaskQ()

@queue.task
def number(n):
    note("number", n)
    return n

@queue.task
async def anumber(n):
    await asyncio.sleep(0.002)
    note("number", n)
    return n

@queue.task(retry=Retry(2, base=0.05))
def flaky(n):
    if current_job().attempt == 1:
        raise OSError("first")
    note("number", n)

@queue.task
def long(seconds):
    note("long", os.getpid(), time.time())
    time.sleep(seconds)
    return os.getpid()

@queue.task
async def along(seconds):
    note("long", os.getpid(), time.time())
    await asyncio.sleep(seconds)
    return os.getpid()
"""
)


def send(app, start: int, count: int) -> list[object]:
    """A mix of `def`, `async def`, retried and delayed jobs."""
    handles: list[object] = []
    for n in range(start, start + count):
        task = (app.number, app.anumber, app.flaky, app.number.options(delay=0.2))[n % 4]
        handles.append(task.delay(n))
    return handles


def test_the_jobs_of_a_dead_server_run_elsewhere_within_30_s(
    app, target, worker: WorkerStarter, ledger, redis_client
):
    """Supervisor and children killed at once: nobody is left to give the jobs back."""
    handles = [app.long.delay(12), app.along.delay(12)]  # longer than the other needs to start
    victim = worker(target)
    wait_until(lambda: len(ledger.lines()) == 2)
    other = worker(target)
    handles += app.number.map(range(50))
    for pid in [victim.pid, *descendants(victim.pid)]:
        os.kill(pid, signal.SIGSTOP)  # no last word from anybody
    for pid in [*descendants(victim.pid), victim.pid]:
        os.kill(pid, signal.SIGKILL)
    killed = time.time()
    wait_until(lambda: sum(x.startswith("long") for x in ledger.lines()) == 4, 40)
    again = [float(x.split()[2]) - killed for x in ledger.lines() if x.startswith("long")][2:]
    print("run again after", again)
    assert max(again) < 30
    for handle in handles:
        handle.result(timeout=20)
    assert misplaced(redis_client, [h.id for h in handles]) == {}
    assert other.running


def test_a_frozen_process_loses_its_jobs_and_changes_nothing_when_it_wakes(
    app, target, worker, ledger, redis_client
):
    handle = app.along.delay(1)
    process = worker(target, processes=1)
    wait_until(ledger.lines)
    [child] = descendants(process.pid)
    os.kill(child, signal.SIGSTOP)
    worker(target)
    result = handle.result(timeout=40)
    assert result != child
    before = redis_client.hgetall(f"rq:job:{handle.id}")
    os.kill(child, signal.SIGCONT)
    process.wait_for_log("no longer belongs to this worker", 10)
    assert redis_client.hgetall(f"rq:job:{handle.id}") == before
    assert places(redis_client, handle.id) == ["rq:finished:default"]
    assert redis_client.xlen(f"rq:results:{handle.id}") == 1


def test_a_frozen_redis_costs_nobody_a_job(app, target, worker, ledger, redis_client, redis_server):
    """Longer than a lease: whoever sweeps first afterwards must not take the living for dead."""
    handles = [app.along.delay(40), app.long.delay(40), *app.anumber.map(range(200))]
    worker(target, processes=2)
    worker(target, processes=1)
    wait_until(lambda: sum(x.startswith("long") for x in ledger.lines()) == 2)
    os.kill(redis_server.pid, signal.SIGSTOP)
    time_passes(22)
    os.kill(redis_server.pid, signal.SIGCONT)
    for handle in handles:
        handle.result(timeout=60)
    assert sum(x.startswith("long") for x in ledger.lines()) == 2
    assert ledger.numbers() == Counter(range(200))
    assert misplaced(redis_client, [h.id for h in handles]) == {}


@pytest.fixture
def silent(redis_server: EmbeddedRedis) -> Iterator[Proxy]:
    """A proxy that swallows the answer of the first settle and keeps the connection open."""
    sha, seen = script("settle").sha.encode(), []

    def watch(request: bytes) -> str | None:
        if sha in request and not seen:
            seen.append(1)
            return "silence"
        return None

    assert redis_server.port is not None
    proxy = Proxy(redis_server.port, watch)
    yield proxy
    proxy.close()


def test_a_settle_that_is_never_answered_is_sent_again(
    app, target, silent, worker, ledger, redis_client
):
    """A half-open connection: no answer and no error. The worker gives up on it, not on the job."""
    handles = app.number.map(range(20))
    worker(target, env={"TASKQ_REDIS_URL": silent.url})
    wait_until(ledger.lines)
    late = app.number.delay(20)
    assert late.result(timeout=30) == 20
    wait_until(lambda: drained(redis_client), 30)
    assert ledger.numbers() == Counter(range(21))
    assert misplaced(redis_client, [h.id for h in handles]) == {}


@pytest.mark.parametrize("seed", range(3))
def test_terms_at_many_random_moments(app, target, worker, ledger, redis_client, seed):
    """0 lost, 0 doubled, in 25 stops of workers that come and go beside each other."""
    chosen = random.Random(seed)
    handles, sent, stops = [], 0, 0
    running = [worker(target, "--threads", "4", "--concurrency", "20") for _ in range(2)]
    while stops < 25:
        handles += send(app, sent, 300)
        sent += 300
        random_moment(chosen, 0.3)
        oldest = running.pop(0)
        if chosen.random() < 0.3:
            os.killpg(oldest.pid, signal.SIGTERM)  # as systemd does: supervisor and children
        assert oldest.stop() == 0
        stops += 1
        running.append(worker(target, "--threads", "4", "--concurrency", "20"))
    wait_until(lambda: drained(redis_client), 60)
    runs = ledger.numbers()
    assert set(runs) == set(range(sent))
    assert [n for n, times in runs.items() if times > 1] == []
    assert misplaced(redis_client, [h.id for h in handles]) == {}


@pytest.mark.parametrize("seed", range(3))
def test_children_killed_at_many_random_moments(app, target, worker, ledger, redis_client, seed):
    """0 lost; doubled at most what the killed had begun."""
    chosen = random.Random(seed)
    process = worker(target, "--threads", "4", "--concurrency", "20", processes=2)
    handles, sent, kills = [], 0, 0
    while kills < 20:
        handles += send(app, sent, 200)
        sent += 200
        random_moment(chosen, 0.3)
        children = descendants(process.pid)
        if children:
            os.kill(chosen.choice(children), chosen.choice([signal.SIGKILL, signal.SIGSEGV]))
            kills += 1
    wait_until(lambda: drained(redis_client), 90)
    runs = ledger.numbers()
    failed = redis_client.zcard("rq:failed:default")
    print("doubled", sum(runs.values()) - len(runs), "failed as crash loop", failed)
    assert len(set(range(sent)) - set(runs)) <= failed
    assert failed <= 3
    assert sum(runs.values()) - len(runs) <= kills * 24
    assert misplaced(redis_client, [h.id for h in handles]) == {}
    assert process.running


def test_connections_and_scripts_die_all_the_time(app, target, worker, ledger, redis_client):
    chosen = random.Random(1)
    worker(target, processes=2)
    handles, end = [], time.monotonic() + 40
    sent = 0
    while time.monotonic() < end:
        handles += send(app, sent, 100)
        sent += 100
        what = chosen.randrange(4)
        if what == 0:
            redis_client.client_kill_filter(_type="normal", skipme=True)
        elif what == 1:
            redis_client.client_kill_filter(_type="pubsub", skipme=True)
        elif what == 2:
            redis_client.script_flush()
        else:
            redis_client.client_pause(chosen.randrange(1, 300))
        random_moment(chosen, 0.2)
    wait_until(lambda: drained(redis_client), 60)
    assert ledger.numbers() == Counter(range(sent))
    assert misplaced(redis_client, [h.id for h in handles]) == {}


def test_redis_is_killed_again_and_again(
    app_module: AppModule, worker, tmp_path: Path, redis_program, monkeypatch, redis_url
):
    """appendfsync always: 0 lost, 0 doubled over many restarts."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(data))
    home = tmp_path / "home"
    server = EmbeddedRedis.start(home, extra_args=options, binary=redis_program)
    try:
        monkeypatch.setenv("TASKQ_REDIS_URL", server.url)
        app = app_module(APP)
        ledger = Ledger(tmp_path / "ledger.txt")
        process = worker(
            f"{app.__name__}:queue",
            processes=2, env={"TASKQ_REDIS_URL": server.url}, ready=False,
        )  # fmt: skip
        handles, sent = [], 0
        chosen = random.Random(random.random())  # by the seed in the header
        for _ in range(8):
            handles += send(app, sent, 300)
            sent += 300
            random_moment(chosen, 0.4)
            os.kill(server.pid, signal.SIGKILL)
            server.stop()
            random_moment(chosen, 1.5)
            server = EmbeddedRedis.start(home, extra_args=options, binary=redis_program)
        with redis.Redis.from_url(server.url) as client:
            wait_until(lambda: drained(client), 60)
            runs = ledger.numbers()
            assert set(runs) == set(range(sent))
            assert [n for n, times in runs.items() if times > 1] == []
            assert misplaced(client, [h.id for h in handles]) == {}
        assert process.running
        process.stop()
        app.queue.close()
    finally:
        server.stop()
