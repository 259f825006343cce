"""`taskq worker` as it is started: banner, wrong options, no Redis yet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import rq

from taskq.embedded import EmbeddedRedis
from tests.support import wait_until

APP = """
    from taskq import TaskQ

    queue = TaskQ()

    @queue.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    @queue.task(queue="web")
    async def fetch(url: str) -> str:
        return url
"""


@pytest.fixture
def app(app_module):
    return f"{app_module(APP, name='shop_worker').__name__}:queue"


def run(*args, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "taskq", "worker", *args],
        env={**os.environ, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_the_banner_says_what_runs(worker, app, redis_url):
    started = worker(app, "-q", "high=5", "-q", "default", "--threads", "3")
    text = started.log()
    assert "     app  shop_worker:queue\n" in text
    assert f"   redis  {redis_url}\n" in text
    assert "  queues  high (weight 5), default (weight 1)\n" in text
    assert "   slots  1 process: 3 threads, 100 async\n" in text
    assert "   tasks  shop_worker.add    thread\n          shop_worker.fetch  asyncio\n" in text
    assert "use queues that this worker does not serve (-q web)" in text


def test_options_come_from_the_environment_and_the_file(redis_url, app, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.taskq]\napp = "{app}"\nthreads = 5\nqueues = ["a", "b"]\n'
    )
    done = run("--burst", cwd=tmp_path, TASKQ_REDIS_URL=redis_url, TASKQ_PROCESSES="1")
    assert done.returncode == 0
    assert "  queues  a before b\n" in done.stdout
    assert "1 process: 5 threads" in done.stdout


def test_json_logs_are_all_there_is(redis_url, app, tmp_path):
    done = run(
        app, "--burst", "--processes", "1", "--log-format", "json",
        cwd=tmp_path, TASKQ_REDIS_URL=redis_url,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert all(line["logger"].startswith("taskq") for line in lines)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], 'Which app? "taskq worker" needs one: "taskq worker shop.queue:queue"'),
        (["high"], 'Cannot import "high". Queues are chosen with -q.'),
        (["shop_worker:nothing"], 'No app "shop_worker:nothing"'),
        (["shop_worker", "-q", "a=x"], "-q a=x: a weight is a number above 0"),
        (["shop_worker", "-q", "a", "-q", "a"], "this queue is given twice"),
        (["shop_worker", "--processes", "0"], "--processes"),
        (["shop_worker", "--grace", "soon"], "'soon' is no duration"),
    ],
)
def test_what_is_wrong_is_told_at_once(redis_url, app, tmp_path, args, message):
    done = run(*args, cwd=tmp_path, TASKQ_REDIS_URL=redis_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_the_password_is_not_shown(app, tmp_path):
    url = "redis://:hunter2@127.0.0.1:1/0"
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "worker", app, "--processes", "1"],
        env={**os.environ, "TASKQ_REDIS_URL": url, "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        seen = process.stdout.readline() + process.stdout.readline()
        arguments = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(process.pid), "--ppid", str(process.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        process.send_signal(signal.SIGTERM)
        seen += process.stdout.read()
    assert "redis://:***@127.0.0.1:1/0" in seen
    assert "hunter2" not in seen + arguments


def test_without_redis_it_waits(app, tmp_path):
    place = tmp_path / "redis"
    with EmbeddedRedis.start(directory=place) as server:
        url = server.url
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", "worker", app, "--processes", "1"],
            env={**os.environ, "TASKQ_REDIS_URL": url, "PYTHONUNBUFFERED": "1"},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "No Redis at" in log.read_text(), message=log.read_text)
        assert process.poll() is None
        with EmbeddedRedis.start(directory=place) as server:
            assert server.url == url
            wait_until(lambda: "ready" in log.read_text(), message=log.read_text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_plain_rq_jobs_without_an_app(redis_url, redis_client, tmp_path):
    job = rq.Queue("default", connection=redis_client).enqueue("builtins.abs", -4)
    done = run("--rq", "--burst", "--processes", "1", cwd=tmp_path, TASKQ_REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert "     app  none: any RQ job\n" in done.stdout
    assert "--rq: payloads are unpickled" in done.stderr
    assert job.return_value() == 4
