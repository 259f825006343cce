"""Durable tasks on a real worker: what is recorded, what runs again, timers, ends."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import redis
from rq.job import Job

from taskq import Handle, JobCanceled, JobFailed, TaskQError, TaskTimeout
from tests import support
from tests.conftest import AppModule
from tests.engine import Proxy, descendants, misplaced, places, status
from tests.rq_support import stock_worker
from tests.support import LEDGER, ROOT, Ledger, WorkerStarter, random_moment

pytestmark = pytest.mark.timeout(90)  # they take 1 to 5 s, where nothing else runs

wait_until = functools.partial(support.wait_until, timeout=30)

APP = (
    LEDGER
    + """
import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from taskq import Retry, StepFailed, TaskQ, current_job, sleep, step

queue = TaskQ()
HERE = Path(__file__).parent

class Declined(Exception):
    pass

@dataclass
class Point:
    x: int

def add(a, b):
    note("add", a, b)
    return a + b

async def aadd(a, b):
    await asyncio.sleep(0.001)
    note("aadd", a, b, whoami())
    return a + b

@queue.task(mode="process")
def padd(a, b):
    note("padd", a, b, whoami(), os.getpid() != os.getppid())
    return a + b

def point(x) -> Point:
    return Point(x)

def whoami():
    job = current_job(None)
    return job and job.id

@queue.task(retry=Retry(2, base=0.01))
def flaky(name):
    note("flaky", name)
    if not (HERE / name).exists():
        (HERE / name).touch()
        raise OSError("once")
    return name

def declined():
    note("declined")
    raise Declined("no money")

def until(name):
    note("until", name)
    while not (HERE / name).exists():
        time.sleep(0.005)
    return name

async def auntil(name):
    note("until", name)
    while not (HERE / name).exists():
        await asyncio.sleep(0.005)
    return name

@queue.task(durable=True)
def every_way():
    yield "begun"
    one = yield step(add, 1, 2)
    two = yield step(aadd, one, b=4)
    three = yield step(padd, two, 10)
    four, five = yield [step(flaky, "f"), step(aadd, three, 1)]
    at = yield step(point, 3)
    me = yield from step(whoami)
    assert me == current_job().id
    yield "ends"
    return [one, two, three, four, five, type(at) is Point and at.x]

@queue.task(durable=True)
async def aevery_way():
    yield "begun"
    one = await step(add, 1, 2)
    two = yield step(aadd, one, b=4)
    yield sleep(0.05)
    three, four = yield [step(padd, two, 10), step(add, 1, 1)]
    yield [one, two, three, four]

@queue.task(durable=True, timeout=None)
def twenty(n):
    total = 0
    for i in range(20):
        if i == 7:
            yield sleep(0.05)
        if i % 5 == 4:
            parts = yield [step(number, n, i * 10 + k) for k in range(3)]
            total += sum(parts)
        else:
            total += yield step(anumber if i % 2 else number, n, i * 10)
        yield total
    return total

@queue.task(durable=True)
def few(n):
    yield (yield step(number, n, 0))
    parts = yield [step(number, n, 10), step(anumber, n, 11)]
    yield sleep(0.05)
    yield sum(parts)
    return (yield step(anumber, n, 20))

def number(n, i):
    note("number", n * 1000 + i)
    time.sleep(0.01)
    return i

async def anumber(n, i):
    note("number", n * 1000 + i)
    await asyncio.sleep(0.01)
    return i

@queue.task(durable=True)
def sleeps(seconds):
    before = yield step(add, 0, 0)
    yield sleep(seconds)
    after = yield step(add, 1, 1)
    return [before, after]

@queue.task(durable=True, retry=1)
def fails_once():
    one = yield step(add, 1, 2)
    both = yield [step(flaky_by_hand, "by_hand"), step(add, 5, 5)]
    return [one, *both]

def flaky_by_hand(name):
    note("flaky", name)
    if not (HERE / name).exists():
        (HERE / name).touch()
        raise OSError("once")
    return name

@queue.task(durable=True)
def fails(name):
    yield step(add, 1, 2)
    done = yield step(flaky_by_hand, name)
    return done

@queue.task(durable=True)
def catches():
    try:
        yield step(declined)
    except StepFailed as err:
        told = [str(err), err.was(Declined), err.was(OSError), err.exc_type]
    yield step(until, "caught")
    return told

@queue.task(durable=True)
def changes(what):
    first = not (HERE / what).exists()
    yield step(add, 1, 1)
    if first:
        yield step(add, 2, 2)
        yield step(add, 3, 3)
        yield step(stop, what)
    elif what == "arguments":
        yield step(add, 2, 9)
    elif what == "less":
        yield step(add, 2, 2)
    return "no mismatch"

def stop(what):
    (HERE / what).touch()
    os.kill(os.getpid(), signal.SIGKILL)

@queue.task(durable=True)
def crashes(times):
    for i in range(times):
        yield step(crash_once, f"crash{i}")
    yield step(crash_always)

def crash_once(name):
    if not (HERE / name).exists():
        (HERE / name).touch()
        os.kill(os.getpid(), signal.SIGKILL)

def crash_always():
    note("crash")
    os.kill(os.getpid(), signal.SIGKILL)

@queue.task(mode="process")
def child_dies(name):
    note("child")
    if not name or not (HERE / name).exists():
        (HERE / (name or "always")).touch()
        os._exit(3)
    return name

@queue.task(durable=True)
def with_children():
    one = yield step(child_dies, "child")
    try:
        yield step(child_dies, "")
    except StepFailed as err:
        return [one, err.message]

def fails_then_stops(what):
    if (HERE / f"{what}.tried").exists():
        stop(what)
    (HERE / f"{what}.tried").touch()
    raise OSError("first")

@queue.task(durable=True)
def once_only(how, second):
    what = fails_then_stops if second else stop
    try:
        yield step(what, how).options(redeliver=False, retry=2)
    except StepFailed as err:
        return err.message

@queue.task(durable=True)
def waits(name, kind):
    yield step(add, 1, 1)
    return (yield step({"thread": until, "asyncio": auntil}[kind], name))

@queue.task(durable=True)
def limited(kind):
    try:
        yield step(until if kind == "thread" else auntil, "never").options(timeout=0.2)
    except StepFailed as err:
        return [err.exc_type, err.was(TimeoutError)]

@queue.task(durable=True)
def slow_retry():
    done = yield step(flaky, "slow").options(retry=Retry(3, base=1.5))
    return done

@queue.task(durable=True)
def large(size, count):
    for i in range(count):
        yield step(text, size, i)

def text(size, i):
    return "x" * size

@queue.task
def not_durable():
    try:
        yield step(add, 1, 1)
    except Exception as err:
        yield str(err)

@queue.task
def short():
    note("short")
"""
)


def taskq(worker: WorkerStarter, *arguments: str) -> str:
    """Type a command; returns its output."""
    return subprocess.run(
        [sys.executable, "-m", "taskq", *arguments],
        env=worker.started[0].env, cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def steps_key(job_id: str) -> str:
    return f"taskq:steps:{job_id}"


@pytest.mark.standing
def test_steps_of_every_kind(app, target, worker: WorkerStarter, ledger, redis_client):
    worker(target)
    handle = app.every_way.delay()
    assert list(handle.stream()) == ["begun", "ends"]
    assert handle.result(timeout=30) == [3, 7, 17, "f", 18, 3]
    assert sorted(ledger.lines()) == sorted(
        [
            "add 1 2",
            f"aadd 3 4 {handle.id}",
            f"padd 7 10 {handle.id} True",
            "flaky f",
            "flaky f",
            f"aadd 17 1 {handle.id}",
        ]
    )
    other = app.aevery_way.delay()
    assert list(other.stream()) == ["begun", [3, 7, 17, 2]]
    kept = redis_client.ttl(steps_key(handle.id))
    assert 400 < kept <= 500, "records are kept as long as the result"
    told = list(app.not_durable.delay().stream())
    assert "durable=True" in told[0]
    for send in (lambda: handle.send(1), lambda: handle.throw(ValueError())):
        with pytest.raises(TaskQError, match="is durable: .* Nothing was sent"):
            send()


def test_a_kill_costs_at_most_the_step_in_flight(app, target, worker, ledger, redis_client):
    """The short form of tests/faults/test_durable_campaign.py."""
    chosen = random.Random(7)
    process = worker(target)
    handles = [app.twenty.delay(n) for n in range(2)]
    kills = 0
    while kills < 3 and go_on(redis_client, handles):
        random_moment(chosen, 0.2)
        for child in descendants(process.pid)[:1]:
            os.kill(child, signal.SIGKILL)
            kills += 1
    results = [handle.result(timeout=30) for handle in handles]
    assert len(set(results)) == 1
    for handle in handles:
        assert len(list(handle.stream())) == 20, "each value is streamed once"
    check_runs(ledger, len(handles), kills)
    assert misplaced(redis_client, [handle.id for handle in handles]) == {}


def go_on(client: redis.Redis, handles: list[Handle[Any]]) -> bool:
    """Wait until each job has recorded a step or ended; whether one goes on.

    Three deaths without a step between them are a crash loop, and meant to be one.
    """
    count = {handle.id: client.hlen(steps_key(handle.id)) for handle in handles}
    ended = ("finished", "failed", "scheduled")

    def has(handle: Handle[Any]) -> bool:
        return client.hlen(steps_key(handle.id)) > count[handle.id]

    wait_until(
        lambda: all(status(client, one.id) in ended or has(one) for one in handles),
        message=lambda: str([(status(client, one.id), count[one.id]) for one in handles]),
    )
    return not all(one.done() for one in handles)


def check_runs(ledger: Ledger, jobs: int, kills: int) -> None:
    """All steps have run; twice at most what was in flight when a worker died: three in a job."""
    runs = ledger.numbers()
    places_ = [i * 10 + k for i in range(20) for k in (range(3) if i % 5 == 4 else (0,))]
    assert set(runs) == {n * 1000 + place for n in range(jobs) for place in places_}
    for n in range(jobs):
        again = Counter({k: v - 1 for k, v in runs.items() if k // 1000 == n and v > 1})
        assert len({k // 10 for k in again}) <= kills, again
        assert sum(again.values()) <= 3 * kills, again


def test_a_timer_holds_nothing(app, target, worker, ledger, redis_client):
    process = worker(target, "--concurrency", "1")
    asleep = [app.sleeps.delay(3600) for _ in range(3)]
    for handle in asleep:
        wait_until(lambda handle=handle: status(redis_client, handle.id) == "scheduled")
    awake = app.sleeps.delay(0.3)
    assert awake.result(timeout=30) == [0, 2]
    child = descendants(process.pid)[0]
    os.kill(child, signal.SIGKILL)  # they are nobody's: nothing happens to them
    for handle in asleep:
        assert places(redis_client, handle.id) == ["rq:scheduled:default"]
        assert redis_client.ttl(steps_key(handle.id)) > 3600 + 80 * 86400
    assert asleep[0].cancel()
    assert status(redis_client, asleep[0].id) == "canceled"
    assert not redis_client.exists(steps_key(asleep[0].id))
    with pytest.raises(JobCanceled):
        asleep[0].result(timeout=5)
    score = redis_client.zscore("rq:scheduled:default", asleep[1].id)
    redis_client.zadd(
        "rq:scheduled:default", {asleep[1].id: score - 3600}
    )  # as if the time was over
    redis_client.publish("taskq:wake", "default")
    assert asleep[1].result(timeout=30) == [0, 2]
    assert ledger.count("add 0 0") == 4, "recorded steps do not run again"


def test_what_failed_runs_again_and_nothing_else(app, target, worker, ledger, redis_client):
    by_rq = app.fails_once.delay()
    redis_client.hset(f"rq:job:{by_rq.id}", "number_of_retries", 0)  # RQ's own code settles it
    worker(target)
    assert by_rq.result(timeout=30) == [3, "by_hand", 10]
    assert Counter(ledger.lines()) == {"add 1 2": 1, "flaky by_hand": 2, "add 5 5": 1}
    assert 400 < redis_client.ttl(steps_key(by_rq.id)) <= 500
    ledger.path.write_text("")
    (ledger.path.parent / "by_hand").unlink()

    assert app.fails_once.delay().result(timeout=30) == [3, "by_hand", 10]
    assert Counter(ledger.lines()) == {"add 1 2": 1, "flaky by_hand": 2, "add 5 5": 1}

    handle = app.fails.delay("hand")
    with pytest.raises(
        JobFailed, match=r"Step app_\w+\.flaky_by_hand failed: builtins.OSError: once"
    ):
        handle.result(timeout=30)
    assert redis_client.ttl(steps_key(handle.id)) > 300 * 86400, "kept as long as the failed job"
    assert "failed: builtins.OSError: once" in taskq(worker, "job", handle.id)
    taskq(worker, "retry", handle.id, "--yes")
    wait_until(lambda: status(redis_client, handle.id) == "finished")
    assert app.fails.handle(handle.id).result(timeout=30) == "hand"
    assert ledger.count("add 1 2") == 2, "once in each job"
    assert ledger.count("flaky hand") == 2
    other = app.fails.delay("rq")
    wait_until(lambda: status(redis_client, other.id) == "failed")
    serializer = app.queue.rq_serializer
    Job.fetch(other.id, connection=redis_client, serializer=serializer).requeue()
    wait_until(lambda: status(redis_client, other.id) == "finished")
    assert app.fails.handle(other.id).result(timeout=30) == "rq"
    assert ledger.count("flaky rq") == 2

    shown = taskq(worker, "job", handle.id)
    rows = [line.split() for line in shown.split("steps\n")[1].splitlines()[1:3]]
    assert [(row[0], row[1].rpartition(".")[2], row[-1]) for row in rows] == [
        ("1", "add", "3"), ("2", "flaky_by_hand", "'hand'"),
    ]  # fmt: skip
    told = json.loads(taskq(worker, "job", handle.id, "--json"))["steps"]
    assert [(one["kind"], one["value"], one["tries"]) for one in told] == [
        ("done", 3, 1), ("done", "hand", 1),
    ]  # fmt: skip


def test_an_error_that_was_caught_is_the_same_after_a_crash(app, target, worker, ledger):
    process = worker(target)
    handle = app.catches.delay()
    wait_until(lambda: ledger.count("until caught") == 1)
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    wait_until(lambda: ledger.count("until caught") == 2)
    (ledger.path.parent / "caught").touch()
    name = f"{app.__name__}.Declined"
    step = f"{app.__name__}.declined"
    told = [f"Step {step} failed: {name}: no money", True, False, name]
    assert handle.result(timeout=30) == told
    assert ledger.count("declined") == 1


def test_other_steps_than_recorded_fail_the_job(app, target, worker):
    worker(target)
    for what, words in (
        ("arguments", r"Step 2 of .*\.changes is .*\.add .*now: it was recorded with other"),
        ("less", r"has returned after 2 steps, and 3 were recorded"),
    ):
        with pytest.raises(JobFailed, match=words) as caught:
            app.changes.options(retry=3).delay(what).result(timeout=30)
        assert caught.value.exc_type == "taskq.errors.StepMismatch"
        assert "The code between steps must do the same" in caught.value.message


def test_progress_ends_a_row_of_crashes(app, target, worker, ledger):
    worker(target)
    with pytest.raises(JobFailed, match="Crash loop: 3 worker processes died"):
        app.crashes.delay(2).result(timeout=30)
    assert ledger.count("crash") == 3, "the two before had a step after them"


@pytest.mark.standing
def test_a_job_process_that_dies_costs_a_try(app, target, worker, ledger):
    worker(target)
    one, message = app.with_children.delay().result(timeout=30)
    assert one == "child"
    assert "exit code 3" in message
    assert ledger.count("child") == 2 + 3


def test_at_most_once(app, target, worker):
    worker(target)
    told = app.once_only.delay("once", False).result(timeout=30)
    assert "redeliver=False" in told
    assert "redeliver=False" in app.once_only.delay("later", True).result(timeout=30)


@pytest.mark.standing
def test_time_limits(app, target, worker, ledger, redis_client):
    process = worker(target)
    for kind in ("thread", "asyncio"):
        assert app.limited.delay(kind).result(timeout=30) == ["taskq.errors.TaskTimeout", True]
        with pytest.raises(TaskTimeout):
            app.waits.options(timeout=0.3).delay("never", kind).result(timeout=30)
    handle = app.waits.delay("canceled", "asyncio")
    wait_until(lambda: ledger.count("until canceled") == 1)
    assert handle.cancel()
    with pytest.raises(JobCanceled):
        handle.result(timeout=30)
    wait_until(lambda: not redis_client.exists(steps_key(handle.id)))
    assert process.running


def test_a_stopping_worker_begins_no_further_step(app, target, worker, ledger, redis_client):
    first = worker(target)
    handle = app.waits.delay("go", "thread")
    long = app.twenty.delay(1)
    wait_until(lambda: ledger.count("until go") == 1 and len(ledger.numbers()) > 2)
    first.signal(signal.SIGTERM)
    wait_until(lambda: status(redis_client, long.id) == "queued")
    (ledger.path.parent / "go").touch()
    assert first.wait() == 0
    worker(target)
    assert handle.result(timeout=30) == "go"
    long.result(timeout=30)
    assert ledger.count("until go") == 1
    assert max(ledger.numbers().values()) == 1
    assert redis_client.hget(f"rq:job:{long.id}", "tq_crashes") is None


@pytest.mark.standing
def test_a_retry_that_is_far_away_is_a_timer(app, target, worker, ledger, redis_client):
    worker(target)
    handle = app.slow_retry.delay()
    wait_until(lambda: status(redis_client, handle.id) == "scheduled")
    assert handle.result(timeout=30) == "slow"
    assert ledger.count("flaky slow") == 2


@pytest.mark.standing
def test_limits_of_size(app, target, worker, redis_client):
    worker(target)
    with pytest.raises(JobFailed, match=r"text\(\): the step's result is 2,000,0\d\d bytes"):
        app.large.delay(2_000_000, 1).result(timeout=30)
    handle = app.large.delay(900_000, 30)
    with pytest.raises(JobFailed, match="over the limit of 16,000,000 bytes") as caught:
        handle.result(timeout=30)
    assert caught.value.exc_type == "taskq.errors.PayloadTooLarge"
    assert redis_client.hlen(steps_key(handle.id)) == 17 * 2 + 2
    done = app.large.options(result_ttl=0).delay(10, 2)
    wait_until(lambda: not redis_client.exists(f"rq:job:{done.id}"))
    assert not redis_client.exists(steps_key(done.id)), "a job that is not kept leaves no records"


def test_lost_answers_and_forged_records(
    app_module: AppModule, redis_server, redis_url, worker, tmp_path, monkeypatch, redis_client
):
    """Answers to every third record are lost; with a secret no record can be moved or made."""
    from taskq.broker.scripts import script

    sha, seen = script("record").sha.encode(), Counter[str]()

    def watch(request: bytes) -> str | None:
        if sha not in request:
            return None
        seen["record"] += 1
        return "drop reply" if seen["record"] % 3 == 1 else None

    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    monkeypatch.setenv("TASKQ_SECRET", "a secret that is long enough to be one")
    app = app_module(APP)
    ledger = Ledger(tmp_path / "ledger.txt")
    proxy = Proxy(redis_server.port, watch)
    process = worker(f"{app.__name__}:queue", env={"TASKQ_REDIS_URL": proxy.url})
    try:
        app.twenty.delay(1).result(timeout=30)
        assert max(ledger.numbers().values()) == 1
        assert seen["record"] > 20

        for forged in (lambda key: redis_client.hset(key, "1", redis_client.hget(key, "2")),
                       lambda key: redis_client.hset(key, "1", b'["1","v","x","",9]'),
                       lambda key: redis_client.hdel(key, "1")):  # fmt: skip
            handle = app.sleeps.delay(3600)
            wait_until(lambda handle=handle: status(redis_client, handle.id) == "scheduled")
            forged(steps_key(handle.id))
            redis_client.zadd("rq:scheduled:default", {handle.id: 0})
            redis_client.publish("taskq:wake", "default")
            with pytest.raises(JobFailed) as caught:
                handle.result(timeout=30)
            assert caught.value.exc_type in (
                "taskq.errors.PayloadError",
                "taskq.errors.StepMismatch",
            )
        assert process.stop() == 0
    finally:
        proxy.close()


def test_on_a_stock_rq_worker_steps_run_and_are_not_recorded(
    app, redis_url, redis_client, tmp_path
):
    handle = app.sleeps.delay(0.01)
    other = app.catches.delay()
    third = app.aevery_way.delay()
    (tmp_path / "caught").touch()
    arguments = ("--serializer", "taskq.serializers.rq", "--burst")
    with stock_worker(redis_url, tmp_path, *arguments) as process:
        assert process.wait(20) == 0
    assert handle.result(timeout=1) == [0, 2]
    assert other.result(timeout=1)[1] is True
    assert third.result(timeout=1) is None
    assert not redis_client.keys("taskq:steps:*")


def wake(client: redis.Redis, job_id: str) -> None:
    client.zadd("rq:scheduled:default", {job_id: 0})
    client.publish("taskq:wake", "default")


@pytest.mark.standing
def test_a_timer_is_over_when_somebody_moves_the_job(
    app: ModuleType, target, worker, redis_client, ledger
):
    """Clocks differ, and people have reasons: the one who put it into its queue decides."""
    worker(target)
    handle = app.sleeps.delay(3600)
    wait_until(lambda: status(redis_client, handle.id) == "scheduled")
    began = time.monotonic()
    wake(redis_client, handle.id)
    assert handle.result(timeout=30) == [0, 2]
    assert time.monotonic() - began < 600, "its own time was an hour"
