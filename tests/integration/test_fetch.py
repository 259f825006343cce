"""The fetcher of a worker alone, with a real Redis: what it takes, and what it gives back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from taskq.broker.client import Broker
from taskq.worker import heartbeat
from taskq.worker.claim import Claim
from taskq.worker.fetch import Fetcher
from taskq.worker.pace import Pace
from taskq.worker.settings import Identity, WorkerSettings
from tests.engine import Engine, misplaced, status
from tests.support import until

QUEUES = (("default", 0.0), ("other", 0.0))


class Taking:
    """A fetcher with room for ten jobs."""

    def __init__(self, broker: Broker, *, burst: bool = False) -> None:
        self.room = 10
        self.got: list[Claim] = []
        self.link = broker.new_alink()
        settings = WorkerSettings(queues=QUEUES, burst=burst)
        self.me = Identity.of(settings, "aaaaaaaa")
        room: Any = SimpleNamespace(pace=Pace(), wanted=lambda backlog: self.room)
        self.fetcher = Fetcher(broker, self.link, self.me, settings, room, self.got.extend)
        self.task = asyncio.ensure_future(self.fetcher.run())

    async def armed(self) -> None:
        await until(lambda: len(self.fetcher.unanswered()) == 2)

    async def stop(self) -> None:
        await self.fetcher.stop()  # before the loop has a turn, so that nothing more is heard
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.link.aclose()


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker, "default", "other")


async def test_an_idle_one_is_brought_a_job_and_what_waits_with_it(engine, broker, redis_client):
    taking = Taking(broker)
    await taking.armed()
    ids = engine.enqueue(3)
    await until(lambda: len(taking.got) == 3)
    assert [claim.id for claim in taking.got] == ids
    assert all("w0n" in claim.exec_id for claim in taking.got), "not behind the BLMOVE"
    await taking.armed()
    [other] = engine.enqueue(queue="other")
    await until(lambda: len(taking.got) == 4)
    assert (taking.got[3].id, taking.got[3].position) == (other, 2)
    await taking.stop()
    assert misplaced(redis_client, [*ids, other]) == {}


async def test_a_burst_ends_with_a_look_that_no_end_of_a_job_has_overtaken(broker, monkeypatch):
    """What an end enqueues (a retry, a dependent) may come behind a look that is under way."""
    looks = 0
    ask = Fetcher._ask

    async def asked(self: Fetcher, call: Any) -> Any:
        nonlocal looks
        answer = await ask(self, call)
        looks += 1
        if looks == 1:
            self.nudge()
        assert not self.empty
        return answer

    monkeypatch.setattr(Fetcher, "_ask", asked)
    taking = Taking(broker, burst=True)
    await until(lambda: taking.fetcher.empty)
    assert looks == 2
    taking.fetcher.nudge()
    assert not taking.fetcher.empty
    await until(lambda: taking.fetcher.empty)
    assert looks == 3
    await taking.stop()


async def test_what_was_reserved_unheard_is_back_at_a_stop(engine, broker, redis_client):
    taking = Taking(broker)
    await heartbeat.beat(
        broker,
        taking.link,
        [heartbeat.Beat("aaaaaaaa", "host.aaaaaaaa", "default\nother", "idle", [])],
    )
    await taking.armed()
    ids = engine.enqueue(2)  # the loop stands still meanwhile: the answer waits in the socket
    assert {status(redis_client, one) for one in ids} == {"started"}
    await taking.stop()
    assert taking.got == []
    assert {status(redis_client, one) for one in ids} == {"queued"}
    assert misplaced(redis_client, ids) == {}


async def test_nothing_is_taken_when_there_is_no_more_room(engine, broker, redis_client):
    taking = Taking(broker)
    await taking.armed()
    taking.room = 0
    taking.fetcher.nudge()
    await until(lambda: not taking.fetcher.unanswered())
    ids = engine.enqueue(2)
    taking.room = 1
    taking.fetcher.nudge()
    await until(lambda: taking.got)
    assert taking.got[0].id == ids[0]
    await taking.stop()


async def test_a_lost_script_costs_no_job(engine, broker, redis_client: redis.Redis):
    """After SCRIPT FLUSH the call behind the BLMOVE fails: the id is in the claim list."""
    taking = Taking(broker)
    await taking.armed()
    redis_client.script_flush()
    ids = engine.enqueue(2)
    await until(lambda: len(taking.got) == 2)
    assert [claim.id for claim in taking.got] == ids
    await taking.stop()
