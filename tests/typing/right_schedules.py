"""Schedules: what the checkers must accept, and the types they must find. Checked, never run."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from typing_extensions import assert_type

from taskq import Cron, Every, Handle, Schedule, Task, TaskQ, current_job

queue = TaskQ()


@queue.cron("0 7 * * mon-fri", tz="Europe/Berlin", missed="skip", window=60)
@queue.cron("@daily", tz=ZoneInfo("Asia/Tokyo"), name="tokyo")
@queue.task(queue="low", retry=2)
def report(days: int = 30) -> str:
    assert_type(current_job().scheduled_for, "datetime | None")
    return str(days)


@queue.cron("@hourly")
@queue.task
async def tick() -> int:
    return 1


assert_type(report(3), str)
assert_type(report.delay(days=3), Handle[str])
assert_type(tick.delay(), Handle[int])
a_tick: Task[[], Coroutine[Any, Any, int]] = tick

assert_type(queue.schedule("report", report.call(30), Cron("0 7 * * *")), Schedule)
queue.schedule(
    "tick",
    tick.call(),
    Every(seconds=30),
    missed="run_all",
    overlap="queue_one",
    jitter=timedelta(seconds=5),
    start=datetime(2026, 1, 1, tzinfo=timezone.utc),
    end=None,
    max_runs=5,
)
assert_type(queue.schedules["report"].pause(), bool)
assert_type(queue.schedules["report"].run(), Handle[Any])
assert_type(queue.schedules.set("x", report.options(queue="high").call(), Every(5)), Schedule)


async def main() -> None:
    assert_type(await queue.aschedule("y", tick.call(), Every(timedelta(days=1))), Schedule)
    assert_type(await queue.schedules.apause("y"), bool)
