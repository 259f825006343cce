"""What is said to a worker in its first moments, and of a job on its way to it."""

from __future__ import annotations

import asyncio
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import redis
from rq import Queue
from rq.command import send_shutdown_command

from taskq import TaskQ
from taskq.worker import Worker, fetch, rq_engine
from taskq.worker.cancellations import KEEP_S, Missed
from taskq.worker.cancelling import cancel_all
from taskq.worker.presence import Presence
from taskq.worker.promote import Listener
from taskq.worker.runtime import Runtime
from tests.conftest import AppModule
from tests.rq_support import status_of
from tests.support import until

pytestmark = pytest.mark.timeout(30)

FUNCTIONS = """
import asyncio

async def nap():
    await asyncio.sleep(25)
"""


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    return app_module(FUNCTIONS)


def test_a_command_is_heard_as_soon_as_a_worker_can_be_found(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    before = Worker.register_birth

    def register(self: Worker) -> None:
        before(self)
        send_shutdown_command(redis_client, self.name)

    monkeypatch.setattr(Worker, "register_birth", register)
    assert Worker(["default"], connection=redis_client).work() is False


def test_the_engine_listens_before_it_says_hello(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    listeners: list[int] = []
    before = Presence.beat

    async def beat(self: Presence) -> None:
        if not listeners:  # the first is what makes it known
            channels = (f"rq:pubsub:{self.name}", "taskq:cancel", "taskq:pause")
            listeners.extend(redis_client.pubsub_numsub(name)[0][1] for name in channels)
        await before(self)

    monkeypatch.setattr(Presence, "beat", beat)
    Worker(["default"], connection=redis_client).work(burst=True)
    assert listeners == [2, 1, 1]  # at the first, also the worker in whose place it runs


def test_a_cancellation_of_a_job_that_is_on_its_way(
    fns: ModuleType, redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    queue = Queue(connection=redis_client)
    job = queue.enqueue(fns.nap)
    heard: list[str] = []
    ask, hear = fetch.run_script, Runtime._heard

    def note(self: Runtime, channel: str, text: str) -> None:
        if text:  # else its first looks for what was said before it listened: one may come late
            hear(self, channel, text)
        heard.append(text)

    async def late(link: Any, chosen: Any, *args: Any, **more: Any) -> Any:
        answer = await ask(link, chosen, *args, **more)
        if chosen.name == "reserve" and answer[2]:
            with TaskQ(redis_url) as app:
                assert app.handle(job.id).cancel()
            while job.id not in heard:
                await asyncio.sleep(0.01)
        return answer

    monkeypatch.setattr(Runtime, "_heard", note)
    monkeypatch.setattr(fetch, "run_script", late)
    Worker([queue], connection=redis_client).work(burst=True, logging_level="ERROR")
    assert job.id in heard
    assert status_of(redis_client, job.id) == "canceled"


def test_a_confirmation_that_comes_late_is_no_command(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    before = rq_engine.Engine.listen

    def listen(self: rq_engine.Engine) -> None:
        redis_client.client_pause(200)
        before(self)

    monkeypatch.setattr(rq_engine, "_CONFIRMED_S", 0.0)
    monkeypatch.setattr(rq_engine.Engine, "listen", listen)
    assert Worker(["default"], connection=redis_client).work(burst=True) is False


def test_one_whose_engine_breaks_down_ends(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    def broken(self: rq_engine.Engine, runtime: Runtime) -> None:
        raise RuntimeError("a surprise")

    monkeypatch.setattr(rq_engine.Engine, "_hear_early", broken)
    with pytest.raises(RuntimeError, match="a surprise"):
        Worker(["default"], connection=redis_client).work(burst=True)


async def test_one_that_cannot_listen_says_so(caplog: pytest.LogCaptureFixture):
    class Full:
        keys = SimpleNamespace(own="taskq:", prefix="rq")

        async def aconnection(self) -> None:
            raise redis.ConnectionError("max number of clients reached")

    caplog.set_level("WARNING", logger="taskq.worker")  # whatever other workers have set here
    broker: Any = Full()
    listener = Listener(broker, "w", lambda _channel, _text: None)
    task = asyncio.create_task(listener.run())
    await until(lambda: "max number of clients reached" in caplog.text)
    assert not listener.ready.is_set()
    await cancel_all(task)


class Came:
    def __init__(self, job_id: str) -> None:
        self.id = job_id


def test_missed_cancellations_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("taskq.worker.cancellations.time.monotonic", lambda: now[0])
    missed = Missed()
    came: Any = [Came("a"), Came("b")]
    assert not missed.among(came)
    missed.note("b")
    assert not missed.among(came[:1])
    assert missed.among(came)
    assert not missed.among(came)  # once
    missed.note("a")
    now[0] += KEEP_S / 2
    missed.note("b")
    missed.note("a")
    now[0] += KEEP_S / 2 + 1
    assert missed.among(came[:1])
    now[0] += KEEP_S
    missed.note("c")
    assert not missed.among(came)
