"""`taskq schedules` against a real Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from taskq import Cron, Every
from taskq.cli import main
from tests.scheduling import Hand, ms

APP = """
from taskq import Cron, Every, TaskQ
queue = TaskQ()

@queue.task(queue="low")
def add(a: int = 1) -> int:
    return a
"""


@pytest.fixture
def hand(app: ModuleType) -> Iterator[Hand]:
    yield Hand(app.queue)
    app.queue.close()


def taskq(*args: str, **settings: Any) -> Result:
    return CliRunner().invoke(main, ["schedules", *args], **settings)


def data(*args: str) -> Any:
    result = taskq(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_without_schedules_it_says_where_they_come_from(app: ModuleType) -> None:
    assert "taskq scheduler APP" in taskq().output
    found = data()
    assert (found["total"], found["overdue"], found["schedules"]) == (0, 0, [])


def test_the_list(app: ModuleType, hand: Hand) -> None:
    app.queue.schedules.set("soon", app.add.call(), Every(hours=1), overlap="skip")
    app.queue.schedules.set("report", app.add.call(), Cron("0 7 * * mon-fri", tz="Europe/Berlin"))
    app.queue.schedules["report"].pause()
    result = taskq()
    assert result.exit_code == 0
    head, first, second = result.output.splitlines()
    assert head.split() == "name when zone next last ended missed task".split()
    assert first.startswith("soon ")
    assert "Every hour" in first
    assert "in 59m" in first
    assert "At 07:00 on Monday through Friday" in second
    assert "paused" in second
    upcoming = taskq("--upcoming").output.splitlines()
    assert len(upcoming) == 3 + 5
    assert upcoming[2].endswith(" UTC (UTC+00:00)")
    found = data()
    assert (found["total"], found["overdue"]) == (2, 0)
    soon = found["schedules"][0]
    assert (soon["name"], soon["words"], soon["overlap"]) == ("soon", "Every hour", "skip")
    assert len(soon["upcoming"]) == 5
    assert soon["next_at"] == soon["upcoming"][0]


def test_overdue_ones_are_pointed_out(app: ModuleType, hand: Hand) -> None:
    hand.put(round(time.time() * 1000) - 600_000, "late", app.add.call(), Every(60))
    result = taskq()
    assert "9m 0s late" in result.output
    assert "1 schedule overdue: does a scheduler run?" in result.stderr
    assert data()["overdue"] == 1


def test_show(app: ModuleType, hand: Hand) -> None:
    hand.put("2026-03-27T12:00", "add", app.add.call(), Cron("30 2 * * *", tz="Europe/Berlin"),
             window=3600, max_runs=9)  # fmt: skip
    hand.until_idle("2026-03-28T01:30")
    text = taskq("show", "add").output
    assert "Sun 2026-03-29 03:00:00 CEST (UTC+02:00)" in text
    assert "run_once, at most 1h 0m late" in text
    assert "1 of 9; 0 skipped for overlap; 0 missed" in text
    assert data("show", "add")["last_at"] == "2026-03-28T01:30:00.000Z"


def test_run_pause_resume_remove(app: ModuleType, hand: Hand, redis_client: redis.Redis) -> None:
    hand.put("2026-03-27T12:00", "add", app.add.call(5), Cron("@daily"))
    job = data("run", "add")["job"]
    assert app.queue.handle(job).status() == "queued"
    assert redis_client.lrange("rq:queue:low", 0, -1) == [job.encode()]
    assert taskq("pause", "add").output == "add is paused.\n"
    assert taskq("pause", "add").output == "add was paused already.\n"
    assert data("resume", "add") == {"name": "add", "resumed": True}
    assert data("resume", "add") == {"name": "add", "resumed": False}
    refused = taskq("remove", "add")
    assert (refused.exit_code, redis_client.zcard("taskq:schedules")) == (2, 1)
    assert "say --yes" in refused.stderr
    assert taskq("remove", "add", "--yes").output == "add is removed.\n"
    assert redis_client.zcard("taskq:schedules") == 0


def test_removing_what_the_code_defines_says_that_it_comes_back(app: ModuleType) -> None:
    app.queue.schedules.declare("add", app.add.call(), Cron("@daily"), {}, "here:1")
    app.queue.schedules.sync_code()
    result = taskq("remove", "add", "--yes")
    assert f"The code of {app.__name__}:queue defines it: it comes back" in result.stderr


@pytest.mark.parametrize("command", ["show", "run", "pause", "resume", "remove"])
def test_unknown_names(app: ModuleType, command: str) -> None:
    result = taskq(command, "nothing")
    assert result.exit_code == 1
    assert result.stderr == "Error: There is no schedule 'nothing'. taskq schedules lists them.\n"


def test_preview_needs_no_redis() -> None:
    args = (
        "preview",
        "30 2 * * *",
        "--tz",
        "Europe/Berlin",
        "--from",
        "2026-10-24T12:00Z",
        "-n",
        "2",
    )
    assert taskq(*args, env={"TASKQ_REDIS_URL": "redis://127.0.0.1:1/0"}).output.splitlines() == [
        "At 02:30 every day (Europe/Berlin)",
        "Sun 2026-10-25 02:30:00 CEST (UTC+02:00)",
        "Mon 2026-10-26 02:30:00 CET (UTC+01:00)",
    ]
    found = data(*args)
    assert found["times"] == ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["preview", "* * *"], "3 fields"),
        (["preview", "@daily", "--tz", "Mars"], "no such time zone"),
        (["preview", "@daily", "--from", "2026-10-24"], "no time zone"),
        (["preview", "@daily", "-n", "0"], "-n"),
        (["frob"], "No such command 'frob'"),
        (["run"], "Missing argument"),
    ],
)
def test_wrong_usage(args: list[str], message: str) -> None:
    result = taskq(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_broken_one_is_shown_with_its_reason(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    hand.put(ms("2026-03-27T12:00"), "add", app.add.call(), Cron("@daily"))
    redis_client.hset("taskq:schedule:add", "tz", "Mars/Base")
    assert "there is no such time zone" in taskq().output
    assert "there is no such time zone" in taskq("show", "add").output
