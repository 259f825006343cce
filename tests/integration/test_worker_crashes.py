"""Processes that die, hang or are told to stop: nothing is lost, nothing unbegun is doubled."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.engine import descendants, drained, misplaced, places, reason, status
from tests.support import LEDGER, WorkerStarter, random_moment, time_passes, wait_until

APP = (
    LEDGER
    + """
import asyncio, ctypes, os, signal, sys, time
from taskq import TaskQ, current_job

queue = TaskQ()

@queue.task
def dies(how):
    note("dies", how, current_job().id)
    if how == "exit": os._exit(7)
    if how == "exit 0": os._exit(0)
    if how == "segfault": ctypes.string_at(0)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)

@queue.task
async def dies_on_the_loop():
    os._exit(7)

@queue.task
def dies_once(how):
    note("dies_once", current_job().attempt)
    if current_job().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_job().attempt

@queue.task
async def long(seconds):
    note("long", os.getpid())
    await asyncio.sleep(seconds)
    note("long end")
    return os.getpid()

@queue.task
def long_thread(seconds):
    note("long", os.getpid())
    time.sleep(seconds)
    note("long end")
    return os.getpid()

@queue.task(redeliver=False)
def once(seconds):
    note("once")
    time.sleep(seconds)

@queue.task(redeliver=False)
async def once_async(seconds):
    note("once")
    await asyncio.sleep(seconds)

@queue.task
def number(n):
    note("number", n)
    return n

@queue.task
async def anumber(n):
    await asyncio.sleep(0.001)
    note("number", n)
    return n
"""
)


# -- death -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit 0", "segfault"])
def test_a_job_that_kills_its_process_is_failed_after_three_and_harms_nobody(
    app, target, worker: WorkerStarter, ledger, redis_client, how
):
    neighbours = [app.long.delay(0.3) for _ in range(3)]
    killer = app.dies.delay(how)
    after = app.number.map(range(20))
    worker(target, "--threads", "1", "--concurrency", "5", timeout=10)
    error = killer.exception(timeout=15)
    assert error is not None
    assert "Crash loop: 3 processes" in error.message  # the last was only a job process
    assert ledger.count(f"dies {how} {killer.id}") == 3
    assert [h.result(timeout=10) for h in after] == list(range(20))
    for one in neighbours:
        assert one.result(timeout=10)
    assert places(redis_client, killer.id) == ["rq:failed:default"]
    assert misplaced(redis_client, [h.id for h in (*neighbours, *after)]) == {}
    # again only where one of the two deaths came before an end was recorded
    assert max(ledger.numbers().values()) <= 3


@pytest.mark.slow
def test_a_coroutine_that_kills_gets_its_third_try_in_a_process_of_its_own(app, target, worker):
    killer = app.dies_on_the_loop.delay()
    worker(target)
    error = killer.exception(timeout=18)
    assert error is not None
    assert "Crash loop: 3 processes" in error.message
    assert " at 20" in error.message  # who died before, and when


def test_a_frozen_child_does_not_hold_up_a_stop(app, target, worker, ledger, redis_client):
    handle = app.long.delay(0.5)
    process = worker(target, "--grace", "0.5")
    wait_until(ledger.lines)
    children = descendants(process.pid)
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    assert process.stop(15) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    wait_until(lambda: places(redis_client, handle.id) == ["rq:queue:default"])
    assert not redis_client.hexists(f"rq:job:{handle.id}", "tq_crashes")
    worker(target)
    assert handle.result(timeout=15)


def test_what_a_killed_child_held_runs_again_at_once(app, target, worker, ledger, redis_client):
    handle = app.dies_once.delay("kill")
    worker(target)
    assert handle.result(timeout=10) == 2
    assert redis_client.hget(f"rq:job:{handle.id}", "tq_crashes") == b"1"


def test_kill_nine_of_a_child_under_load_loses_nothing(app, target, worker, ledger, redis_client):
    handles = [*app.number.map(range(3000)), *app.anumber.map(range(3000, 6000))]
    process = worker(target, processes=2)
    chosen = random.Random(4)
    for done in (500, 2000, 4000):
        wait_until(lambda done=done: len(ledger.lines()) > done, 15)
        children = descendants(process.pid)
        if children:
            os.kill(chosen.choice(children), signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: drained(redis_client), 15)
    assert time.monotonic() - killed < 12
    runs = ledger.numbers()
    assert set(runs) == set(range(6000))
    assert sum(runs.values()) - 6000 <= 3 * 300  # only what the dead had in hand ran twice
    assert misplaced(redis_client, [h.id for h in handles]) == {}


def test_at_most_once_is_failed_and_not_run_again(app, target, worker, ledger, redis_client):
    handle = app.once.delay(30)
    process = worker(target)
    wait_until(lambda: ledger.count("once") == 1)
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    error = handle.exception(timeout=10)
    assert "redeliver=False" in error.message
    process.wait_for_log("starting another")
    assert app.number.delay(1).result(timeout=10) == 1
    assert ledger.count("once") == 1


@pytest.mark.parametrize("task", ["once", "once_async"])
def test_at_most_once_also_when_the_grace_time_is_over(
    app, target, worker, ledger, redis_client, task
):
    handle = getattr(app, task).delay(30)
    process = worker(target, "--grace", "0.2")
    wait_until(lambda: ledger.count("once") == 1)
    assert process.stop() == 0
    assert "redeliver=False" in handle.exception(timeout=5).message
    assert places(redis_client, handle.id) == ["rq:failed:default"]


# -- signals ---------------------------------------------------------------------------------


def test_terms_at_random_moments_under_load(app, target, worker, ledger, redis_client):
    """Each worker is stopped while it is busy; together they run every job exactly once."""
    total = 2000
    handles = []
    for start in range(0, total, 500):
        handles += app.number.map(range(start, start + 250))
        handles += app.anumber.map(range(start + 250, start + 500))
    chosen = random.Random(7)
    stops = 0
    while not drained(redis_client) and stops < 4:
        process = worker(target, "--threads", "4", "--concurrency", "20")
        before = len(ledger.lines())
        wait_until(
            lambda before=before: len(ledger.lines()) > before + 100 or drained(redis_client)
        )
        random_moment(chosen, 0.05)
        assert process.stop() == 0
        assert not redis_client.exists("rq:wip:default")
        assert not redis_client.keys("taskq:claim:*")
        stops += 1
    if not drained(redis_client):
        worker(target, "--burst").wait(15)
    assert stops > 1
    runs = ledger.numbers()
    assert set(runs) == set(range(total))
    assert [n for n, times in runs.items() if times > 1] == []
    assert misplaced(redis_client, [h.id for h in handles]) == {}


def test_a_stop_keeps_the_order_of_what_had_not_begun(app, target, worker, ledger, redis_client):
    app.long_thread.delay(0.3)
    handles = app.number.map(range(300))
    process = worker(target, "--threads", "1")
    wait_until(ledger.lines)
    assert process.stop() == 0
    left = [raw.decode() for raw in redis_client.lrange("rq:queue:default", 0, -1)]
    done = len(ledger.numbers())
    assert left == [h.id for h in handles][done:]
    worker(target, "--threads", "1", "--burst").wait(15)
    assert [int(line.split()[1]) for line in ledger.lines() if "number" in line] == list(range(300))


@pytest.mark.parametrize("task", ["long", "long_thread"])
def test_the_grace_time_ends_and_the_job_runs_elsewhere(
    app, target, worker, ledger, redis_client, task
):
    handle = getattr(app, task).delay(1.5)
    process = worker(target, "--grace", "0.3")
    wait_until(ledger.lines)
    began = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - began < 8
    assert places(redis_client, handle.id) == ["rq:queue:default"]
    worker(target)
    assert handle.result(timeout=10)
    assert redis_client.hget(f"rq:job:{handle.id}", "tq_crashes") is None


def test_a_second_term_stops_now_and_counts_no_crash(app, target, worker, ledger, redis_client):
    handle = app.long_thread.delay(30)
    process = worker(target)
    wait_until(ledger.lines)
    process.signal(signal.SIGTERM)
    process.wait_for_log("Stopping: running jobs have")
    time_passes(0.6)  # a second signal within half a second is taken for the same key press
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert time.monotonic() - began < 4
    assert places(redis_client, handle.id) == ["rq:queue:default"]
    assert redis_client.hget(f"rq:job:{handle.id}", "tq_crashes") is None


def test_ctrl_c_reaches_the_whole_group_and_drains(app, target, worker, ledger, redis_client):
    handle = app.long_thread.delay(0.6)
    process = worker(target, processes=2)
    wait_until(ledger.lines)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 0
    assert ledger.count("long end") == 1
    assert handle.result(timeout=5)


def test_term_of_a_child_alone_only_replaces_it(app, target, worker, redis_client):
    process = worker(target)
    [child] = descendants(process.pid)
    os.kill(child, signal.SIGTERM)
    wait_until(lambda: descendants(process.pid) not in ([], [child]))
    assert app.number.delay(1).result(timeout=10) == 1


def test_hup_replaces_the_processes_one_by_one(app, target, worker, redis_client, ledger):
    process = worker(target, processes=2)
    before = set(descendants(process.pid))
    handles = app.anumber.map(range(2000))
    process.signal(signal.SIGHUP)
    wait_until(lambda: len(set(descendants(process.pid)) - before) == 2, 15)
    wait_until(lambda: not set(descendants(process.pid)) & before, 15)
    assert [h.result(timeout=10) for h in handles] == list(range(2000))
    assert set(ledger.numbers().values()) == {1}
    assert process.running


def test_children_drain_when_the_supervisor_is_killed(app, target, worker, ledger, redis_client):
    handle = app.long_thread.delay(0.7)
    process = worker(target, processes=2)
    children = descendants(process.pid)
    wait_until(ledger.lines)
    os.kill(process.pid, signal.SIGKILL)
    process.process.wait()
    assert handle.result(timeout=10)
    wait_until(lambda: not [c for c in children if _alive(c)])
    assert status(redis_client, handle.id) == "finished"
    assert redis_client.smembers("rq:workers") == set()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_quit_prints_stacks_of_threads_and_coroutines_and_goes_on(app, target, worker):
    process = worker(target)
    for _ in range(2):
        seen = len(process.log())
        process.signal(signal.SIGQUIT)
        wait_until(lambda seen=seen: "most recent call first" in process.log()[seen:])
        wait_until(lambda seen=seen: "Stack for <Task" in process.log()[seen:])
    assert app.number.delay(3).result(timeout=10) == 3


def test_the_reason_of_a_crash_loop_names_the_workers_that_died(app, target, worker, redis_client):
    """The third time it is a process of its own that dies, and no worker."""
    handle = app.dies_on_the_loop.delay()
    process = worker(target)
    handle.exception(timeout=15)
    died = re.findall(r"Worker (\S+) \(process \d+\) died", process.log())
    assert len(died) == 2
    assert all(name in reason(redis_client, handle.id) for name in died)


def test_suspects_of_a_crash_loop_all_run_one_after_the_other(
    app, target, worker, ledger, redis_client
):
    redis_client.set("rq:suspended", 1)
    handles = [*app.number.map(range(30)), *app.anumber.map(range(30, 60))]
    for handle in handles:
        redis_client.hset(f"rq:job:{handle.id}", "tq_crashes", 2)
    redis_client.delete("rq:suspended")
    plain = app.number.map(range(60, 90))
    assert worker(target, "--burst", ready=False).wait(15) == 0
    assert [h.result(timeout=5) for h in [*handles, *plain]] == list(range(90))
    assert ledger.numbers() == Counter(range(90))


def test_at_most_once_begins_at_once_where_a_thread_is_free(app, target, worker, redis_client):
    """It is never held unbegun; but a thread that only has to wake up is no reason to return it."""
    worker(target)
    app.number.delay(0).result(timeout=10)
    before = redis_client.info("stats")["total_commands_processed"]
    for _ in range(20):
        app.once.delay(0).result(timeout=5)
    assert redis_client.info("stats")["total_commands_processed"] - before < 20 * 60
