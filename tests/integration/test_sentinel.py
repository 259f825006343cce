"""redis+sentinel:// against real sentinels: the way to the master, and what a failover does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from taskq import BrokerUnavailable, ResultExpired, TaskQ, gather
from tests.conftest import AppModule
from tests.engine import misplaced
from tests.failover import SERVICE, Topology
from tests.support import LEDGER, Ledger, WorkerStarter, wait_until
from tests.tls import Papers, speaks_tls

APP = (
    LEDGER
    + """
import asyncio
from pathlib import Path
from taskq import TaskQ

queue = TaskQ()

@queue.task
def number(n):
    note("number", n)
    return n

@queue.task
async def slow(n, seconds):
    await asyncio.sleep(seconds)
    note("number", n)
    return n

@queue.task
async def wait_at(n, path):
    note("at gate", n)
    while not Path(path).exists():
        await asyncio.sleep(0.005)
    note("through", n)
    return n
"""
)


@pytest.fixture(scope="module")
def topology(redis_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """For tests that leave all processes alive."""
    with Topology(redis_program, tmp_path_factory.mktemp("s"), replicas=0, sentinels=1) as made:
        yield made


@pytest.fixture
def url(topology: Topology) -> str:
    with topology.client(topology.nodes[0]) as client:
        client.flushall()
    return topology.url


def starter(topology: Topology, tmp_path: Path) -> WorkerStarter:
    def registered() -> int:
        master = topology.master()
        if master is None:
            return 0
        with topology.client(master) as client:
            return int(client.scard("rq:workers"))

    return WorkerStarter(topology.url, tmp_path, registered)


async def ping(app: TaskQ) -> object:
    """Ask Redis from this event loop, and leave nothing behind in it."""
    try:
        return await app.broker.acall("PING")
    finally:
        await app.aclose()


def silent_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# --- the way to the master --------------------------------------------------------


def test_jobs_run_and_are_waited_for(topology, url, app_module: AppModule, tmp_path, monkeypatch):
    monkeypatch.setenv("TASKQ_REDIS_URL", url)
    app = app_module(APP)
    workers = starter(topology, tmp_path)
    try:
        workers(f"{app.__name__}:queue")
        assert app.number.delay(1).result(timeout=10) == 1
        assert [h.result(timeout=10) for h in app.number.map(range(20))] == list(range(20))

        async def program() -> list[int]:
            handle = await app.slow.adelay(21, 0.01)
            batch = await app.number.amap(range(5))
            done = [await handle, *await gather(*batch)]
            await app.queue.aclose()
            return done

        assert asyncio.run(program()) == [21, 0, 1, 2, 3, 4]
    finally:
        workers.close()


def test_one_app_in_one_event_loop_after_the_other(url):
    app = TaskQ(url)
    assert [asyncio.run(ping(app)) for _ in range(3)] == [b"PONG"] * 3


def test_event_loops_at_the_same_time(url):
    app = TaskQ(url)
    together = threading.Barrier(4)

    async def program() -> object:
        first = await app.broker.aconnection()
        together.wait(10)  # now all loops have asked the sentinels, and live
        second = await app.broker.aconnection()
        await first.disconnect()
        await second.disconnect()
        return await ping(app)

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(asyncio.run, program()) for _ in range(4)]
        assert [run.result(15) for run in runs] == [b"PONG"] * 4


@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_a_dead_sentinel_costs_little(topology, url, kind):
    """The first sentinel of the URL often dies together with the master: on the same machine."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1] if kind == "is silent" else silent_port()
        app = TaskQ(f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{topology.ports[0]}/{SERVICE}")
        start = time.monotonic()
        assert app.broker.call("PING") == b"PONG"
        assert asyncio.run(ping(app)) == b"PONG"
        assert time.monotonic() - start < 4


def test_what_is_wrong_is_told(topology, url):
    dead = TaskQ(f"redis+sentinel://127.0.0.1:{silent_port()}/{SERVICE}")
    other = TaskQ(url.replace(f"/{SERVICE}/", "/nobody/"))
    for app, words in ((dead, "is not there"), (other, "'nobody'")):
        app.broker.deadline_s = 0.5
        with pytest.raises(BrokerUnavailable, match=words) as caught:
            app.broker.call("PING")
        with pytest.raises(BrokerUnavailable) as caught_async:
            asyncio.run(ping(app))
        assert str(caught.value) == str(caught_async.value)
        assert "object at" not in str(caught.value)


def test_the_command_line(url, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "taskq", *arguments, "--redis-url", url, "--json"],
            cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=15, check=True,
        )  # fmt: skip

    assert json.loads(run("ping").stdout)["url"] == url
    assert json.loads(run("info").stdout)["queues"] == []


def test_passwords(redis_program, tmp_path_factory):
    with Topology(
        redis_program,
        tmp_path_factory.mktemp("s"),
        replicas=0,
        sentinels=1,
        password="p/w",
        sentinel_password="s&w",
    ) as topology:
        app = TaskQ(topology.url)
        assert app.broker.call("PING") == b"PONG"
        assert asyncio.run(ping(app)) == b"PONG"
        bad = TaskQ(topology.url.replace("s%26w", "wrong"))
        bad.broker.deadline_s = 0.5
        with pytest.raises(BrokerUnavailable, match="refuses .*invalid") as caught:
            bad.broker.call("PING")
        assert "s%26w" not in str(caught.value)
        bad.close()


def test_tls(redis_program, tmp_path_factory):
    """With the certificates of the servers' addresses: these are what the sentinels tell."""
    if not speaks_tls(redis_program):
        pytest.skip(f"{redis_program} was built without TLS")
    papers = Papers(tmp_path_factory.mktemp("tls"))
    place = tmp_path_factory.mktemp("s")
    with Topology(redis_program, place, replicas=0, sentinels=1, papers=papers) as topology:
        assert topology.url.startswith("rediss+sentinel://")
        app = TaskQ(topology.url)
        assert app.broker.call("PING") == b"PONG"
        assert asyncio.run(ping(app)) == b"PONG"
        with app.broker.redis() as client:  # as RQ's classes have it
            assert client.ping()
        unknown = TaskQ(topology.url.partition("?")[0])
        unknown.broker.deadline_s = 0.5
        with pytest.raises(BrokerUnavailable, match="its certificate was refused"):
            unknown.broker.call("PING")
        with pytest.raises(BrokerUnavailable, match="its certificate was refused"):
            asyncio.run(ping(unknown))


# --- a failover -------------------------------------------------------------------


@pytest.fixture
def trio(request, redis_program, tmp_path_factory) -> Iterator[Topology]:
    """A master, a replica and three sentinels, to be spoiled by one test."""
    options = getattr(request, "param", {})
    with Topology(redis_program, tmp_path_factory.mktemp("s"), **options) as made:
        yield made


@pytest.fixture
def app(trio: Topology, app_module: AppModule, monkeypatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("TASKQ_REDIS_URL", trio.url)
    made = app_module(APP)
    yield made
    made.queue.close()


@pytest.fixture
def ledger(app: ModuleType, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.txt")


@pytest.fixture
def workers(trio: Topology, tmp_path: Path) -> Iterator[WorkerStarter]:
    made = starter(trio, tmp_path)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(60)  # on a busy machine; else 5 to 16
@pytest.mark.parametrize(
    ("trio", "fate"),
    [({}, "killed"), ({"replicas": 2, "min_replicas": 1}, "switched")],
    indirect=["trio"],
    ids=["killed", "switched"],
)
def test_a_failover_in_the_middle_of_the_work(trio: Topology, app, ledger, workers, fate):
    """Nobody is told, nothing is started again, and all that was replicated is done."""
    single = [app.slow.delay(n, 0.05) for n in range(3)]
    batch = app.slow.map(range(3, 200), 0.05)
    others = [app.slow.delay(n, 0.05) for n in range(200, 400)]
    ids = [handle.id for handle in [*single, *batch, *others]]
    wait_until(trio.is_synced)

    async def wait_in_a_loop() -> list[int]:
        try:
            return await gather(*[app.queue.handle(handle.id) for handle in others])
        finally:
            await app.queue.aclose()

    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(handle.result, 15) for handle in single]
        all_at_once = pool.submit(batch.results, 15)
        in_a_loop = pool.submit(asyncio.run, wait_in_a_loop())
        worker = workers(f"{app.__name__}:queue", "--concurrency", "10", ready=False)
        wait_until(lambda: len(ledger.lines()) > 50)
        if fate == "killed":
            trio.kill_master()
        else:
            trio.switch()
        master = trio.wait_for_failover()
        assert [one.result(15) for one in waiting] == list(range(3))
        assert all_at_once.result(15) == list(range(3, 200))
        assert in_a_loop.result(15) == list(range(200, 400))
    assert app.number.delay(400).result(timeout=10) == 400
    assert {int(line.split()[1]) for line in ledger.lines()} == set(range(401))
    assert worker.log().count("ready (process") == 1
    assert worker.running
    with trio.client(master) as client:
        assert misplaced(client, ids) == {}


@pytest.mark.slow
@pytest.mark.timeout(60)  # on a busy machine; else 5 to 16
def test_enqueueing_while_there_is_no_master(trio: Topology, app, workers):
    """A call waits for the next master, if that comes within the call's time."""
    broker = app.queue.broker
    broker.deadline_s = 15.0
    broker.call("PING")
    connected, killed = threading.Event(), threading.Event()

    async def enqueue() -> int:
        await broker.acall("PING")  # both have a connection to the one that dies
        connected.set()
        await asyncio.to_thread(killed.wait)
        try:
            return await (await app.number.adelay(1)).aresult(15)
        finally:
            await app.queue.aclose()

    workers(f"{app.__name__}:queue")
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(asyncio.run, enqueue())
        assert connected.wait(10)
        trio.kill_master()
        killed.set()
        assert app.number.delay(0).result(timeout=15) == 0
        assert coming.result(15) == 1


@pytest.mark.slow
@pytest.mark.timeout(60)  # on a busy machine; else 5 to 16
def test_what_was_not_replicated_is_lost_and_told(
    trio: Topology, app, ledger, workers, tmp_path: Path
):
    """The documented limit: what only the dead master knew. The job of which the next one knows
    runs again, as its end was forgotten; who waits for one that nobody knows is told so."""
    gate = tmp_path / "gate"
    running = app.wait_at.delay(1, str(gate))
    workers(f"{app.__name__}:queue")
    wait_until(ledger.lines)
    wait_until(trio.is_synced)
    replica = trio.nodes[1]
    known = trio.cut_off(replica)
    lost = app.slow.options(delay=60).delay(2, 0)
    gate.touch()
    assert running.result(timeout=10) == 1
    # We may hear of the end before the worker hears that it is recorded, and what was not
    # answered it tells the next master, too. One settle after the other: this one's says that
    # the worker has the answer to the first.
    assert app.number.delay(3).result(timeout=10) == 3
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lost.result, 15)
        wait_until(waiting.running)
        trio.kill_master()
        trio.thaw(replica)
        assert trio.wait_for_failover() is replica
        with pytest.raises(ResultExpired):
            waiting.result(15)
    assert trio.replicated(replica) <= known
    again = app.queue.handle(running.id)
    assert again.result(timeout=15) == 1
    first = ["at gate 1", "through 1"]
    assert ledger.lines() == [*first, "number 3", *first]
