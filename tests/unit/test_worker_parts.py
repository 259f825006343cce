"""Parts of a worker process on their own: the begun table, the pace, the thread runner's edges."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from taskq import TaskQ
from taskq.clock import Clock
from taskq.histogram import bucket
from taskq.worker import child
from taskq.worker.begun import BegunTable
from taskq.worker.claim import Claim
from taskq.worker.items import GIVEN_BACK, canceled, failed, finished, pack_items, retried
from taskq.worker.outcome import Interrupted, TimeLimit, failure_item
from taskq.worker.pace import Pace
from taskq.worker.room import Room
from taskq.worker.rq_share import MOST_WAITING
from taskq.worker.runners import Runners, held_up
from taskq.worker.settings import SETTLE_BYTES, WorkerSettings
from taskq.worker.suspects import Suspects
from taskq.worker.tally import Tally, Waits
from taskq.worker.thread_runner import ThreadRunner
from taskq.worker.thread_slot import Slot
from tests.support import time_passes, until


def claim_of(
    fn: Any = None, *, job_id: str = "job", deadline: float = 0.0, **fields: bytes
) -> Claim:
    flat = [part for name, value in fields.items() for part in (name.encode(), value)]
    made = Claim(1, "default", job_id, "tqaaaaaaaa1", flat, time.monotonic())
    made.fn, made.deadline, made.name = fn, deadline, "task"
    return made


# -- the begun table ---------------------------------------------------------------------------


def test_the_supervisor_reads_what_the_child_wrote():
    ours = BegunTable(4)
    theirs = BegunTable(4, ours.fd)
    first = theirs.begin("job-1", "tqaaaaaaaa1", 12.5)
    second = theirs.begin("jöb-2", "tqaaaaaaaa2", 0.0)
    assert [tuple(one) for one in ours.read()] == [
        ("job-1", "tqaaaaaaaa1", 12.5),
        ("jöb-2", "tqaaaaaaaa2", 0.0),
    ]
    theirs.extend(first, 13.5)
    theirs.extend(-1, 13.5)
    assert ours.at(first) == ("job-1", "tqaaaaaaaa1", 13.5)
    theirs.end(first)
    assert [one.job_id for one in ours.read()] == ["jöb-2"]
    theirs.end(second)
    assert ours.read() == []
    theirs.close()
    ours.close()


def test_a_full_table_and_long_ids_are_no_error():
    table = BegunTable(1)
    assert table.begin("x" * 500, "tqaaaaaaaa1", 0.0) == -1
    slot = table.begin("a", "tqaaaaaaaa1", 0.0)
    assert table.begin("b", "tqaaaaaaaa1", 0.0) == -1
    table.end(-1)
    table.end(slot)
    assert table.begin("c", "tqaaaaaaaa1", 0.0) == slot
    table.close()


# -- pace ----------------------------------------------------------------------------------------


def test_one_slow_task_ends_the_lookahead_at_once_and_it_comes_back_slowly():
    pace = Pace()
    for _ in range(300):
        pace.ran(0.0001)
    assert pace.lookahead(1, 0.0) > 50
    pace.ran(2.0)
    assert pace.lookahead(1, 0.0) == 0
    for _ in range(20):
        pace.ran(0.0001)
    assert pace.lookahead(1, 0.0) == 0
    for _ in range(200):
        pace.ran(0.0001)
    assert pace.lookahead(1, 0.0) > 5
    assert pace.lookahead(1, 5.0) == 0  # something long runs right now


def test_the_lookahead_is_what_the_slots_work_off_in_fifty_milliseconds():
    pace = Pace()
    for _ in range(2000):
        pace.ran(0.1)
    assert pace.lookahead(1, 0.0) == 0
    assert pace.lookahead(100, 0.0) in (49, 50)
    assert pace.lookahead(1000, 0.0) == 200  # two calls' worth at most


def test_a_batch_shrinks_when_jobs_begin_late():
    pace = Pace()
    for _ in range(5):
        pace.next_batch()
    assert pace.batch == 100
    pace.began(0.5)
    assert pace.next_batch() == 10
    pace.began(100.0)
    assert pace.next_batch() == 1


# -- room -----------------------------------------------------------------------------------------


class Parts:
    """What the room looks at, with two threads and three coroutines."""

    def __init__(self, modes: set[str], **settings: Any) -> None:
        self.pace = Pace()
        self.jobs = self.bytes = self.by_rq = self.sending = 0
        self.threads = SimpleNamespace(slots=2, busy=0, running={})
        self.coroutines = SimpleNamespace(slots=3, busy=0, running={})
        self.by_mode = {"thread": self.threads, "asyncio": self.coroutines}
        self.came: dict[str, float] = {}
        self.room = Room(WorkerSettings(**settings), modes, self, self, self)  # type: ignore[arg-type]

    @property
    def busy(self) -> int:
        return self.threads.busy + self.coroutines.busy


def test_room_is_what_the_slots_have_and_the_kind_with_fewer_decides():
    assert Parts({"thread"}).room.wanted(backlog=False) == 2
    assert Parts({"asyncio"}).room.wanted(backlog=False) == 3
    parts = Parts({"thread", "asyncio"})
    assert parts.room.wanted(backlog=False) == 2
    parts.coroutines.busy = 3
    assert parts.room.wanted(backlog=False) == 0


def test_room_looks_ahead_only_into_a_backlog_of_short_jobs():
    parts = Parts({"thread"})
    for _ in range(300):
        parts.pace.ran(0.0001)
    parts.threads.busy = 2
    assert parts.room.wanted(backlog=False) == 0
    assert parts.room.wanted(backlog=True) > 50
    long_one = claim_of()
    long_one.begun_mono = time.monotonic() - 60
    parts.threads.running["x"] = long_one
    assert parts.room.wanted(backlog=True) == 0


def test_room_takes_nothing_ahead_while_long_ones_have_all_slots():
    parts = Parts({"asyncio"})
    now = time.monotonic()
    for name in "abc":
        one = claim_of()
        one.begun_mono = now - 0.2
        parts.coroutines.running[name] = one
    parts.coroutines.busy = 3
    parts.pace.average_s = 0.3
    assert not held_up(parts.coroutines, parts.pace.average_s, now)  # they end soon
    parts.pace.average_s = 0.001
    assert held_up(parts.coroutines, parts.pace.average_s, now)
    assert parts.room.wanted(backlog=True) == 0
    parts.coroutines.running["c"].begun_mono = now - 0.01
    assert not held_up(parts.coroutines, parts.pace.average_s, now)  # one slot goes on
    del parts.coroutines.running["c"]
    assert not held_up(parts.coroutines, parts.pace.average_s, now)


class Settled:
    """Notes what is given back."""

    def __init__(self) -> None:
        self.back: list[str] = []

    def add(self, claim: Claim, item: Any) -> None:
        assert item is GIVEN_BACK
        self.back.append(claim.id)


@pytest.mark.parametrize(
    ("began", "reserved", "keeps"),
    [
        ([0.01, 0.01], 0.01, 4),  # short ones, soon over
        ([0.06, 0.06], 0.06, 0),  # long ones everywhere
        ([0.06, 0.01], 0.06, 1),  # 2 slots begin 1.7 jobs in 50 ms when a job takes 60
        ([1.0, 0.01], 0.01, 0),
        ([0.01, 0.01], 0.16, 0),  # whatever the reason: too long
        ([1.0], 0.01, 1),  # the thread of a free slot only has to wake up
        ([1.0], 0.16, 1),
    ],
)
async def test_what_cannot_begin_soon_goes_back_the_last_first(began, reserved, keeps):
    settled, pace = Settled(), Pace()
    pace.average_s = 0.001
    settings = WorkerSettings(concurrency=2)
    wake = asyncio.get_running_loop().call_soon_threadsafe
    app = TaskQ("redis://nobody:1")
    link = app.broker.new_alink()
    runners = Runners(settings, settled, print, print, wake, pace, app, link)  # type: ignore[arg-type]
    now = time.monotonic()
    for n, seconds in enumerate(began):
        runners.coroutines.running[f"r{n}"] = one = claim_of(job_id=f"r{n}")
        one.begun_mono = now - seconds
    for n in range(4):
        runners.coroutines.waiting[f"w{n}"] = one = claim_of(job_id=f"w{n}")
        one.mode = "asyncio"
        one.reserved_mono = now - reserved
    runners.check(now)
    assert settled.back == [f"w{n}" for n in range(3, keeps - 1, -1)]
    assert list(runners.coroutines.waiting) == [f"w{n}" for n in range(keeps)]


# -- tally ----------------------------------------------------------------------------------------


def test_a_tally_counts_ends_and_takes_back_what_was_not_sent():
    waits = Waits(Clock())
    tally, sent = Tally(waits), Tally(waits)
    enqueued = 1_700_000_000.0

    def ran(position: int, waited_s: float) -> Claim:
        fields = [b"enqueued_at", Clock().iso(enqueued).encode(), b"tq_unique", b""]
        claim = Claim(position, "q", "id", "exec", fields, 0.0)
        claim.begun_at, claim.begun_mono = enqueued + waited_s, 1.0
        return claim

    sent.end(ran(1, 0.0), "finished", 0.0)
    sent.end(ran(1, 3.0), "finished", 0.005)
    refused = Claim(2, "q", "id", "exec", [], 0.0)
    tally.end(refused, "failed", 0.0)
    long = ran(1, 3.0)
    tally.began(long)
    tally.began(long)
    tally.end(long, "retried", 5.0)
    tally.add(sent)
    assert tally.totals() == (2, 2, "5.005000")
    fields = tally.fields()
    assert fields[0] == len(fields) // 3
    triples = list(zip(fields[1::3], fields[2::3], fields[3::3], strict=True))
    assert sorted(triples) == [
        (1, "finished", 2), (1, "r0", 1), (1, f"r{bucket(0.005)}", 1), (1, f"r{bucket(5.0)}", 1),
        (1, "retried", 1), (1, "run_us", 5_005_000), (1, "started", 3), (1, "w0", 1),
        (1, f"w{bucket(3.0)}", 2), (2, "failed", 1),
    ]  # fmt: skip
    assert Tally(waits).totals() == (0, 0, "0")
    assert Tally(waits).fields() == [0]
    assert tally and not Tally(waits)


def test_there_is_no_room_for_more_than_the_process_may_run_or_keep():
    parts = Parts({"asyncio"}, max_jobs=5)
    parts.jobs, parts.coroutines.busy = 2, 1
    assert parts.room.wanted(backlog=False) == 2
    parts.jobs = 4
    assert parts.room.wanted(backlog=False) == 0
    parts = Parts({"asyncio"})
    parts.bytes = SETTLE_BYTES + 1
    assert parts.room.wanted(backlog=False) == 0
    parts.bytes = 0
    parts.by_rq = MOST_WAITING
    assert parts.room.wanted(backlog=True) == 0
    parts.by_rq -= 1
    assert parts.room.wanted(backlog=True) > 0
    parts.room.close()
    assert parts.room.wanted(backlog=True) == 0


# -- suspects -------------------------------------------------------------------------------------


class Submitted:
    """A runner that only takes."""

    def __init__(self) -> None:
        self.running: dict[str, Claim] = {}
        self.waiting: dict[str, Claim] = {}

    def submit(self, claim: Claim) -> None:
        self.running[claim.id] = claim
        claim.begin()


def test_suspects_begin_one_by_one_and_a_long_one_bars_nobody():
    runner = Submitted()
    suspects = Suspects(lambda _claim: runner)  # type: ignore[arg-type,return-value]
    first, second, third, fourth = (claim_of(job_id=name) for name in "abcd")
    for claim in (first, second, third, fourth):
        suspects.add(claim)
    assert list(runner.running) == ["a"]
    assert suspects.current is first
    del runner.running["a"]
    suspects.next()
    assert list(runner.running) == ["b"]
    suspects.next()
    assert list(runner.running) == ["b"]
    second.begun_mono -= 60
    suspects.next()
    assert list(runner.running) == ["b", "c"]
    assert len(suspects) == 1
    assert suspects.withdraw() == [fourth]
    runner.running.clear()
    suspects.next()
    assert suspects.current is None
    assert not runner.running


# -- what became of a job ------------------------------------------------------------------------


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize(
    "fields",
    [
        {"retries_left": b"inf"},
        {"retries_left": b"nan"},
        {"retries_left": b"1e400", "failure_ttl": b"inf"},
        {"retries_left": b"2", "retry_intervals": b"[" * 100_000},
        {"retries_left": b"2", "retry_intervals": b"[Infinity, NaN]"},
        {"retries_left": b"2", "retry_intervals": b'{"a": 1}'},
        {"retries_left": b"2", "tq_retry": b'{"n": "many"}'},
        {"retries_left": b"2", "tq_retry": b"\xff"},
        {"failure_ttl": b"-inf"},
        {"tq_unique": b"\xff\xfe"},
    ],
)
@pytest.mark.parametrize("error", [ValueError("x"), Hostile(), SystemExit(1), TimeLimit("late")])
def test_no_field_and_no_exception_keeps_an_end_from_being_told(fields, error):
    item = failure_item(claim_of(**fields), error)
    assert item.kind in "xr"
    args, order = pack_items([(claim_of(**fields), item)])
    assert order == [0]
    assert "inf" not in [str(one) for one in args]
    assert "nan" not in [str(one) for one in args]


def test_items_that_share_their_head_are_packed_as_one_group_and_keep_their_order():
    claims = [claim_of(job_id=f"j{n}") for n in range(5)]
    done = finished(1.0, 2.0, b"MQ==", 500, marker=False, unique="")
    batch = [
        (claims[0], done),
        (claims[1], GIVEN_BACK),
        (claims[2], done),
        (claims[3], retried("[]", 1.5, left=2)),
        (claims[4], canceled("lock")),
    ]
    args, order = pack_items(batch)
    assert order == [0, 2, 1, 3, 4]
    assert args[:6] == ["f", 1, "tqaaaaaaaa1", "", "500", 2]
    assert failed(1.0, 2.0, b"abc", "[]", 5, "").size == 3


# -- threads -------------------------------------------------------------------------------------


class Runner:
    """A thread runner and what became of its jobs."""

    def __init__(self, slots: int, follow: Any = None) -> None:
        self.ends: list[tuple[str, Any, BaseException | None]] = []
        loop = asyncio.get_running_loop()
        self.threads = ThreadRunner(
            slots,
            Claim.begin,
            self._done,
            lambda fn: loop.call_soon_threadsafe(fn) and None,
            follow,
        )

    def _done(self, claim: Claim, value: Any, error: BaseException | None) -> None:
        assert claim.id not in self.threads.running
        self.ends.append((claim.id, value, error))

    async def until(self, count: int, *, limits: bool = False) -> None:
        def enough() -> bool:
            if limits:
                self.threads.check_limits(time.monotonic())
            return len(self.ends) >= count

        await until(enough, message=lambda: f"only these ended: {self.ends}")


async def test_a_job_is_waiting_or_running_until_its_end_is_told():
    """A shutdown that looks at any instant must see it: else it is given back and run twice."""
    runner = Runner(3)
    threads = runner.threads
    total = 3000
    for n in range(total):
        threads.submit(claim_of(lambda: None, job_id=str(n)))
    while len(runner.ends) < total:
        seen = {*threads.waiting, *threads.running, *(job for job, _, _ in runner.ends)}
        assert len(seen) == total
        await asyncio.sleep(0)
    threads.abandon()


async def test_a_job_given_back_and_reserved_again_runs_in_the_name_of_its_second_lease():
    """The first claim is still in the threads' queue then: run, its end would not be recorded."""
    runner = Runner(1)
    gate = threading.Event()
    ran: list[str] = []
    runner.threads.submit(claim_of(lambda: gate.wait(5), job_id="first"))
    old = claim_of(lambda: ran.append("old"), job_id="again")
    runner.threads.submit(old)
    assert runner.threads.take_back(old)
    runner.threads.submit(claim_of(lambda: ran.append("new"), job_id="again"))
    assert not runner.threads.take_back(old)
    gate.set()
    await runner.until(2)
    assert ran == ["new"]
    assert (runner.threads.waiting, runner.threads.running) == ({}, {})
    runner.threads.abandon()


async def test_what_is_taken_back_never_runs_and_the_rest_does():
    runner = Runner(2)
    gate = threading.Event()
    ran: list[str] = []

    def job(name: str) -> None:
        gate.wait(5)
        ran.append(name)

    claims = []
    for n in range(50):
        claims.append(claim_of(lambda n=n: job(str(n)), job_id=str(n)))
        runner.threads.submit(claims[-1])
    gate.set()
    taken = [claim.id for claim in reversed(claims) if runner.threads.take_back(claim)]
    both = threading.Barrier(2)  # each thread is past all that came before
    for name in ("one", "other"):
        runner.threads.submit(claim_of(lambda: both.wait(5), job_id=name))
    await runner.until(50 - len(taken) + 2)
    assert sorted(ran + taken) == sorted(str(n) for n in range(50))
    runner.threads.abandon()


async def test_a_limit_never_hits_the_next_job_of_the_thread():
    runner = Runner(2)
    total = 200
    for n in range(total):  # their ends and their limits meet, at any step of either
        runner.threads.submit(claim_of(lambda: time_passes(0.01), job_id=str(n), deadline=0.0102))
    await runner.until(total, limits=True)
    for n in range(200):
        runner.threads.submit(claim_of(lambda: sum(range(2000)), job_id=f"ok{n}"))
    await runner.until(total + 200)
    assert all(error is None for job, _, error in runner.ends if job[:2] == "ok")
    assert {type(error) for job, _, error in runner.ends if job[:2] != "ok"} <= {
        TimeLimit,
        type(None),
    }
    runner.threads.abandon()


async def test_a_thread_that_does_not_stop_is_abandoned_and_replaced():
    runner = Runner(1)
    release = threading.Event()
    runner.threads.submit(claim_of(lambda: release.wait(8), job_id="stuck", deadline=0.05))
    runner.threads.submit(claim_of(lambda: "fine", job_id="next"))
    await runner.until(2, limits=True)
    (first, _, error), second = runner.ends
    assert first == "stuck"
    assert isinstance(error, TimeLimit)
    assert "abandoned" in str(error)
    assert second == ("next", "fine", None)
    assert runner.threads.stuck == 1
    release.set()
    await until(lambda: runner.threads.stuck == 0)
    assert len(runner.ends) == 2  # its late end is told to nobody
    runner.threads.abandon()


async def test_what_follows_a_job_has_a_limit_of_its_own():
    """The ends of jobs, their limits and what follows meet at any step of either."""
    followed: set[str] = set()

    def follow(claim: Claim, _value: None, error: BaseException | None) -> Any:
        if error is not None or claim.id in followed:
            return None
        followed.add(claim.id)
        claim.deadline = 0.0
        return lambda: time_passes(0.005)

    runner = Runner(2, follow)
    for n in range(200):
        claim = claim_of(lambda: time_passes(0.01), job_id=str(n), deadline=0.0102)
        claim.special = True
        runner.threads.submit(claim)
    await runner.until(200, limits=True)
    struck = {job for job, _, error in runner.ends if isinstance(error, TimeLimit)}
    assert followed == {str(n) for n in range(200)} - struck
    runner.threads.abandon()
    slot = Slot()
    slot.thread, slot.claim = threading.current_thread(), claim_of(deadline=0.0)
    slot.strike(slot.claim, time.monotonic())  # decided when the function was still running
    assert not slot.fired


async def test_nothing_follows_a_job_that_was_given_up_meanwhile():
    followed: list[str] = []
    runner = Runner(1, lambda claim, _value, _error: followed.append(claim.id))
    gate, begun = threading.Event(), threading.Event()

    def waits() -> None:
        begun.set()
        gate.wait(5)

    claim = claim_of(waits, job_id="given up")
    claim.special = True
    runner.threads.submit(claim)
    await until(begun.is_set)
    assert runner.threads.running.pop(claim.id) is claim
    gate.set()
    after = claim_of(lambda: None, job_id="after")
    after.special = True
    runner.threads.submit(after)
    await runner.until(2)
    assert followed == ["after"]
    runner.threads.abandon()


def test_an_interrupted_job_is_told_apart():
    item = failure_item(claim_of(), Interrupted("stopped"))
    assert '"taskq.errors.JobFailed"' in item.rest[3]


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("coroutines", "threshold"), [(100, 10_000), (10_000, 200_000)])
def test_the_garbage_collector_waits_for_more_objects_than_all_jobs_have(
    monkeypatch: pytest.MonkeyPatch, coroutines: int, threshold: int
):
    told: list[tuple[int, ...]] = []
    python = child._PYTHONS_THRESHOLD
    collector = SimpleNamespace(
        collect=bool,
        freeze=bool,
        get_threshold=lambda: python,
        set_threshold=lambda *new: told.append(new),
    )
    monkeypatch.setattr(child, "gc", collector)
    child._spare_collections(coroutines)
    assert told == [(threshold, *python[1:])]
    told.clear()
    collector.get_threshold = lambda: (5, 5, 5)  # the app's own choice
    child._spare_collections(coroutines)
    assert told == []


def test_memory_is_made_ready_only_for_many_coroutines():
    assert child._warm_memory(100) == []
    pins = child._warm_memory(2_000)
    assert 10 < len(pins) < 100  # some in each MiB of the six
    assert sum(map(len, pins)) < 50_000
