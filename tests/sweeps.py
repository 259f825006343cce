"""Sweeps over crash points: each operation, struck at each of its commands, and what must hold.

`tests/integration/test_crash_points.py` runs a part of them, `tests/faults` all.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

import redis

from taskq.broker.client import Broker
from taskq.errors import BrokerUnavailable
from taskq.operations import cancel
from tests.crashproxy import FAULTS, CrashProxy
from tests.engine import Engine, misplaced, status
from tests.inprocess import SETTINGS, attach, new_uid, work

OVER = ("finished", "failed", "canceled", "stopped")


APP = """
import asyncio
from collections import Counter
from taskq import Retry, TaskQ

queue = TaskQ()
begun, ended = Counter(), Counter()

@queue.task
def plain(n: int) -> int:
    ended[n] += 1
    return n

@queue.task
async def aplain(n: int) -> int:
    ended[n] += 1
    return n

@queue.task(retry=Retry(3, base=0.02, jitter=False))
def flaky(n: int) -> None:
    begun[n] += 1
    if begun[n] == 1:
        raise OSError("first")
    ended[n] += 1

@queue.task
async def slow(n: int) -> None:
    begun[n] += 1
    if begun[n] == 1:
        await asyncio.sleep(60)
    ended[n] += 1
"""
"""An app whose tasks write down what they did, in this process."""


class Here(NamedTuple):
    """Where a sweep takes place: an app's module, an empty Redis and its addresses."""

    shop: Any
    client: redis.Redis
    url: str
    port: int


class Point(NamedTuple):
    """Command number `at` (from 1; 0: none) of those named `only`, and what happens there."""

    at: int = 0
    fault: str = "reply"
    only: str | None = None

    @property
    def kills(self) -> bool:
        return self.fault == "kill"


def _reset(shop: Any) -> None:
    shop.begun.clear()
    shop.ended.clear()


def over(client: redis.Redis, ids: list[str]) -> bool:
    return all(status(client, job_id) in OVER for job_id in ids)


def check(client: redis.Redis, ids: list[str], shop: Any, *, doubled: bool) -> None:
    """G1, nothing lost, nothing doubled unless a worker was killed, nothing left behind."""
    assert misplaced(client, ids) == {}
    assert {status(client, job_id) for job_id in ids} == {"finished"}
    assert set(shop.ended) == set(range(len(ids)))
    if not doubled:
        assert max(shop.ended.values()) == 1, shop.ended
    assert client.keys("taskq:claim:*") == []
    assert not client.exists("rq:wip:default", "rq:queue:default", "rq:scheduled:default")


def bury(engine: Engine, client: redis.Redis, uid: str, n: int) -> None:
    """A dead worker's jobs come back: its supervisor saw it die, or its leases end."""
    if n % 2:
        engine.release(uid, "dead")
    else:
        engine.age(client, 100, uid)
        engine.sweep()


def life_of_a_worker(here: Here, point: Point) -> list[str]:
    """Start, reserve, run, settle, retry, promote, stop; struck at command n. Names of commands."""
    shop, client, url, port = here
    client.flushdb()
    _reset(shop)
    broker = attach(shop.queue, url)
    shop.queue.enqueue(
        [
            *(shop.plain.call(i) for i in range(3)),
            *(shop.aplain.call(i) for i in range(3, 5)),
            shop.flaky.call(5),
            shop.plain.options(delay=0.03).call(6),
        ]
    )
    broker.close()
    ids = [key.decode().rpartition(":")[2] for key in client.keys("rq:job:*")]
    assert len(ids) == 7
    uid = new_uid()
    with CrashProxy(port, *point) as proxy:
        work(shop.queue, proxy.url, lambda: over(client, ids), dead=lambda: proxy.dead, uid=uid)
        fired, seen = proxy.fired, proxy.seen
    engine = Engine(Broker(url))
    if point.kills and fired:
        bury(engine, client, uid, point.at)
        work(shop.queue, url, lambda: over(client, ids))
    check(client, ids, shop, doubled=point.kills)
    engine.broker.close()
    return [fired] if fired else [] if point.at else seen


def stop_of_a_worker(here: Here, point: Point) -> list[str]:
    """TERM with a job that does not end and others behind it: cut short, given back, run."""
    shop, client, url, port = here
    client.flushdb()
    _reset(shop)
    attach(shop.queue, url).close()
    slow = shop.queue.enqueue([shop.slow.call(0), *(shop.plain.call(i) for i in range(1, 4))])
    ids = [handle.id for handle in slow]
    uid = new_uid()
    short = replace(SETTINGS, grace_s=0.02)
    with CrashProxy(port) as proxy:
        stopping = False

        def until() -> bool:
            nonlocal stopping
            if shop.begun[0] and not stopping:
                stopping = True
                proxy.arm(*point)
            return stopping

        work(shop.queue, proxy.url, until, dead=lambda: proxy.dead, settings=short, uid=uid)
        fired, seen = proxy.fired, proxy.seen
    engine = Engine(Broker(url))
    if point.kills and fired:
        bury(engine, client, uid, point.at)
    started = time.monotonic()
    assert not client.exists("rq:wip:default"), "given back at once, not when the lease ends"
    work(shop.queue, url, lambda: over(client, ids))
    assert time.monotonic() - started < 10
    check(client, ids, shop, doubled=point.kills)
    engine.broker.close()
    return [fired] if fired else [] if point.at else seen


def an_enqueue(here: Here, point: Point) -> list[str]:
    """One, with an id, delayed, to the front, unique, a batch; each sent again by its own code."""
    shop, client, url, port = here
    client.flushdb()
    _reset(shop)
    plain = shop.plain
    calls = [
        plain.call(0),
        plain.options(job_id="mine").call(1),
        plain.options(delay=0.01).call(2),
        plain.options(at_front=True).call(3),
        plain.options(unique="one").call(4),
    ]
    ids: list[str] = []
    with CrashProxy(port, *point) as proxy:
        attach(shop.queue, proxy.url).deadline_s = 0.2 if point.kills else 5.0
        for call in calls:
            try:
                ids += [handle.id for handle in shop.queue.enqueue([call])]
            except BrokerUnavailable:
                assert point.kills
        with_async = asyncio.run(_aenqueue(shop)) if not point.kills else []
        ids += with_async
        shop.queue.broker.close()
        fired, seen = proxy.fired, proxy.seen
    waiting = {key.decode().rpartition(":")[2] for key in client.keys("rq:job:*")}
    assert set(ids) <= waiting
    if not point.kills:
        assert len(ids) == len(waiting) == 7
        work(shop.queue, url, lambda: over(client, ids))
        check(client, ids, shop, doubled=False)
    assert misplaced(client, list(waiting)) == {}
    return [fired] if fired else [] if point.at else seen


async def _aenqueue(shop: Any) -> list[str]:
    handles = await asyncio.gather(shop.plain.adelay(5), shop.plain.adelay(6))
    await shop.queue.broker.aclose()
    return [handle.id for handle in handles]


def a_cancel(here: Here, point: Point) -> list[str]:
    """Of a waiting, a delayed and an ended job; then a requeue of what was canceled."""
    _shop, client, url, port = here
    client.flushdb()
    engine = Engine(Broker(url))
    ids = [*engine.enqueue(2), *engine.enqueue(1, delay_s=50.0)]
    [ended] = engine.reserve("worker01", limit=1)
    engine.settle(ended, "f")
    with CrashProxy(port, *point) as proxy:
        broker = Broker(proxy.url, deadline_s=0.3 if point.kills else 5.0)
        try:
            done = cancel(broker, ids)
        except BrokerUnavailable:
            assert point.kills
        else:
            # a resend after a lost answer finds it canceled: "has ended" is true then
            assert set(done.canceled) | set(done.ended) == set(ids)
        broker.close()
        fired, seen = proxy.fired, proxy.seen
    assert misplaced(client, ids) == {}
    assert status(client, ended.id) == "finished"
    if not point.kills:
        assert [status(client, i) for i in ids if i != ended.id] == ["canceled"] * 2
    engine.broker.close()
    return [fired] if fired else [] if point.at else seen


def a_sweep(here: Here, point: Point) -> list[str]:
    """A worker recovers what a dead one held, while it is struck itself."""
    shop, client, url, port = here
    client.flushdb()
    _reset(shop)
    attach(shop.queue, url).close()
    ids = [handle.id for handle in shop.queue.enqueue([shop.plain.call(i) for i in range(3)])]
    engine = Engine(Broker(url))
    engine.beat("deadbeef")
    assert len(engine.reserve("deadbeef")) == 3
    engine.age(client, 100, "deadbeef")
    uid = new_uid()
    with CrashProxy(port, *point) as proxy:
        work(shop.queue, proxy.url, lambda: over(client, ids), dead=lambda: proxy.dead, uid=uid)
        fired, seen = proxy.fired, proxy.seen
    if point.kills and fired:
        bury(engine, client, uid, point.at)
        if not over(client, ids):
            engine.age(client, 100, "deadbeef")
            work(shop.queue, url, lambda: over(client, ids))
    check(client, ids, shop, doubled=point.kills)
    engine.broker.close()
    return [fired] if fired else [] if point.at else seen


Operation = Callable[[Here, Point], list[str]]
OPERATIONS: dict[str, Operation] = {
    "worker": life_of_a_worker,
    "stop": stop_of_a_worker,
    "enqueue": an_enqueue,
    "cancel": a_cancel,
    "sweep": a_sweep,
}


def strike(operation: Operation, here: Here, fault: str, step: int = 1) -> Counter[str]:
    """Strike at each `step`-th point of an operation; returns the names of what was struck.

    The points are the n-th commands of each name: what is sent over one connection has an order,
    and commands of one name have one.
    """
    struck: Counter[str] = Counter()
    seen = Counter(operation(here, Point()))
    points = [(name, n) for name in sorted(seen) for n in range(1, seen[name] + 1)]
    for name, n in points[FAULTS.index(fault) % step :: step]:
        struck[name] += len(operation(here, Point(n, fault, name)))
    for name in seen if step == 1 else ():  # what is struck may lead to more of them
        for n in count(seen[name] + 1):
            if not operation(here, Point(n, fault, name)):
                break
            struck[name] += 1
    return struck
