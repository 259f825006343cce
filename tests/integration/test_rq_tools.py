"""rq-exporter and rq-dashboard on what our worker writes: each from an environment of its own.

`make rq-tools` installs them (they bring their own RQ); without that these tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from rq import Queue, Worker
from rq.job import Job

from taskq.embedded import EmbeddedRedis
from tests.conftest import AppModule
from tests.rq_support import arrived, ended
from tests.support import ROOT, wait_until

pytestmark = pytest.mark.timeout(60)

FUNCTIONS = """
import redis

def add(a, b=1):
    return a + b

def fail():
    raise ValueError("no")

def gate(url):
    with redis.Redis.from_url(url, socket_timeout=50) as client:
        client.rpush("at-gate", 1)
        client.blpop("open", 30)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def tool(name: str) -> str:
    """Path of a command from its environment."""
    found = ROOT / f".venv-{name}" / "bin" / name
    if not found.exists():
        pytest.skip(f"{name} is not installed; run: make rq-tools")
    return str(found)


@contextmanager
def running(log: Path, *command: str, **env: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(log.parent), str(ROOT)]), **env},
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(log.read_text(errors="replace"))


def get(url: str) -> str:
    """A page, once its server is there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Shop:
    """A worker of ours, and a job of each kind: three have finished, one has failed, one runs."""

    def __init__(self, fns: ModuleType, server: EmbeddedRedis) -> None:
        self.url = server.url
        self.client = redis.Redis.from_url(server.url)
        self.queue = Queue(connection=self.client)
        first = [self.queue.enqueue(fns.add, n) for n in range(3)]
        self.failed = self.queue.enqueue(fns.fail)
        self.queue.enqueue(fns.add, depends_on=self.failed)
        self.queue.enqueue_in(timedelta(hours=1), fns.add, 1)
        Queue("idle", connection=self.client).enqueue(fns.add, 1)
        assert [ended(job, 30) for job in first] == ["finished"] * 3
        assert ended(self.failed, 30) == "failed"
        self.running: Job = self.queue.enqueue(fns.gate, self.url)
        arrived(self.client, "gate")
        (self.worker,) = Worker.all(connection=self.client)
        wait_until(self.is_shown, message="the worker is not shown as busy")

    def is_shown(self) -> bool:
        self.worker.refresh()
        counted = (self.worker.successful_job_count, self.worker.failed_job_count)
        return self.worker.get_state() == "busy" and counted == (3, 1)


@pytest.fixture
def shop(app_module: AppModule, tmp_path: Path) -> Iterator[Shop]:
    fns = app_module(FUNCTIONS)
    with EmbeddedRedis.start(port=0) as server:
        rq = str(Path(sys.executable).parent / "rq")
        command = (rq, "worker", "--url", server.url, "-w", "taskq.worker.Worker", "default")
        with running(tmp_path / "worker.log", *command):
            made = Shop(fns, server)
            yield made
            made.client.rpush("open", 1)


def test_rq_exporter(shop: Shop, tmp_path: Path):
    command, port = tool("rq-exporter"), free_port()
    options = ("--redis-url", shop.url, "--host", "127.0.0.1", "--port", str(port))
    with running(tmp_path / "exporter.log", command, *options):
        text = get(f"http://127.0.0.1:{port}/metrics")
    jobs = dict(
        re.findall(r'^rq_jobs\{queue="default",status="(\w+)"\} ([\d.]+)$', text, re.MULTILINE)
    )
    assert jobs == {"queued": "0.0", "started": "1.0", "finished": "3.0", "failed": "1.0",
                    "deferred": "1.0", "scheduled": "1.0"}  # fmt: skip
    assert 'rq_jobs{queue="idle",status="queued"} 1.0' in text
    name = shop.worker.name
    assert f'rq_workers{{name="{name}",queues="default",state="busy"}} 1.0' in text
    assert f'rq_workers_success_total{{name="{name}",queues="default"}} 3.0' in text
    assert f'rq_workers_failed_total{{name="{name}",queues="default"}} 1.0' in text


def test_rq_dashboard(shop: Shop, tmp_path: Path):
    command, port = tool("rq-dashboard"), free_port()
    options = ("-u", shop.url, "-b", "127.0.0.1", "-p", str(port))
    with running(tmp_path / "dashboard.log", command, *options):
        base = f"http://127.0.0.1:{port}/0"
        shown: Any = json.loads(get(f"{base}/data/queues.json"))
        workers: Any = json.loads(get(f"{base}/data/workers.json"))
        failed: Any = json.loads(get(f"{base}/data/job/{shop.failed.id}.json"))
        running_one = get(f"{base}/view/job/{shop.running.id}")
    queues = {one["name"]: one for one in shown["queues"]}
    default = {key.removesuffix("_job_registry_count"): value
               for key, value in queues["default"].items() if key.endswith("_count")}  # fmt: skip
    assert default == {"started": 1, "finished": 3, "failed": 1,
                       "deferred": 1, "scheduled": 1, "canceled": 0}  # fmt: skip
    assert (queues["idle"]["count"], queues["default"]["count"]) == (1, 0)
    (worker,) = workers["workers"]
    assert worker["name"] == shop.worker.name
    assert worker["state"] == "busy"
    assert worker["queues"] == ["default"]
    assert failed["status"] == "failed"
    assert "ValueError: no" in failed["exc_info"]
    assert shop.running.id in running_one
