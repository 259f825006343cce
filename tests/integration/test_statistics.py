"""Statistics: counted by scripts and workers, rolled up by the hour, read in bounded queries."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rq import Queue, SimpleWorker

from taskq.broker.client import Broker
from taskq.broker.records import NewJob
from taskq.errors import TaskQError
from taskq.inspector import ALL, Counts, Inspector, Rates, Series, failure_groups, rates, series
from tests.engine import Engine
from tests.support import LEDGER, wait_until

APP = (
    LEDGER
    + """
import time
from taskq import TaskQ

queue = TaskQ()

@queue.task
def add(a, b):
    return a + b

@queue.task
async def nap(seconds):
    import asyncio
    await asyncio.sleep(seconds)

@queue.task(retry=1)
def bad():
    raise ValueError("no")

@queue.task(mode="process")
def apart(n):
    return n
"""
)


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker)


@pytest.fixture
def look(broker: Broker) -> Callable[..., Series]:
    """The last ten minutes by default."""

    def ask(queue: str = "default", *, back_s: float = 600, step_s: int = 60) -> Series:
        now = time.time()
        query = series(broker.keys, queue, since=now - back_s, until=now, step_s=step_s)
        return Inspector(broker).run(query)

    return ask


def backdate(client: redis.Redis, minutes: int) -> None:
    """As if all that was counted by the minute, and depths, had been so long ago."""
    for key in client.keys("taskq:stats:*"):
        head, _, minute = key.rpartition(b":")
        client.rename(key, b"%s:%d" % (head, int(minute) - minutes))
    for queue, minute in client.hgetall("taskq:rolling").items():
        client.hset("taskq:rolling", queue, int(minute) - minutes)


def tallied(engine: Engine, job: Any, *triples: Any) -> None:
    """Settle a job as finished together with statistics."""
    engine.run(
        "settle", "w", engine.broker.clock.iso(), 1, 0, "0", 1, "default",
        len(triples) // 3, *triples, "f", 1, job.exec_id, "", "500", 1, job.id, "1.0", "2.0", b"",
    )  # fmt: skip


def test_a_minute_is_rolled_up_once_when_the_next_begins(engine: Engine, redis_client, look):
    engine.enqueue(3)
    for job in engine.reserve("aaaaaaaa"):
        tallied(engine, job, 1, "finished", 1, 1, "r40", 1, 1, "run_us", 1000)
    assert look().totals == look(ALL).totals == Counts(enqueued=3, finished=3)
    assert look(step_s=3600).totals == look(ALL, step_s=3600).totals == look().totals
    backdate(redis_client, 3)
    for _ in range(2):
        engine.enqueue(1)
        assert look().totals == look(ALL).totals
        assert look(step_s=3600, back_s=7200).totals == look().totals
    assert look(back_s=7200, step_s=3600).totals == Counts(enqueued=5, finished=3)
    assert look(back_s=7200, step_s=3600).run.count == 3
    (old,) = [point for point in look().points if point.counts.finished]
    assert old.counts == Counts(enqueued=3, finished=3)
    assert old.run.p50 is not None and 0.75 < old.run.p50 < 1
    kept = {key: redis_client.ttl(key) for key in redis_client.keys("taskq:hours:*")}
    assert kept and all(ttl > 90 * 86400 for ttl in kept.values())
    kept = {key: redis_client.ttl(key) for key in redis_client.keys("taskq:stats:*")}
    assert kept and all(86400 < ttl <= 90000 for ttl in kept.values())


def test_the_sweep_rolls_up_what_stands_still_and_samples_depths(
    engine: Engine, broker: Broker, redis_client, look
):
    engine.enqueue(2)
    engine.enqueue(5, queue="other")
    backdate(redis_client, 2)
    redis_client.delete(*redis_client.keys("taskq:depth:*"))
    engine.sweep()
    assert redis_client.hgetall("taskq:rolling") == {}
    assert look(step_s=3600, back_s=7200).totals == Counts(enqueued=2)
    assert look(ALL).totals == look(ALL, step_s=3600, back_s=7200).totals == Counts(enqueued=7)
    assert [look(name).points[-1].depth for name in ("default", "other", ALL)] == [2, 5, 7]
    before = redis_client.info("commandstats")["cmdstat_llen"]["calls"]
    engine.sweep()  # the same minute: looked at once, by whoever sweeps first
    assert redis_client.info("commandstats")["cmdstat_llen"]["calls"] - before <= 2
    found = Inspector(broker).run(rates(broker.keys, ["default", "other"]))
    assert found[ALL].waiting == found[ALL].depth[-1] == 7
    assert found["other"].to_empty_s is None


def test_the_first_enqueue_of_a_minute_notes_the_depth_where_no_worker_runs(engine: Engine, look):
    engine.enqueue(4)
    assert look().points[-1].depth == 4


def everything(broker: Broker) -> Rates:
    return Inspector(broker).run(rates(broker.keys, ["default"]))["default"]


def test_a_worker_counts_begins_ends_waits_and_run_times(
    app, target, worker, broker: Broker, redis_client, look
):
    hs = [app.add.delay(1, n) for n in range(5)]
    hs += [app.bad.delay(), app.apart.delay(1), app.nap.delay(0.25)]
    worker(target, "--concurrency", "10")
    canceled = app.add.options(delay=3600).delay(1, 1)
    assert canceled.cancel()
    wanted = Counts(enqueued=9, started=9, finished=7, failed=1, retried=1, canceled=1)
    wait_until(lambda: look().totals == wanted, 15, message=lambda: str(look().totals))
    assert look(ALL).totals == look(ALL, step_s=3600).totals == wanted
    got = everything(broker)
    assert got.counts == wanted
    assert (got.run.count, got.wait.count) == (9, 9)
    assert got.run.p99 is not None and 0.2 < got.run.p99 < 0.4
    assert got.wait.p50 is not None and 0.01 < got.wait.p50 < 20
    assert got.failure_share == 1 / 8
    assert (got.waiting, got.to_empty_s, got.oldest_waiting_s) == (0, 0.0, None)
    assert got.enqueued_per_s == pytest.approx(9 / got.window_s)
    groups = Inspector(broker).run(
        failure_groups(broker.keys, since=time.time() - 60, until=time.time())
    )
    (group,) = groups
    assert (group.queue, group.count, group.error) == ("default", 1, "builtins.ValueError")
    assert group.task == f"{app.__name__}.bad"
    assert group.last_job_id == hs[5].id
    assert group.first_at == group.last_at
    assert group.last_at is not None and abs(group.last_at - time.time()) < 20


def test_a_job_that_runs_on_is_counted_as_started(app, target, worker, look):
    worker(target)
    h = app.nap.delay(60)
    wait_until(lambda: look().totals.started == 1, 15)
    assert look().totals.finished == 0
    h.cancel()
    wait_until(lambda: look().totals.canceled == 1, 15)
    assert look().totals == Counts(enqueued=1, started=1, canceled=1)


def test_jobs_with_rqs_features_are_counted_too(app, target, worker, redis_client, look, broker):
    rq_queue = Queue(connection=redis_client)
    first = rq_queue.enqueue("operator.add", 1, 2)
    then = rq_queue.enqueue("operator.truediv", 1, 0, depends_on=first)
    running = worker(None, "--rq")
    wait_until(lambda: look().totals.failed == 1, 15)
    assert running.stop() == 0
    assert look().totals == Counts(started=2, finished=1, failed=1)
    assert everything(broker).run.count == 2
    (group,) = Inspector(broker).run(
        failure_groups(broker.keys, since=time.time(), until=time.time())
    )
    assert (group.error, group.last_job_id) == ("builtins.ZeroDivisionError", then.id)


def test_ends_that_stock_rq_workers_recorded(engine: Engine, redis_client, look):
    workers = [
        SimpleWorker([Queue(name, connection=redis_client) for name in names])
        for names in (["one"], ["one", "two"])
    ]
    for each in workers:
        each.register_birth()
        each.increment_successful_job_count(redis_client.pipeline())
    redis_client.hset(workers[0].key, "successful_job_count", 1_000_000)

    def sweep() -> None:
        redis_client.hdel("taskq:sweep", "stock")
        engine.sweep()

    sweep()
    assert look(ALL).totals == Counts()  # of the time before: it is not known when that was
    redis_client.hincrby(workers[0].key, "successful_job_count", 3)
    redis_client.hincrby(workers[1].key, "successful_job_count", 10)
    redis_client.hincrby(workers[1].key, "failed_job_count", 2)
    for _ in range(2):
        sweep()
        assert look("one").totals == Counts(finished=3)
        assert look("two").totals == Counts()
        assert look(ALL).totals == Counts(finished=13, failed=2)
        assert look(ALL, step_s=3600).totals == Counts(finished=13, failed=2)


def test_failures_are_grouped_and_bounded(engine: Engine, broker: Broker, redis_client):
    for n in range(3):
        engine.run("tally", "default", f"!shop.fetch\nbuiltins.OSError\nid{n}", 2)
    engine.run("tally", "other", "!shop.fetch\nbuiltins.OSError\nx", 1)
    day = int(time.time() // 86400)
    key = f"taskq:failures-by:{day}"
    redis_client.rename(key, f"taskq:failures-by:{day - 1}")
    redis_client.hset(
        f"taskq:failures-by:{day - 1}", "fdefault\nshop.fetch\nbuiltins.OSError", "5.5"
    )
    engine.run("tally", "default", "!shop.fetch\nbuiltins.OSError\nlast", 1)
    ask = Inspector(broker).run

    def groups(**options: Any) -> list[tuple[Any, ...]]:
        now = time.time()
        found = ask(failure_groups(broker.keys, since=now - 90000, until=now, **options))
        return [(one.queue, one.count, one.first_at, one.last_job_id) for one in found]

    assert groups(queue="default") == [("default", 7, 5.5, "last")]
    assert {one[:2] for one in groups()} == {("default", 7), ("other", 1)}
    redis_client.hset(key, mapping={f"x{n}": 1 for n in range(9000)})
    for n in range(3):
        engine.run("tally", "default", f"!task{n}\nE\nid", 1)
    assert ("default", 3) in {one[:2] for one in groups()}
    assert redis_client.hlen(key) < 9010


@pytest.mark.parametrize("kind", ["string", "garbage"])
def test_whatever_lies_in_the_way_costs_no_job_and_no_answer(
    engine: Engine, broker: Broker, redis_client, look, kind
):
    minute = int(redis_client.time()[0]) // 60
    own = ["rolling"] + [
        f"{name}:{queue}:{at}"
        for queue in ("default", "")
        for name, at in [
            *(("stats", minute + n) for n in (0, 1)),
            *((name, minute // 60) for name in ("hours", "depth")),
        ]
    ] + [f"failures-by:{minute // 1440}"]  # fmt: skip
    for key in own:
        if kind == "string":
            redis_client.set(f"taskq:{key}", "in the way")
        else:
            redis_client.hset(f"taskq:{key}", mapping={b"\xff": b"\xff", "r99999": "1", "n": "x"})
    engine.enqueue(1)
    engine.sweep()
    [job] = engine.reserve("aaaaaaaa")
    tallied(engine, job, 1, "finished", 1, 1, "!t\nE\nid", 1)
    assert redis_client.hget(f"rq:job:{job.id}", "status") == b"finished"
    for queue in ("default", ALL):
        for step_s in (60, 3600):
            assert look(queue, step_s=step_s).points
    everything(broker)
    Inspector(broker).run(failure_groups(broker.keys, since=0, until=time.time()))


def test_questions_are_bounded(broker: Broker, redis_client, look):
    broker.enqueue([NewJob("a", "default", b"[]")])
    for back_s, step_s, at_most in [(86400, 60, 1480), (86400, 300, 1480), (90 * 86400, 7200, 0)]:
        if not at_most:
            with pytest.raises(TaskQError, match=r"2,16\d hours are asked for: take 1 to 1,500"):
                look(back_s=back_s, step_s=step_s)
            continue
        before = redis_client.info("stats")["total_commands_processed"]
        look(back_s=back_s, step_s=step_s)
        assert redis_client.info("stats")["total_commands_processed"] - before < at_most
    for wrong in (0, 90, -60):
        with pytest.raises(TaskQError, match=f"step_s is {wrong}"):
            look(step_s=wrong)
    assert len(look(back_s=3600, step_s=300).points) == 13
