"""TASKQ_EAGER=1: jobs run where they are enqueued, without Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest

from taskq import JobFailed, ResultTimeout
from taskq.cli import main
from tests.support import ROOT

APP = """
from taskq import Retry, TaskQ, current_job

queue = TaskQ("redis://127.0.0.1:1/0")          # nothing listens there

@queue.task
def add(a: int, b: int = 0) -> int:
    return a + b

@queue.task
async def aadd(a: int, b: int = 0) -> int:
    return a + b

@queue.task(retry=Retry(3, base=60))
def flaky() -> int:
    job = current_job()
    if job.attempt < 3:
        raise OSError("not yet")
    return job.attempt

@queue.task
def fail() -> None:
    raise ValueError("no paper")

@queue.task
def never() -> None:
    raise Retry.later(60)
"""


@pytest.fixture
def shop(app_module, monkeypatch) -> ModuleType:
    monkeypatch.setenv("TASKQ_EAGER", "1")
    return app_module(APP)


def test_jobs_run_at_once(shop):
    assert shop.add.delay(1, 2).result() == 3
    assert shop.aadd.delay(1, 2).result() == 3
    assert shop.add.map([1, 2], b=1).results() == [2, 3]
    assert shop.queue.enqueue([shop.add.call(1), shop.aadd.call(2)]).results() == [1, 2]
    handle = shop.add.options(delay=3600, unique=True, job_id="a").delay(4)
    assert (handle.status(), handle.result(), handle.created) == ("finished", 4, True)
    assert shop.queue.handle("a").result() == 4


def test_errors_are_in_the_handle(shop):
    handle = shop.fail.delay()
    with pytest.raises(JobFailed, match="no paper"):
        handle.result()


def test_retries_follow_at_once(shop):
    assert shop.flaky.delay().result() == 3


def test_putting_off_ends(shop):
    handle = shop.never.delay()
    assert handle.status() == "scheduled"
    with pytest.raises(ResultTimeout, match="put off again and again"):
        handle.result()


async def test_asyncio(shop):
    assert await (await shop.aadd.adelay(1, 2)) == 3
    assert await (await shop.add.adelay(1, 2)) == 3
    assert await (await shop.add.amap([1, 2])) == [1, 2]
    assert await shop.add.delay(3)


def test_many_jobs_leave_nothing_behind_for_ever(shop, monkeypatch):
    monkeypatch.setattr("taskq.testing.eager._CLEAN_EVERY", 1)
    task = shop.add.options(result_ttl=0)
    for n in range(3):
        task.delay(n)
    broker = shop.queue.broker
    assert broker.call("KEYS", "rq:job:*") == []
    assert broker.call("KEYS", "rq:results:*") == []


def test_a_program_ends_cleanly(shop, tmp_path):
    code = f"import {shop.__name__} as m; print(m.aadd.delay(1, 2).result())"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("3\n", 0)
    assert "Warning" not in done.stderr


def test_commands_talk_to_redis(monkeypatch):
    monkeypatch.setenv("TASKQ_EAGER", "1")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["TASKQ_EAGER"] == "0"
