"""Dependencies and the lifespan in real workers: made, shared, closed, whatever happens."""

from __future__ import annotations

import signal

import pytest

from taskq import JobFailed, TaskTimeout
from tests.engine import reason
from tests.support import LEDGER, wait_until

APP = (
    LEDGER
    + """
import asyncio, contextlib, itertools, os, threading, time
from taskq import Depends, Retry, TaskQ, current_job

queue = TaskQ()
_numbers = itertools.count()

@queue.lifespan
async def lifespan():
    note("lifespan begins", os.getpid())
    task = asyncio.current_task()
    yield {"pid": os.getpid(), "loop": asyncio.get_running_loop()}
    note("lifespan ends", asyncio.current_task() is task)

def pool():
    time.sleep(0.05)
    note("pool opens", threading.current_thread() is threading.main_thread())
    yield f"pool {next(_numbers)}"
    note("pool closes")

async def bus(*, over: str = Depends(pool, scope="process")):
    await asyncio.sleep(0.02)
    note("bus opens", asyncio.get_running_loop() is queue.state["loop"])
    task = asyncio.current_task()
    yield f"bus over {over}"
    note("bus closes", asyncio.current_task() is task)

def plain(*, below: str = Depends(pool, scope="process")):
    name = current_job().task.rpartition(".")[2]
    try:
        yield f"plain on {below}"
    except BaseException as err:
        note(name, "plain sees", type(err).__name__)
        raise
    finally:
        note(name, "plain closes")

async def session(*, below: str = Depends(bus, scope="process")):
    name = current_job().task.rpartition(".")[2]
    task = asyncio.current_task()
    try:
        yield f"session on {below}"
    except BaseException as err:
        note(name, "session sees", type(err).__name__)
        raise
    finally:
        await asyncio.sleep(0)
        note(name, "session closes", asyncio.current_task() is task)

@queue.task
def in_thread(n, *, a: str = Depends(plain), b: str = Depends(session)):
    return [n, a, b, threading.current_thread() is threading.main_thread()]

@queue.task
async def on_loop(n, *, a: str = Depends(plain), b: str = Depends(session)):
    await asyncio.sleep(0)
    return [n, a, b, queue.state["pid"] == os.getpid()]

@queue.task
def streams(n, *, a: str = Depends(plain), b: str = Depends(session)):
    for i in range(n):
        yield [i, a]
    return b

@queue.task
async def streams_async(n, *, a: str = Depends(plain), b: str = Depends(session)):
    for i in range(n):
        yield [i, b]

@queue.task(timeout=0.3)
def loops(*, a: str = Depends(plain), b: str = Depends(session)):
    while True:
        pass

@queue.task
async def sleeps(*, a: str = Depends(plain), b: str = Depends(session)):
    note("sleeps")
    await asyncio.sleep(60)

async def never():
    note("never begins")
    try:
        await asyncio.sleep(60)
        yield
    finally:
        note("never ends")

@queue.task(timeout=0.3)
def waits_in_thread(*, a: str = Depends(plain), b: str = Depends(never)): ...

@queue.task(timeout=0.3)
async def waits_on_loop(*, a: str = Depends(plain), b: str = Depends(never)): ...

@queue.task
def exits(*, a: str = Depends(session)):
    raise SystemExit(3)

_tries = itertools.count(1)

async def shaky():
    if next(_tries) < 3:
        raise OSError("not yet")
    return "there"

@queue.task(retry=Retry(3, base=0.01, on=(OSError,)))
def patient(*, a: str = Depends(shaky, scope="process")):
    return [a, current_job().attempt]

def commits():
    yield
    raise ValueError("commit failed")

@queue.task
async def cannot_commit(*, a: None = Depends(commits)):
    return 1
"""
)


@pytest.fixture
def started(worker, target):
    return worker(target)


def test_both_modes_share_what_the_process_has_and_close_it_in_reverse(started, app, ledger):
    jobs = [task.delay(n) for n in range(10) for task in (app.in_thread, app.on_loop)]
    expected = ["plain on pool 0", "session on bus over pool 0"]
    for n, job in enumerate(jobs):
        assert job.result(timeout=10) == [n // 2, *expected, n % 2 == 1]
    assert started.stop() == 0
    lines = ledger.lines()
    assert lines[0].startswith("lifespan begins")
    assert lines[1:3] == ["pool opens False", "bus opens True"]  # once; not on the loop; on it
    assert lines[-3:] == ["bus closes True", "pool closes", "lifespan ends True"]
    for name, own_task in (("in_thread", True), ("on_loop", True)):
        assert lines.count(f"{name} plain closes") == 10
        assert lines.count(f"{name} session closes {own_task}") == 10
    assert "Traceback" not in started.log()


@pytest.mark.standing
@pytest.mark.parametrize(
    ("name", "given"),
    [("streams", "plain on pool 0"), ("streams_async", "session on bus over pool 0")],
)
def test_a_generator_has_its_dependencies_until_it_ends(started, app, ledger, name, given):
    task = getattr(app, name)
    job = task.delay(3)
    assert list(job.stream()) == [[n, given] for n in range(3)]
    assert job.result(timeout=10) == ("session on bus over pool 0" if name == "streams" else None)
    assert ledger.lines()[-2:] == [f"{name} session closes True", f"{name} plain closes"]
    endless = task.delay(10**9)
    assert next(iter(endless.stream())) == [0, given]
    assert endless.cancel()
    wait_until(lambda: endless.status() == "canceled")
    assert ledger.lines()[-4::2] == [
        f"{name} session sees GeneratorExit",
        f"{name} plain sees GeneratorExit",
    ]
    assert ledger.lines()[-1] == f"{name} plain closes"


@pytest.mark.standing
@pytest.mark.parametrize("name", ["waits_in_thread", "waits_on_loop"])
def test_the_time_limit_includes_making_and_closes_what_was_made(started, app, ledger, name):
    with pytest.raises(TaskTimeout):
        getattr(app, name).delay().result(timeout=10)
    wait_until(lambda: "never ends" in ledger.lines())
    assert f"{name} plain closes" in ledger.lines()
    assert "abandoned" not in started.log()


@pytest.mark.standing
def test_over_the_limit_in_a_thread_everything_closes(started, app, ledger):
    with pytest.raises(TaskTimeout):
        app.loops.delay().result(timeout=10)
    lines = ledger.lines()
    assert lines[-4:] == [
        "loops session sees Overrun", "loops session closes True",
        "loops plain sees Overrun", "loops plain closes",
    ]  # fmt: skip


@pytest.mark.standing
def test_a_canceled_job_closes_everything(started, app, ledger):
    job = app.sleeps.delay()
    wait_until(lambda: "sleeps" in ledger.lines())
    assert job.cancel()
    wait_until(lambda: job.status() == "canceled")
    assert ledger.lines()[-4:] == [
        "sleeps session sees CancelledError", "sleeps session closes True",
        "sleeps plain sees CancelledError", "sleeps plain closes",
    ]  # fmt: skip


def test_a_stop_closes_what_a_running_job_has_open_before_the_rest(worker, target, app, ledger):
    started = worker(target, "--grace", "0.1")
    app.sleeps.delay()
    wait_until(lambda: "sleeps" in ledger.lines())
    assert started.stop() == 0
    lines = ledger.lines()
    assert lines[lines.index("sleeps plain closes") :] == [
        "sleeps plain closes", "bus closes True", "pool closes", "lifespan ends True",
    ]  # fmt: skip


@pytest.mark.standing
def test_errors_of_dependencies_are_errors_of_the_job(started, app, ledger, redis_client):
    assert app.patient.delay().result(timeout=10) == ["there", 3]
    with pytest.raises(JobFailed, match="SystemExit") as found:
        app.exits.delay().result(timeout=10)
    assert "exits session sees SystemExit" in ledger.lines()
    assert "taskq" not in found.value.traceback  # only the task's own frames
    job = app.cannot_commit.delay()
    with pytest.raises(JobFailed, match="commit failed"):
        job.result(timeout=10)
    assert "ValueError" in reason(redis_client, job.id)
    assert app.on_loop.delay(1).result(timeout=10)[0] == 1  # the worker is as before


@pytest.mark.standing
def test_what_only_a_payload_can_bring_is_refused(started, app, redis_client):
    from rq import Queue

    rq_queue = Queue(connection=redis_client, serializer=app.queue.rq_serializer)
    job = rq_queue.enqueue(f"{app.__name__}.on_loop", 1, a="evil")
    with pytest.raises(JobFailed, match="got 'a' from the job's payload"):
        app.on_loop.handle(job.id).result(timeout=10)


FAILING = """
from taskq import TaskQ

queue = TaskQ()

@queue.lifespan
async def lifespan():
    raise OSError("no database at db:5432")
    yield
"""


def test_a_lifespan_that_fails_ends_the_worker_like_an_app_that_cannot_be_loaded(
    worker, app_module
):
    broken = app_module(FAILING)
    started = worker(f"{broken.__name__}:queue", ready=False)
    assert started.wait() == 1
    log = started.log()
    assert "Cannot start: the app's lifespan raised OSError('no database at db:5432')" in log
    assert "in lifespan" in log
    assert "ready" not in log


SLOW = (
    LEDGER
    + """
import asyncio
from taskq import TaskQ

queue = TaskQ()

@queue.lifespan
async def lifespan():
    note("begins")
    try:
        await asyncio.sleep(60)
        yield
    finally:
        note("ends")
"""
)


def test_a_worker_can_be_stopped_while_its_lifespan_begins(worker, app_module, ledger):
    slow = app_module(SLOW)
    started = worker(f"{slow.__name__}:queue", ready=False)
    wait_until(lambda: "begins" in ledger.lines())
    started.signal(signal.SIGTERM)
    assert started.wait() == 0
    assert ledger.lines() == ["begins", "ends"]
