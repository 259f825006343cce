"""The Lua scripts, called as a worker calls them: every job is in one place after each step."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest
import redis
from rq.registry import FinishedJobRegistry

from taskq.broker.client import Broker, BrokerError
from taskq.broker.records import NewJob
from taskq.broker.scripts import script
from taskq.errors import DuplicateJob
from tests.engine import RETRIED, Engine, misplaced, places, reason, status
from tests.support import wait_until

A, B = "aaaaaaaa", "bbbbbbbb"


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker)


def queue_of(client: redis.Redis, name: str = "default") -> list[str]:
    return [raw.decode() for raw in client.lrange(f"rq:queue:{name}", 0, -1)]


# -- enqueue ---------------------------------------------------------------------------------


def test_enqueue_sent_twice_is_done_once(engine: Engine, broker: Broker, redis_client):
    def send(job: NewJob, *, resend: bool) -> object:
        args: list[object] = ["1" if resend else "0", broker.clock.iso()]
        job.append_to(args)
        return engine.run("enqueue", *args)

    for extra in ({}, {"token": "t1"}, {"delay_s": 60.0}, {"unique": "k"}, {"at_front": True}):
        job = NewJob(f"job{len(extra)}{next(iter(extra), '')}", "default", b"[]", **extra)
        first = send(job, resend=False)
        assert send(job, resend=True) == first == [job.id.encode()]
        assert len(places(redis_client, job.id)) == 1


def test_enqueue_sent_again_after_the_job_has_come_and_gone(engine: Engine, broker, redis_client):
    job = NewJob("gone", "default", b"[]")
    broker.enqueue([job])
    [got] = engine.reserve(A)
    assert engine.settle(got, "f", option="m0") == 1
    assert not redis_client.exists("rq:job:gone")
    args: list[object] = ["1", broker.clock.iso()]
    job.append_to(args)
    engine.run("enqueue", *args)
    assert queue_of(redis_client) == []


def test_a_taken_id_refuses_the_whole_chunk(engine: Engine, broker, redis_client):
    broker.enqueue([NewJob("mine", "default", b"[]", token="one")])
    with pytest.raises(DuplicateJob, match="mine"):
        broker.enqueue(
            [NewJob("new", "default", b"[]"), NewJob("mine", "default", b"[]", token="two")]
        )
    assert queue_of(redis_client) == ["mine"]
    [got] = engine.reserve(A)
    engine.settle(got, "f")
    broker.enqueue([NewJob("mine", "default", b"[]", token="two")])  # it has ended: replaced
    assert places(redis_client, "mine") == ["rq:queue:default"]


@pytest.mark.parametrize("place", [{}, {"delay_s": 5.0}])
def test_enqueue_refuses_a_queue_key_of_another_type_before_it_writes(broker, redis_client, place):
    redis_client.set("rq:queue:default", "x")
    redis_client.set("rq:scheduled:default", "x")
    with pytest.raises(BrokerError, match="WRONGKEY"):
        broker.enqueue([NewJob("a", "other", b"[]"), NewJob("b", "default", b"[]", **place)])
    assert not redis_client.exists("rq:job:a", "rq:job:b", "rq:queue:other")


def test_enqueue_goes_on_when_the_set_of_queues_is_none(broker, redis_client):
    redis_client.set("rq:queues", "x")
    jobs = [NewJob("a", "default", b"[]"), NewJob("b", "default", b"[]", delay_s=9.0)]
    broker.enqueue(jobs)
    assert misplaced(redis_client, ["a", "b"]) == {}


def utc_iso(second: int, micro: int) -> str:
    at = datetime.fromtimestamp(second, timezone.utc).replace(microsecond=micro)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -- reserve ---------------------------------------------------------------------------------


def test_reserve_leases_and_keeps_order(engine: Engine, redis_client):
    ids = engine.enqueue(5)
    assert [job.id for job in engine.reserve(A, 3)] == ids[:3]
    assert [job.id for job in engine.reserve(B, 3)] == ids[3:]
    assert misplaced(redis_client, ids) == {}
    assert {status(redis_client, one) for one in ids} == {"started"}
    lease = redis_client.zscore("rq:wip:default", f"{ids[0]}:tq{A}1") - time.time()
    assert 10 < lease - 86_400 <= 17  # 15 s and RQ's margin of a day


def test_an_id_twice_in_the_queue_runs_once(engine: Engine, redis_client):
    [one] = engine.enqueue()
    redis_client.rpush("rq:queue:default", one, one)
    assert [job.id for job in engine.reserve(A)] == [one]
    redis_client.rpush("rq:queue:default", one)
    assert engine.reserve(B) == []


def test_a_job_that_has_ended_or_is_running_is_dropped(engine: Engine, redis_client):
    for kind, state in [("f", "finished"), ("x", "failed"), ("c", "canceled")]:
        [one] = engine.enqueue()
        [job] = engine.reserve(A)
        engine.settle(job, kind)
        redis_client.rpush("rq:queue:default", one)
        assert engine.reserve(A) == []
        assert status(redis_client, one) == state
        assert len(places(redis_client, one)) == 1


def test_reserve_of_a_fenced_number_gets_nothing(engine: Engine, redis_client):
    ids = engine.enqueue(2)
    engine.beat(A)
    engine.release(A, 7)
    assert engine.reserve_all(A, seq=7) == (b"fenced", [])
    assert engine.reserve_all(A, seq=8)[0] == b"ok"
    engine.release(A, "dead")
    assert engine.reserve_all(A, seq=9) == (b"fenced", [])
    assert sorted(queue_of(redis_client)) == sorted(ids)


def test_what_a_blocked_move_claimed_comes_first_and_zero_gives_it_back(engine, redis_client):
    ids = engine.enqueue(4)
    claim = f"taskq:claim:{A}:default"
    redis_client.blmove("rq:queue:default", claim, 1, "LEFT", "RIGHT")
    assert engine.reserve(A, 0) == []
    assert queue_of(redis_client) == ids
    redis_client.blmove("rq:queue:default", claim, 1, "LEFT", "RIGHT")
    assert [job.id for job in engine.reserve(A, 2)] == ids[:2]
    assert not redis_client.exists(claim)


def test_a_call_behind_a_move_takes_nothing_unless_that_claimed(engine: Engine, redis_client):
    ids = engine.enqueue(3)
    assert engine.reserve_all(A, seq="w0n1", iso="") == (b"ok", [])
    redis_client.blmove("rq:queue:default", f"taskq:claim:{A}:default", 1, "LEFT", "RIGHT")
    before = utc_iso(*redis_client.time())
    _state, [first, second] = engine.reserve_all(A, 2, seq="w0n2", iso="")
    after = utc_iso(*redis_client.time())
    assert [first.id, second.id] == ids[:2]
    assert first.exec_id == f"tq{A}w0n2"
    started = redis_client.hget(f"rq:job:{ids[0]}", "started_at").decode()
    assert before <= started <= after  # the server's own time, as RQ writes it
    assert engine.settle(first, "f") == 1
    assert misplaced(redis_client, ids) == {}


def test_times_made_by_the_server(engine: Engine, redis_client):
    text = script("reserve").text.split("local uid,")[0] + "return iso_time(ARGV[1], ARGV[2])"
    days = [0, 58, 59, 60, 789, 790, 11015, 11016, 11017, 20000, 20778, 47540, 47541, 47542, 80000]
    for second in [day * 86400 + second for day in days for second in (0, 1, 3599, 45296, 86399)]:
        got = redis_client.eval(text, 2, "rq", "taskq:", second, 42)
        assert got.decode() == utc_iso(second, 42)


def test_lanes_are_fenced_and_given_back_one_by_one(engine: Engine, redis_client):
    ids = engine.enqueue(3)
    claim = f"taskq:claim:{A}:default"
    engine.beat(A)
    redis_client.blmove("rq:queue:default", claim, 1, "LEFT", "RIGHT")
    [lane] = engine.reserve_all(A, 1, seq="w0n5", iso="")[1]
    [main] = engine.reserve_all(A, 1, seq=4)[1]
    assert engine.release(A, "w0n5") == (1, 0)
    assert queue_of(redis_client) == [lane.id, ids[2]]
    assert engine.settle(main, "f") == 1  # another lane's is not touched, and goes on
    redis_client.blmove("rq:queue:default", claim, 1, "LEFT", "RIGHT")
    assert engine.reserve_all(A, 1, seq="w0n5", iso="") == (b"fenced", [])
    assert engine.reserve_all(A, 0, seq=6)[0] == b"ok"
    assert queue_of(redis_client) == [lane.id, ids[2]]
    engine.release(A, "dead")
    redis_client.rpush(claim, redis_client.lpop("rq:queue:default"))
    assert engine.reserve_all(A, 1, seq="w0n9", iso="") == (b"fenced", [])


def test_what_a_lost_call_took_goes_back_in_its_order(engine: Engine, redis_client):
    ids = engine.enqueue(40)
    engine.beat(A)
    assert [job.id for job in engine.reserve(A, 10, seq=5)] == ids[:10]
    assert [job.id for job in engine.reserve(A, 20, seq=6)] == ids[10:30]
    assert engine.release(A, 6) == (20, 0)  # of two that are unheard the later one first
    assert queue_of(redis_client) == ids[10:]
    assert engine.release(A, 5) == (10, 0)
    assert sorted(queue_of(redis_client)) == sorted(ids)
    assert queue_of(redis_client)[10:] == ids[10:]
    assert engine.reserve_all(A, seq=6) == (b"fenced", [])  # still, after the lower number
    assert 0 < redis_client.ttl(f"taskq:handed:{A}") <= 3600


def test_a_large_finished_registry_is_appended_to(engine: Engine, redis_client):
    """In whole seconds while it is small and kept as text; then by the time of each end."""
    ids = engine.enqueue(150)
    for job in engine.reserve(A, 100) + engine.reserve(A, 100):
        assert engine.settle(job, "f") == 1
    kept = redis_client.zrange("rq:finished:default", 0, -1, withscores=True)
    scores = [score for _id, score in kept]
    late = [member.decode() for member, score in kept if score % 1]
    assert 15 <= len(late) <= 25  # all ended by now, but for one in a million at a full second
    assert late == ids[-len(late) :]  # in the order of their ends
    assert all(499 < score - time.time() <= 501 for score in scores)
    assert FinishedJobRegistry(connection=redis_client).count == 150


def test_what_is_over_its_time_goes_when_others_end_and_what_was_renewed_stays(
    engine: Engine, redis_client
):
    renewed, *ids = engine.enqueue(16)
    jobs = engine.reserve(A, 16)
    for job in jobs[:10]:
        engine.settle(job, "f", option="1")
    redis_client.persist(f"rq:job:{renewed}")
    last = engine.enqueue(1)
    wait_until(
        lambda: redis_client.zcount("rq:finished:default", 0, redis_client.time()[0] - 2) == 10
    )
    for job in jobs[10:]:  # each takes two along
        engine.settle(job, "f")
    left = [member.decode() for member in redis_client.zrange("rq:finished:default", 0, -1)]
    assert set(left) & set(ids[:9]) == set()
    assert set(left) >= set(ids[9:])
    assert redis_client.exists(*(f"rq:job:{one}" for one in ids[:9])) == 0
    assert status(redis_client, renewed) == "finished"
    assert status(redis_client, last[0]) == "queued"


def test_a_forgotten_worker_leaves_no_fence(engine: Engine, redis_client):
    engine.beat(A)
    engine.release(A, "w0n5")
    engine.release(A, 7)
    engine.enqueue(2)
    engine.reserve(A, 2, seq=8)
    assert redis_client.hlen("taskq:fence") == 2
    assert redis_client.exists(f"taskq:handed:{A}")
    engine.age(redis_client, 400, A)
    engine.sweep()
    assert redis_client.hlen("taskq:fence") == 0
    assert not redis_client.keys("taskq:handed:*")


def test_a_ttl_that_is_no_whole_number_deletes_nothing_at_once(engine: Engine, redis_client):
    lost, done = engine.enqueue(2)
    redis_client.hset(f"rq:job:{lost}", mapping={"failure_ttl": "0.3", "tq_redeliver": "0"})
    engine.beat(A)
    held = {job.id: job for job in engine.reserve(A, 2)}
    assert engine.settle(held[done], "f", option="0.3") == 1
    assert engine.release(A, "dead") == (0, 1)
    assert (status(redis_client, lost), status(redis_client, done)) == ("failed", "finished")


@pytest.mark.parametrize("what", ["dead", "bye"])
def test_what_a_worker_was_handed_is_forgotten_at_its_end(engine: Engine, redis_client, what):
    engine.enqueue(4)
    engine.beat(A)
    engine.reserve(A, 2, seq=1)
    claim = f"taskq:claim:{A}:default"
    redis_client.blmove("rq:queue:default", claim, 1, "LEFT", "RIGHT")
    engine.reserve_all(A, 2, seq="w0n5", iso="")
    assert len(redis_client.keys("taskq:handed:*")) == 2
    engine.release(A, what)
    assert not redis_client.keys("taskq:handed:*")


@pytest.mark.parametrize("how", ["suspend", "pause"])
def test_suspended_and_paused_queues_are_left_alone(engine: Engine, redis_client, how):
    ids = engine.enqueue(2)
    redis_client.rpush(f"taskq:claim:{A}:default", redis_client.lpop("rq:queue:default"))
    if how == "suspend":
        redis_client.set("rq:suspended", 1)
    else:
        redis_client.sadd("taskq:paused", "default")
    assert engine.reserve_all(A)[1] == []
    assert queue_of(redis_client) == ids


@pytest.mark.parametrize(
    ("state", "runs"),
    [("scheduled", True), ("deferred", True), ("created", True), ("nonsense", False)],
)
def test_odd_states_found_in_a_queue(engine: Engine, redis_client, state, runs):
    [one] = engine.enqueue()
    redis_client.hset(f"rq:job:{one}", "status", state)
    assert bool(engine.reserve(A)) is runs
    assert places(redis_client, one) == ["rq:wip:default" if runs else "rq:failed:default"]


# -- settle ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "option", "state", "place"),
    [
        ("f", "500", "finished", "rq:finished:default"),
        ("f", "-1", "finished", "rq:finished:default"),
        ("x", "500", "failed", "rq:failed:default"),
        ("x", "-1", "failed", "rq:failed:default"),
        ("r", "", "queued", "rq:queue:default"),
        ("g", "", "queued", "rq:queue:default"),
        ("u", "", "scheduled", "rq:scheduled:default"),
        ("c", "", "canceled", "rq:canceled:default"),
    ],
)
def test_each_end_is_in_its_place_and_only_once(engine, redis_client, kind, option, state, place):
    [one] = engine.enqueue()
    [job] = engine.reserve(A)
    assert engine.settle(job, kind, option=option) == 1
    assert engine.settle(job, kind, option=option) == 0  # its answer was lost: sent again
    assert places(redis_client, one) == [place]
    assert status(redis_client, one) == state
    if kind in "fxc":
        kept = redis_client.ttl(f"rq:job:{one}")
        assert (kept == -1) if option == "-1" else (kept > 0)


def marked(client: redis.Redis, job_id: str) -> bool:
    """Whether a done-marker tells that the job has ended."""
    return any(client.sismember(key, job_id) for key in client.keys("taskq:done:*"))


@pytest.mark.parametrize("end", ["settled", "crashed", "cut off"])
def test_a_failed_job_that_is_not_to_be_kept_is_deleted(engine: Engine, redis_client, end):
    """`failure_ttl=0`, as in RQ; who waits for it sees that it has ended."""
    extra = ["tq_redeliver", "0"] if end == "cut off" else []
    [one] = engine.enqueue(fields=["failure_ttl", "0", "tq_crashes", "2", *extra])
    redis_client.xadd(f"rq:results:{one}", {"type": "4"})  # of an earlier execution
    engine.beat(A)
    [job] = engine.reserve(A)
    if end == "settled":
        assert engine.settle(job, "x", option="0") == 1
        assert engine.settle(job, "x", option="0") == 0
    else:
        assert engine.release(A, "dead", *([one] if end == "crashed" else [])) == (0, 1)
    assert places(redis_client, one) == []
    assert not redis_client.keys(f"rq:*{one}*")
    assert marked(redis_client, one)


def test_enqueue_sent_again_after_the_job_has_failed_and_gone(engine: Engine, broker, redis_client):
    job = NewJob("gone", "default", b"[]", fields=["failure_ttl", "0"])
    broker.enqueue([job])
    [got] = engine.reserve(A)
    assert engine.settle(got, "x", option="0") == 1
    args: list[object] = ["1", broker.clock.iso()]
    job.append_to(args)
    engine.run("enqueue", *args)
    assert queue_of(redis_client) == []


def test_one_that_lost_its_lease_changes_nothing(engine: Engine, redis_client):
    [one] = engine.enqueue()
    engine.beat(A)
    [old] = engine.reserve(A)
    engine.release(A, "dead", one)
    [new] = engine.reserve(B)
    before = redis_client.hgetall(f"rq:job:{one}")
    for kind in "fxrguc":
        assert engine.settle(old, kind) == 0
    assert redis_client.hgetall(f"rq:job:{one}") == before
    assert engine.settle(new, "f") == 1
    assert places(redis_client, one) == ["rq:finished:default"]


def test_entries_whose_time_is_over_leave_as_others_come(engine: Engine, redis_client):
    registry = "rq:finished:default"
    for n in range(10):
        redis_client.zadd(registry, {f"old{n}": 1000 + n})
    redis_client.zadd(registry, {"for ever": "+inf", "odd": -1})
    engine.enqueue(2)
    for job in engine.reserve(A):
        engine.settle(job, "f")
    left = {member.decode() for member in redis_client.zrange(registry, 0, -1)}
    assert {"for ever", "odd"} < left
    assert len([member for member in left if member.startswith("old")]) == 6  # two for each
    engine.beat(A)
    redis_client.zadd("rq:failed:default", {"old": 1000, "for ever": -1})
    engine.age(redis_client, 0)
    assert engine.sweep()[0] == b"ok"
    assert redis_client.zcount(registry, 0, 10_000) == 0
    assert redis_client.zrange("rq:failed:default", 0, -1) == [b"for ever"]


def test_given_back_jobs_keep_their_order(engine: Engine, redis_client):
    ids = engine.enqueue(6)
    jobs = engine.reserve(A, 4)
    for job in reversed(jobs):
        engine.settle(job, "g")
    assert queue_of(redis_client) == ids


def test_the_job_of_a_process_that_died_is_the_next_and_counts_it(engine: Engine, redis_client):
    first, second = engine.enqueue(2)
    for crashes in (1, 2):
        jobs = engine.reserve(A)
        job = next(one for one in jobs if one.id == first)
        for other in jobs:
            if other is not job:
                assert engine.settle(other, "g") == 1
        assert engine.settle(job, "d") == 1
        assert engine.settle(job, "d") == 0, "a resend counts nothing"
        assert status(redis_client, first) == "queued"
        assert places(redis_client, first) == ["rq:queue:default"]
        assert queue_of(redis_client) == [first, second], "before those that came later"
        assert int(redis_client.hget(f"rq:job:{first}", "tq_crashes") or 0) == crashes
        assert redis_client.hget(f"rq:job:{first}", "tq_attempts") is None
    assert redis_client.hget(f"rq:job:{second}", "tq_crashes") is None


@pytest.mark.parametrize("kind", "fxrguc")
def test_a_server_out_of_memory_records_ends_in_full(engine: Engine, redis_client, kind):
    [one, two] = engine.enqueue(2)
    engine.beat(A)
    [job, _other] = engine.reserve(A)
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(BrokerError, match="maxmemory"):
            engine.enqueue()
        engine.beat(A)
        assert engine.settle(job, kind) == 1
        assert len(places(redis_client, one)) == 1
        assert engine.release(A, "dead") == (1, 0)
        assert places(redis_client, two) == ["rq:queue:default"]
    finally:
        redis_client.config_set("maxmemory", 0)
    states = {"f": "finished", "x": "failed", "u": "scheduled", "c": "canceled"}
    assert status(redis_client, one) == states.get(kind, "queued")
    assert status(redis_client, two) == "queued"


# -- release and recover -----------------------------------------------------------------------


def test_the_first_sweep_after_a_gap_only_holds(engine: Engine, redis_client):
    [one] = engine.enqueue()
    engine.beat(A)
    engine.reserve(A)
    assert engine.sweep()[0] == b"holding"
    engine.age(redis_client, 30, A)
    redis_client.hset("taskq:sweep", "last", time.time() - 20)
    assert engine.sweep()[0] == b"holding"
    assert places(redis_client, one) == ["rq:wip:default"]


def test_leases_of_the_living_are_extended_and_those_of_the_dead_taken(engine, redis_client):
    ids = engine.enqueue(4)
    for uid in (A, B):
        engine.beat(uid)
        engine.reserve(uid, 2)
    engine.age(redis_client, 30, B)
    engine.beat(A)
    assert engine.sweep() == (b"ok", 2, 0, 2)
    assert sorted(queue_of(redis_client)) == sorted(ids[2:])
    assert misplaced(redis_client, ids) == {}
    assert engine.sweep() == (b"ok", 0, 0, 0)
    assert redis_client.hget(f"rq:job:{ids[2]}", "tq_crashes") is None  # none had begun


def test_a_lease_ends_with_its_workers_heartbeats_also_when_it_was_just_extended(
    engine: Engine, redis_client
):
    engine.beat(A)
    engine.enqueue()
    engine.reserve(A)
    engine.age(redis_client, 16)
    engine.beat(A)
    engine.age(redis_client, 13, A)
    assert engine.sweep() == (b"ok", 0, 0, 1)
    engine.age(redis_client, 3, A)  # last heard 16 s ago
    assert engine.sweep() == (b"ok", 1, 0, 0)


def test_the_supervisors_heartbeat_leaves_the_state_to_the_worker(engine: Engine, redis_client):
    engine.beat(A)
    iso = engine.broker.clock.iso()
    engine.run("beat", iso, 60, A, f"host.{A}", "default", "", 0)
    assert redis_client.hget(f"rq:worker:host.{A}", "state") == b"busy"


def test_lost_heartbeats_cost_nobody_its_jobs(engine: Engine, redis_client):
    [one] = engine.enqueue()
    engine.beat(A)
    engine.reserve(A)
    engine.age(redis_client, 30)
    redis_client.delete("taskq:alive")
    assert engine.sweep() == (b"ok", 0, 0, 1)
    engine.age(redis_client, 30, A)
    assert engine.sweep() == (b"ok", 1, 0, 0)
    assert places(redis_client, one) == ["rq:queue:default"]


def test_three_crashes_are_the_end_and_only_of_what_had_begun(engine: Engine, redis_client):
    bad, good = engine.enqueue(2)
    for crash in range(1, 4):
        uid = f"crash00{crash}"
        engine.beat(uid)
        jobs = {job.id: job for job in engine.reserve(uid)}
        assert set(jobs) == {bad, good}
        assert engine.release(uid, "dead", bad) == ((2, 0) if crash < 3 else (1, 1))
    assert places(redis_client, bad) == ["rq:failed:default"]
    assert "Crash loop: 3 worker processes" in reason(redis_client, bad)
    assert places(redis_client, good) == ["rq:queue:default"]
    assert redis_client.hget(f"rq:job:{good}", "tq_crashes") is None


def test_a_long_job_counts_its_crash_also_when_its_whole_server_is_gone(engine, redis_client):
    [one] = engine.enqueue()
    [job] = engine.reserve(A)
    engine.beat(A, one, job.exec_id)
    engine.age(redis_client, 30, A)
    assert engine.sweep() == (b"ok", 1, 0, 0)
    assert redis_client.hget(f"rq:job:{one}", "tq_crashes") == b"1"


@pytest.mark.parametrize("how", ["release", "sweep"])
def test_redeliver_false_is_failed_and_never_run_again(engine: Engine, redis_client, how):
    [one] = engine.enqueue(fields=["tq_redeliver", "0"])
    engine.beat(A)
    engine.reserve(A)
    if how == "release":
        assert engine.release(A, "dead") == (0, 1)
    else:
        engine.age(redis_client, 30, A)
        assert engine.sweep() == (b"ok", 0, 1, 0)
    assert places(redis_client, one) == ["rq:failed:default"]
    assert "redeliver=False" in reason(redis_client, one)


@pytest.mark.parametrize("end", ["dead", "bye", "lost"])
def test_what_a_gone_worker_claimed_late_comes_back(engine: Engine, redis_client, end):
    """Its blocked BLMOVE may be served by Redis after everything else of it is over."""
    engine.beat(A)
    [one] = engine.enqueue()
    if end != "lost":
        engine.release(A, end)
    redis_client.lmove("rq:queue:default", f"taskq:claim:{A}:default", "LEFT", "RIGHT")
    engine.age(redis_client, 30, A)
    assert engine.sweep() == (b"ok", 1, 0, 0)
    assert queue_of(redis_client) == [one]
    engine.age(redis_client, 400, A)
    engine.sweep()
    assert redis_client.hlen("taskq:serves") == redis_client.zcard("taskq:alive") == 0


def test_queue_names_with_commas(broker: Broker, redis_client):
    engine = Engine(broker, "a,b", "c")
    ids = engine.enqueue(2, "a,b") + engine.enqueue(1, "c")
    engine.beat(A)
    engine.reserve(A)
    assert engine.release(A, "dead") == (3, 0)
    assert misplaced(redis_client, ids) == {}
    assert redis_client.llen("rq:queue:a,b") == 2


# -- promote -----------------------------------------------------------------------------------


def test_due_jobs_move_in_order_and_never_early(engine: Engine, redis_client):
    now = time.time()
    late = engine.enqueue(1, at=now + 60)
    second = engine.enqueue(1, at=now - 1)
    first = engine.enqueue(1, at=now - 2)
    front = engine.enqueue(1, at=now - 1.5, fields=["enqueue_at_front", "1"])
    moved, due = engine.promote()
    assert moved == 3
    assert queue_of(redis_client) == front + first + second
    assert float(due) == pytest.approx(now + 60, abs=0.01)
    assert misplaced(redis_client, late + second + first + front) == {}


def test_a_delayed_retry_comes_to_the_front_where_its_retry_says_so(engine: Engine, redis_client):
    front = ["enqueue_at_front_on_retry", "1"]
    again, plain = *engine.enqueue(1, fields=front), *engine.enqueue(1)
    for job in engine.reserve(A, 2):
        assert engine.settle(job, "r", "0.000001", "", "", RETRIED) == 1
    [waits] = engine.enqueue(1)
    [first] = engine.enqueue(1, delay_s=0.000001, fields=front)  # has not run yet
    wait_until(lambda: engine.promote() and not redis_client.exists("rq:scheduled:default"))
    assert queue_of(redis_client) == [again, waits, plain, first]


def test_promotion_waits_for_a_queue_that_is_no_list(engine: Engine, redis_client):
    [one] = engine.enqueue(1, delay_s=0.0)
    redis_client.set("rq:queue:default", "x")
    assert engine.promote()[0] == 0
    assert places(redis_client, one) == ["rq:scheduled:default"]
    redis_client.delete("rq:queue:default")
    assert engine.promote()[0] == 1
    assert places(redis_client, one) == ["rq:queue:default"]


# -- cancel ------------------------------------------------------------------------------------


def cancel(engine: Engine, job_id: str) -> int:
    return int(engine.run("cancel", job_id, engine.broker.clock.iso()))


@pytest.mark.parametrize("origin", ["", None])
@pytest.mark.parametrize("place", [{}, {"delay_s": 60.0}])
def test_a_job_that_says_not_where_it_is_from_is_looked_for(
    engine: Engine, redis_client, place, origin
):
    others = engine.enqueue(2, "default") + engine.enqueue(2, "other")
    [one] = engine.enqueue(1, "other", **place)
    redis_client.hdel(f"rq:job:{one}", "origin")
    if origin is not None:
        redis_client.hset(f"rq:job:{one}", "origin", origin)
    assert cancel(engine, one) == 1
    assert places(redis_client, one) == ["rq:canceled:other"]
    assert status(redis_client, one) == "canceled"
    assert redis_client.hget(f"rq:job:{one}", "origin") == b"other"
    assert misplaced(redis_client, others) == {}


@pytest.mark.parametrize("queues", ["kept", "lost", "broken"])
def test_a_job_that_is_found_nowhere_is_left_as_it_is(engine: Engine, redis_client, queues):
    """A status without a queue would leave its id there, to be dropped without a trace."""
    [one] = engine.enqueue()
    redis_client.hdel(f"rq:job:{one}", "origin")
    if queues == "kept":
        redis_client.delete("rq:queue:default")
    else:
        redis_client.delete("rq:queues")
    if queues == "broken":
        redis_client.set("rq:queues", "x")
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    assert cancel(engine, one) == -1
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before
    assert cancel(engine, "nobody") == -1
