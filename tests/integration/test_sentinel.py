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

import pytest

from taskq import BrokerUnavailable, TaskQ, gather
from tests.conftest import AppModule
from tests.failover import SERVICE, Topology
from tests.support import LEDGER, WorkerStarter

APP = (
    LEDGER
    + """
import asyncio
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
