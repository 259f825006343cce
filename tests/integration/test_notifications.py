"""Callbacks and webhooks, with real workers: told once, whatever the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Job

from taskq import (
    ConfigError,
    JobFailed,
    PayloadError,
    ResultExpired,
    TaskQ,
    as_completed,
    notify,
    verify_webhook,
)
from taskq.operations import retry
from taskq.retry import Retry
from tests.engine import descendants
from tests.receiver import receiving
from tests.rq_support import stock_worker
from tests.support import LEDGER, Ledger, WorkerStarter, random_moment, wait_until

APP = (
    LEDGER
    + """
import asyncio, dataclasses, json, os, signal, time
from taskq import Ending, Retry, TaskQ, current_job, task

queue = TaskQ()

def told(kind, end):
    said = dataclasses.asdict(end)
    said["ended_at"] = end.ended_at is not None
    said["by"] = current_job().id
    note(kind, json.dumps(said, default=str))

@queue.task
def good(end: Ending) -> None:
    told("good", end)

@queue.task
async def bad(end: Ending) -> None:
    told("bad", end)

@queue.task(retry=Retry(3, base=0))
def stumbles(end):
    note("stumbles", current_job().attempt)
    if current_job().attempt < 3:
        raise OSError("not yet")

@dataclasses.dataclass
class Point:
    x: int

@queue.task(on_success=good, on_failure=bad)
def divide(a, b):
    return a / b

@queue.task(on_success=good, on_failure=bad)
async def adivide(a, b):
    return a / b

@queue.task(on_success=good)
def point(x) -> Point:
    return Point(x)

@queue.task(on_success=good, on_failure=bad)
def steps(n):
    for i in range(n):
        yield i
    if n > 2:
        raise ValueError("too many")
    return n

@queue.task(mode="process", on_success=good, on_failure=bad, result_ttl=0)
def apart(a, b):
    return a / b

@queue.task(mode="process", on_failure=bad, redeliver=False)
def dies_apart():
    os.kill(os.getpid(), signal.SIGKILL)

@queue.task(on_failure=bad, timeout=0.2)
async def slow():
    await asyncio.sleep(30)

@queue.task(on_failure=bad)
def dies():
    os.kill(os.getpid(), signal.SIGKILL)

@queue.task(on_failure=bad, redeliver=False)
def dies_once():
    os.kill(os.getpid(), signal.SIGKILL)

@queue.task(on_failure=bad, retry=Retry(2, base=0))
def flaky(until):
    if current_job().attempt < until:
        raise ValueError(f"attempt {current_job().attempt}")

@queue.task(on_failure=bad, timeout=0.5)
async def blocks():
    time.sleep(60)

@queue.task(on_failure=bad, result_ttl=0)
def unfit():
    return object()

@queue.task
def plain(about):
    note("plain", json.dumps(about))

@queue.task
def number(n):
    return n
"""
)


class Told:
    """What callbacks noted."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def all(self, kind: str) -> list[dict[str, Any]]:
        found = [line.partition(" ") for line in self.ledger.lines()]
        return [json.loads(rest) for word, _, rest in found if word == kind]

    def one(self, kind: str, job_id: str = "", timeout: float = 10.0) -> dict[str, Any]:
        """What was said of that job, or of the only one that anything was said of."""

        def of_it() -> list[dict[str, Any]]:
            return [said for said in self.all(kind) if job_id in ("", said["id"])]

        wait_until(of_it, timeout)
        (found,) = of_it()
        return found


@pytest.fixture
def told(ledger: Ledger) -> Told:
    return Told(ledger)


# -- callbacks -------------------------------------------------------------------------------


@pytest.mark.standing
@pytest.mark.parametrize("name", ["divide", "adivide"])
def test_a_callback_is_told_of_the_result(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter, name: str
) -> None:
    worker(target)
    task = getattr(app, name)
    handle = task.options(meta={"order": 7}).delay(6, 3)
    said = told.one("good")
    assert (said["id"], said["task"], said["queue"]) == (handle.id, task.name, "default")
    assert (said["status"], said["result"], said["attempts"]) == ("finished", 2.0, 1)
    assert (said["meta"], said["ended_at"]) == ({"order": 7}, True)
    assert said["by"] == f"{handle.id}-success"
    assert app.queue.handle(f"{handle.id}-success").result(timeout=5) is None
    assert told.all("bad") == []


@pytest.mark.standing
def test_callbacks_of_all_kinds_of_ends(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter
) -> None:
    worker(target)
    failing, late = app.divide.delay(1, 0), app.slow.delay()
    unkept = app.point.options(result_ttl=0).delay(4)
    chained = app.number.options(on_success=app.stumbles.options(on_success=app.good)).delay(1)
    retried, hopeless = app.flaky.delay(3), app.flaky.delay(9)
    batch = app.divide.map([1, 2, 3], b=1)
    stream, broken = app.steps.delay(2), app.steps.delay(3)

    said = told.one("bad", failing.id)
    assert (said["status"], said["result"]) == ("failed", None)
    assert (said["exc_type"], said["message"]) == ("builtins.ZeroDivisionError", "division by zero")
    assert "return a / b" in said["traceback"]
    assert told.one("bad", late.id)["exc_type"] == "taskq.errors.TaskTimeout"
    # as its type, also where it is not kept
    assert told.one("good", unkept.id)["result"] == {"x": 4}
    # a callback may have callbacks
    assert told.one("good", f"{chained.id}-success")["task"] == app.stumbles.name
    # only the last attempt ends a job
    retried.result(timeout=5)
    said = told.one("bad", hopeless.id)
    assert (said["message"], said["attempts"]) == ("attempt 3", 3)
    for handle in batch.handles:
        assert told.one("good", handle.id)["status"] == "finished"
    assert told.one("good", stream.id)["result"] == 2
    assert told.one("bad", broken.id)["message"] == "too many"
    ended_badly = {failing.id, late.id, hopeless.id, broken.id}
    assert {said["id"] for said in told.all("bad")} == ended_badly


@pytest.mark.standing
@pytest.mark.timeout(60)
def test_callbacks_of_jobs_in_child_processes(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter
) -> None:
    worker(target)
    good, bad, dead = app.apart.delay(6, 3), app.apart.delay(1, 0), app.dies_apart.delay()
    assert told.one("good", good.id, 30)["result"] == 2.0
    assert told.one("bad", bad.id)["message"] == "division by zero"
    assert told.one("bad", dead.id)["status"] == "failed"


def test_a_callback_goes_to_its_own_queue_and_has_its_own_options(
    app: ModuleType, target: str, ledger: Ledger, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    later = app.stumbles.options(queue="mail", delay=1)
    handle = app.number.options(on_success=later).delay(1)
    worker(target, "-q", "default", "-q", "mail")
    handle.result(timeout=5)
    assert redis_client.zcard("rq:scheduled:mail") == 1
    app.queue.handle(f"{handle.id}-success").result(timeout=10)
    assert ledger.lines() == ["stumbles 1", "stumbles 2", "stumbles 3"]


@pytest.mark.parametrize(
    ("name", "word"),
    [("dies", "Crash loop"), ("dies_once", "redeliver"), ("blocks", "process was killed")],
)
def test_a_job_whose_worker_dies_has_failed(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter, name: str, word: str
) -> None:
    worker(target)
    handle = getattr(app, name).delay()
    said = told.one("bad", timeout=18)
    assert said["id"] == handle.id
    assert word in said["message"]


@pytest.mark.standing
def test_a_result_that_nobody_asked_for_need_not_be_stored(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter
) -> None:
    worker(target)
    with pytest.raises(ResultExpired, match="has finished"):
        app.unfit.delay().result(timeout=5)
    app.unfit.options(on_success=app.good).delay()
    assert told.one("bad")["exc_type"] == "taskq.errors.NotSerializable"


def test_an_unknown_task_has_failed(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    handle = app.divide.options(queue="new").delay(6, 3)
    data = redis_client.hget(f"rq:job:{handle.id}", "data")
    changed = data.replace(b"divide", b"vanish")
    redis_client.hset(f"rq:job:{handle.id}", mapping={"data": changed, "tq_unknown": "6"})
    worker(target, "-q", "new", "-q", "default")
    assert "no task" in told.one("bad")["message"]


def test_a_job_that_waited_too_long_has_expired(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    handle = app.divide.options(ttl=1).delay(6, 3)
    wait_until(lambda: not redis_client.exists(f"rq:job:{handle.id}"))
    worker(target)
    said = told.one("bad")
    assert (said["id"], said["status"], said["attempts"]) == (handle.id, "expired", 0)
    assert not redis_client.keys("taskq:tell:*")


def test_a_job_with_a_ttl_that_ran_leaves_nothing(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    app.divide.options(ttl=60).delay(6, 3)
    assert redis_client.keys("taskq:tell:*")
    worker(target)
    assert told.one("good")["result"] == 2.0
    assert not redis_client.keys("taskq:tell:*")


def test_a_canceled_job_tells_nobody(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter
) -> None:
    waiting = app.divide.delay(6, 3)
    assert waiting.cancel()
    worker(target)
    running = app.slow.options(timeout=None).delay()
    wait_until(lambda: running.status() == "started")
    assert running.cancel()
    wait_until(lambda: running.status() == "canceled")
    app.number.delay(1).result(timeout=5)
    assert told.all("bad") + told.all("good") == []


def test_a_job_that_is_run_again_tells_again(
    app: ModuleType, target: str, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    """Both callbacks wait: the second one has an id of its own, the first one stays."""
    handle = app.divide.options(on_failure=app.bad.options(queue="later")).delay(1, 0)
    worker(target, "-q", "default")
    for count in (1, 2):
        wait_until(lambda count=count: redis_client.llen("rq:queue:later") == count)
        retry(app.queue.broker, [handle.id])
    ids = [one.decode() for one in redis_client.lrange("rq:queue:later", 0, 1)]
    assert ids[0] == f"{handle.id}-failure"
    assert ids[1].startswith(f"{handle.id}-failure-")
    assert redis_client.hget(f"rq:job:{ids[1]}", "tq_signed_as") == ids[0].encode()


@pytest.mark.timeout(60)
def test_signed_payloads_also_where_the_id_had_to_change(
    app: ModuleType,
    target: str,
    told: Told,
    worker: WorkerStarter,
    monkeypatch: pytest.MonkeyPatch,
    redis_client: redis.Redis,
) -> None:
    monkeypatch.setenv("TASKQ_SECRET", "s3cret")
    app.queue.codec = TaskQ(app.queue.url).codec
    good = app.good.options(queue="later")
    first = worker(target, "-q", "default")
    for _ in range(2):
        handle = app.number.options(job_id="same", meta={"a": 1}, on_success=good).delay(5)
        assert handle.result(timeout=5) == 5
    first.stop()
    assert redis_client.llen("rq:queue:later") == 2
    worker(target, "-q", "later", "--burst")
    wait_until(lambda: len(told.all("good")) == 2)
    assert [said["result"] for said in told.all("good")] == [5, 5]
    assert [said["meta"] for said in told.all("good")] == [{"a": 1}, {"a": 1}]


def test_a_job_with_dependents_of_rq_tells_too(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    queue = Queue(connection=redis_client, serializer=app.queue.rq_serializer_path)
    handles = [app.divide.options(result_ttl=0).delay(6, 3), app.divide.delay(1, 0)]
    for handle in handles:
        first = Job.fetch(handle.id, redis_client, serializer=queue.serializer)
        queue.enqueue(f"{app.__name__}.number", 1, depends_on=first)
    worker(target)
    assert told.one("good")["result"] == 2.0
    said = told.one("bad")
    assert (said["id"], said["message"]) == (handles[1].id, "division by zero")
    assert "ZeroDivisionError" in said["traceback"]


def test_a_stock_worker_gives_a_callback_the_names_only(
    app: ModuleType,
    target: str,
    worker: WorkerStarter,
    ledger: Ledger,
    redis_url: str,
    tmp_path: Path,
) -> None:
    handle = app.number.options(on_success=app.plain.options(queue="stock")).delay(1)
    worker(target, "-q", "default", "--burst", ready=False).wait()
    serializer = app.queue.rq_serializer_path
    with stock_worker(redis_url, tmp_path, "stock", "--burst", "--serializer", serializer) as one:
        one.wait(15)
    (line,) = ledger.lines()
    about = {"id": handle.id, "task": app.number.name, "queue": "default"}
    assert json.loads(line.removeprefix("plain ")) == about


def test_a_callback_of_another_app_is_refused(app: ModuleType) -> None:
    other = TaskQ(app.queue.url)
    with pytest.raises(ConfigError, match="cannot be a callback"):
        app.number.options(on_success=other.task(name="x.good")(app.good.fn)).delay(1)


@pytest.mark.timeout(90)
def test_killed_at_any_moment_each_end_is_told_once(
    app: ModuleType, target: str, told: Told, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    """The end and its callback are one step: none without the other, wherever a process dies."""
    chosen = random.Random(random.getrandbits(32))
    kept = {"on_success": app.good.options(queue="told")}
    jobs = [app.number.options(**kept).delay(n) for n in range(200)]
    server = worker(target, "-q", "default")
    for _ in range(4):
        random_moment(chosen, 0.3)
        for pid in descendants(server.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        jobs += [app.number.options(**kept).delay(n) for n in range(100)]
    for job in jobs:
        job.result(timeout=20)
    server.stop()
    ids = [one.decode() for one in redis_client.lrange("rq:queue:told", 0, -1)]
    assert sorted(ids) == sorted(f"{job.id}-success" for job in jobs)


# -- in the caller's process -----------------------------------------------------------------


@pytest.mark.standing
def test_every_way_in_every_mode(app: ModuleType, target: str, worker: WorkerStarter) -> None:
    worker(target)
    for task in (app.divide, app.adivide):
        _in_a_plain_program(task)
        _in_an_asyncio_program(app.queue, task)


def _in_a_plain_program(task: Any) -> None:
    good, bad = task.delay(6, 3), task.delay(1, 0)
    called: SimpleQueue[str] = SimpleQueue()
    for handle in (good, bad):
        handle.add_done_callback(lambda ended: called.put(ended.id))
    assert good.result(timeout=10) == 2.0
    assert good.exception(timeout=10) is None
    assert isinstance(bad.exception(timeout=10), JobFailed)
    with pytest.raises(JobFailed, match="division by zero"):
        bad.result(timeout=10)
    assert {called.get(timeout=5), called.get(timeout=5)} == {good.id, bad.id}
    assert {one.id for one in as_completed([good, bad], timeout=5)} == {good.id, bad.id}
    assert task.map([2, 4], b=2).results(timeout=10) == [1.0, 2.0]


def _in_an_asyncio_program(queue: TaskQ, task: Any) -> None:
    async def program() -> None:
        async with queue:
            good, bad = await task.adelay(6, 3), await task.adelay(1, 0)
            called: asyncio.Queue[str] = asyncio.Queue()
            for handle in (good, bad):
                handle.add_done_callback(lambda ended: called.put_nowait(ended.id))
            assert await good == 2.0
            with pytest.raises(JobFailed, match="division by zero"):
                await bad
            ids = {await asyncio.wait_for(called.get(), 5) for _ in range(2)}
            assert ids == {good.id, bad.id}
            assert await (await task.amap([2, 4], b=2)) == [1.0, 2.0]

    asyncio.run(program())


# -- webhooks --------------------------------------------------------------------------------


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Webhooks are tried again at once."""
    soon = notify._WEBHOOK.merge(
        "test", {"retry": Retry(3, base=0, never_on=("taskq.webhooks.WebhookRefused",))}
    )
    monkeypatch.setattr(notify, "_WEBHOOK", soon)


@pytest.mark.usefixtures("_soon")
def test_a_webhook_is_signed_and_tried_again(
    app: ModuleType, target: str, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    with receiving() as receiver:
        receiver.answers = [500, 503]
        worker(target, env={"TASKQ_WEBHOOK_SECRET": "new,old"})
        url = f"{receiver.url}/hook?to=1"
        handle = app.number.options(on_success=url).delay(7)
        handle.result(timeout=10)
        app.queue.handle(f"{handle.id}-success").result(timeout=10)
        assert len(receiver.requests) == 3
        request = receiver.requests[-1]
        assert request.path == "/hook?to=1"
        for secret in ("new", "old", ["other", "old"]):
            said = verify_webhook(request.body, request.headers, secret)
        assert (said["type"], said["id"], said["result"]) == ("job.finished", handle.id, 7)
        assert request.headers["webhook-id"] == f"{handle.id}-success"
        with pytest.raises(PayloadError, match="signature is wrong"):
            verify_webhook(request.body.replace(b"7", b"8"), request.headers, "new")
    # of the answer nothing is kept but its status
    kept = redis_client.xrevrange(f"rq:results:{handle.id}-success", count=1)[0][1]
    assert kept[b"return_value"] == b"MjA0"  # 204


@pytest.mark.usefixtures("_soon")
def test_a_webhook_of_a_failure(app: ModuleType, target: str, worker: WorkerStarter) -> None:
    with receiving() as receiver:
        worker(target, env={"TASKQ_SECRET": "ours"})
        app.queue.codec = TaskQ(app.queue.url, secret="ours").codec
        handle = app.divide.options(on_failure=receiver.url).delay(1, 0)
        wait_until(lambda: receiver.requests)
        request = receiver.requests[0]
        (key,) = TaskQ(app.queue.url, secret="ours").webhook_keys
        said = verify_webhook(request.body, request.headers, key)
        assert (said["type"], said["id"]) == ("job.failed", handle.id)
        assert said["error"] == {
            "type": "builtins.ZeroDivisionError",
            "message": "division by zero",
        }
        assert "ours" not in key


@pytest.mark.standing
@pytest.mark.usefixtures("_soon")
def test_a_redirect_is_not_followed_and_a_failure_is_kept(
    app: ModuleType, target: str, worker: WorkerStarter
) -> None:
    with receiving() as elsewhere, receiving() as receiver:
        receiver.answers = [302] * 9
        receiver.location = elsewhere.url
        worker(target)
        handle = app.number.options(on_success=receiver.url).delay(7)
        handle.result(timeout=10)
        with pytest.raises(JobFailed, match=r"answered 302 \(redirects are not followed\)"):
            app.queue.handle(f"{handle.id}-success").result(timeout=10)
        assert (len(receiver.requests), len(elsewhere.requests)) == (4, 0)
        assert "webhook-signature" not in receiver.requests[0].headers
