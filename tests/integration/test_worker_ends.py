"""How a job can end, in real workers: each in its right place, and its neighbours run on."""

from __future__ import annotations

import json
import time

import pytest
import redis

from taskq import JobFailed, TaskTimeout
from tests.conftest import AppModule
from tests.endings import Endings, Later
from tests.engine import misplaced, places, reason, status
from tests.support import LEDGER, Ledger, WorkerProcess, WorkerStarter, wait_until

APP = (
    LEDGER
    + """
import asyncio, sys, time
from pathlib import Path
from taskq import Retry, TaskQ, current_job

queue = TaskQ()

class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no text")
    __repr__ = __str__

def _deep(n):
    return _deep(n + 1) + 1

def _act(what):
    if what == "return": return {"a": [1, 2.5, None, "ü"]}
    if what == "none": return None
    if what == "raise": raise ValueError("no")
    if what == "exit": sys.exit(3)
    if what == "interrupt": raise KeyboardInterrupt
    if what == "memory": raise MemoryError
    if what == "recursion": return _deep(0)
    if what == "hostile": raise Hostile
    if what == "unserializable": return object()
    if what == "huge": return "x" * 2_000_000
    if what == "loop": return [what := what]
    if what == "stop iteration": raise StopIteration(7)
    if what == "generator exit": raise GeneratorExit
    raise AssertionError(what)

@queue.task
def plain(what):
    return _act(what)

@queue.task
async def coroutine(what):
    await asyncio.sleep(0)
    return _act(what)

@queue.task
async def cancels_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(5)

@queue.task(retry=Retry(2, base=0.05))
def flaky(fails):
    note("flaky", current_job().attempt)
    if current_job().attempt <= fails:
        raise OSError("again")
    return current_job().attempt

@queue.task(retry=Retry(3, on=(OSError,)))
async def choosy():
    note("choosy")
    raise ValueError("not on the list")

@queue.task
def later():
    if current_job().attempt < 3:
        raise Retry.later(0.05)
    return current_job().attempt

@queue.task(retry=2)
def at_once():
    note("at_once")
    raise ValueError("no")

@queue.task(timeout=0.3)
def python_loop():
    while True:
        pass

@queue.task(timeout=0.3)
def swallows():
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

@queue.task(timeout=0.3)
def swallows_all():
    end = time.monotonic() + 4
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

@queue.task(timeout=0.3)
def sleeps():
    time.sleep(4)

@queue.task(timeout=0.3)
async def async_sleeps():
    await asyncio.sleep(30)

@queue.task(timeout=1.2)
async def async_sleeps_long():
    await asyncio.sleep(30)

@queue.task(timeout=0.3, retry=1)
async def times_out_once():
    if current_job().attempt == 1:
        await asyncio.sleep(30)
    return "second"

@queue.task(failure_ttl=0)
def leaves_nothing(gate):
    while not Path(gate).exists():
        time.sleep(0.01)
    raise ValueError("no")

@queue.task(timeout=2)
def quick():
    return "quick"
"""
)


@pytest.fixture
def running(app, worker: WorkerStarter) -> WorkerProcess:
    return worker(f"{app.__name__}:queue", "--threads", "4")


GOOD = {"return": {"a": [1, 2.5, None, "ü"]}, "none": None}
BAD = {
    "raise": ("builtins.ValueError", "no"),
    "exit": ("builtins.SystemExit", "3"),
    "interrupt": ("builtins.KeyboardInterrupt", ""),
    "memory": ("builtins.MemoryError", ""),
    "recursion": ("builtins.RecursionError", "maximum recursion"),
    "unserializable": ("taskq.errors.NotSerializable", "object"),
    "huge": ("taskq.errors.PayloadTooLarge", "limit"),
    "generator exit": ("builtins.GeneratorExit", ""),
}


def test_every_kind_of_end_in_both_runners(app, running, redis_client: redis.Redis):
    handles = {
        (mode, what): getattr(app, mode).delay(what)
        for mode in ("plain", "coroutine")
        for what in (*GOOD, *BAD, "hostile", "stop iteration")
    }
    hers = app.cancels_itself.delay()
    for (mode, what), handle in handles.items():
        if what in GOOD:
            assert handle.result(timeout=10) == GOOD[what]
            assert places(redis_client, handle.id) == ["rq:finished:default"]
            continue
        with pytest.raises(JobFailed) as caught:
            handle.result(timeout=10)
        if what in BAD:
            kind, text = BAD[what]
            assert (mode, what, caught.value.exc_type) == (mode, what, kind)
            assert text in caught.value.message
        assert caught.value.attempts == 1
        assert places(redis_client, handle.id) == ["rq:failed:default"]
    assert "CancelledError" in hers.exception(timeout=5).exc_type
    assert app.quick.delay().result(timeout=5) == "quick"
    assert running.log().count("ready (process") == 1  # one process outlived all of it
    assert "Traceback" not in running.log().replace("Traceback (most recent call last)", "", 999)


def test_retries(app, running, ledger: Ledger, redis_client: redis.Redis):
    once, never, odd = app.flaky.delay(2), app.flaky.delay(5), app.choosy.delay()
    put_off, hurried = app.later.delay(), app.at_once.delay()
    assert once.result(timeout=10) == 3
    assert never.exception(timeout=10).attempts == 3
    assert odd.exception(timeout=10).attempts == 1
    assert put_off.result(timeout=10) == 3
    assert hurried.exception(timeout=10).attempts == 3
    assert ledger.count("choosy") == 1
    assert ledger.count("at_once") == 3
    assert len(ledger.lines()) == 3 + 3 + 1 + 3
    ids = [handle.id for handle in (once, never, odd, put_off, hurried)]
    assert misplaced(redis_client, ids) == {}


def test_time_limits(app, running, redis_client: redis.Redis):
    began = time.monotonic()
    slow = (
        "python_loop",
        "swallows",
        "swallows_all",
        "sleeps",
        "async_sleeps",
        "async_sleeps_long",
    )
    handles = {name: getattr(app, name).delay() for name in slow}
    again = app.times_out_once.delay()
    for name, handle in handles.items():
        with pytest.raises(TaskTimeout, match="time limit"):
            handle.result(timeout=8)
        assert places(redis_client, handle.id) == ["rq:failed:default"], name
    assert again.result(timeout=8) == "second"
    assert time.monotonic() - began < 4
    # a limit strikes nobody else: what follows in the same threads
    assert [h.result(timeout=8) for h in [app.quick.delay() for _ in range(200)]] == ["quick"] * 200


@pytest.mark.slow
def test_a_blocked_loop_is_killed_and_its_neighbours_run_again(
    app_module: AppModule, redis_url, worker, redis_client, monkeypatch, tmp_path
):
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module(
        LEDGER
        + """
import asyncio, time
from taskq import Retry, TaskQ, current_job
queue = TaskQ()

@queue.task(timeout=0.5)
async def blocks():
    note("blocks")
    time.sleep(60)

@queue.task(timeout=0.5, retry=1, unique="lock", failure_ttl=100)
async def blocks_once():
    note("once")
    if current_job().attempt == 1:
        time.sleep(60)
    return current_job().attempt

@queue.task
async def neighbour():
    note("neighbour")
    if current_job().attempt == 1 and len(Path(__file__).with_name("ledger.txt").read_text()) < 30:
        await asyncio.sleep(60)
    return current_job().attempt
"""
    )
    neighbour = app.neighbour.delay()
    process = worker(f"{app.__name__}:queue", "-q", "other", "-q", "default")
    process.wait_for_log("ready")
    wait_until(lambda: status(redis_client, neighbour.id) == "started")
    hung, retried = app.blocks.delay(), None
    with pytest.raises(TaskTimeout, match="worker process was killed"):
        hung.result(timeout=12)
    assert places(redis_client, hung.id) == ["rq:failed:default"]
    assert redis_client.hget(f"rq:job:{neighbour.id}", "tq_crashes") is None
    assert retried is None


@pytest.mark.parametrize("waits", ["before", "after"])
def test_who_waits_for_a_failure_that_is_not_kept_is_told(
    app, running, redis_client: redis.Redis, tmp_path, waits
):
    gate = tmp_path / "gate"
    handle = app.leaves_nothing.delay(str(gate))
    if waits == "before":
        fails = Later(Endings(redis_client).blocked, gate.touch)
    else:
        gate.touch()
        wait_until(lambda: not redis_client.exists(f"rq:job:{handle.id}"))
    with pytest.raises(JobFailed, match="ValueError: no"):
        handle.result(timeout=10)
    if waits == "before":
        fails.join()
    assert not redis_client.keys(f"rq:*{handle.id}*")
    assert places(redis_client, handle.id) == []


def test_hostile_fields_fail_only_their_own_job(app, running, redis_client: redis.Redis):
    """Each field of the record with garbage; the good jobs around them are served."""
    junk = [
        b"\xff\xfe\x00",
        b"nan",
        b"inf",
        b"-1e999",
        b"1e300",
        b"[",
        b'{"a":',
        b"",
        b"[[[[" * 5000,
    ]
    names = """tq_runs data origin status created_at enqueued_at timeout tq_timeout
        result_ttl failure_ttl ttl retries_left retry_intervals tq_retry meta description
        tq_attempts tq_crashes tq_unknown
        tq_redeliver tq_unique tq_cancel tq_token enqueue_at_front worker_name started_at""".split()
    redis_client.set("rq:suspended", 1)
    handles, hurt = [], []
    for name in names:
        for value in junk:
            handles.append(app.quick.delay())
            for what in ("return", "raise"):
                one = app.plain.delay(what)
                redis_client.hset(f"rq:job:{one.id}", name, value)
                hurt.append(one.id)
    redis_client.delete("rq:suspended")
    for handle in handles:
        assert handle.result(timeout=15) == "quick"
    ends = {"finished", "failed", "scheduled"}

    def open_() -> list[str]:
        return [one for one in hurt if status(redis_client, one) not in ends]

    wait_until(lambda: redis_client.llen("rq:queue:default") == 0)
    wait_until(lambda: redis_client.zcard("rq:wip:default") == 0)
    left = {one: places(redis_client, one) for one in open_()}
    assert not {one: where for one, where in left.items() if len(where) != 1}, left
    assert len(misplaced(redis_client, hurt)) == 0
    assert running.log().count("ready (process") == 1


def test_broken_payloads_are_failed_with_the_reason(app, running, redis_client: redis.Redis):
    cases = {
        b"": "payload",
        b"\x80\x04N.": "pickle",
        b"not json": "",
        b'["' + app.__name__.encode() + b'.quick",null,[],{}': "",
        b'["no.such.task",null,[],{}]': "",
        b"[" * 100_000: "",
        b"x\x9cgarbage": "",
        b"[1,2,3]": "",
        b"{}": "",
        b"null": "",
    }
    redis_client.set("rq:suspended", 1)
    ids = {}
    for data in cases:
        one = app.quick.delay()
        redis_client.hset(f"rq:job:{one.id}", mapping={"data": data, "tq_unknown": 6})
        ids[data] = one
    redis_client.delete("rq:suspended")
    for data, handle in ids.items():
        error = handle.exception(timeout=10)
        assert error is not None
        assert cases[data] in error.message
        assert error.message
        assert places(redis_client, handle.id) == ["rq:failed:default"]
    assert "no task 'no.such.task'" in ids[b'["no.such.task",null,[],{}]'].exception(5).message
    assert app.quick.delay().result(timeout=5) == "quick"


def test_an_unknown_task_waits_for_the_next_release(app, running, redis_client: redis.Redis):
    redis_client.set("rq:suspended", 1)
    one = app.quick.delay()
    redis_client.hset(f"rq:job:{one.id}", "data", '["next.release.task",null,[],{}]')
    redis_client.delete("rq:suspended")
    wait_until(lambda: status(redis_client, one.id) == "scheduled")
    assert 8 < redis_client.zscore("rq:scheduled:default", one.id) - time.time() < 11
    assert redis_client.hget(f"rq:job:{one.id}", "tq_unknown") == b"1"
    redis_client.hset(f"rq:job:{one.id}", "tq_unknown", "6")
    redis_client.zadd("rq:scheduled:default", {one.id: 1})
    redis_client.publish("taskq:wake", "default")
    error = one.exception(timeout=10)
    assert "next.release.task" in error.message
    assert json.loads(reason(redis_client, one.id))[0] == "taskq.errors.UnknownTask"
