"""Which job runs when: order, weights, pauses, delays, fairness; and how long a worker stays."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import redis

from taskq import JobFailed
from tests.engine import descendants, drained, misplaced, status, wait_for_reserve
from tests.support import LEDGER, WorkerStarter, time_passes, wait_until

APP = (
    LEDGER
    + """
import asyncio, gc, os, time
from taskq import TaskQ, current_job

queue = TaskQ()
_hoard = []

@queue.task
def number(n):
    note(current_job().queue, n, time.time())
    return os.getpid()

@queue.task
def short(sent):
    note("short", time.time() - sent)

@queue.task
def sleeps(seconds):
    note("sleeps", time.time())
    time.sleep(seconds)

@queue.task
async def asleeps(seconds):
    await asyncio.sleep(seconds)

@queue.task
def hoard(mb):
    _hoard.append(b"x" * (mb * 1_000_000))
    return os.getpid()

class Held:
    alive = 0
    def __init__(self):
        Held.alive += 1
    def __del__(self):
        Held.alive -= 1

@queue.task
def loses():
    gc.disable()
    held = Held()
    raise ValueError

@queue.task
async def async_loses():
    gc.disable()
    held = Held()
    await asyncio.sleep(0)
    raise ValueError

@queue.task
def kept():
    return Held.alive
"""
)


def test_queues_in_order_of_priority(app, target, worker: WorkerStarter, ledger):
    for name in ("low", "high"):
        app.number.options(queue=name).map(range(200))
    worker(target, "-q", "high", "-q", "low", "--threads", "1", "--burst").wait(15)
    order = [(line.split()[0], int(line.split()[1])) for line in ledger.lines()]
    assert order == [("high", n) for n in range(200)] + [("low", n) for n in range(200)]


def test_weights_share_by_proportion_and_starve_nobody(app, target, worker, ledger):
    for name in ("often", "seldom"):
        app.number.options(queue=name).map(range(1500))
    worker(target, "-q", "often=5", "-q", "seldom=1", "--threads", "1", "--burst").wait(18)
    names = [line.split()[0] for line in ledger.lines()]
    assert Counter(names) == {"often": 1500, "seldom": 1500}
    both = names[: len(names) - names[::-1].index("often")]  # until the first queue was empty
    share = both.count("often") / len(both)
    assert 0.6 < share < 0.98
    for name in ("often", "seldom"):
        order = [int(line.split()[1]) for line in ledger.lines() if line.startswith(name)]
        assert order == sorted(order)


@pytest.mark.parametrize("how", ["rq suspend", "paused"])
def test_pause_and_resume(app, target, worker, ledger, redis_client: redis.Redis, how):
    worker(target, "-q", "default", "-q", "other")
    assert app.number.delay(0).result(timeout=10)
    if how == "rq suspend":
        redis_client.set("rq:suspended", 1)
    else:
        redis_client.sadd("taskq:paused", "default")
    with redis_client.monitor() as monitor:
        held = app.number.delay(1)
        for _ in range(2):
            wait_for_reserve(monitor)
    if how == "paused":
        assert app.number.options(queue="other").delay(2).result(timeout=10)
    assert status(redis_client, held.id) == "queued"
    assert misplaced(redis_client, [held.id]) == {}
    redis_client.delete("rq:suspended", "taskq:paused")
    assert held.result(timeout=5)


def test_burst_with_two_processes_runs_everything_once(app, target, worker, ledger, redis_client):
    handles = app.number.map(range(1000))
    later = app.number.options(delay=60).delay(1)
    assert worker(target, "--burst", processes=2, ready=False).wait(15) == 0
    assert len(ledger.lines()) == 1000
    assert misplaced(redis_client, [h.id for h in [*handles, later]]) == {}
    assert status(redis_client, later.id) == "scheduled"


def test_max_jobs_replaces_the_process_after_exactly_so_many(app, target, worker, ledger):
    handles = app.number.map(range(25))
    worker(target, "--max-jobs", "10", "--threads", "3")
    pids = Counter(h.result(timeout=15) for h in handles)
    assert sorted(pids.values()) == [5, 10, 10]


@pytest.mark.parametrize("kind", ["async_loses", "loses"])
def test_what_a_failed_job_held_is_free_without_a_garbage_collection(app, target, worker, kind):
    """Else a few thousand failures with large locals would fill the memory before it comes."""
    worker(target, processes=1)
    for _ in range(20):
        with pytest.raises(JobFailed):
            getattr(app, kind).delay().result(timeout=10)
    assert app.kept.delay().result(timeout=10) <= 2


def test_max_memory_replaces_the_process(app, target, worker, redis_client):
    process = worker(target, "--max-memory", "120")
    first = app.hoard.delay(150).result(timeout=10)
    wait_until(lambda: descendants(process.pid) not in ([], [first]), 10)
    process.wait_for_log("over the limit of 120 MB")
    assert app.hoard.delay(1).result(timeout=10) != first


def test_delayed_jobs_are_never_early_and_hardly_late(app, target, worker, ledger):
    worker(target, processes=2)
    app.number.delay(-1).result(timeout=10)
    due: dict[int, float] = {}
    handles = []
    for n in range(40):
        delay = 0.3 + (n * 37 % 40) / 40
        due[n] = time.time() + delay
        handles.append(app.number.options(delay=delay).delay(n))
    for handle in handles:
        handle.result(timeout=10)
    late = []
    for line in ledger.lines()[1:]:
        _, n, at = line.split()
        late.append(float(at) - due[int(n)])
    assert min(late) > -0.002  # the clock is read a moment before Redis reads its own
    assert sorted(late)[len(late) // 2] < 0.1
    assert max(late) < 0.6


@pytest.mark.slow
def test_short_jobs_do_not_wait_behind_long_ones(app, target, worker, ledger, redis_client):
    """2 s and 1 ms mixed, two processes with two threads: while a slot is free, nobody waits."""
    worker(target, "--threads", "2", processes=2)
    app.number.delay(0).result(timeout=10)
    long = [app.sleeps.delay(2) for _ in range(3)]
    wait_until(lambda: sum(line.startswith("sleeps") for line in ledger.lines()) == 3)
    short = []
    for _ in range(60):
        short.append(app.short.delay(time.time()))
        time_passes(0.02)  # they come at this pace
    for handle in short:
        handle.result(timeout=10)
    waits = sorted(float(line.split()[1]) for line in ledger.lines() if line.startswith("short"))
    assert not long[0].done()
    assert waits[len(waits) // 2] < 0.05
    assert waits[-1] < 0.5, waits[-5:]  # 0.15 where nothing else uses the machine
    for handle in long:
        handle.result(timeout=10)


def test_nothing_is_left_after_drain_and_ttl(app, target, worker, ledger, redis_client):
    """DBSIZE is what it was, but for a few keys of fixed number."""
    tasks = [app.number.options(result_ttl=1, failure_ttl=1), app.asleeps.options(result_ttl=1)]
    process = worker(target)
    tasks[0].map(range(300))
    for _ in range(300):
        tasks[1].delay(0.001)
    for n in range(20):
        tasks[0].options(unique=f"k{n}").delay(n)
        tasks[0].options(delay=0.05, result_ttl=0).delay(n)
    # their results may be gone before all are read; one just taken is in a claim list, unseen
    wait_until(lambda: len(ledger.lines()) == 340 and drained(redis_client), 15)
    assert not redis_client.exists("rq:failed:default")
    process.stop()
    wait_until(lambda: not redis_client.keys("rq:job:*") + redis_client.keys("rq:results:*"), 10)
    left = {key.decode() for key in redis_client.keys("*")}
    left = {key for key in left if redis_client.ttl(key) == -1}
    assert left <= {
        "rq:queues",
        "rq:finished:default",
        "taskq:alive",
        "taskq:serves",
        "taskq:fence",
        "taskq:sweep",
    }
