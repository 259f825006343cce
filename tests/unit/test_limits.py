"""Coroutines past their limit, a held-up loop, and when a supervisor kills for it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from taskq import Retry, context
from taskq.worker import children
from taskq.worker.async_runner import AsyncRunner
from taskq.worker.begun import BegunTable
from taskq.worker.children import Child
from taskq.worker.claim import Claim
from taskq.worker.loop_watch import LoopWatch
from taskq.worker.outcome import Interrupted, TimeLimit
from taskq.worker.room import _Lane
from tests.support import until, wait_until


def claim_of(fn: Any, job_id: str, deadline: float = 0.0) -> Claim:
    made = Claim(1, "default", job_id, "tqaaaaaaaa1", [b"", b"", b""], time.monotonic())
    made.fn, made.deadline, made.name = fn, deadline, "task"
    return made


class Runner:
    """A runner of coroutines and what became of its jobs."""

    def __init__(self, slots: int = 10) -> None:
        self.ends: dict[str, tuple[Any, BaseException | None]] = {}
        self.runner = AsyncRunner(slots, Claim.begin, self._done)

    def _done(self, claim: Claim, value: Any, error: BaseException | None) -> None:
        assert claim.id not in self.ends, "ended twice"
        assert claim.id not in self.runner.running
        self.ends[claim.id] = (value, error)

    def submit(self, fn: Any, job_id: str, deadline: float = 0.0) -> Claim:
        claim = claim_of(fn, job_id, deadline)
        self.runner.submit(claim)
        return claim

    async def until_ended(self, *job_ids: str) -> None:
        def ended() -> bool:
            self.runner.check_limits(time.monotonic())
            return set(job_ids) <= set(self.ends)

        await until(ended, message=lambda: f"only these ended: {self.ends}")


async def test_a_coroutine_that_goes_on_is_abandoned_and_its_place_is_free():
    runner = Runner(slots=1)
    go_on = True

    async def swallows() -> None:
        while go_on:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    async def fine() -> str:
        return "fine"

    runner.submit(swallows, "stuck", 0.05)
    runner.submit(fine, "next")
    await runner.until_ended("stuck", "next")
    error = runner.ends["stuck"][1]
    assert isinstance(error, TimeLimit)
    assert "went on after it was cancelled" in str(error)
    assert runner.ends["next"] == ("fine", None)
    assert runner.runner.stuck == 1
    go_on = False
    await until(lambda: runner.runner.stuck == 0)  # its late end is told to nobody
    assert len(runner.ends) == 2


async def test_the_same_job_may_run_again_here_while_its_abandoned_run_goes_on():
    runner = Runner()
    gate = asyncio.Event()

    async def waits_on() -> str:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                pass
        return "first"

    async def again() -> str:
        await until(lambda: runner.runner.stuck == 0)  # the first one's late end has come
        return "second"

    runner.submit(waits_on, "one", 0.05)
    await runner.until_ended("one")
    del runner.ends["one"]
    runner.submit(again, "one")
    gate.set()
    await runner.until_ended("one")
    assert runner.ends == {"one": ("second", None)}
    assert runner.runner.stuck == 0


async def test_limits_above_a_second_are_held_without_looking_at_all_jobs():
    runner = Runner()
    runner.submit(lambda: asyncio.sleep(60), "none")
    late = runner.submit(lambda: asyncio.sleep(60), "late", 500.0)
    soon = runner.submit(lambda: asyncio.sleep(60), "soon", 100.0)
    await until(lambda: soon.begun_mono)
    now = time.monotonic()
    runner.runner.check_limits(now + 99)
    assert (soon.why, late.why) == ("", "")
    runner.runner.check_limits(now + 101)
    assert (soon.why, late.why) == ("timeout", "")
    await until(lambda: "soon" in runner.ends)
    runner.runner.check_limits(now + 501)
    await until(lambda: "late" in runner.ends)
    assert all(isinstance(error, TimeLimit) for _, error in runner.ends.values())
    assert list(runner.runner.running) == ["none"]
    for claim in runner.runner.running.values():
        runner.runner.interrupt(claim)
    await until(lambda: not runner.runner.running)


async def test_what_a_cancelled_coroutine_makes_of_its_limit():
    runner = Runner()

    async def returns() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "partial"
        return ""

    async def wraps() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as err:
            raise OSError("wrapped") from err

    async def later() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Retry.later(5) from None

    for fn in (returns, wraps, later):
        runner.submit(fn, fn.__name__, 0.02)
    asked = runner.submit(returns, "asked")
    await until(lambda: asked.begun_mono)
    runner.runner.request_cancel(asked)
    await runner.until_ended("returns", "wraps", "later", "asked")
    assert isinstance(runner.ends["returns"][1], TimeLimit)
    wrapped = runner.ends["wraps"][1]
    assert isinstance(wrapped, TimeLimit)
    assert isinstance(wrapped.__cause__, OSError)
    assert type(runner.ends["later"][1]) is type(Retry.later(5))
    assert runner.ends["asked"] == ("partial", None)  # no limit: what it makes of it counts


async def test_at_a_shutdown_what_swallows_its_cancellation_is_handed_back_once():
    runner = Runner()
    go_on = True

    async def swallows() -> None:
        while go_on:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    stays = runner.submit(swallows, "stays")
    runner.submit(lambda: asyncio.sleep(60), "goes")
    await until(lambda: stays.begun_mono)
    for claim in list(runner.runner.running.values()):
        runner.runner.interrupt(claim)
    await until(lambda: "goes" in runner.ends)
    assert isinstance(runner.ends["goes"][1], Interrupted)
    assert runner.runner.abandon() == [stays]
    go_on = False
    await until(lambda: stays.task is None)
    assert list(runner.ends) == ["goes"]


# -- the watch ---------------------------------------------------------------------------------


async def test_the_watch_names_the_job_that_holds_up_the_loop(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "taskq.worker")
    table = BegunTable(4)
    watch = LoopWatch(0.3, table, lambda: 1)
    seen = []

    def hold() -> None:
        wait_until(lambda: table.pulse().culprit >= 0)
        seen.append(table.pulse().culprit)
        wait_until(lambda: "has held up" in caplog.text)

    async def inner() -> None:
        hold()

    async def job() -> None:
        await asyncio.create_task(inner())

    runner = Runner()
    claim = claim_of(job, "job-1")
    claim.slot = 3
    watch.start()
    try:
        await until(lambda: table.pulse().loop_at)
        runner.runner.submit(claim)
        await runner.until_ended("job-1")
        await until(lambda: "goes on" in caplog.text)
    finally:
        watch.stop()
    assert seen == [3]
    assert caplog.text.count("has held up the event loop") == 1
    assert "task (job job-1) has held up" in caplog.text
    assert "in hold" in caplog.text
    assert "asyncio/" not in caplog.text
    assert table.pulse().culprit == -1
    table.close()


async def test_an_idle_loop_is_not_held_up(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "taskq.worker")
    table = BegunTable(1)
    watch = LoopWatch(0.3, table, lambda: 0)
    watch.start()
    first = table.pulse()
    await until(lambda: table.pulse().loop_at > first.loop_at + 0.5)
    assert table.pulse().watch_at >= first.loop_at
    watch.stop()
    assert "has held up" not in caplog.text
    table.close()


def test_the_current_job_of_another_context_can_be_asked():
    claim = claim_of(None, "job-1")
    inside = contextvars.copy_context()
    inside.run(context.enter, claim)
    assert context.job_in(inside) is claim
    assert context.job_in(contextvars.Context()) is None


# -- how many are taken ------------------------------------------------------------------------


def test_a_mode_of_which_nothing_comes_does_not_hold_back_the_others():
    """Eight threads and ten thousand coroutines: calls for eight jobs each took five seconds."""
    threads = SimpleNamespace(slots=8, busy=0)
    lane = _Lane("thread", threads)  # type: ignore[arg-type]
    came: dict[str, float] = {}

    def after_a_call_that_brought(mode: str) -> int:
        came[mode] = max(came.values(), default=0.0) + 1
        return lane.unexpected(came, backlog=True)

    assert lane.unexpected(came, backlog=True) == 0  # nothing is known yet
    assert [after_a_call_that_brought("asyncio") for _ in range(6)] == [8, 24, 56, 120, 200, 200]
    assert lane.unexpected(came, backlog=True) == 200  # asked again: that is no news
    assert after_a_call_that_brought("thread") == 0
    assert after_a_call_that_brought("asyncio") == 8
    assert lane.unexpected(came, backlog=False) == 0  # from a queue that was empty
    assert after_a_call_that_brought("asyncio") == 8
    threads.busy = 1
    assert after_a_call_that_brought("asyncio") == 0  # its slots may be taken for long


# -- the supervisor ------------------------------------------------------------------------------


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Child.__new__(Child)
    made.table = BegunTable(8)
    made.is_frozen = lambda: False  # type: ignore[method-assign]
    yield made
    made.table.close()


def overdue(child: Child, monkeypatch: pytest.MonkeyPatch, now: float) -> list[str]:
    monkeypatch.setattr(children.time, "monotonic", lambda: now)
    return [job.job_id for job in child.overdue()]


def test_a_child_is_killed_only_for_what_it_cannot_stop_itself(child, monkeypatch):
    table = child.table
    culprit = table.begin("culprit", "tqaaaaaaaa1", 101.0)
    assert overdue(child, monkeypatch, 110.0) == []  # its loop has not begun
    table.turned(200.0)
    assert overdue(child, monkeypatch, 200.4) == []  # its loop turns: it holds limits itself
    table.watched(201.0, culprit)
    assert overdue(child, monkeypatch, 201.2) == ["culprit"]


def test_a_job_within_its_limit_that_holds_up_others_is_given_some_seconds(child, monkeypatch):
    table = child.table
    culprit = table.begin("culprit", "tqaaaaaaaa1", 300.0)
    table.begin("bystander", "tqaaaaaaaa1", 101.0)
    table.turned(100.5)
    table.watched(102.0, culprit)
    assert overdue(child, monkeypatch, 102.1) == []
    table.watched(107.0, culprit)
    assert overdue(child, monkeypatch, 107.1) == ["bystander"]
    assert overdue(child, monkeypatch, 101.4) == []


def test_a_process_in_which_nothing_runs_is_killed_for_any_job_unless_it_is_stopped(
    child, monkeypatch
):
    child.table.begin("one", "tqaaaaaaaa1", 101.0)
    child.table.turned(100.0)
    assert overdue(child, monkeypatch, 101.6) == ["one"]
    child.is_frozen = lambda: True  # a debugger, SIGSTOP: given some seconds
    assert overdue(child, monkeypatch, 101.6) == []
    assert overdue(child, monkeypatch, 106.6) == ["one"]


def test_a_cleared_table_holds_nobody_to_a_limit(child, monkeypatch):
    child.table.begin("one", "tqaaaaaaaa1", 101.0)
    child.table.turned(100.0)
    child.table.clear()
    assert child.table.read() == []
    assert child.table.pulse().loop_at == 100.0
    assert overdue(child, monkeypatch, 120.0) == []


def test_a_table_is_read_without_its_pulse_getting_in_the_way():
    table = BegunTable(2)
    table.begin("a", "tqaaaaaaaa1", 5.0)
    ticking = threading.Thread(target=lambda: [table.turned(float(n)) for n in range(1000)])
    ticking.start()
    for _ in range(200):
        assert [job.job_id for job in table.read()] == ["a"]
    ticking.join()
    table.close()
