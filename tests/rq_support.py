"""What the tests against stock RQ share: reading what RQ sees, and starting its workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.job import Job
from rq.results import Result

from taskq.worker import rq_end
from tests.support import ROOT, wait_until

OVER = {"finished", "failed", "canceled", "stopped"}


def status_of(client: redis.Redis, job_id: str) -> str:
    """The status in a job's record, "" where there is none."""
    return (client.hget(f"rq:job:{job_id}", "status") or b"").decode()


def ended(job: Job, timeout: float = 10.0) -> str:
    """Wait until a job is over; returns its status."""
    client = job.connection
    wait_until(
        lambda: status_of(client, job.id) in OVER,
        timeout,
        message=lambda: f"job {job.id} is {status_of(client, job.id)!r}",
    )
    return status_of(client, job.id)


def arrived(client: redis.Redis, gate: str) -> None:
    """Wait until a job stands at a gate."""
    wait_until(lambda: client.lpop(f"at-{gate}"), message=f"no job came to {gate}")


def latest(job: Job) -> Result:
    """The last entry of a job's results, as stock RQ reads it."""
    found = job.latest_result()
    assert found is not None
    return found


def leftovers(client: redis.Redis) -> set[str]:
    """Keys that are to exist only while jobs run."""
    patterns = ["rq:execution:*", "rq:executions:*", "rq:worker:*:executions", "rq:wip:*"]
    patterns += ["rq:ready:*", "rq:deferred:*", "rq:queue:*:intermediate", "taskq:ended:*"]
    return {key.decode() for pattern in patterns for key in client.keys(pattern)}


def nothing_left(client: redis.Redis) -> None:
    """Wait until no such key is left: records are erased just after the job's end."""
    wait_until(lambda: not leftovers(client), message=lambda: f"left: {leftovers(client)}")


@contextmanager
def stock_worker(
    redis_url: str, path: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A stock `rq worker` process that can import modules in `path`."""
    log = path / "rq-worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "rq"), "worker", "--url", redis_url, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]),
                **(env or {}),
            },
            cwd=path,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(log.read_text(errors="replace"))


def spy_on_lane(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the jobs that RQ's own code settles, from now on."""
    seen: list[str] = []
    before = rq_end.End.persist

    def persist(self: rq_end.End, *args: Any, **more: Any) -> None:
        seen.append(self._loaded.id)
        before(self, *args, **more)

    monkeypatch.setattr(rq_end.End, "persist", persist)
    return seen
