"""Durable jobs whose workers die again and again: what is recorded never runs again.

The ledger says what ran. A step may run twice only where it was in flight when its worker died.
"""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter

import pytest

from taskq.broker.scripts import script
from tests.engine import Proxy, descendants, misplaced, status
from tests.integration.test_durable import APP, check_runs, go_on, steps_key
from tests.support import WorkerProcess, random_moment, wait_until

__all__ = ["APP"]  # the fixture `app` looks for it here

SCRIPTS = ("record", "settle", "yield", "reserve", "promote")


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(app, target, worker, ledger, redis_client, seed):
    chosen = random.Random(seed)
    process = worker(target, processes=2)
    handles = [app.twenty.delay(n) for n in range(8)]
    kills = 0
    while kills < 20 and go_on(redis_client, handles):
        random_moment(chosen, 0.3)
        victims = descendants(process.pid)
        if victims:
            os.kill(chosen.choice(victims), chosen.choice([signal.SIGKILL, signal.SIGSEGV]))
            kills += 1
    assert len({handle.result(timeout=60) for handle in handles}) == 1
    for handle in handles:
        assert len(list(handle.stream())) == 20, "each value is streamed once"
        assert 0 < redis_client.ttl(steps_key(handle.id)) <= 500
    again = sum(ledger.numbers().values()) - len(ledger.numbers())
    print(f"seed {seed}: {kills} kills, {again} steps ran twice of {len(ledger.numbers())}")
    check_runs(ledger, len(handles), kills)
    assert misplaced(redis_client, [handle.id for handle in handles]) == {}


class Killer:
    """Kills the worker process at one of its requests, before or after Redis has carried it out."""

    def __init__(self) -> None:
        self.names = {script(name).sha.encode(): name for name in SCRIPTS}
        self.pid = 0
        self.left = -1
        self.is_before = True
        self.struck = ""

    def watch(self, request: bytes) -> str | None:
        name = next((name for sha, name in self.names.items() if sha in request), None)
        if name is None or self.left < 0:
            return None
        self.left -= 1
        if self.left >= 0:
            return None
        self.struck = name
        if self.is_before:
            os.kill(self.pid, signal.SIGKILL)
            return "drop request"
        return "drop reply"

    def aim(self, pid: int, at: int, *, is_before: bool) -> None:
        self.pid, self.is_before, self.struck, self.left = pid, is_before, "", at


def ready(process: WorkerProcess, starts: int) -> int:
    """Process id of the worker process that has come after so many starts."""

    def found() -> list[str]:
        return re.findall(r"ready \(process (\d+)\)", process.log())[starts - 1 :]

    return int(wait_until(found, 20)[0])


@pytest.mark.timeout(400)
def test_killed_at_every_request(app, target, worker, ledger, redis_client, redis_server):
    """Each request of the life of one job, lost on its way there, or with its answer."""
    killer = Killer()
    proxy = Proxy(redis_server.port, killer.watch)
    process = worker(target, env={"TASKQ_REDIS_URL": proxy.url})
    handles, struck = [], Counter[tuple[str, bool]]()
    try:
        for at in range(100):
            before = struck.total()
            for is_before in (True, False):
                child = ready(process, struck.total() + 1)
                killer.aim(child, at, is_before=is_before)
                handle = app.few.delay(len(handles))
                handles.append(handle)
                wait_until(lambda handle=handle: killer.struck or handle.done(), 30)
                if killer.struck and not is_before:
                    random_moment(random.Random(at), 0.02)  # Redis has it; its answer is lost
                    os.kill(child, signal.SIGKILL)
                if killer.struck:
                    struck[killer.struck, is_before] += 1
                assert handle.result(timeout=60) == 20
            if struck.total() == before:
                break
        killer.left = -1
        assert process.stop(30) == 0
    finally:
        proxy.close()
    runs = ledger.numbers()
    print(len(handles), "jobs, worker killed at", dict(struck), runs.total() - len(runs), "twice")
    assert {name for name, _ in struck} >= {"record", "settle", "yield", "reserve"}
    assert set(runs) == {n * 1000 + i for n in range(len(handles)) for i in (0, 10, 11, 20)}
    for n, handle in enumerate(handles):
        again = [i for i in (0, 10, 11, 20) if runs[n * 1000 + i] > 1]
        assert len({i // 10 for i in again}) <= 1, "only what was in flight at the one kill"
        assert max(runs[n * 1000 + i] for i in (0, 10, 11, 20)) <= 2
        assert list(handle.stream()) == [0, 21]
    assert misplaced(redis_client, [handle.id for handle in handles]) == {}


def test_a_frozen_worker_records_nothing_when_it_wakes(app, target, worker, ledger, redis_client):
    """Its lease is over, another has done the rest: a step that ends late changes nothing."""
    first = worker(target)
    handle = app.waits.delay("go", "thread")
    wait_until(lambda: ledger.count("until go") == 1)
    child = descendants(first.pid)[0]
    for pid in (first.pid, child):
        os.kill(pid, signal.SIGSTOP)
    worker(target)
    wait_until(lambda: ledger.count("until go") == 2, 40)
    (ledger.path.parent / "go").touch()
    assert handle.result(timeout=10) == "go"
    before = redis_client.hgetall(steps_key(handle.id))
    for pid in (child, first.pid):
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: first.stop(30) == 0, 1)
    assert redis_client.hgetall(steps_key(handle.id)) == before
    assert status(redis_client, handle.id) == "finished"
    assert redis_client.xlen(f"rq:results:{handle.id}") == 1
