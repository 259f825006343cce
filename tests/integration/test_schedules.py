"""Schedules in a real Redis: made, changed, fired, by hand and by a real scheduler."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from types import ModuleType
from typing import Any

import pytest
import redis

from taskq import Cron, Every, ScheduleNotFound, TaskQ
from taskq.schedules import changes
from taskq.schedules.asking import run
from taskq.schedules.firing import Firing, Look
from taskq.schedules.record import job_id
from tests.support import ROOT, wait_until

APP = """
from taskq import Cron, Every, TaskQ, current_job

queue = TaskQ()

@queue.cron("0 7 * * mon-fri", tz="Europe/Berlin")
@queue.task
def report(days: int = 30) -> str:
    return current_job().scheduled_for.isoformat()

@queue.task
def add(a: int, b: int = 0) -> int:
    return a + b

@queue.task
def when() -> str:
    return str(current_job().scheduled_for)

queue.schedule("tick", when.call(), Every(seconds=0.2))
"""
UTC = timezone.utc


def ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO date; UTC where it names no zone."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


class Hand:
    """A scheduler moved by hand, at times of the test's choice."""

    def __init__(self, app: TaskQ) -> None:
        self.app = app
        self.jobs: list[str] = []
        self._firing = Firing(app.codec, app.broker.clock, self._fired)

    def _fired(self, jobs: list[Any]) -> None:
        self.jobs += [job.id for job in jobs]

    def look(self, at: str | int) -> Look:
        return run(self.app.broker, self._firing.look(at if isinstance(at, int) else ms(at)))

    def until_idle(self, at: str | int) -> list[str]:
        """Look until nothing is due any more; the jobs fired."""
        before = len(self.jobs)
        while self.look(at).pause_s == 0.0:
            pass
        return self.jobs[before:]


@pytest.fixture
def queue(app: ModuleType) -> Iterator[TaskQ]:
    made: TaskQ = app.queue
    yield made
    made.close()


@pytest.fixture
def hand(queue: TaskQ) -> Hand:
    return Hand(queue)


@pytest.fixture
def put(queue: TaskQ) -> Callable[..., None]:
    """Make a schedule as if it were `at`."""

    def put(at: str, name: str, call: Any, when: Any, **options: Any) -> None:
        entry = queue.schedules._entry(name, call, when, options)
        run(queue.broker, changes.put(queue.broker.keys, [entry], ms(at)))

    return put


def test_an_occurrence_is_fired_when_it_is_due_and_once(
    app: ModuleType, hand: Hand, put: Callable[..., None]
) -> None:
    put("2026-03-01T12:00", "add", app.add.call(1, b=2), Cron("0 7 * * *", tz="Europe/Berlin"))
    assert hand.look("2026-03-02T05:59:59.999").fired == 0
    look = hand.look("2026-03-02T06:00")
    assert (look.fired, look.pause_s) == (1, 86_400.0)
    assert hand.jobs == [job_id("add", ms("2026-03-02T06:00"))]
    assert hand.look("2026-03-02T06:00").fired == 0
    assert app.add.handle(hand.jobs[0]).status() == "queued"


def test_the_code_s_schedules_run_in_a_real_worker(
    queue: TaskQ, worker: Any, target: str, redis_client: redis.Redis
) -> None:
    worker(target, "--with-scheduler")
    started = time.time()

    def ended() -> list[bytes]:
        return redis_client.zrange("rq:finished:default", 0, -1)

    found = wait_until(lambda: len(ended()) >= 3 and ended(), 15.0)
    for raw in found:
        handle = queue.handle(raw.decode())
        due = datetime.fromisoformat(handle.result(timeout=5))
        assert due.timestamp() > started - 10
        assert raw.decode() == job_id("tick", round(due.timestamp() * 1000))
    assert redis_client.zcard("taskq:schedules") == 2


def test_a_scheduler_process_fires_and_ends_at_term(
    queue: TaskQ, target: str, redis_client: redis.Redis, redis_url: str, tmp_path: Any
) -> None:
    import os

    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "scheduler", target], env=env, cwd=ROOT
    )
    try:
        wait_until(lambda: redis_client.llen("rq:queue:default") >= 2, 15.0)
        # woken by what is scheduled at run time
        queue.schedules.set("soon", queue.tasks[next(iter(queue.tasks))].call(), Every(0.3))
        mine = job_id("soon", 0)[:-2].encode()
        wait_until(
            lambda: any(
                raw.startswith(mine) for raw in redis_client.lrange("rq:queue:default", 0, -1)
            ),
            15.0,
        )
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_pause_resume_remove(
    app: ModuleType, queue: TaskQ, hand: Hand, put: Callable[..., None]
) -> None:
    put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    assert queue.schedules["add"].pause()
    assert not queue.schedules["add"].pause()
    assert hand.look("2026-03-01T14:00").fired == 0
    run(queue.broker, changes.resume(queue.broker.keys, "add", ms("2026-03-01T15:30")))
    assert hand.until_idle("2026-03-01T15:59") == []
    assert hand.until_idle("2026-03-01T16:00") == [job_id("add", ms("2026-03-01T16:00"))]
    assert queue.schedules["add"].remove()
    assert not queue.schedules["add"].remove()
    with pytest.raises(ScheduleNotFound, match="no schedule 'add'"):
        queue.schedules["add"].pause()
    assert hand.look("2026-03-05T16:00").fired == 0
