"""Schedules, served by real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest
import redis

from taskq import Cron, Every, TaskQ
from taskq.embedded import EmbeddedRedis
from taskq.schedules import changes
from taskq.schedules.asking import run
from taskq.schedules.record import job_id, job_stem
from taskq.worker.schedule import CHECK_S
from tests.support import ROOT, WorkerStarter, wait_until

APP = """
import time
from taskq import Cron, Every, TaskQ, current_job

queue = TaskQ()

@queue.cron("0 7 * * mon-fri", tz="Europe/Berlin")
@queue.task
def report(days: int = 30) -> str:
    return current_job().scheduled_for.isoformat()

@queue.task
def when() -> tuple[str, float]:
    return current_job().scheduled_for.isoformat(), time.time()

@queue.task
async def awhen() -> str:
    return current_job().scheduled_for.isoformat()

@queue.task(mode="process")
def pwhen() -> str:
    return current_job().scheduled_for.isoformat()

queue.schedule("tick", when.call(), Every(seconds=0.2))
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def queue(app: ModuleType) -> Iterator[TaskQ]:
    made: TaskQ = app.queue
    yield made
    made.close()


@pytest.fixture
def scheduler(target: str, tmp_path: Path) -> Iterator[Start]:
    """Starts `taskq scheduler`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", "scheduler", target, *arguments],
            env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def jobs_of(client: redis.Redis, name: str) -> list[str]:
    stem = job_stem(name).encode()
    return [
        raw.decode() for raw in client.lrange("rq:queue:default", 0, -1) if raw.startswith(stem)
    ]


@pytest.mark.timeout(60)
def test_in_a_worker_each_way_of_running_knows_its_time(
    app: ModuleType, queue: TaskQ, worker: WorkerStarter, target: str, redis_client: redis.Redis
) -> None:
    worker(target, "--with-scheduler", timeout=40.0)
    for name in ("awhen", "pwhen"):
        queue.schedule(name, getattr(app, name).call(), Every(seconds=0.3), max_runs=2)

    def ended(name: str) -> list[str]:
        stem = job_stem(name).encode()
        found = redis_client.zrange("rq:finished:default", 0, -1)
        return [raw.decode() for raw in found if raw.startswith(stem)]

    for name in ("tick", "awhen", "pwhen"):
        wait_until(lambda name=name: len(ended(name)) >= 2, 40.0)
        for job in ended(name):
            result = queue.handle(job).result(timeout=5)
            due = datetime.fromisoformat(result if isinstance(result, str) else result[0])
            assert job == job_id(name, round(due.timestamp() * 1000))
            if not isinstance(result, str):
                assert result[1] >= due.timestamp()  # never early
    assert redis_client.smembers(f"taskq:schedules:code:{target}") == {b"tick", report_name(app)}


def report_name(app: ModuleType) -> bytes:
    return f"{app.__name__}.report".encode()


@pytest.mark.timeout(60)
def test_a_scheduler_is_woken_by_what_is_scheduled_earlier_and_ends_at_term(
    app: ModuleType, queue: TaskQ, scheduler: Start, redis_client: redis.Redis
) -> None:
    process = scheduler()
    wait_until(lambda: len(jobs_of(redis_client, "tick")) >= 2, 30.0)
    queue.schedules["tick"].remove()
    time_asleep = Cron("0 0 1 1 *")
    queue.schedules.set("far", app.when.call(), time_asleep)
    started = time.time()
    queue.schedules.set("soon", app.when.call(), Every(seconds=0.3))
    wait_until(lambda: jobs_of(redis_client, "soon"), 30.0)
    assert time.time() - started < CHECK_S  # not by the look that comes anyway
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "in code  2 schedules" in out
    assert "Schedules of the code: 2, 2 of them new" in out


@pytest.mark.timeout(90)
def test_a_redis_that_is_away_is_waited_for(
    app_module: Callable[..., ModuleType], redis_program: Path, scheduler: Start,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str,
) -> None:  # fmt: skip
    with EmbeddedRedis.start(port=0, binary=redis_program) as server:
        monkeypatch.setenv("TASKQ_REDIS_URL", f"redis://127.0.0.1:{server.port}/0")
        port = server.port
        process = scheduler()
        client = redis.Redis(port=port)
        wait_until(lambda: len(jobs_of(client, "tick")) >= 2, 30.0)
        client.close()
    with EmbeddedRedis.start(port=port, binary=redis_program) as server:  # empty
        client = redis.Redis(port=port)
        app = TaskQ(f"redis://127.0.0.1:{port}/0")
        module = sys.modules[target.partition(":")[0]]
        entry = module.queue.schedules._entry("tick", module.when.call(), Every(0.2), {})
        run(app.broker, changes.put(app.broker.keys, [entry]))
        wait_until(lambda: len(jobs_of(client, "tick")) >= 2, 30.0)
        assert process.poll() is None
        process.terminate()
        assert process.wait(30) == 0
        app.close()
        client.close()


@pytest.mark.timeout(60)
def test_a_schedule_that_cannot_be_is_said_at_the_start(
    app_module: Callable[..., ModuleType], redis_url: str, tmp_path: Path
) -> None:
    app_module(
        "from taskq import *\n"
        f"queue = TaskQ({redis_url!r})\n"
        "@queue.task\ndef f(a: object) -> None: ...\n"
        "queue.schedule('odd', f.call(object()), Every(5))\n",
        name="odd_app",
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "taskq", "scheduler", "odd_app:queue"],
        env=env, cwd=ROOT, text=True, capture_output=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 1
    assert "argument 'a' is an object, which JSON cannot carry" in done.stderr
