"""`taskq doctor`: each way to break a database is found, told, and mended where that is safe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis
import rq
from rq_scheduler import Scheduler

from taskq.broker.client import Broker
from taskq.inspector import Inspector
from taskq.inspector import doctor as doctor_module
from taskq.inspector.census import census
from taskq.inspector.condition import COMMANDS, complaints
from taskq.inspector.doctor import Diagnosis, examine
from taskq.inspector.suspects import Suspect
from taskq.repairs import mend, plan
from tests.engine import Engine, misplaced, places, status
from tests.unit.test_cli import run


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(doctor_module, "PAUSE_S", 0.0)


@dataclass
class Patient:
    """A database with jobs in every state, and what the doctor says of it."""

    broker: Broker
    client: redis.Redis
    engine: Engine

    def suspects(self) -> list[Suspect]:
        return sorted(self.inspector().run(census(self.broker.keys)).suspects)

    def inspector(self) -> Inspector:
        return Inspector(self.broker)

    def examine(self) -> Diagnosis:
        return examine(self.inspector())

    def mend(self) -> list[str]:
        return [one.done for one in mend(self.broker, plan(self.examine()))]


@pytest.fixture
def patient(broker, redis_client) -> Patient:
    engine = Engine(broker)
    engine.beat("worker01")
    engine.enqueue(5)
    engine.enqueue(1, delay_s=50.0)
    done, failed, again, canceled, _running = engine.reserve("worker01")
    engine.settle(done, "f")
    engine.settle(failed, "x")
    engine.settle(again, "r", "30", "", "", "")
    engine.run("cancel", engine.enqueue()[0], broker.clock.iso())
    engine.settle(canceled, "c")
    engine.enqueue(3)
    return Patient(broker, redis_client, engine)


def ids_in(client: redis.Redis, key: str) -> list[str]:
    found = client.zrange(key, 0, -1) if client.type(key) == b"zset" else client.lrange(key, 0, -1)
    return [one.decode() for one in found]


def test_a_sound_database(patient):
    found = patient.examine()
    assert found.jobs == 10
    assert found.places == {
        "canceled": 2, "failed": 1, "finished": 1, "queue": 3, "scheduled": 2, "wip": 1
    }  # fmt: skip
    assert [f for f in found.findings if f.suspects] == []


def test_it_only_reads(patient):
    with patient.client.monitor() as monitor:
        patient.examine()
        patient.client.echo("end")
        seen = set()
        for command in monitor.listen():
            if command["command"] == "ECHO end":
                break
            seen.add(command["command"].split()[0])
    assert seen <= {"TIME", "INFO", "CONFIG", "SMEMBERS", "ZRANGE", "SCAN", "TYPE", "LRANGE",
                    "GET", "HGET", "HMGET", "TTL", "CLIENT", "HELLO"}  # fmt: skip


def test_an_orphan_runs_again(patient):
    lost = patient.client.rpop("rq:queue:default").decode()
    assert patient.suspects() == [Suspect("orphan", lost.encode(), "queue:default", "queued")]
    assert not patient.examine().is_sound
    assert patient.mend() == ["queued"]
    assert ids_in(patient.client, "rq:queue:default")[0] == lost
    assert patient.examine().is_sound


def test_an_orphan_that_had_begun_and_must_not_be_redelivered_has_failed(patient):
    [member] = patient.client.zrange("rq:wip:default", 0, -1)
    job_id = member.rpartition(b":")[0].decode()
    patient.client.zrem("rq:wip:default", member)
    patient.client.hset(f"rq:job:{job_id}", "tq_redeliver", "0")
    assert patient.mend() == ["failed"]
    assert places(patient.client, job_id) == ["rq:failed:default"]
    assert status(patient.client, job_id) == "failed"
    assert patient.examine().is_sound


@pytest.mark.parametrize("kind", ["finished", "failed", "scheduled", "canceled"])
def test_an_id_without_a_record(patient, kind):
    patient.client.zadd(f"rq:{kind}:default", {"ghost": 1e11})
    assert patient.suspects() == [Suspect("lost", b"ghost", f"{kind}:default")]
    assert patient.mend() == ["removed"]
    assert patient.examine().is_sound


def test_an_id_without_a_record_in_a_queue_is_left_to_workers(patient):
    patient.client.lpush("rq:queue:default", "ghost")
    assert patient.suspects() == [Suspect("lost", b"ghost", "queue:default")]
    assert patient.mend() == []
    patient.engine.reserve("worker01")
    assert patient.examine().is_sound
    assert (
        "record was gone"
        in patient.client.xrevrange("rq:results:ghost")[0][1][b"tq_error"].decode()
    )


def test_a_job_in_two_places(patient):
    [done] = ids_in(patient.client, "rq:finished:default")
    patient.client.rpush("rq:queue:default", done)
    patient.client.zadd("rq:failed:default", {done: -1})
    [suspect] = patient.suspects()
    assert suspect.code == "doubled"
    assert sorted(suspect.place.split()) == ["failed:default", "finished:default", "queue:default"]
    assert patient.mend() == ["removed", "removed"]
    assert places(patient.client, done) == ["rq:finished:default"]


def test_a_job_twice_in_its_queue(patient):
    first = ids_in(patient.client, "rq:queue:default")[0]
    patient.client.rpush("rq:queue:default", first)
    assert [s.code for s in patient.suspects()] == ["doubled"]
    assert patient.mend() == ["removed"]
    assert places(patient.client, first) == ["rq:queue:default"]


def test_a_waiting_job_with_the_status_of_another_place(patient):
    first = ids_in(patient.client, "rq:queue:default")[0]
    patient.client.hset(f"rq:job:{first}", "status", "scheduled")
    assert patient.suspects() == [
        Suspect("misplaced", first.encode(), "queue:default", "scheduled")
    ]
    assert patient.mend() == ["set"]
    assert status(patient.client, first) == "queued"


def test_a_lease_without_a_worker(patient):
    patient.client.zadd("taskq:alive", {"worker01": 1})
    [suspect] = patient.suspects()
    assert (suspect.code, suspect.place) == ("dead-lease", "wip:default")
    job_id = suspect.name.rpartition(b":")[0].decode()
    assert patient.mend() == ["queued"]
    assert places(patient.client, job_id) == ["rq:queue:default"]


def test_a_lease_of_a_living_worker_is_left_alone(patient):
    [member] = patient.client.zrange("rq:wip:default", 0, -1)
    step = plan(
        Diagnosis(
            0, {}, tuple(doctor_module.findings({Suspect("dead-lease", member, "wip:default")}))
        )
    )
    assert [one.done for one in mend(patient.broker, step)] == [""]
    assert patient.examine().is_sound


def test_a_claim_list_of_a_dead_worker(patient):
    patient.client.lmove("rq:queue:default", "taskq:claim:dead0001:default", "LEFT", "RIGHT")
    assert [s.code for s in patient.suspects()] == ["dead-claim"]
    assert patient.mend() == ["queued"]
    assert patient.client.llen("rq:queue:default") == 3
    assert patient.examine().is_sound


def test_a_claim_of_a_living_worker_is_a_place(patient):
    patient.client.lmove("rq:queue:default", "taskq:claim:worker01:default", "LEFT", "RIGHT")
    assert patient.suspects() == []


@pytest.mark.parametrize("holder", ["gone", "finished"])
def test_a_stale_lock(patient, holder):
    if holder == "finished":
        [holder] = ids_in(patient.client, "rq:finished:default")
    patient.client.set("taskq:unique:daily", holder)
    assert [s.code for s in patient.suspects()] == ["stale-lock"]
    assert patient.mend() == ["removed"]
    assert not patient.client.exists("taskq:unique:daily")


def test_a_lock_of_rq_that_never_ends(patient):
    patient.client.set("rq:clean_registries:default", 1)
    patient.client.set("rq:clean_registries:other", 1, ex=899)
    assert [s.name for s in patient.suspects()] == [b"rq:clean_registries:default"]
    assert patient.mend() == ["removed"]
    assert patient.client.exists("rq:clean_registries:other")


def test_a_lock_that_is_held_is_none_of_them(patient):
    patient.client.set("taskq:unique:daily", ids_in(patient.client, "rq:queue:default")[0])
    assert patient.suspects() == []


def test_an_ended_job_without_ttl(patient):
    [done] = ids_in(patient.client, "rq:finished:default")
    patient.client.persist(f"rq:job:{done}")
    assert [s.code for s in patient.suspects()] == ["endless"]
    assert patient.mend() == ["set"]
    assert patient.client.ttl(f"rq:job:{done}") > 0


def test_a_job_kept_for_ever_on_purpose(patient):
    [job_id] = patient.engine.enqueue()
    jobs = {job.id: job for job in patient.engine.reserve("worker01")}
    patient.engine.settle(jobs[job_id], "f", option="-1")
    assert patient.suspects() == []


@pytest.mark.parametrize(
    "key", ["rq:queue:default", "rq:finished:default", "rq:queues", "taskq:alive", "taskq:serves",
            "rq:wip:default", "rq:workers"]
)  # fmt: skip
def test_a_key_of_the_wrong_type_is_set_aside(patient, key):
    patient.client.rename(key, "kept") if patient.client.exists(key) else None
    patient.client.set(key, "rubbish")
    assert Suspect("wrong-type", key.encode()) in {
        s._replace(place="", status="") for s in patient.suspects()
    }
    patient.mend()
    assert patient.client.get(f"taskq:quarantine:{key}") == b"rubbish"
    assert not any(s.code == "wrong-type" for s in patient.suspects())


def test_a_record_of_the_wrong_type(patient):
    first = ids_in(patient.client, "rq:queue:default")[0]
    patient.client.delete(f"rq:job:{first}")
    patient.client.set(f"rq:job:{first}", "rubbish")
    assert "wrong-type" in [s.code for s in patient.suspects()]
    patient.mend()
    patient.engine.reserve("worker01")
    assert status(patient.client, first) == "failed"


def test_a_queue_that_is_not_listed(patient):
    patient.client.delete("rq:queues")
    assert {s.code for s in patient.suspects()} == {"unlisted-queue"}
    patient.mend()
    assert patient.client.smembers("rq:queues") == {b"rq:queue:default"}
    assert patient.examine().is_sound


def test_a_plain_rq_database(redis_client, broker):
    queue = rq.Queue("high", connection=redis_client)
    jobs = queue.enqueue_many([rq.Queue.prepare_data("os.getpid") for _ in range(5)])
    rq.SimpleWorker([queue], connection=redis_client).work(burst=True, max_jobs=2)
    dependent = queue.enqueue("os.getpid", depends_on=jobs[4])
    found = examine(Inspector(broker))
    assert found.jobs == 6
    assert [f for f in found.findings if f.suspects] == []
    assert found.places == {"deferred": 1, "finished": 2, "queue": 3}
    redis_client.lpop("rq:queue:high")  # as RQ itself loses it, with two queues
    again = examine(Inspector(broker))
    assert [f.code for f in again.findings if f.suspects] == ["orphan"]
    assert [one.done for one in mend(broker, plan(again))] == ["queued"]
    assert examine(Inspector(broker)).is_sound
    assert dependent.get_status(refresh=True) == "deferred"


def test_entries_of_rq_scheduler_are_no_orphans(redis_client, broker):
    scheduler = Scheduler("low", connection=redis_client)
    scheduler.enqueue_in(timedelta(hours=1), "os.getpid")
    again = scheduler.schedule(datetime.now(timezone.utc), "os.getpid", interval=60)
    scheduler.enqueue_jobs()
    assert redis_client.lrange("rq:queue:low", 0, -1) == [again.id.encode()]
    found = examine(Inspector(broker))
    assert [f for f in found.findings if f.suspects] == []


def test_rq_lease_that_ended_is_a_warning(patient):
    job = rq.Queue("default", connection=patient.client).enqueue("os.getpid")
    patient.client.lrem("rq:queue:default", 1, job.id)
    patient.client.hset(job.key, "status", "started")
    patient.client.zadd("rq:wip:default", {f"{job.id}:abc": 1})
    found = patient.examine()
    assert [f.code for f in found.findings if f.suspects] == ["rq-lease"]
    assert found.is_sound


def test_many_jobs_take_many_small_steps(broker, redis_client):
    engine = Engine(broker, "a", "b")
    ids = engine.enqueue(2_500, queue="a") + engine.enqueue(1_200, queue="b")
    jobs = engine.reserve("worker01", limit=100)
    steps: list[int] = []
    pipe = broker.pipe
    broker.pipe = lambda commands: (steps.append(len(commands)), pipe(commands))[1]
    found = examine(Inspector(broker))
    assert found.jobs == 3_700
    assert max(steps) <= 4_000
    assert found.places == {"queue": 3_600, "wip": 100}
    assert len(jobs) == 100
    assert misplaced(redis_client, ids) == {}


def test_the_command(patient, redis_url):
    lost = patient.client.rpop("rq:queue:default").decode()
    plain = run("doctor", "--redis-url", redis_url)
    assert plain.exit_code == 1
    assert "[orphan]" in plain.output
    assert lost in plain.output
    dry = run("doctor", "--repair", "--dry-run", "--redis-url", redis_url)
    assert dry.exit_code == 1
    assert "Would take 1 step" in dry.output
    refused = run("doctor", "--repair", "--redis-url", redis_url)
    assert refused.exit_code == 2
    assert patient.client.llen("rq:queue:default") == 2
    done = run("doctor", "--repair", "--yes", "--redis-url", redis_url)
    assert done.exit_code == 0
    assert f"job {lost} (queued) is nowhere: back in its queue" in done.output
    data = json.loads(run("doctor", "--json", "--redis-url", redis_url).output)
    assert data["sound"] is True
    assert data["places"]["queue"] == 3


def info(**values: Any) -> bytes:
    base = {"redis_version": "8.2.2", "maxmemory": 10**9, "used_memory": 1000,
            "maxmemory_policy": "noeviction", "aof_enabled": 1, "role": "master"}  # fmt: skip
    return "\r\n".join(f"{k}:{v}" for k, v in {**base, **values}.items()).encode()


def judge(*config: str, skew_s: float = 0.0, **values: Any) -> list[tuple[str, str]]:
    pairs = [[a.encode(), b.encode()] for a, b in zip(config[::2], config[1::2])]
    replies = [info(**values), *pairs, *([[]] * (len(COMMANDS) - 1 - len(pairs)))]
    return [(one.code, one.severity) for one in complaints(replies, skew_s)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"maxmemory_policy": "allkeys-lru"}, [("eviction", "error")]),
        ({"evicted_keys": 3}, [("evicted", "error")]),
        ({"used_memory": 95 * 10**7}, [("full", "warning")]),
        ({"maxmemory": 0}, [("unlimited", "note")]),
        ({"aof_enabled": 0}, [("persistence", "note")]),
        ({"rdb_last_bgsave_status": "err"}, [("disk", "error")]),
        ({"redis_version": "6.0.16"}, [("version", "error")]),
        ({"redis_version": "7.0.15"}, [("version", "warning")]),
        ({"redis_version": "7.2.11"}, []),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.1.3"},
         [("version", "warning")]),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.0.1"}, []),
        ({"role": "slave"}, [("replica", "error")]),
        ({"loading": 1}, [("loading", "warning")]),
    ],
)  # fmt: skip
def test_the_server(values, expected):
    assert judge(**values) == expected


def test_configuration_and_clock():
    assert judge("save", "", aof_enabled=0) == [("persistence", "warning")]
    assert judge("appendfsync", "no") == [("persistence", "warning")]
    open_ = ("protected-mode", "no", "bind", "* -::*")
    assert judge(*open_) == [("exposed", "error")]
    assert judge(*open_, "requirepass", "x") == []
    assert judge("protected-mode", "no", "bind", "127.0.0.1 -::1") == []
    assert judge(skew_s=-300.0) == [("clock", "warning")]


def test_a_server_that_says_nothing():
    refused = [redis.ResponseError("NOPERM")] * len(COMMANDS)
    assert [one.code for one in complaints(refused, 0.0)] == ["unlimited"]
