"""The worker as users start it: one command, one job, one TERM."""

from __future__ import annotations

import os
import signal

import pytest
import redis

from tests.support import WorkerStarter, wait_until

APP = """
from taskq import TaskQ

queue = TaskQ()

@queue.task
def add(a, b):
    return a + b

@queue.task
async def double(a):
    return 2 * a
"""


def test_a_job_of_each_kind(app, worker: WorkerStarter):
    process = worker(f"{app.__name__}:queue", processes=2)
    assert app.add.delay(1, b=2).result(timeout=10) == 3
    assert app.double.delay(4).result(timeout=10) == 8
    assert process.stop() == 0


def test_burst_ends_when_the_queue_is_empty(app, worker: WorkerStarter):
    handles = app.add.map(range(20), b=1)
    process = worker(f"{app.__name__}:queue", "--burst")
    assert process.wait() == 0
    assert [handle.result(timeout=0) for handle in handles] == list(range(1, 21))


def test_nothing_is_left_in_redis_after_a_clean_stop(
    app, worker: WorkerStarter, redis_client: redis.Redis
):
    process = worker(f"{app.__name__}:queue")
    app.add.delay(1, 2).result(timeout=10)
    assert redis_client.scard("rq:workers") == 1
    process.stop()
    assert redis_client.smembers("rq:workers") == set()
    assert redis_client.keys("rq:wip:*") == []
    assert redis_client.keys("taskq:claim:*") == []


def test_a_worker_that_cannot_start_says_why(worker: WorkerStarter):
    with pytest.raises(AssertionError, match="(?s)The worker ended with 2:.*no_such_module"):
        worker("no_such_module:queue")


def test_children_go_with_a_killed_supervisor(
    app, worker: WorkerStarter, redis_client: redis.Redis
):
    process = worker(f"{app.__name__}:queue", processes=2)
    keys = redis_client.smembers("rq:workers")
    pids = [int(redis_client.hget(key, "pid") or 0) for key in keys]
    assert len(pids) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.process.wait()

    def all_gone() -> bool:
        for pid in pids:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                continue
            return False
        return True

    wait_until(all_gone)
