"""A state machine over the engine's scripts on a real Redis, with a dict as its model.

Each rule does something to Redis through the scripts that workers use, says what the model
expects, and compares: answers at once, all of Redis after each step. Time passes by shifting
every score (`Engine.age`): six seconds a step, so that the milliseconds that really pass decide
nothing. A worker that does not beat is frozen or dead: nobody can tell, and the model does not.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from taskq.broker.client import Broker
from taskq.broker.records import NewJob
from taskq.operations import cancel, retry
from tests.engine import Engine, Reserved

LEASE_S = 15.0
STEP_S = 6.0
FORGOTTEN_S = 300.0
"""After so long without a heartbeat no request of a worker can be under way any more."""
CRASHES = 3
DATA = b'["app.task",null,[],{}]'
ENDED = ("finished", "failed", "canceled")


@dataclass
class Job:
    """What the model knows of one job."""

    state: str
    made: NewJob
    redeliver: bool = True
    unique: str = ""
    due: float = 0.0
    exec_id: str = ""
    worker: str = ""
    lease_until: float = 0.0
    begun: bool = False
    crashes: int = 0


@dataclass
class Worker:
    """What Redis knows of one worker."""

    uid: str
    beat: float
    known: bool = True
    fenced: bool = False
    claimed: list[str] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Subclasses have a `broker` and a `client`."""

    broker: Broker
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.now = self.since = 0.0
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.held: list[Reserved] = []
        self.locks: dict[str, str] = {}
        self.engine = Engine(self.broker)

    @initialize()
    def begin(self) -> None:
        self.client.flushdb()
        for letter in "ab":
            self._new_worker(letter)
        self.engine.age(self.client, 0)
        self.since = time.monotonic()

    def _new_worker(self, letter: str) -> None:
        uid = letter + secrets.token_hex(4)[:7]
        self.engine.beat(uid)
        self.workers[uid] = Worker(uid, self.now)

    # -- enqueue ---------------------------------------------------------------------------

    @rule(
        place=st.sampled_from(["back", "back", "front", "soon", "later"]),
        redeliver=st.booleans(),
        unique=st.sampled_from(["", "", "", "u1", "u2"]),
    )
    def enqueue(self, place: str, redeliver: bool, unique: str) -> None:
        fields: list[Any] = [] if redeliver else ["tq_redeliver", "0"]
        if unique:
            fields += ["tq_unique", unique]
        delay = {"soon": 3.0, "later": 100.0}.get(place)
        new = NewJob(
            secrets.token_hex(6), "default", DATA, fields,
            at_front=place == "front", delay_s=delay, unique=unique,
        )  # fmt: skip
        [accepted] = self.broker.enqueue([new])
        holder = self.locks.get(unique) if unique else None
        if holder is not None and self.jobs[holder].state not in ENDED:
            assert (accepted.id, accepted.created) == (holder, False)
            return
        assert (accepted.id, accepted.created) == (new.id, True)
        state = "scheduled" if delay else "queued"
        job = Job(state, new, redeliver, unique, self.now + (delay or 0.0))
        self.jobs[new.id] = job
        if unique:
            self.locks[unique] = new.id

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 10**6))
    def enqueue_is_sent_again(self, pick: int) -> None:
        """Its answer was lost; the request, marked as a resend, changes nothing."""
        job_id = self._pick(pick)
        args: list[Any] = ["1", self.broker.clock.iso()]
        self.jobs[job_id].made.append_to(args)
        assert self.engine.run("enqueue", *args) == [job_id.encode()]

    # -- workers ---------------------------------------------------------------------------

    @rule(pick=st.integers(0, 10**6), limit=st.integers(1, 3))
    def reserve(self, pick: int, limit: int) -> None:
        self._in_time()
        worker = self._worker(pick)
        state, jobs = self.engine.reserve_all(worker.uid, limit)
        if worker.fenced:
            assert state == b"fenced"
            return
        assert state == b"ok"
        free = {job_id for job_id, job in self.jobs.items() if job.state == "queued"}
        mine = set(worker.claimed)
        others = {i for w in self.workers.values() if w is not worker for i in w.claimed}
        got = [job.id for job in jobs]
        assert len(set(got)) == len(got) == min(limit, len(free - others))
        assert set(got) <= free - others
        assert set(got) >= mine & free or len(got) == limit
        worker.claimed = []
        for reserved in jobs:
            job = self.jobs[reserved.id]
            job.state, job.worker, job.exec_id = "started", worker.uid, reserved.exec_id
            job.lease_until, job.begun = self.now + LEASE_S, False
            self.held.append(reserved)

    @rule(pick=st.integers(0, 10**6))
    def claim(self, pick: int) -> None:
        """A blocked BLMOVE wakes; its reserve has not come yet. Only those who live are blocked."""
        self._in_time()
        worker = self._worker(pick)
        if worker.fenced or self.now - worker.beat >= LEASE_S:
            return
        key = self.broker.keys.claim(worker.uid, "default")
        moved = self.client.lmove("rq:queue:default", key, "LEFT", "RIGHT")
        if moved is not None:
            worker.claimed.append(moved.decode())

    @rule(pick=st.integers(0, 10**6), runs=st.booleans())
    def beat(self, pick: int, runs: bool) -> None:
        """It lives; and says which of its jobs have begun."""
        self._in_time()
        worker = self._worker(pick)
        begun: list[str] = []
        for job_id, job in self.jobs.items():
            if runs and job.state == "started" and job.worker == worker.uid:
                begun += [job_id, job.exec_id]
                if not worker.fenced:
                    job.begun = True
        self.engine.beat(worker.uid, *begun)
        if not worker.fenced:
            worker.beat, worker.known = self.now, True

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 10**6), kind=st.sampled_from("ffffxrRgucd"))
    def settle(self, pick: int, kind: str) -> None:
        """An execution ends: perhaps of one that lost its lease, or a second time."""
        reserved = self.held[pick % len(self.held)]
        job = self.jobs[reserved.id]
        owns = job.state == "started" and job.exec_id == reserved.exec_id
        rest: tuple[Any, ...] = ("3", "", "", "") if kind == "R" else ()
        code = self.engine.settle(reserved, kind.lower(), *rest, unique=job.unique)
        assert code == int(owns), (kind, job)
        if not owns:
            return
        job.exec_id = ""
        if kind in "fxc":
            job.state = {"f": "finished", "x": "failed", "c": "canceled"}[kind]
            self._unlock(reserved.id, job)
        elif kind in "Ru":
            job.state, job.due = "scheduled", self.now + (3 if kind == "R" else 10)
        else:
            job.state = "queued"
            job.crashes += kind == "d"

    # -- recovery --------------------------------------------------------------------------

    @rule(pick=st.integers(0, 10**6), begun=st.booleans())
    def a_death_is_seen(self, pick: int, begun: bool) -> None:
        """The supervisor gives back what its dead child held; a late request changes nothing."""
        self._in_time()
        worker = self._worker(pick)
        mine = [i for i, j in self.jobs.items() if j.state == "started" and j.worker == worker.uid]
        self.engine.release(worker.uid, "dead", *(mine if begun else ()))
        for job_id in mine:
            self._taken_back(job_id, begun)
        worker.claimed, worker.known, worker.fenced = [], True, True
        worker.beat = self.now - 60
        live = [w for w in self.workers.values() if not w.fenced]
        if len(live) < 2:
            self._new_worker("c")

    @rule()
    def sweep(self) -> None:
        self._in_time()
        state, requeued, failed, extended = self.engine.sweep()
        assert state == b"ok"
        expected = [0, 0, 0]
        for job_id, job in self.jobs.items():
            if job.state != "started" or job.lease_until > self.now:
                continue
            owner = self.workers[job.worker]
            if not owner.known:  # it gets time to be heard
                owner.beat, owner.known = self.now, True
            if self.now - owner.beat < LEASE_S:
                job.lease_until = min(owner.beat, self.now) + LEASE_S
                expected[2] += 1
            else:
                expected[self._taken_back(job_id, False)] += 1
        for worker in self.workers.values():
            if worker.claimed and self.now - worker.beat >= LEASE_S:
                expected[0] += sum(self.jobs[i].state == "queued" for i in worker.claimed)
                worker.claimed = []
            if self.now - worker.beat >= FORGOTTEN_S:
                worker.known = worker.fenced = False
        assert [requeued, failed, extended] == expected

    @rule()
    def promote(self) -> None:
        self._in_time()
        moved, _next = self.engine.promote()
        due = [j for j in self.jobs.values() if j.state == "scheduled" and j.due < self.now]
        assert moved == len(due)
        for job in due:
            job.state = "queued"

    @rule(steps=st.integers(1, 4))
    def time_passes(self, steps: int) -> None:
        self.now += steps * STEP_S
        self._shift(steps * STEP_S)

    def _shift(self, seconds: float) -> None:
        """Let Redis be as old as the model; what really passes is taken back."""
        really = time.monotonic()
        seconds, self.since = seconds - (really - self.since), really
        self.engine.age(self.client, seconds, *self.workers)
        for member, score in self.client.zrange("rq:scheduled:default", 0, -1, withscores=True):
            self.client.zadd("rq:scheduled:default", {member: score - seconds})

    def _in_time(self) -> None:
        if time.monotonic() - self.since > STEP_S / 12:
            self._shift(0.0)

    # -- people ----------------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 10**6))
    def cancel(self, pick: int) -> None:
        job_id = self._pick(pick)
        job = self.jobs[job_id]
        done = cancel(self.broker, [job_id])
        if job.state in ENDED:
            assert done.ended == [job_id]
        elif job.state == "started":
            assert done.asked == [job_id]
        else:
            assert done.canceled == [job_id]
            job.state = "canceled"
            self._unlock(job_id, job)

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 10**6), front=st.booleans())
    def run_again(self, pick: int, front: bool) -> None:
        job_id = self._pick(pick)
        job = self.jobs[job_id]
        if any(job_id in worker.claimed for worker in self.workers.values()):
            return  # canceled, and still in a claim list: its entry is dropped when that is adopted
        done = retry(self.broker, [job_id], at_front=front)
        if job.state in ("failed", "canceled"):
            assert done.queued == [job_id]
            job.state, job.crashes, job.begun = "queued", 0, False
        else:
            assert done.refused == [job_id]

    @rule()
    def scripts_are_forgotten(self) -> None:
        self.client.script_flush()

    # -- what must hold --------------------------------------------------------------------

    @invariant()
    def each_job_is_in_exactly_one_place(self) -> None:
        """G1, and it is the place that the model says."""
        found, states = _everything(self.client, list(self.jobs), list(self.workers))
        for job_id, job in self.jobs.items():
            key = job_id.encode()
            where = found.get(key, [])
            if job.state == "canceled" and any(
                job_id in worker.claimed for worker in self.workers.values()
            ):
                where = [place for place in where if place != "queue"]
            expected = {"queued": "queue", "started": f"wip {job.exec_id}"}
            assert where == [expected.get(job.state, job.state)], (job_id, job, where)
            assert states[key] == job.state
        assert set(found) <= {job_id.encode() for job_id in self.jobs}

    # -- helpers ---------------------------------------------------------------------------

    def _pick(self, pick: int) -> str:
        ids = list(self.jobs)
        return ids[pick % len(ids)]

    def _worker(self, pick: int) -> Worker:
        workers = list(self.workers.values())
        return workers[pick % len(workers)]

    def _unlock(self, job_id: str, job: Job) -> None:
        if job.unique and self.locks.get(job.unique) == job_id:
            del self.locks[job.unique]

    def _taken_back(self, job_id: str, begun: bool) -> int:
        """Its worker is gone; 0: it runs again, 1: it has failed."""
        job = self.jobs[job_id]
        job.exec_id = ""
        if not job.redeliver:
            job.state = "failed"
            self._unlock(job_id, job)
            return 1
        if begun or job.begun:
            job.crashes += 1
            if job.crashes >= CRASHES:
                job.state = "failed"
                self._unlock(job_id, job)
                return 1
        job.state, job.begun = "queued", False
        return 0


def check_model(broker: Broker, client: redis.Redis, *, runs: int, steps: int) -> None:
    """Run the machine so often, with so many steps each."""
    machine = type("Here", (Machine,), {"broker": broker, "client": client})
    chosen = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)


def _everything(
    client: redis.Redis, ids: list[str], uids: list[str]
) -> tuple[dict[bytes, list[str]], dict[bytes, str]]:
    """All ids with their places, and the statuses of these jobs, in one round trip."""
    pipe = client.pipeline(transaction=False)
    pipe.lrange("rq:queue:default", 0, -1)
    for uid in uids:
        pipe.lrange(f"taskq:claim:{uid}:default", 0, -1)
    kinds = ("wip", "scheduled", "finished", "failed", "canceled")
    for kind in kinds:
        pipe.zrange(f"rq:{kind}:default", 0, -1)
    for job_id in ids:
        pipe.hget(f"rq:job:{job_id}", "status")
    replies = pipe.execute()
    found: dict[bytes, list[str]] = {}
    lists = 1 + len(uids)
    for entries in replies[:lists]:
        for job_id in entries:
            found.setdefault(job_id, []).append("queue")
    for kind, members in zip(kinds, replies[lists : lists + len(kinds)]):
        for member in members:
            job_id, _, execution = member.rpartition(b":")
            if kind == "wip":
                found.setdefault(job_id, []).append(f"wip {execution.decode()}")
            else:
                found.setdefault(member, []).append(kind)
    states = [raw.decode() if raw else "" for raw in replies[lists + len(kinds) :]]
    return found, {job_id.encode(): state for job_id, state in zip(ids, states)}
