"""What jobs log: `job_id`, `task`, `queue` and `attempt` on every record, in every mode."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest

from taskq import JobFailed
from tests.support import WorkerProcess, WorkerStarter, wait_until

APP = """
import asyncio, logging
from taskq import Retry, TaskQ

queue = TaskQ()
log = logging.getLogger("shop.images")
log.setLevel("INFO")
library = logging.getLogger("library")

@queue.task(retry=Retry(1, base=0))
def thread():
    log.info("said in a thread", extra={"size": 3})
    library.warning("said by a library")
    library.info("too quiet")
    raise OSError("broken")

@queue.task(queue="web")
async def coroutine():
    log.info("said in a coroutine")
    await asyncio.gather(asyncio.to_thread(log.info, "said in a helper"), within())

@queue.task
def turns(n):
    for i in range(2):
        log.info(f"turn {i} of {n}")
        yield i

async def within():
    await asyncio.sleep(0)
    log.info("said in a subtask")
"""

CONFIGURED = (
    APP
    + """
from taskq.logs import JobFilter
handler = logging.StreamHandler()
handler.addFilter(JobFilter())
logging.basicConfig(handlers=[handler], format="OWN %(message)s by %(job_id)s try %(attempt)s")
"""
)


def records(process: WorkerProcess, message: str) -> list[dict[str, Any]]:
    lines = [line for line in process.log().splitlines() if line.startswith("{")]
    return [one for one in map(json.loads, lines) if message in one["message"]]


def test_every_record_of_a_job_says_which(
    app: ModuleType, target: str, worker: WorkerStarter
) -> None:
    process = worker(target, "-q", "default", "-q", "web", "--log-format", "json")
    failing, fine = app.thread.delay(), app.coroutine.delay()
    turning = {n: app.turns.delay(n) for n in range(3)}  # in turn, on one thread
    with pytest.raises(JobFailed):
        failing.result(timeout=10)
    fine.result(timeout=10)
    for n, handle in turning.items():
        handle.result(timeout=10)
        for i in range(2):
            (said,) = records(process, f"turn {i} of {n}")
            assert (said["job_id"], said["task"]) == (handle.id, app.turns.name)
    wait_until(lambda: records(process, "failed: broken"))
    of_thread = {"job_id": failing.id, "task": app.thread.name, "queue": "default"}
    for text in ("said in a thread", "said by a library"):
        first, second = records(process, text)
        assert first.items() >= {**of_thread, "attempt": 1}.items()
        assert second.items() >= {**of_thread, "attempt": 2}.items()
    assert records(process, "said in a thread")[0]["size"] == 3
    assert records(process, "failed: broken")[0].items() >= {**of_thread, "attempt": 2}.items()
    for text in ("in a coroutine", "in a helper", "in a subtask"):
        (one,) = records(process, text)
        assert (one["job_id"], one["task"]) == (fine.id, app.coroutine.name)
        assert (one["queue"], one["attempt"], one["logger"]) == ("web", 1, "shop.images")
    assert "too quiet" not in process.log()
    process.stop()
    (stopped,) = records(process, "Stopped")  # of no job
    assert "job_id" not in stopped


def test_a_program_that_configures_logging_is_left_alone(
    app_module: Any, redis_url: str, worker: WorkerStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module(CONFIGURED)
    process = worker(f"{app.__name__}:queue", "-q", "web")
    handle = app.coroutine.delay()
    handle.result(timeout=10)
    said = process.wait_for_log("said in a subtask")
    assert f"OWN said in a coroutine by {handle.id} try 1" in said
    assert said.count("said in a coroutine") == 1
