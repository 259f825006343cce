"""Schedules in a real Redis: made, changed and fired, at times of the test's choice."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from taskq import BrokerUnavailable, ConfigError, Cron, Every, ScheduleNotFound, TaskQ
from taskq.broker import BrokerError
from taskq.clock import parse_iso
from taskq.inspector import Inspector, schedule, schedules
from taskq.schedules import changes, code
from taskq.schedules.asking import run
from taskq.schedules.changes import Entry
from taskq.schedules.firing import PAGE
from taskq.schedules.record import job_id
from tests.scheduling import UTC, Hand, ms
from tests.support import wait_until

APP = """
from taskq import Cron, Every, Retry, TaskQ, current_job

queue = TaskQ()

@queue.task
def add(a: int, b: int = 0) -> int:
    return a + b

@queue.task(queue="low", timeout=7, retry=2, result_ttl=60, meta={"by": "hand"}, ttl=3600)
def full(a: int) -> int:
    return a

@queue.task(unique=True)
def alone(a: int) -> int:
    return a

@queue.task
def told(ending) -> None: ...
"""


@pytest.fixture
def queue(app: ModuleType) -> Iterator[TaskQ]:
    made: TaskQ = app.queue
    yield made
    made.close()


@pytest.fixture
def hand(queue: TaskQ) -> Hand:
    return Hand(queue)


def end(client: redis.Redis, job: str, status: str = "finished") -> None:
    """As if a worker had ended it."""
    client.hset(f"rq:job:{job}", "status", status)


# --- firing ----------------------------------------------------------------------------


def test_an_occurrence_is_fired_when_it_is_due_and_once(app: ModuleType, hand: Hand) -> None:
    when = Cron("0 7 * * *", tz="Europe/Berlin")
    hand.put("2026-03-01T12:00", "add", app.add.call(1, b=2), when)
    assert hand.look("2026-03-02T05:59:59.999").fired == 0
    look = hand.look("2026-03-02T06:00")
    assert (look.fired, look.pause_s) == (1, 86_400.0)
    assert hand.jobs == [job_id("add", ms("2026-03-02T06:00"))]
    assert hand.look("2026-03-02T06:00").fired == 0
    assert app.add.handle(hand.jobs[0]).status() == "queued"


def test_not_again_after_its_job_has_ended_and_is_deleted(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    assert hand.until_idle("2026-03-01T13:00")
    redis_client.delete(f"rq:job:{hand.jobs[0]}")
    assert hand.until_idle("2026-03-01T13:30") == []


def test_an_older_state_of_the_schedule_does_not_fire_a_job_again(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    """A failover to a replica that had not seen the last moments."""
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    before = redis_client.dump("taskq:schedule:add")
    hand.until_idle("2026-03-01T13:00")
    redis_client.restore("taskq:schedule:add", 0, before, replace=True)
    redis_client.zadd("taskq:schedules", {"add": ms("2026-03-01T13:00")})
    assert hand.until_idle("2026-03-01T13:01") == []
    assert redis_client.llen("rq:queue:default") == 1
    assert hand.until_idle("2026-03-01T14:00") == [job_id("add", ms("2026-03-01T14:00"))]


def test_all_options_of_the_job_are_kept(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    hand.put("2026-03-01T12:00", "full", app.full.call(5), Every(hours=1))
    (job,) = hand.until_idle("2026-03-01T13:00")
    stored = redis_client.hgetall(f"rq:job:{job}")
    plain = app.full.call(5).new_job(app.queue)
    fields = dict(zip(plain.fields[::2], plain.fields[1::2]))
    for name, value in fields.items():
        raw = value if isinstance(value, bytes) else str(value).encode()
        assert stored[name.encode()] == raw
    assert stored[b"data"] == plain.data
    assert stored[b"origin"] == b"low"
    assert stored[b"tq_for"] == b"%d UTC" % ms("2026-03-01T13:00")
    assert 3500 < redis_client.ttl(f"rq:job:{job}") <= 3600
    assert redis_client.zscore("taskq:expiring", job) is not None
    assert redis_client.smembers("rq:queues") == {b"rq:queue:low"}


def test_a_signed_schedule_is_signed_anew_for_each_job(
    app_module: Any, redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    source = APP.replace("TaskQ()", f'TaskQ({redis_url!r}, secret="one")')
    mine = app_module(source + "\nadd = add.options(on_success=told, meta={'a': 1})")
    other = app_module(source.replace('"one"', '"two"'))
    hand = Hand(mine.queue)
    hand.put("2026-03-01T12:00", "add", mine.add.call(1), Cron("0 * * * *"))
    # another app's scheduler leaves it alone, says so once, and goes on with others
    theirs = Hand(other.queue)
    theirs.put("2026-03-01T12:00", "theirs", other.add.call(1), Cron("0 * * * *"))
    with caplog.at_level(logging.WARNING, "taskq.scheduler"):
        assert theirs.until_idle("2026-03-01T13:00") == [job_id("theirs", ms("2026-03-01T13:00"))]
        assert theirs.until_idle("2026-03-01T13:01") == []
    (told,) = [r.message for r in caplog.records if "'add'" in r.message]
    assert "is left to other schedulers: " in told
    assert "signed with a key that this app does not have (TASKQ_SECRET)" in told
    (job,) = hand.until_idle("2026-03-01T13:02")
    raw = redis_client.hgetall(f"rq:job:{job}")
    codec = mine.queue.codec
    assert codec.load_call(raw[b"data"], job_id=job, queue="default")[2] == [1]
    assert codec.load_value(raw[b"meta"], job_id=job, kind="meta") == {"a": 1}
    assert job.encode() + b"-success" in raw[b"tq_on_success"]
    mine.queue.close()
    other.queue.close()


def test_what_only_others_can_fire_holds_up_nobody(
    app_module: Any, redis_url: str, redis_client: redis.Redis
) -> None:
    source = APP.replace("TaskQ()", f'TaskQ({redis_url!r}, secret="one")')
    mine, other = app_module(source), app_module(source.replace('"one"', '"two"'))
    call, when = other.add.call(1), Cron("0 * * * *")
    theirs = {f"theirs{n}": call for n in range(PAGE + 50)}
    Hand(other.queue).put_all("2026-03-01T11:00", theirs, when)
    hand = Hand(mine.queue)
    hand.put("2026-03-01T12:00", "mine", mine.add.call(1), when)
    assert hand.until_idle("2026-03-01T13:00") == [job_id("mine", ms("2026-03-01T13:00"))]
    assert hand.look("2026-03-01T13:00").pause_s in (0.0, 3600.0)
    assert hand.until_idle("2026-03-01T14:00") == [job_id("mine", ms("2026-03-01T14:00"))]
    assert len(Hand(other.queue).until_idle("2026-03-01T14:00")) == PAGE + 50
    mine.queue.close()
    other.queue.close()


def test_below_another_prefix(
    app_module: Any, redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RQ_KEY_PREFIX", "shop")
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module(APP)
    hand = Hand(app.queue)
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    (job,) = hand.until_idle("2026-03-01T13:00")
    assert redis_client.lrange("shop:queue:default", 0, -1) == [job.encode()]
    assert redis_client.zcard("taskq:shop:schedules") == 1
    assert redis_client.keys("rq:*") == []
    app.queue.close()


@pytest.mark.timeout(60)
def test_a_callback_of_a_schedule_s_job_is_enqueued_when_it_has_ended(
    app: ModuleType, hand: Hand, worker: Any, target: str, redis_client: redis.Redis
) -> None:
    call = app.add.options(on_success=app.told).call(1)
    hand.put("2026-03-01T12:00", "add", call, Every(hours=1))
    (job,) = hand.until_idle("2026-03-01T13:00")
    worker(target, "--burst", ready=False).wait(50)
    assert app.queue.handle(job).status() == "finished"
    callback = app.queue.handle(f"{job}-success")
    assert callback.status() == "finished"
    name, _, args, _ = app.queue.codec.load_call(
        redis_client.hget(f"rq:job:{job}-success", "data"),
        job_id=callback.id, queue="default",
    )  # fmt: skip
    assert (name.rpartition(".")[2], args[0]["id"]) == ("told", job)


def test_unique_jobs_of_schedules_are_one_at_a_time(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    hand.put("2026-03-01T12:00", "alone", app.alone.call(1), Every(hours=1))
    (job,) = hand.until_idle("2026-03-01T13:00")
    assert hand.until_idle("2026-03-01T14:00") == []
    assert redis_client.hget("taskq:schedule:alone", "skipped") == b"1"
    end(redis_client, job)
    assert hand.until_idle("2026-03-01T15:00") == [job_id("alone", ms("2026-03-01T15:00"))]


def test_a_server_whose_clock_is_wrong_does_no_harm(
    app: ModuleType, hand: Hand, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 600)
    app.queue.schedules.set("add", app.add.call(1), Every(0.1))
    due = redis_client.zscore("taskq:schedules", "add")
    assert abs(due - right() * 1000) < 60_000
    firing = hand._firing
    wait_until(lambda: run(app.queue.broker, firing.look()).fired, 10.0)
    stored = redis_client.hgetall(f"rq:job:{hand.jobs[0]}")
    seconds, _ = redis_client.time()
    assert abs(parse_iso(stored[b"enqueued_at"].decode()) - seconds) < 60


def test_many_due_at_once_are_all_fired(app: ModuleType, hand: Hand) -> None:
    calls = {f"s{n}": app.add.call(n) for n in range(PAGE * 2 + 7)}
    hand.put_all("2026-03-01T12:00", calls, Cron("0 * * * *"))
    assert len(set(hand.until_idle("2026-03-01T13:00"))) == PAGE * 2 + 7
    assert hand.until_idle("2026-03-01T13:59") == []


def test_a_broken_schedule_is_set_aside_and_holds_up_nobody(
    app: ModuleType, hand: Hand, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("expression", "zone", "number", "gone", "type", "next", "fields", "good"):
        hand.put("2026-03-01T12:00", name, app.add.call(1), Cron("0 * * * *"))
    redis_client.hset("taskq:schedule:expression", "when", "cron 99 * * * *")
    redis_client.hset("taskq:schedule:zone", "tz", "Mars/Base")
    redis_client.hset("taskq:schedule:number", "anchor", "soon")
    redis_client.hdel("taskq:schedule:next", "next")
    redis_client.hset("taskq:schedule:fields", "fields", b"1:a" * 20_000)
    redis_client.zadd("taskq:schedules", {b"\xff\xfe": 0})
    redis_client.hset(b"taskq:schedule:\xff\xfe", "v", "x")
    redis_client.sadd("taskq:schedules:held", "gone", "never there")
    redis_client.delete("taskq:schedule:gone", "taskq:schedule:type")
    redis_client.set("taskq:schedule:type", "x")
    with caplog.at_level(logging.ERROR, "taskq.scheduler"):
        assert hand.until_idle("2026-03-01T13:00") == [job_id("good", ms("2026-03-01T13:00"))]
        assert hand.look("2026-03-01T13:01").pause_s == 59 * 60
    assert len(caplog.records) == 10  # each once; "gone" was due and had one that waited
    assert redis_client.zcount("taskq:schedules", "-inf", "(inf") == 1
    assert redis_client.scard("taskq:schedules:held") == 0
    found = Inspector(app.queue.broker).run(schedules(app.queue.broker.keys))
    errors = {row.name: row.error for row in found.rows if row.error}
    assert {"expression", "zone", "number", "gone", "type", "next", "fields"} < set(errors)
    assert "Mars/Base" in errors["zone"]
    assert "minute cannot be read" in errors["expression"]
    # made again, it works again
    hand.put("2026-03-01T13:01", "zone", app.add.call(1), Cron("0 * * * *"))
    assert len(hand.until_idle("2026-03-01T14:00")) == 2


def test_a_queue_that_is_no_list_fails_the_job_and_not_the_schedule(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    redis_client.set("rq:queue:default", "x")
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    (job,) = hand.until_idle("2026-03-01T13:00")
    assert redis_client.zscore("rq:failed:default", job) is not None
    assert redis_client.hget(f"rq:job:{job}", "status") == b"failed"
    redis_client.delete("rq:queue:default")
    assert len(hand.until_idle("2026-03-01T14:00")) == 1
    assert redis_client.llen("rq:queue:default") == 1


def test_a_key_of_the_schedules_of_another_type_is_an_error_in_words(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    redis_client.set("taskq:schedules", "x")
    with pytest.raises(BrokerError, match="taskq:schedules is a string, not a zset"):
        hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))


# --- late ones -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "options", "hours", "dropped"),
    [
        ("run_once", {}, [17], 3),
        ("run_all", {}, [14, 15, 16, 17], 0),
        ("skip", {}, [], 4),
        ("run_once", {"window": 1800}, [17], 3),
        ("run_once", {"window": 600}, [], 4),
        ("run_all", {"window": 2 * 3600}, [16, 17], 2),
        ("skip", {"window": 1800}, [17], 3),
    ],
)
def test_overdue_ones_follow_the_policy(
    app: ModuleType, hand: Hand, redis_client: redis.Redis,
    missed: str, options: dict[str, Any], hours: list[int], dropped: int,
) -> None:  # fmt: skip
    """Redis, or every scheduler, was away from 13:10 to 17:20."""
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"), missed=missed,
             **options)  # fmt: skip
    assert len(hand.until_idle("2026-03-01T13:00:01")) == 1
    back = hand.until_idle("2026-03-01T17:20")
    assert back == [job_id("add", ms(f"2026-03-01T{hour}:00")) for hour in hours]
    assert int(redis_client.hget("taskq:schedule:add", "dropped") or 0) == dropped
    assert hand.until_idle("2026-03-01T18:00") == [job_id("add", ms("2026-03-01T18:00"))]


def test_a_thousand_and_more_missed_ones_come_in_pages(app: ModuleType, hand: Hand) -> None:
    hand.put("2026-03-01T00:00", "add", app.add.call(1), Cron("* * * * *"), missed="run_all")
    fired = hand.until_idle("2026-03-03T00:00")
    last = ms("2026-03-03T00:00")
    assert fired == [job_id("add", last - n * 60_000) for n in reversed(range(1_000))]


def test_the_next_time_follows_from_the_last_due_time(app: ModuleType, hand: Hand) -> None:
    hand.put("2026-03-01T12:00:00.250", "tick", app.add.call(1), Every(seconds=7), missed="run_all")
    hand.until_idle("2026-03-01T12:00:30")
    assert hand.jobs == [job_id("tick", ms("2026-03-01T12:00:00.250") + 7_000 * n)
                         for n in (1, 2, 3, 4)]  # fmt: skip


# --- overlap ---------------------------------------------------------------------------


def test_overlap_skip(app: ModuleType, hand: Hand, redis_client: redis.Redis) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"), overlap="skip",
             missed="run_all")  # fmt: skip
    (first,) = hand.until_idle("2026-03-01T13:00")
    assert hand.until_idle("2026-03-01T15:00") == []
    for status in ("started", "scheduled", "deferred"):
        redis_client.hset(f"rq:job:{first}", "status", status)
        assert hand.until_idle("2026-03-01T15:00") == []
    end(redis_client, first, "failed")
    # of two that are due now, the second finds the first waiting
    assert hand.until_idle("2026-03-01T17:00") == [job_id("add", ms("2026-03-01T16:00"))]
    assert redis_client.hget("taskq:schedule:add", "skipped") == b"3"


def test_overlap_queue_one(app: ModuleType, hand: Hand, redis_client: redis.Redis) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"), overlap="queue_one")
    (first,) = hand.until_idle("2026-03-01T13:00")
    redis_client.hset(f"rq:job:{first}", "status", "started")
    assert hand.until_idle("2026-03-01T14:00") == []
    look = hand.look("2026-03-01T14:10")
    assert look.pause_s == 1.0  # it looks for the end of the first
    assert hand.until_idle("2026-03-01T15:00") == []  # one waits: this one is dropped
    row = Inspector(app.queue.broker).run(schedule(app.queue.broker.keys, "add"))
    assert row is not None
    assert (row.held_at, row.skipped) == (ms("2026-03-01T14:00") / 1000, 1)
    end(redis_client, first)
    assert hand.until_idle("2026-03-01T15:01") == [job_id("add", ms("2026-03-01T14:00"))]
    assert hand.until_idle("2026-03-01T15:02") == []
    assert redis_client.scard("taskq:schedules:held") == 0


def test_allow_is_the_default(app: ModuleType, hand: Hand) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    assert len(hand.until_idle("2026-03-01T13:00")) == 1
    assert len(hand.until_idle("2026-03-01T14:00")) == 1


# --- start, end, max_runs, jitter ------------------------------------------------------


def test_start_and_end(app: ModuleType, hand: Hand, redis_client: redis.Redis) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"),
             start=datetime(2026, 3, 1, 15, tzinfo=ZoneInfo("Europe/Berlin")),
             end=datetime(2026, 3, 1, 15, tzinfo=UTC))  # fmt: skip
    assert hand.until_idle("2026-03-01T13:59") == []
    assert len(hand.until_idle("2026-03-01T14:00")) == 1
    assert len(hand.until_idle("2026-03-01T15:00")) == 1
    assert redis_client.hget("taskq:schedule:add", "ended") == b"1"
    assert hand.look("2026-03-09T15:00") == (ms("2026-03-09T15:00"), 0, None)


def test_intervals_count_from_start(app: ModuleType, hand: Hand) -> None:
    hand.put("2026-03-01T12:34", "add", app.add.call(1), Every(hours=2),
             start=datetime(2026, 3, 1, 13, tzinfo=UTC))  # fmt: skip
    assert hand.until_idle("2026-03-01T13:00") == [job_id("add", ms("2026-03-01T13:00"))]
    assert hand.until_idle("2026-03-01T15:00") == [job_id("add", ms("2026-03-01T15:00"))]


def test_max_runs_counts_what_was_enqueued(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"), max_runs=3,
             missed="run_all", overlap="skip")  # fmt: skip
    for job in hand.until_idle("2026-03-01T14:00"):  # 13:00; 14:00 is skipped
        end(redis_client, job)
    for hour in (15, 16, 17, 18):
        for job in hand.until_idle(f"2026-03-01T{hour}:00"):
            end(redis_client, job)
    assert hand.jobs == [job_id("add", ms(f"2026-03-01T{hour}:00")) for hour in (13, 15, 16)]
    # more of them: it goes on
    hand.put("2026-03-01T18:30", "add", app.add.call(1), Cron("0 * * * *"), max_runs=4)
    assert hand.until_idle("2026-03-01T19:00") == [job_id("add", ms("2026-03-01T19:00"))]
    assert hand.until_idle("2026-03-01T20:00") == []


def test_jitter_delays_and_is_the_same_for_all_schedulers(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    for n in range(20):
        hand.put("2026-03-01T12:00", f"s{n}", app.add.call(n), Cron("0 * * * *"), jitter=600)
    due = ms("2026-03-01T13:00")
    fires = {name.decode(): at for name, at in
             redis_client.zrange("taskq:schedules", 0, -1, withscores=True)}  # fmt: skip
    assert all(due <= at <= due + 600_000 for at in fires.values())
    assert len(set(fires.values())) > 10
    early = [name for name, at in fires.items() if at < due + 300_000]
    assert sorted(hand.until_idle(due + 300_000 - 1)) == sorted(job_id(name, due) for name in early)
    assert len(hand.until_idle(due + 600_000)) == 20 - len(early)


# --- changes ---------------------------------------------------------------------------


def test_pause_resume_remove(app: ModuleType, queue: TaskQ, hand: Hand) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    assert queue.schedules["add"].pause()
    assert not queue.schedules["add"].pause()
    assert hand.look("2026-03-01T14:00").fired == 0
    run(queue.broker, changes.resume(queue.broker.keys, "add", ms("2026-03-01T15:30")))
    assert not queue.schedules["add"].resume()
    assert hand.until_idle("2026-03-01T15:59") == []
    assert hand.until_idle("2026-03-01T16:00") == [job_id("add", ms("2026-03-01T16:00"))]
    assert queue.schedules["add"].remove()
    assert not queue.schedules["add"].remove()
    for change in (queue.schedules["add"].pause, queue.schedules["add"].resume,
                   queue.schedules["add"].run):  # fmt: skip
        with pytest.raises(ScheduleNotFound, match="no schedule 'add'"):
            change()
    assert hand.look("2026-03-05T16:00").fired == 0


async def test_the_same_in_asyncio_programs(app: ModuleType, queue: TaskQ) -> None:
    made = await queue.aschedule("add", app.add.call(1, b=2), Every(3600))
    assert repr(made) == "<Schedule 'add'>"
    assert await queue.schedules.apause("add")
    assert await queue.schedules.aresume("add")
    handle = await queue.schedules.arun("add")
    assert await handle.astatus() == "queued"
    assert await queue.schedules.aremove("add")
    await queue.aclose()


def test_run_now_is_beside_the_times(
    app: ModuleType, queue: TaskQ, hand: Hand, redis_client: redis.Redis
) -> None:
    hand.put("2026-03-01T12:00", "full", app.full.call(5), Cron("0 * * * *"))
    handle = queue.schedules["full"].run()
    stored = redis_client.hgetall(f"rq:job:{handle.id}")
    assert b"tq_for" not in stored
    assert stored[b"timeout"] == b"7"
    assert len(hand.until_idle("2026-03-01T13:00")) == 1


def test_the_same_times_keep_the_next_one(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    """A change of the job, or a restart, is no reason to miss an occurrence that is due."""
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    hand.put("2026-03-01T13:30", "add", app.add.call(2), Cron("0 * * * *"), missed="run_all")
    (job,) = hand.until_idle("2026-03-01T13:30")
    assert job == job_id("add", ms("2026-03-01T13:00"))
    assert json.loads(redis_client.hget(f"rq:job:{job}", "data"))[2] == [2]
    hand.put("2026-03-01T13:40", "add", app.add.call(2), Cron("30 * * * *"))
    assert hand.until_idle("2026-03-01T14:00") == []
    assert hand.until_idle("2026-03-01T14:30") == [job_id("add", ms("2026-03-01T14:30"))]


def test_an_interval_that_changes_counts_from_the_last_one(app: ModuleType, hand: Hand) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Every(hours=1))
    hand.until_idle("2026-03-01T13:00")
    hand.put("2026-03-01T13:10", "add", app.add.call(1), Every(minutes=15))
    assert hand.until_idle("2026-03-01T13:15") == [job_id("add", ms("2026-03-01T13:15"))]


def test_a_paused_one_stays_paused_when_it_is_changed(app: ModuleType, hand: Hand) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    hand.app.schedules["add"].pause()
    hand.put("2026-03-01T12:00", "add", app.add.call(2), Cron("30 * * * *"))
    assert hand.until_idle("2026-03-01T14:00") == []


def test_a_change_between_reading_and_firing_wins(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    hand.put("2026-03-01T12:00", "add", app.add.call(1), Cron("0 * * * *"))
    steps = hand._firing.look(ms("2026-03-01T13:00"))
    keys = ["rq", "taskq:"]
    ask = next(steps)
    ask = steps.send(hand.app.broker.script(ask.name, keys, ask.args))
    assert ask.name == "schedule_fire"
    hand.app.schedules["add"].pause()
    with pytest.raises(StopIteration) as stop:
        steps.send(hand.app.broker.script(ask.name, keys, ask.args))
    assert stop.value.value.fired == 0
    assert redis_client.llen("rq:queue:default") == 0


# --- what the code defines -------------------------------------------------------------


def entry(app: ModuleType, name: str, owner: str, when: Any = None, arg: int = 1) -> Entry:
    made = app.queue.schedules._entry(name, app.add.call(arg), when or Cron("0 * * * *"), {})
    return made._replace(app=owner)


def test_what_the_code_defines_is_brought_to_redis(
    app: ModuleType, hand: Hand, redis_client: redis.Redis
) -> None:
    keys, broker = app.queue.broker.keys, app.queue.broker

    def sync(owner: str, *entries: Entry, at: str = "2026-03-01T12:00") -> code.Synced:
        return run(broker, code.sync(keys, owner, entries, ms(at)))

    a, b, c = (entry(app, name, "shop:queue") for name in "abc")
    assert sync("shop:queue", a, b).added == ["a", "b"]
    sync("other:queue", entry(app, "theirs", "other:queue"))
    hand.put("2026-03-01T12:00", "by hand", app.add.call(1), Cron("0 * * * *"))
    # unchanged: not touched, so an occurrence that is due stays due
    version = redis_client.hget("taskq:schedule:a", "v")
    changed = entry(app, "b", "shop:queue", arg=2)
    done = sync("shop:queue", a, changed, c, at="2026-03-01T13:30")
    assert (done.added, done.changed, done.removed) == (["c"], ["b"], [])
    assert redis_client.hget("taskq:schedule:a", "v") == version
    assert job_id("a", ms("2026-03-01T13:00")) in hand.until_idle("2026-03-01T13:31")
    # gone from the code: gone; what others made stays
    done = sync("shop:queue", c, at="2026-03-01T13:31")
    assert done.removed == ["a", "b"]
    names = {raw.decode() for raw in redis_client.zrange("taskq:schedules", 0, -1)}
    assert names == {"c", "theirs", "by hand"}
    assert redis_client.smembers("taskq:schedules:code:shop:queue") == {b"c"}


def test_what_was_changed_or_paused_at_run_time_stays_until_the_code_changes(
    app: ModuleType, redis_client: redis.Redis
) -> None:
    keys, broker = app.queue.broker.keys, app.queue.broker
    mine = entry(app, "a", app.queue.schedules.owner)
    run(broker, code.sync(keys, mine.app, [mine]))
    app.queue.schedules.set("a", app.add.call(1), Cron("5 * * * *"))
    app.queue.schedules["a"].pause()
    assert run(broker, code.sync(keys, mine.app, [mine])) == code.Synced()
    assert redis_client.hget("taskq:schedule:a", "when") == b"cron 5 * * * *"
    newer = entry(app, "a", mine.app, arg=9)
    assert run(broker, code.sync(keys, mine.app, [newer])).changed == ["a"]
    assert redis_client.hget("taskq:schedule:a", "paused") == b"1"
    assert redis_client.hget("taskq:schedule:a", "when") == b"cron 0 * * * *"


# --- what people see -------------------------------------------------------------------


def test_the_inspector_shows_them(app: ModuleType, hand: Hand, redis_client: redis.Redis) -> None:
    when = Cron("30 2 * * *", tz="Europe/Berlin")
    hand.put("2026-03-27T12:00", "add", app.add.call(1), when, overlap="skip", max_runs=4)
    hand.put("2026-03-27T12:00", "paused", app.add.call(1), Every(90))
    app.queue.schedules["paused"].pause()
    (job,) = hand.until_idle("2026-03-28T12:00")
    found = Inspector(app.queue.broker).run(schedules(app.queue.broker.keys))
    assert (found.total, [row.name for row in found.rows]) == (2, ["add", "paused"])
    row = found.rows[0]
    assert (row.words, row.expression, row.tz) == ("At 02:30 every day", "30 2 * * *",
                                                   "Europe/Berlin")  # fmt: skip
    # at the gap, right after it; three are left of four
    assert [datetime.fromtimestamp(at, timezone.utc).isoformat()[:16] for at in row.upcoming] == [
        "2026-03-29T01:00", "2026-03-30T00:30", "2026-03-31T00:30",
    ]  # fmt: skip
    assert (row.last_job, row.last_status, row.runs) == (job, "queued", 1)
    assert (row.missed, row.overlap, row.paused, row.max_runs) == ("run_once", "skip", False, 4)
    other = found.rows[1]
    assert (other.words, other.paused, other.fires_at, other.upcoming) == (
        "Every 1 minute 30 seconds", True, None, (),
    )  # fmt: skip
    assert Inspector(app.queue.broker).run(schedule(app.queue.broker.keys, "none")) is None


def test_wrong_definitions_are_refused_and_nothing_is_written(
    app: ModuleType, queue: TaskQ, redis_client: redis.Redis
) -> None:
    add = app.add.call(1)
    when = Cron("0 * * * *")
    naive = datetime(2026, 3, 1)  # noqa: DTZ001 (the point)
    for name, call, at, options, message in [
        ("x", 3, when, {}, "no call that is not sent yet"),
        ("x", add, "0 * * * *", {}, "is no time: Cron"),
        ("", add, when, {}, "name is ''"),
        ("x" * 300, add, when, {}, "over 200 bytes"),
        ("x", add, when, {"missed": "all"}, "one of run_once, run_all, skip"),
        ("x", add, when, {"overlap": "no"}, "one of allow, skip, queue_one"),
        ("x", add, when, {"start": naive}, "without a time zone"),
        ("x", add, when, {"end": "tomorrow"}, "must be an aware datetime"),
        ("x", add, when, {"jitter": -1}, "0 s to ten years"),
        ("x", add, when, {"window": "1h"}, "seconds or a timedelta"),
        ("x", add, when, {"max_runs": 0}, "above 0"),
        ("x", add, when, {"queue": "low"}, "options of the job go to the task"),
        ("x", add, when, {"start": datetime(2026, 3, 2, tzinfo=UTC),
                          "end": datetime(2026, 3, 1, tzinfo=UTC)}, "end is before start"),
        ("x", app.add.options(delay=5).call(1), when, {}, "has the option delay"),
        ("x", app.add.options(job_id="a").call(1), when, {}, "has the option job_id"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            queue.schedule(name, call, at, **options)
    assert redis_client.keys("*") == []


def test_without_redis_a_change_says_so(app: ModuleType) -> None:
    away = TaskQ("redis://127.0.0.1:1/0")
    away.broker.deadline_s = 0.2
    with pytest.raises(BrokerUnavailable, match="connection refused"):
        away.schedules["x"].pause()
