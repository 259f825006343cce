"""Dependencies of process tasks: made, shared and closed in the job process, whatever happens."""

from __future__ import annotations

import json
import os

import pytest

from taskq import JobFailed, TaskTimeout
from tests.engine import descendants
from tests.support import LEDGER, wait_until

APP = (
    LEDGER
    + """
import asyncio, itertools, os, time
from taskq import Depends, Retry, TaskQ, current_job

queue = TaskQ()
_numbers = itertools.count()

@queue.lifespan
async def lifespan():
    yield {"pid": os.getpid()}
    note("lifespan ends", os.getpid())

def pool():
    number = next(_numbers)
    note("pool opens", os.getpid(), number)
    yield f"pool {number}"
    note("pool closes", os.getpid(), number)

async def bus(*, over: str = Depends(pool, scope="process")):
    await asyncio.sleep(0.01)
    yield f"bus over {over}"
    await asyncio.sleep(0)
    note("bus closes", os.getpid())

def session(*, below: str = Depends(bus, scope="process")):
    try:
        yield f"session on {below}"
    except BaseException as err:
        note("session sees", type(err).__name__)
        raise
    finally:
        note("session closes", current_job().id)

async def place():
    assert queue.state["pid"] == os.getpid()
    return os.getpid()

@queue.task(mode="process")
def asks(n, *, here: int = Depends(place), db: str = Depends(session)):
    return [n, here == os.getpid(), here != os.getppid(), db]

@queue.task(mode="process")
def fails(*, db: str = Depends(session)):
    raise KeyError("no")

@queue.task(mode="process", timeout=0.3)
def loops(*, db: str = Depends(session)):
    while True:
        pass

@queue.task(mode="process")
def dies(*, db: str = Depends(session)):
    if current_job().attempt == 1:
        os._exit(3)
    return db

_tries = itertools.count(1)

def shaky():
    if next(_tries) < 3:
        raise OSError("not yet")
    return "there"

@queue.task(mode="process", retry=Retry(3, base=0.01, on=(OSError,)))
def patient(*, a: str = Depends(shaky)):
    return [a, current_job().attempt]

def hangs():
    try:
        time.sleep(30)
    finally:
        note("hangs ends")

@queue.task(mode="process", timeout=0.3)
def waits(*, a: None = Depends(hangs)): ...
"""
)


@pytest.fixture
def started(worker, target):
    return worker(target, "--pool", "1")


def test_one_process_shares_and_closes_in_reverse(started, app, ledger):
    handles = [app.asks.delay(n) for n in range(5)]
    found = [handle.result(timeout=20) for handle in handles]
    assert found == [[n, True, True, "session on bus over pool 0"] for n in range(5)]
    assert [ledger.count(f"session closes {handle.id}") for handle in handles] == [1] * 5
    assert started.stop() == 0
    lines = [line.split() for line in ledger.lines() if not line.startswith("session")]
    child = lines[0][2]
    assert child not in {str(os.getpid()), str(started.pid)}
    ends = [line for line in lines if line[2:3] == [child] or line[:2] == ["bus", "closes"]]
    assert [line[:2] for line in ends] == [
        ["pool", "opens"], ["bus", "closes"], ["pool", "closes"], ["lifespan", "ends"],
    ]  # fmt: skip


def test_errors_limits_and_deaths(started, app, ledger):
    with pytest.raises(JobFailed, match="KeyError"):
        app.fails.delay().result(timeout=20)
    assert ledger.lines()[1:] == ["session sees KeyError", ledger.lines()[2]]
    assert app.patient.delay().result(timeout=10) == ["there", 3]
    with pytest.raises(TaskTimeout):
        app.loops.delay().result(timeout=10)
    wait_until(lambda: ledger.count("session sees Overrun"))
    with pytest.raises(TaskTimeout):
        app.waits.delay().result(timeout=10)
    assert ledger.count("hangs ends") == 1
    assert app.dies.delay().result(timeout=15).startswith("session on bus over pool")
    assert started.running


def test_a_payload_cannot_bring_a_dependency(started, app, ledger, redis_client, target):
    handle = app.asks.options(delay=60).delay(1)
    call = json.dumps([f"{target.partition(':')[0]}.asks", None, [1], {"db": "mine"}])
    redis_client.hset(f"rq:job:{handle.id}", "data", call)
    redis_client.zadd("rq:scheduled:default", {handle.id: 0})
    redis_client.publish("taskq:wake", "default")
    with pytest.raises(JobFailed, match="got 'db' from the job's payload") as caught:
        handle.result(timeout=10)
    assert caught.value.exc_type == "taskq.errors.InvalidArguments"
    assert app.asks.delay(2).result(timeout=10)[0] == 2
    assert len(descendants(started.pid)) == 2
