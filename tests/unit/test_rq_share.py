"""How the RQ lane shares a worker's time with other jobs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from taskq.worker import rq_share
from taskq.worker.rq_share import MOST_WAITING, SHARE, Share, share


class Hours:
    """Time that passes only in `sleep`, and the part of it that the lane's thread has used."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.cpu += seconds


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    made = Hours()
    shown = SimpleNamespace(
        monotonic=lambda: made.now, thread_time=lambda: made.cpu, sleep=made.sleep
    )
    monkeypatch.setattr(rq_share, "time", shown)
    return made


def settle(one: Share, hours: Hours, times: int, waiting: int = 1) -> None:
    for _ in range(times):
        began = one.take_turn(waiting)
        hours.work(0.001)
        one.used(began)


def test_the_lane_takes_its_share_while_other_jobs_wait(hours: Hours):
    one = Share(lambda: True, MOST_WAITING)
    settle(one, hours, 1_000)
    assert hours.cpu / hours.now == pytest.approx(SHARE, rel=0.05)


def test_the_lane_never_waits_when_nothing_else_does(hours: Hours):
    one = Share(lambda: False, MOST_WAITING)
    settle(one, hours, 1_000)
    assert hours.slept == 0


def test_the_end_of_the_rush_ends_the_waiting(hours: Hours):
    rush = [True]
    one = Share(lambda: rush[0], MOST_WAITING)
    settle(one, hours, 100)
    rush[0] = False
    hours.slept = 0.0
    settle(one, hours, 100)
    assert hours.slept == 0
    rush[0] = True  # and what was done meanwhile is no debt
    settle(one, hours, 2)
    assert hours.slept < 2.5 * 0.001 / SHARE


def test_a_pause_is_no_credit(hours: Hours):
    one = Share(lambda: True, MOST_WAITING)
    settle(one, hours, 10)
    hours.now += 3600
    hours.slept = 0.0
    settle(one, hours, 100)
    assert hours.slept > 0.5


def test_what_waits_too_long_gets_more_and_at_last_all():
    parts = [share(n, MOST_WAITING) for n in range(0, MOST_WAITING + 1, MOST_WAITING // 8)]
    assert parts[0] == parts[6] == SHARE
    assert parts == sorted(parts)
    assert parts[-1] == share(10 * MOST_WAITING, MOST_WAITING) == 1.0
