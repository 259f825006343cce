"""`taskq worker --health-port`: what a probe sees in good times and in bad ones."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from taskq.embedded import EmbeddedRedis
from tests.engine import descendants
from tests.support import WorkerProcess, wait_until

APP = """
import time
from pathlib import Path
from taskq import TaskQ

queue = TaskQ()

@queue.task
def holds():
    Path(__file__).with_name("holding").touch()
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
"""

Probe = Callable[..., tuple[int, Any]]


def probe(worker: WorkerProcess) -> Probe:
    """GET a path of the port that the worker's log names."""
    text = worker.wait_for_log("Health at http://", 15)
    found = re.search(r"Health at http://127\.0\.0\.1:(\d+)/", text)
    assert found

    def ask(path: str, method: str = "GET") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.getheader("Content-Type") == "application/json"
            return answer.status, json.loads(body) if body else None
        finally:
            connection.close()

    return ask


def ready(ask: Probe) -> bool:
    return ask("/readyz")[0] == 200


def test_good_times(app, target, worker):
    process = worker(target, env={"TASKQ_HEALTH_PORT": "0"}, processes=2)
    ask = probe(process)
    wait_until(lambda: ready(ask), 15)
    status, body = ask("/healthz?verbose=1")
    assert (status, body["alive"], body["ready"], body["stopping"]) == (200, True, True, False)
    wait_until(lambda: [one["state"] for one in ask("/readyz")[1]["processes"]] == ["ready"] * 2)
    assert body["redis"]["reachable"] is True
    assert {one["pid"] for one in body["processes"]} <= set(descendants(process.pid))
    assert ask("/readyz", "HEAD") == (200, None)
    assert ask("/")[0] == ask("/admin")[0] == 404
    assert ask("/healthz", "POST")[0] == 405


def test_a_stopped_process_is_shown(app, target, worker):
    process = worker(target, "--health-port", "0")
    ask = probe(process)
    wait_until(lambda: ready(ask), 15)
    (pid,) = (one["pid"] for one in ask("/healthz")[1]["processes"])
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: ask("/healthz")[0] == 503, 10)
        status, body = ask("/readyz")
        assert (status, body["processes"][0]["state"]) == (503, "stopped")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: ask("/healthz")[0] == 200 and ready(ask), 10)


@pytest.mark.timeout(60)
def test_an_outage_of_redis_makes_it_unready_but_not_dead(app_module, worker, redis_program):
    module = app_module(APP)
    with EmbeddedRedis.start(binary=redis_program) as server:
        env = {"TASKQ_REDIS_URL": server.url}
        process = worker(f"{module.__name__}:queue", "--health-port", "0", env=env, ready=False)
        ask = probe(process)
        wait_until(lambda: ready(ask), 15)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not ready(ask), 30)
            status, body = ask("/healthz")
            assert (status, body["redis"]["reachable"]) == (200, False)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: ready(ask), 20)
    process.stop()


def test_it_is_not_ready_while_it_drains(app, target, worker, tmp_path):
    process = worker(target, "--health-port", "0")
    ask = probe(process)
    wait_until(lambda: ready(ask), 15)
    app.holds.delay()
    wait_until((tmp_path / "holding").exists, 10)
    process.signal(signal.SIGTERM)
    wait_until(lambda: ask("/readyz")[0] == 503, 10)
    status, body = ask("/healthz")
    assert (status, body["stopping"], body["processes"][0]["state"]) == (200, True, "draining")
    (tmp_path / "go").touch()
    assert process.wait(15) == 0


def test_hostile_clients_do_no_harm(app, target, worker):
    process = worker(target, "--health-port", "0")
    ask = probe(process)
    wait_until(lambda: ready(ask), 15)
    port = int(re.findall(r"127\.0\.0\.1:(\d+)/healthz", process.log())[0])
    sockets = []
    for text in (
        b"",
        b"\0" * 100,
        b"GET " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n",
    ):
        one = socket.create_connection(("127.0.0.1", port))
        one.sendall(text)
        sockets.append(one)
    assert ask("/healthz")[0] == 200
    for one in sockets:
        one.close()
    assert "Traceback" not in process.log()
    assert process.stop() == 0
    assert "Traceback" not in process.log()


def test_a_port_that_is_taken_is_said(app, target, worker):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = worker(target, "--health-port", str(port), ready=False)
        assert process.wait(15) == 1
        assert f"Cannot listen at --health-port {port}" in process.log()
