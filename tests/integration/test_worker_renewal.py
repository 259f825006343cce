"""Replacing worker processes: one by one, and when the new release is broken."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.engine import descendants
from tests.support import LEDGER, Ledger, WorkerProcess, WorkerStarter, wait_until

APP = (
    LEDGER
    + """
import os, signal, sys, time
from pathlib import Path
from taskq import TaskQ

queue = TaskQ()
here = Path(__file__).parent
in_worker = getattr(sys.modules["__main__"].__spec__, "name", "") == "taskq.worker.child"

if in_worker and (here / "broken").exists():
    note("broken")
    raise RuntimeError("this release is broken")
if in_worker and (here / "slow").exists():
    time.sleep(0.5)

@queue.task
def where():
    return os.getpid()

@queue.task
def breaks_the_release_and_dies():
    (here / "broken").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """While this file exists, no worker process can load the app."""
    return tmp_path / "broken"


def wait_ready(process: WorkerProcess, count: int) -> None:
    """Until so many worker processes have been ready since the server's start."""
    wait_until(lambda: process.log().count(" ready (process ") >= count, 15)


def stopped(process: WorkerProcess, code: int, *, timeout: float = 10) -> int:
    """Jobs done, by the last line that a server writes."""
    assert process.wait(timeout) == code
    last = process.log().splitlines()[-1]
    found = re.search(r"Stopped: (\d+) jobs done", last)
    assert found, last
    return int(found[1])


def test_hup_drains_the_next_one_only_when_the_replacement_is_ready(
    target, worker: WorkerStarter, redis_client: redis.Redis, tmp_path
):
    (tmp_path / "slow").touch()
    process = worker(target, processes=3)
    before = set(descendants(process.pid))
    fewest = 3

    def all_new() -> bool:
        nonlocal fewest
        fewest = min(fewest, int(redis_client.scard("rq:workers")))
        return process.log().count(" ready (process ") == 6

    wait_ready(process, 3)
    process.signal(signal.SIGHUP)
    wait_until(all_new, 15)
    assert fewest == 2
    wait_until(lambda: not set(descendants(process.pid)) & before)
    process.signal(signal.SIGTERM)
    assert stopped(process, 0) == 0


def test_a_broken_release_leaves_the_other_processes_alone(
    app, target, worker: WorkerStarter, broken: Path
):
    process = worker(target, processes=2)
    wait_ready(process, 2)
    before = set(descendants(process.pid))
    broken.touch()
    process.signal(signal.SIGHUP)
    process.wait_for_log("cannot load the app; 1 of 2 processes run")
    wait_until(
        lambda: process.log().count("RuntimeError: this release is broken") >= 3,
        message="it is tried again",
    )
    [survivor] = set(descendants(process.pid)) & before
    assert app.where.delay().result(timeout=10) == survivor
    broken.unlink()
    wait_ready(process, 4)
    wait_until(lambda: not set(descendants(process.pid)) & before)
    assert app.where.delay().result(timeout=10) not in before
    process.signal(signal.SIGTERM)
    assert stopped(process, 0) == 2


def test_a_dead_process_that_cannot_be_replaced_now_is_replaced_later(
    app, target, worker: WorkerStarter, ledger: Ledger, broken: Path
):
    process = worker(target)
    wait_ready(process, 1)
    [child] = descendants(process.pid)
    broken.touch()
    os.kill(child, signal.SIGKILL)
    process.wait_for_log("cannot load the app; 0 of 1 processes run")
    handle = app.where.delay()
    broken.unlink()
    assert handle.result(timeout=15) != child
    assert process.running


def test_a_release_that_never_worked_ends_the_server(
    target, worker: WorkerStarter, ledger: Ledger, broken: Path
):
    broken.touch()
    process = worker(target, processes=2, ready=False)
    assert stopped(process, 1) == 0
    assert 1 <= ledger.count("broken") <= 2


def test_a_burst_does_not_wait_for_a_broken_release(
    app, target, worker: WorkerStarter, ledger: Ledger
):
    app.breaks_the_release_and_dies.delay()
    process = worker(target, "--burst", ready=False)
    assert stopped(process, 1) == 0
    assert ledger.count("broken") == 1


def test_told_to_stop_before_it_has_read_its_settings(target, worker: WorkerStarter):
    process = worker(target, "--log-level", "debug", ready=False)
    process.wait_for_log("Started worker process")
    process.signal(signal.SIGTERM)
    assert stopped(process, 0) == 0
    assert "Traceback" not in process.log()


# -- the order, without processes ----------------------------------------------------------------


class FakeChild:
    """What the renewal sees of a child."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.stopping = False

    def drain(self) -> None:
        self.stopping = True


def drained(children: list[Any]) -> list[int]:
    return [child.index for child in children if child.stopping]


@pytest.fixture
def children() -> list[Any]:
    return [FakeChild(n) for n in range(3)]


def test_a_second_hup_also_replaces_what_has_started_since(children):
    from taskq.worker.renewal import Renewal

    renewal = Renewal(children)
    renewal.begin()
    assert drained(children) == [0]
    first = children[0] = FakeChild(0)
    renewal.begin()  # the replacement may have loaded the old code
    assert drained(children) == []
    renewal.ready(first)
    assert drained(children) == [0]
    for turn in (1, 2):
        fresh = children[turn - 1] = FakeChild(turn - 1)
        renewal.ready(fresh)
        assert drained(children) == [turn]


def test_one_that_died_meanwhile_is_passed_over(children):
    from taskq.worker.renewal import Renewal

    renewal = Renewal(children)
    renewal.begin()
    children[0] = FakeChild(0)
    children[1] = FakeChild(1)  # died; this is its replacement
    renewal.ready(children[1])
    assert drained(children) == []
    renewal.ready(children[0])
    assert drained(children) == [2]


def test_at_a_stop_nothing_more_is_replaced(children):
    from taskq.worker.renewal import Renewal

    renewal = Renewal(children)
    renewal.begin()
    renewal.end()
    fresh = children[0] = FakeChild(0)
    renewal.ready(fresh)
    assert drained(children) == []
