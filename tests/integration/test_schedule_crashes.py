"""A scheduler that is cut off, or dies, at each command it sends: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from itertools import count
from types import ModuleType

import pytest
import redis

from taskq import BrokerUnavailable, Cron, TaskQ
from taskq.schedules import changes
from taskq.schedules.asking import run
from taskq.schedules.record import job_id
from taskq.worker.schedule import Schedules
from tests.crashproxy import FAULTS, CrashProxy

APP = """
from taskq import Cron, TaskQ, task
queue = TaskQ()

@queue.task
def nothing() -> None: ...

@task
def free() -> None: ...
"""
HOURS = 3
NAMES = [f"s{n}" for n in range(3)]


def prepare(app: ModuleType) -> int:
    """Schedules of which the last HOURS occurrences are overdue; when the last one was due."""
    last = round(time.time() - 600) // 60 * 60  # the next is 50 minutes away
    when = Cron(f"{time.gmtime(last).tm_min} * * * *")
    entries = [app.queue.schedules._entry(name, app.nothing.call(), when, {"missed": "run_all"})
               for name in NAMES]  # fmt: skip
    run(app.queue.broker, changes.put(app.queue.broker.keys, entries, (last - HOURS * 3600) * 1000))
    return last


async def serve(app: TaskQ, proxy: CrashProxy | None = None) -> None:
    """A scheduler, from its start until nothing is due, or until it is dead."""
    link = app.broker.new_alink()
    part = Schedules(app, link)

    async def until_idle() -> None:
        with suppress(BrokerUnavailable):
            while await part.step() == 0.0:
                pass
            await part.step()

    work = asyncio.create_task(until_idle())
    while not work.done() and not (proxy and proxy.dead):
        await asyncio.sleep(0.001)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await link.aclose()
    await app.aclose()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", FAULTS)
async def test_at_every_command(
    app: ModuleType, redis_client: redis.Redis, redis_server, fault: str
) -> None:
    struck = Counter[str]()
    for n in count(1):
        redis_client.flushall()
        last = prepare(app)
        with CrashProxy(redis_server.port, n, fault) as proxy:
            mine = TaskQ(proxy.url)
            mine.name = "shop:queue"
            mine.schedules.declare("code", app.free.call(), Cron("0 0 1 1 *"), {}, "here:1")
            await serve(mine, proxy)
            fired, seen = proxy.fired, list(proxy.seen)
        if fired is None:
            break
        struck[fired] += 1
        if fault == "kill":
            await serve(app.queue)  # another one, later
        found = Counter(raw.decode() for raw in redis_client.lrange("rq:queue:default", 0, -1))
        wanted = {job_id(name, (last - h * 3600) * 1000) for name in NAMES for h in range(HOURS)}
        assert found == Counter(dict.fromkeys(wanted, 1)), (fired, seen)
        for name in NAMES:
            assert int(redis_client.hget(f"taskq:schedule:{name}", "next")) == (last + 3600) * 1000
        if fault != "kill":
            assert redis_client.smembers("taskq:schedules:code:shop:queue") == {b"code"}
    assert struck["schedule_fire"] >= 1
    assert struck["schedule_due"] >= 1
    assert struck["schedule_set"] >= 1
