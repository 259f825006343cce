"""Tasks that do not end, hold up the loop, or take their process with them: what each costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import redis

from taskq import JobFailed, TaskTimeout
from tests.engine import places
from tests.support import LEDGER, Ledger, WorkerStarter, wait_until

APP = (
    LEDGER
    + """
import asyncio, contextvars, ctypes, os, sys, threading, time
from taskq import TaskQ, current_job

queue = TaskQ()
mine = contextvars.ContextVar("mine", default="clean")
LIMIT = 0.6

def began():
    note("began", current_job().id, time.time(), os.getpid())

# -- threads

@queue.task(timeout=LIMIT)
def loop():
    began()
    while True:
        pass

@queue.task(timeout=LIMIT)
def sleeps():
    began()
    time.sleep(60)

@queue.task(timeout=LIMIT)
def swallows_exception():
    began()
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

@queue.task(timeout=LIMIT)
def swallows_everything():
    began()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

@queue.task(timeout=LIMIT)
def swallows_once_and_returns():
    began()
    try:
        while True:
            time.sleep(0.01)
    except BaseException:
        return "as if nothing had happened"

@queue.task(timeout=LIMIT)
def makes_another_of_it():
    began()
    try:
        while True:
            time.sleep(0.01)
    except BaseException:
        raise OSError("wrapped")

# -- coroutines

@queue.task(timeout=LIMIT)
async def awaits():
    began()
    try:
        await asyncio.sleep(60)
    finally:
        note("cleaned up")

@queue.task(timeout=LIMIT)
async def acleans_up_slowly():
    began()
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(1.2)
        note("cleaned up slowly")

@queue.task(timeout=LIMIT)
async def aswallows():
    began()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass

@queue.task(timeout=LIMIT)
async def aswallows_once_and_returns():
    began()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "as if nothing had happened"

@queue.task(timeout=LIMIT)
async def ablocks():
    began()
    hold_the_loop(60)

@queue.task(timeout=LIMIT)
async def aloops():
    began()
    while True:
        pass

@queue.task(timeout=LIMIT)
async def ablocks_in_a_child_task():
    began()
    async def inner():
        hold_the_loop(60)
    await asyncio.gather(inner(), asyncio.sleep(60))

@queue.task(timeout=LIMIT)
async def akeeps_the_interpreter():
    began()
    ctypes.PyDLL(None).sleep(60)

@queue.task
async def ablocks_for(seconds):
    hold_the_loop(seconds)
    return "done"

def hold_the_loop(seconds):
    time.sleep(seconds)

# -- neighbours and ends

@queue.task
async def neighbour(seconds):
    note("neighbour")
    await asyncio.sleep(seconds)
    return current_job().attempt

@queue.task
def thread_neighbour(seconds):
    note("neighbour")
    time.sleep(seconds)
    return current_job().attempt

@queue.task
async def child_task_exits(how):
    async def inner():
        await asyncio.sleep(0)
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[how](how)
    await asyncio.gather(inner())

@queue.task
async def callback_exits():
    asyncio.get_running_loop().call_soon(sys.exit, "from a callback")
    await asyncio.sleep(0.05)
    return "fine"

# -- contexts

def who():
    return current_job().id

@queue.task
def in_threads():
    before = mine.get()
    mine.set(current_job().id)
    seen = []
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(lambda: seen.append(who()),))
    thread.start()
    thread.join()
    return [before, who(), mine.get(), *seen]

@queue.task
async def in_coroutines():
    before = mine.get()
    mine.set(current_job().id)
    inner = asyncio.create_task(asyncio.to_thread(who))
    await asyncio.sleep(0)
    return [before, who(), mine.get(), await asyncio.to_thread(who), await inner]

@queue.task
def quick():
    return "quick"
"""
)


def beginnings(ledger: Ledger, job_id: str) -> list[tuple[float, str]]:
    found = [line.split() for line in ledger.lines() if line.startswith(f"began {job_id}")]
    return [(float(words[2]), words[3]) for words in found]


def seconds_to_its_end(client: redis.Redis, ledger: Ledger, job_id: str) -> float:
    """From a job's first line to its end as Redis has it."""
    stream_id = client.xrevrange(f"rq:results:{job_id}", count=1)[0][0]
    return int(stream_id.split(b"-")[0]) / 1000 - beginnings(ledger, job_id)[0][0]


LATE_S = 3.0
"""Within a second is what `python -m benchmarks.limits` measures; here others use the machine."""

STOPPABLE = (
    "loop sleeps swallows_exception swallows_everything swallows_once_and_returns "
    "makes_another_of_it awaits acleans_up_slowly aswallows aswallows_once_and_returns"
).split()


def test_a_limit_ends_whatever_the_task_does_and_the_process_goes_on(
    app, target, worker: WorkerStarter, ledger, redis_client
):
    process = worker(target, "--threads", "8")
    neighbour = app.neighbour.delay(3)
    handles = {name: getattr(app, name).delay() for name in STOPPABLE}
    for name, handle in handles.items():
        with pytest.raises(TaskTimeout, match=r"time limit of 0\.6 s"):
            handle.result(timeout=8)
        took = seconds_to_its_end(redis_client, ledger, handle.id)
        assert took < 0.6 + LATE_S, (name, took)
        assert places(redis_client, handle.id) == ["rq:failed:default"], name
    assert "OSError: wrapped" in handles["makes_another_of_it"].exception(5).traceback
    assert neighbour.result(timeout=8) == 1
    wait_until(lambda: ledger.count("cleaned up slowly") == 1)  # it had more time than the limit
    assert ledger.count("cleaned up") == 1
    assert process.log().count("ready (process") == 1
    assert "its thread is abandoned (" in process.log()
    assert "goes on after it was cancelled" in process.log()


@pytest.mark.parametrize("name", ["ablocks_in_a_child_task", "akeeps_the_interpreter"])
def test_a_held_up_loop_is_killed_for_its_job_and_the_neighbours_run_again(
    app, target, worker: WorkerStarter, ledger, redis_client, name
):
    process = worker(target)
    near = [app.neighbour.delay(2), app.thread_neighbour.delay(2)]
    wait_until(lambda: len(ledger.lines()) == 2)
    handle = getattr(app, name).delay()
    with pytest.raises(TaskTimeout, match="worker process was killed"):
        handle.result(timeout=8)
    assert seconds_to_its_end(redis_client, ledger, handle.id) < 0.6 + LATE_S
    assert [one.result(timeout=10) for one in near] == [1, 1]  # no crash of theirs
    assert ledger.count("neighbour") == 4
    assert all(redis_client.hget(f"rq:job:{h.id}", "tq_crashes") is None for h in near)
    assert process.log().count("ready (process") == 2


def test_what_holds_up_the_loop_is_named_with_its_stack(app, target, worker: WorkerStarter):
    process = worker(target, "--log-format", "json")
    near = app.neighbour.delay(0.2)
    handle = app.ablocks_for.delay(1.2)
    assert handle.result(timeout=8) == "done"
    process.wait_for_log("goes on")
    records = [json.loads(x) for x in process.log().splitlines() if x.startswith("{")]
    held = [r for r in records if "has held up the event loop" in json.dumps(r)]
    assert len(held) == 1  # once for each time
    text = json.dumps(held[0])
    assert f"{app.__name__}.ablocks_for (job {handle.id})" in text
    assert "in hold_the_loop" in text
    assert "time.sleep(seconds)" in text
    assert held[0]["job_id"] == handle.id
    assert "asyncio/" not in text  # what runs it is of no interest
    assert f"goes on: {app.__name__}.ablocks_for (job {handle.id}) held it up for" in process.log()
    assert near.result(timeout=5) == 1
    assert process.log().count("ready (process") == 1


def stuck_by_info(redis_url: str) -> list[int]:
    command = [sys.executable, "-m", "taskq", "info", "--json", "--redis-url", redis_url]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [worker["stuck"] for worker in json.loads(told)["workers"]]


@pytest.mark.timeout(40)
def test_stuck_ones_are_shown_and_too_many_replace_the_process_also_in_a_burst(
    app, target, worker: WorkerStarter, redis_url, redis_client
):
    app.sleeps.delay()
    process = worker(target, "--threads", "2", "--max-stuck", "1", "--grace", "0.2")
    process.wait_for_log("(1 stuck in this worker)")
    [key] = redis_client.smembers("rq:workers")
    wait_until(lambda: redis_client.hget(key, "tq_stuck") == b"1")
    assert stuck_by_info(redis_url) == [1]
    app.aswallows.delay()
    process.wait_for_log("2 threads or coroutines of this worker are stuck, more than 1")
    wait_until(lambda: process.log().count("ready (process") == 2)
    assert app.quick.delay().result(timeout=5) == "quick"
    assert "died" not in process.log()
    process.stop()
    app.sleeps.delay()
    left = [app.sleeps.delay(), app.quick.delay()]
    burst = worker(
        target, "--threads", "1", "--max-stuck", "0", "--grace", "0.2", "--burst", ready=False
    )
    assert burst.wait(18) == 0
    assert isinstance(left[0].exception(timeout=1), TaskTimeout)
    assert left[1].result(timeout=1) == "quick"


def test_a_job_keeps_its_exits_and_its_context_to_itself(app, target, worker):
    process = worker(target, "--threads", "2", "--concurrency", "3")
    near = app.neighbour.delay(1)
    for how, kind in (("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt")):
        with pytest.raises(JobFailed) as caught:
            app.child_task_exits.delay(how).result(timeout=5)
        assert caught.value.exc_type == f"builtins.{kind}"
    assert app.callback_exits.delay().result(timeout=5) == "fine"
    assert near.result(timeout=5) == 1
    for task, times in ((app.in_threads, 3), (app.in_coroutines, 4)):
        for handle in [task.delay() for _ in range(40)]:
            before, *seen = handle.result(timeout=8)
            assert before == "clean"
            assert seen == [handle.id] * times
    assert process.log().count("ready (process") == 1
