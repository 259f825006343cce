"""Cancel and purge of many jobs, pause and resume: nothing that runs is lost, nothing is left."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from rq import Queue

from taskq import JobFailed, TaskQ, operations
from taskq.broker.client import Broker
from taskq.broker.records import NewJob
from taskq.cli import main
from tests.engine import Engine, misplaced, places, status
from tests.support import LEDGER, WorkerStarter, wait_until

APP = (
    LEDGER
    + """
import time
from taskq import TaskQ

queue = TaskQ()

@queue.task
def number(n):
    note("number", n)
    return n

@queue.task
def holds():
    note("holding")
    while not (Path(__file__).with_name("go")).exists():
        time.sleep(0.01)
    return "held"

@queue.task(unique="only")
def unique():
    pass

@queue.task
def values():
    yield 1
"""
)
TOMB = b"\0taskq-cleared"


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker)


@pytest.fixture
def run(redis_url: str) -> Any:
    def invoke(*args: str, code: int = 0) -> Any:
        result = CliRunner().invoke(main, [*args, "--redis-url", redis_url])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in args else result.stdout

    return invoke


def waiting(client: redis.Redis, queue: str = "default") -> list[str]:
    return [raw.decode() for raw in client.lrange(f"rq:queue:{queue}", 0, -1)]


@pytest.mark.parametrize("what", ["cancel", "purge"])
@pytest.mark.parametrize("pick", ["all", "every third", "first", "last"])
def test_many_of_one_queue_in_steps(
    engine: Engine, broker: Broker, redis_client, monkeypatch, what: str, pick: str
):
    monkeypatch.setattr(operations, "WINDOW", 400)
    ids = engine.enqueue(1000)
    chosen = {"all": ids, "every third": ids[::3], "first": ids[:30], "last": ids[-30:]}[pick]
    steps: list[int] = []
    done = getattr(operations, what)(broker, chosen[::-1], queue="default", progress=steps.append)
    assert sorted(done.canceled if what == "cancel" else done.purged) == sorted(chosen)
    gone = set(chosen)
    assert waiting(redis_client) == [one for one in ids if one not in gone]
    assert steps[-1] == len(chosen) and steps == sorted(steps)
    if what == "cancel":
        assert misplaced(redis_client, ids) == {}
        assert {status(redis_client, one) for one in chosen} == {"canceled"}
    else:
        assert not any(redis_client.exists(f"rq:job:{one}") for one in chosen)


@pytest.mark.parametrize("what", ["cancel", "purge"])
def test_workers_and_producers_go_on_meanwhile(
    engine: Engine, broker: Broker, redis_client, monkeypatch, what: str
):
    monkeypatch.setattr(operations, "WINDOW", 200)
    ids = engine.enqueue(900)
    taken: list[str] = []
    added: list[str] = []

    def meanwhile(_done: int) -> None:
        taken.extend(job.id for job in engine.reserve("aaaaaaaa", 20))
        added.extend(engine.enqueue(30))

    done = getattr(operations, what)(broker, ids[::-2], queue="default", progress=meanwhile)
    ended = done.canceled if what == "cancel" else done.purged
    running = done.asked if what == "cancel" else done.running
    assert sorted(ended + running) == sorted(ids[::-2])
    assert set(running) <= set(taken)
    assert sorted([*waiting(redis_client), *ended, *taken]) == sorted([*ids, *added])
    assert {status(redis_client, one) for one in taken} == {"started"}
    assert len(engine.reserve("bbbbbbbb", 100)) > 0
    assert TOMB not in redis_client.lrange("rq:queue:default", 0, -1)


def test_purge_leaves_nothing_behind(engine: Engine, broker: Broker, redis_client):
    before = set(redis_client.keys())
    jobs = [
        NewJob("waits", "default", b"[]", ["tq_unique", "u1"], unique="u1", ttl_s=600),
        NewJob("later", "default", b"[]", ["tq_unique", "u2"], delay_s=600, unique="u2"),
        NewJob("ended", "default", b"[]"),
        NewJob("bad", "default", b"[]"),
        NewJob("off", "default", b"[]"),
    ]
    broker.enqueue(jobs)
    redis_client.xadd("taskq:stream:ended", {"v": "1"})
    redis_client.xadd("taskq:sent:ended", {"v": "1"})
    redis_client.set("taskq:tell:waits", "x")
    operations.cancel(broker, ["off"])
    redis_client.hset("taskq:sweep", "hold", 0)
    for job in engine.reserve("aaaaaaaa", 10):
        if job.id in ("ended", "bad"):
            engine.settle(job, "f" if job.id == "ended" else "x")
        else:
            engine.settle(job, "g")
    done = operations.purge(broker, ["later", "waits", "ended", "bad", "off"], queue="default")
    assert sorted(done.purged) == ["bad", "ended", "later", "off", "waits"]
    left = {key.decode() for key in set(redis_client.keys()) - before}
    kept = re.compile(
        r"rq:queues|taskq:(stats|hours|depth|rolling|sweep|done|failures|fence|handed)\b.*"
    )
    assert [key for key in left if not kept.fullmatch(key)] == []


def test_a_running_job_and_its_lock_stay(app, target, worker: WorkerStarter, ledger, broker):
    running = app.holds.delay()
    worker(target)
    wait_until(lambda: ledger.count("holding") == 1, 15)
    done = operations.purge(broker, [running.id], queue="default")
    assert done.running == [running.id]
    ledger.path.with_name("go").touch()
    assert running.result(timeout=10) == "held"


def test_who_waits_is_told_and_the_unique_lock_is_free(app, broker: Broker):
    first = app.unique.delay()
    assert app.unique.delay().id == first.id
    assert operations.purge(broker, [first.id]).purged == [first.id]
    with pytest.raises(JobFailed, match="deleted"):
        first.result(timeout=5)
    assert app.unique.delay().created


def test_a_job_that_others_wait_for_stays_until_they_are_gone(broker: Broker, redis_client):
    queue = Queue(connection=redis_client)
    first = queue.enqueue("operator.add", 1, 2)
    then = queue.enqueue("operator.add", 1, 2, depends_on=first)
    assert operations.purge(broker, [first.id], queue="default").needed == [first.id]
    assert places(redis_client, first.id) == ["rq:queue:default"]
    assert operations.purge(broker, [then.id], queue="default").purged == [then.id]
    assert operations.purge(broker, [first.id], queue="default").purged == [first.id]
    assert [key for key in redis_client.keys("rq:*") if key != b"rq:queues"] == []


def test_one_that_is_just_being_taken_is_left_alone(engine: Engine, broker: Broker, redis_client):
    [one] = engine.enqueue()
    redis_client.lmove("rq:queue:default", "taskq:claim:aaaaaaaa:default")  # as a BLMOVE does
    for queue in ("default", ""):
        assert operations.purge(broker, [one], queue=queue).changed == [one]
    assert [job.id for job in engine.reserve("aaaaaaaa")] == [one]


@pytest.mark.parametrize("kind", ["string", "no hash", "missing"])
def test_odd_records(engine: Engine, broker: Broker, redis_client, kind: str):
    one, other = engine.enqueue(2)
    if kind == "string":
        redis_client.set(f"rq:job:{one}", "x")
    elif kind == "no hash":
        redis_client.delete(f"rq:job:{one}")
        redis_client.hset(f"rq:job:{one}", "status", "rate_limited")
    else:
        redis_client.delete(f"rq:job:{one}")
    done = operations.purge(broker, [other, one, "unheard-of"], queue="default")
    assert other in done.purged
    assert "unheard-of" in done.missing
    assert (one in done.purged) == (kind == "missing")
    assert waiting(redis_client) == ([] if kind == "missing" else [one])


def test_the_commands(engine: Engine, broker: Broker, redis_client, run):
    ids = engine.enqueue(3)
    other = engine.enqueue(2, queue="other")
    plan = run("purge", "-q", "other", "--dry-run", "--json")
    assert (plan["count"], plan["ids"]) == (2, other[::-1])
    assert "say --yes" in CliRunner().invoke(
        main, ["purge", "--all", "--redis-url", broker.url]
    ).output  # fmt: skip
    assert run("purge", "-q", "other", "--yes", "--json")["purged"] == other[::-1]
    assert run("cancel", "--task", "task", "-n", "1", "--yes") == "1 job canceled.\n"
    assert run("purge", "--all", "--yes") == "2 jobs deleted.\n"
    assert waiting(redis_client) == []
    assert run("purge", "--status", "canceled", "--yes") == "1 job deleted.\n"
    assert not any(redis_client.exists(f"rq:job:{one}") for one in ids)
    assert run("purge", "--all", "--yes") == "No jobs fit.\n"
    [job] = engine.enqueue(1) and engine.reserve("aaaaaaaa")
    result = CliRunner().invoke(main, ["purge", job.id, "--yes", "--redis-url", broker.url])
    assert result.exit_code == 1
    assert f"{job.id}: it runs: cancel it first." in result.stderr


def test_pause_and_resume_are_heard_at_once(app, target, worker, ledger, redis_client, run):
    worker(target)
    assert app.number.delay(0).result(timeout=15) == 0
    assert run("pause", "default") == "Paused: default.\n"
    assert run("pause", "default", "--json") == {"paused": [], "unchanged": ["default"]}
    held = app.number.map(range(1, 50))
    assert redis_client.sismember("taskq:paused", "default")

    def unwatched() -> bool:  # nobody waits at the queue any more
        return not any(c["cmd"] == "blmove" for c in redis_client.client_list())

    wait_until(unwatched, 10)
    assert ledger.count("number 1") == 0
    assert misplaced(redis_client, [h.id for h in held]) == {}
    assert redis_client.llen("rq:queue:default") == 49
    assert run("resume", "--all") == "Resumed: default.\n"
    assert held.results(timeout=10) == list(range(1, 50))
    assert run("resume", "default") == "default: not paused.\n"


def test_what_runs_goes_on_while_its_queue_is_paused(app, target, worker, ledger, broker):
    worker(target, "--threads", "1")
    running, behind = app.holds.delay(), app.number.options(queue="default").delay(5)
    wait_until(lambda: ledger.count("holding") == 1, 15)
    assert operations.pause(broker, ["default"]) == ["default"]
    ledger.path.with_name("go").touch()
    assert running.result(timeout=10) == "held"
    assert operations.resume(broker, ["default", "other"]) == ["default"]
    assert behind.result(timeout=10) == 5


def test_pause_of_an_unknown_queue_warns(broker: Broker, redis_client):
    result = CliRunner().invoke(main, ["pause", "nix", "--redis-url", broker.url])
    assert "No queue 'nix' yet (there: none)" in result.stderr
    assert result.exit_code == 0
    assert redis_client.smembers("taskq:paused") == {b"nix"}
    result = CliRunner().invoke(main, ["resume", "--redis-url", broker.url])
    assert result.exit_code == 2


def test_streams_go_with_their_job(app, target, worker, broker, redis_client):
    assert isinstance(app.queue, TaskQ)
    worker(target)
    h = app.values.delay()
    assert list(h.stream()) == [1]
    h.result(timeout=10)
    assert operations.purge(broker, [h.id], queue="default").purged == [h.id]
    assert [key for key in redis_client.scan_iter() if h.id.encode() in key] == []
