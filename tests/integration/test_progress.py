"""Progress: few writes however often it is told, and `taskq job ID --follow`."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from taskq.cli import main
from taskq.cli.follow import progress_text
from taskq.progress import Progress, parse_progress
from tests.support import ROOT, WorkerStarter, wait_until

APP = """
import time
from pathlib import Path
from taskq import TaskQ, current_job

queue = TaskQ()
DONE = Path(__file__).with_name("done")

@queue.task
def busy(seconds):
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
        current_job().progress(n, None, "still busy")
    return n

@queue.task
def steps(how="good"):
    current_job().progress(42, 1000, "half\\x1b[2J")
    while not DONE.exists():
        time.sleep(0.01)
    if how == "bad":
        raise ValueError("no")
    return "done"

@queue.task
def odd():
    from decimal import Decimal
    current_job().progress(Decimal("1.5"), 3)
    while not DONE.exists():
        time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("raw", "progress"),
    [
        (b'[1,4,"a"]', Progress(1, 4, "a")),
        (b"[1,null,null]", Progress(1, None, "")),
        (b'["1",4,"a"]', None),
        (b'[NaN,4,"a"]', None),
        (b'[Infinity,4,"a"]', None),
        (b'[1,[4],"a"]', None),
        (b"[1]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (None, None),
    ],
    ids=range(10),
)
def test_what_is_read(raw: bytes | None, progress: Progress | None) -> None:
    assert parse_progress(raw) == progress


def test_progress_as_text() -> None:
    assert progress_text(Progress(420, 1000, "parsing")) == "42 %  420 of 1,000  parsing"
    assert progress_text(Progress(3)) == "3"
    assert progress_text(Progress(9, 3), bar=True) == f"[{'#' * 30}]  100 %  9 of 3"
    assert progress_text(Progress(-1, 0)) == "-1 of 0"
    assert progress_text(Progress(-1, 4), bar=True).startswith(f"[{'.' * 30}]  0 %")


@pytest.mark.standing
def test_a_few_writes_a_second_however_often_it_is_told(
    app: ModuleType, target: str, worker: WorkerStarter, redis_client: redis.Redis
) -> None:
    worker(target)
    writes = 0
    with redis_client.monitor() as monitor:
        handle = app.busy.delay(1.5)
        for command in monitor.listen():
            text = str(command["command"])
            writes += "HSET" in text and "tq_progress" in text
            if "HSET" in text and "finished" in text:
                break
    assert handle.result(timeout=5) > 1000
    assert 1 <= writes <= 6


@pytest.mark.standing
def test_a_handle_shows_it(app: ModuleType, target: str, worker: WorkerStarter) -> None:
    worker(target)
    handle = app.odd.delay()
    assert wait_until(handle.progress) == Progress(1.5, 3, "")
    app.DONE.touch()
    handle.result(timeout=5)


# -- the command line ------------------------------------------------------------------------


class Followed:
    """`taskq job ID --follow` as a user types it."""

    def __init__(self, redis_url: str, *arguments: str, terminal: bool = False) -> None:
        self.master, slave = pty.openpty() if terminal else os.pipe()
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskq", "job", *arguments, "--follow"],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env={**os.environ, "TASKQ_REDIS_URL": redis_url, "COLUMNS": "120"},
        )
        os.close(slave)

    def read(self) -> str:
        while select.select([self.master], [], [], 0.02)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Linux's way of saying that the program has ended
                break
            if not data:
                break
            self.seen += data.decode()
        return self.seen

    def expect(self, text: str) -> None:
        wait_until(lambda: text in self.read(), 15, message=lambda: f"{text!r}: {self.seen!r}")

    def ends(self) -> int:
        wait_until(lambda: self.read() is not None and self.process.poll() is not None, 15)
        self.read()
        return int(self.process.returncode)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.fixture
def follow(redis_url: str) -> Iterator[Any]:
    opened: list[Followed] = []

    def start(*arguments: str, terminal: bool = False) -> Followed:
        opened.append(Followed(redis_url, *arguments, terminal=terminal))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.standing
def test_follow_on_a_terminal(
    app: ModuleType, target: str, worker: WorkerStarter, follow: Any
) -> None:
    worker(target)
    handle = app.steps.delay()
    shown = follow(handle.id, terminal=True)
    shown.expect("[#.............................]  4 %  42 of 1,000  half\\x1b[2J")
    app.DONE.touch()
    assert shown.ends() == 0
    assert "finished" in shown.seen
    assert "done" in shown.seen.rpartition("result")[2]


@pytest.mark.standing
def test_follow_of_a_failure_as_json(
    app: ModuleType, target: str, worker: WorkerStarter, follow: Any
) -> None:
    worker(target)
    handle = app.steps.delay("bad")
    shown = follow(handle.id, "--json")
    shown.expect('"done": 42')
    app.DONE.touch()
    assert shown.ends() == 1
    *changes, last = [json.loads(line) for line in shown.seen.splitlines()]
    assert changes[-1]["progress"] == {"done": 42, "total": 1000, "note": "half\x1b[2J"}
    assert (last["status"], last["error"]) == ("failed", "no")


def test_job_shows_progress_and_callbacks(
    app: ModuleType, redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    handle = app.steps.options(on_failure="https://example.com/hook").delay()
    redis_client.hset(f"rq:job:{handle.id}", "tq_progress", '[1, 2, "half"]')
    data = json.loads(CliRunner().invoke(main, ["job", handle.id, "--json"]).stdout)
    assert data["progress"] == {"done": 1, "total": 2, "note": "half"}
    assert (data["callbacks"], data["other_fields"]) == ([f"{handle.id}-failure"], [])
    text = CliRunner().invoke(main, ["job", handle.id]).stdout
    assert "50 %  1 of 2  half" in text


@pytest.mark.standing
def test_follow_ends_where_the_result_is_not_kept(
    app: ModuleType, target: str, worker: WorkerStarter, follow: Any
) -> None:
    worker(target)
    handle = app.steps.options(result_ttl=0).delay()
    shown = follow(handle.id)
    shown.expect("started")
    app.DONE.touch()
    assert shown.ends() == 0
    assert "finished; its result is not kept" in shown.seen
