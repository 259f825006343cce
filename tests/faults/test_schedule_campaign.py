"""Schedules under fire: schedulers killed while tens of thousands are due, and a simulated year.

The full figures, as they stand in benchmarks/README.md, by environment variables:

    TASKQ_DUE=100000 TASKQ_YEAR=10000 python -m pytest tests/faults/test_schedule_campaign.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import redis

from taskq import Cron
from taskq.schedules import changes
from taskq.schedules.asking import run
from taskq.schedules.changes import Entry
from taskq.schedules.record import job_id
from taskq.schedules.template import prepare
from taskq.schedules.terms import Terms
from tests.support import ROOT, wait_until
from tests.year import Simulation, utc

APP = """
from taskq import TaskQ
queue = TaskQ()

@queue.task
def nothing() -> None: ...
"""
DUE = int(os.environ.get("TASKQ_DUE", "20000"))
YEAR = int(os.environ.get("TASKQ_YEAR", "400"))
EACH = 4
"""Occurrences of each schedule that are overdue."""


@pytest.mark.timeout(900)
def test_schedulers_killed_one_a_second_fire_each_occurrence_once(
    app: ModuleType, target: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    call, count = app.nothing.call(), max(DUE // EACH, 1)
    # due every hour, last five minutes ago; made as if the last EACH hours had not been served
    last = round(time.time() - 300) // 60 * 60
    terms = Terms(Cron(f"{time.gmtime(last).tm_min} * * * *"), missed="run_all")
    names = [f"s{n}" for n in range(count)]
    entries = [Entry(name, terms, prepare(app.queue, "test", name, call)) for name in names]
    run(app.queue.broker, changes.put(app.queue.broker.keys, entries, (last - EACH * 3600) * 1000))

    chosen = random.Random(4)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    alive: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        alive.append(
            subprocess.Popen(
                [sys.executable, "-m", "taskq", "scheduler", target],
                env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip

    def due() -> int:
        return int(redis_client.zcount("taskq:schedules", "-inf", time.time() * 1000))

    kills = 0
    try:
        for _ in range(4):
            start()
        wait_until(lambda: due() < count, 60.0)  # they have begun
        until = time.monotonic() + 600
        while due() and time.monotonic() < until:
            second = time.monotonic() + 1.0
            wait_until(lambda at=second: time.monotonic() >= at or not due())
            victim = alive.pop(chosen.randrange(len(alive)))
            victim.send_signal(signal.SIGKILL if kills % 3 < 2 else signal.SIGTERM)
            victim.wait(30)
            kills += 1
            start()
        assert due() == 0
        assert kills > 1
    finally:
        for process in alive:
            process.kill()
            process.wait()
    found = Counter(raw.decode() for raw in redis_client.lrange("rq:queue:default", 0, -1))
    wanted = {job_id(name, (last - n * 3600) * 1000) for name in names for n in range(EACH)}
    assert set(found) == wanted
    assert set(found.values()) == {1}
    assert redis_client.zcard("taskq:schedules") == count  # and none has vanished
    print(f"{len(wanted)} occurrences of {count} schedules, {kills} kills")
    app.queue.close()


@pytest.mark.timeout(1800)
def test_a_year_in_two_zones(app: ModuleType, redis_client: redis.Redis) -> None:
    simulation = Simulation(app.queue, redis_client, utc("2026-01-01"), utc("2027-01-01"))
    simulation.make(YEAR, ["Europe/Berlin", "America/New_York"], app.nothing.call(),
                    0.02 if YEAR <= 1_000 else 0.005)  # fmt: skip
    started = time.monotonic()
    simulation.go(schedulers=2 if YEAR <= 1_000 else 1)  # those of many days are plenty
    simulation.check()
    took = time.monotonic() - started
    print(f"{simulation.occurrences} occurrences of {YEAR} schedules in {took:.0f} s")
    app.queue.close()
