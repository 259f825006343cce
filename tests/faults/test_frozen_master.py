"""A master that stands still, its connections open, and comes back when it is master no more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import AppModule
from tests.engine import misplaced
from tests.failover import Topology
from tests.support import LEDGER, Ledger, WorkerStarter, wait_until

APP = (
    LEDGER
    + """
import asyncio
from taskq import TaskQ

queue = TaskQ()

@queue.task
async def slow(n, seconds):
    await asyncio.sleep(seconds)
    note("slow", n)
    return n
"""
)


def test_a_frozen_master(
    redis_program, tmp_path_factory, app_module: AppModule, tmp_path: Path, monkeypatch
):
    with Topology(redis_program, tmp_path_factory.mktemp("s")) as trio:
        monkeypatch.setenv("TASKQ_REDIS_URL", trio.url)
        app = app_module(APP)
        ledger = Ledger(tmp_path / "ledger.txt")
        old, new = trio.nodes
        workers = WorkerStarter(trio.url, tmp_path, lambda: 0)
        handles = app.slow.map(range(400), 0.05)
        single = app.slow.delay(400, 0.05)
        wait_until(trio.is_synced)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(handles.results, 60), pool.submit(single.result, 60)]
            process = workers(f"{app.__name__}:queue", "--concurrency", "10", ready=False)
            wait_until(lambda: len(ledger.lines()) > 50)
            trio.freeze(old)
            assert trio.wait_for_failover() is new
            assert [one.result() for one in waiting] == [list(range(400)), 400]
        trio.thaw(old)
        with trio.client(old) as client:
            wait_until(lambda: client.info("replication")["role"] == "slave", 30)
        assert app.slow.delay(401, 0).result(timeout=20) == 401
        assert {int(line.split()[1]) for line in ledger.lines()} == set(range(402))
        with trio.client(new) as client:
            assert misplaced(client, [handle.id for handle in [*handles, single]]) == {}
        assert process.log().count("ready (process") == 1
        workers.close()
        app.queue.close()
