"""What tests of the dashboard share: a client without sockets, a served one, jobs of all kinds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from taskq.dashboard import Dashboard, create_app
from tests.support import ROOT, wait_until

PATHS = ("/", "/queue?name=default", "/jobs", "/job?id=failed-1", "/workers", "/schedules",
         "/failures")  # fmt: skip


@dataclass
class Answer:
    """One answer of the application."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def get(
    app: Any,
    address: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    client: str = "127.0.0.1",
    root: str = "",
) -> Answer:
    """Ask the application, without a server."""
    path, _, query = address.partition("?")
    found = Answer()
    given = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": root + path,
        "raw_path": (root + path).encode(),
        "root_path": root,
        "query_string": query.encode("latin-1"),
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in given.items()],
        "client": (client, 1),
        "server": ("localhost", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.status = message["status"]
            found.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        else:
            found.body += message.get("body", b"")

    await app(scope, receive, send)
    return found


def made(redis_url: str, **settings: Any) -> Dashboard:
    return create_app(redis_url, **settings)


@contextmanager
def served(redis_url: str, *options: str, **env: str) -> Iterator[str]:
    """`taskq dashboard` in a process of its own; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "dashboard", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TASKQ_REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1", **env},
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None
    try:
        seen = ""
        while "http://" not in seen:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            seen += line
        address = re.search(r"http://\S+", seen)
        assert address
        root = address[0].rstrip("/")

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{root}/healthz") as answer:
                    return answer.status == 200
            except OSError:
                return False

        wait_until(answers, 15)
        yield root
    finally:
        process.terminate()
        process.communicate(timeout=15)


def put_job(client: redis.Redis, job_id: str, status: str, queue: str = "default", **more: Any):
    """A job as RQ writes it, in the place of its status."""
    call = more.pop("call", ["shop.tasks.thumbnail", None, ["a.png"], {"size": 64}])
    at = more.pop("at", "2026-11-22T10:00:00.000000Z")
    client.sadd("rq:queues", f"rq:queue:{queue}")
    client.hset(
        f"rq:job:{job_id}",
        mapping={
            "status": status,
            "origin": queue,
            "created_at": at,
            "enqueued_at": at,
            "data": json.dumps(call),
            **more,
        },
    )
    if status == "queued":
        client.rpush(f"rq:queue:{queue}", job_id)
    else:
        kind = {"started": "wip"}.get(status, status)
        member = f"{job_id}:exec1" if kind == "wip" else job_id
        client.zadd(f"rq:{kind}:{queue}", {member: 4102444800 + client.zcard(f"rq:{kind}:{queue}")})


def put_failure(client: redis.Redis, job_id: str, error: str, trace: str = "Traceback: it broke"):
    """How a job failed, as RQ's result stream has it."""
    import base64
    import zlib

    client.xadd(
        f"rq:results:{job_id}",
        {
            "type": "2",
            "worker_name": "w1",
            "exc_string": base64.b64encode(zlib.compress(trace.encode())),
            "tq_error": json.dumps(["shop.errors.Broken", error, 2]),
            "execution_started_at": "1795341600.0",
            "execution_ended_at": "1795341601.5",
        },
    )


def put_worker(client: redis.Redis, name: str, **more: Any):
    """A worker as RQ registers it."""
    client.sadd("rq:workers", f"rq:worker:{name}")
    client.hset(
        f"rq:worker:{name}",
        mapping={
            "state": "busy",
            "hostname": "box",
            "pid": 7,
            "queues": "default",
            "birth": "2026-11-22T09:00:00.000000Z",
            "last_heartbeat": "2026-11-22T10:00:00.000000Z",
            **more,
        },
    )


def fill(client: redis.Redis) -> None:
    """A small shop: two queues, a worker, jobs of each status."""
    for at in range(3):
        put_job(client, f"queued-{at}", "queued")
    for status in ("started", "scheduled", "deferred", "finished", "canceled"):
        put_job(client, f"{status}-1", status)
    put_job(client, "failed-1", "failed", started_at="2026-11-22T10:00:01.000000Z",
            ended_at="2026-11-22T10:00:02.500000Z")  # fmt: skip
    put_failure(client, "failed-1", "no such file")
    put_job(client, "mail-1", "queued", queue="mail")
    put_worker(client, "w1")
