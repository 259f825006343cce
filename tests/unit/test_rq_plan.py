"""Entries of rq-scheduler: what their meta says, and when they are due next."""

from __future__ import annotations

import json
import pickle
import sys
from collections import OrderedDict
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import ConfigError
from taskq.worker.crontab_times import CrontabTimes, host_zone
from taskq.worker.rq_entries import usual_zone
from taskq.worker.rq_plan import EntryError, cron_after, plan, read_meta, score, with_repeat

NOW = 1_800_000_000.0


class Own:
    def __init__(self, a=1):
        self.a = a

    def __eq__(self, other):
        return isinstance(other, Own) and self.a == other.a

    __hash__ = None


class Trap:
    ran = False

    def __reduce__(self):
        return (setattr, (Trap, "ran", True))


def dumped(**meta) -> bytes:
    return pickle.dumps(meta)


def test_one_shots_and_empty_meta() -> None:
    assert plan(b"", NOW - 1, NOW).next_due == "once"
    assert plan(dumped(interval=0, mine=[1]), NOW - 1, NOW).next_due == "once"
    assert plan(b'{"interval": null}', NOW - 1, NOW).next_due == "once"


@pytest.mark.parametrize(
    ("late", "following"), [(0, 10), (3, 10), (10, 20), (10.5, 20), (3600, 3610), (3605, 3610)]
)
def test_intervals_stay_on_their_grid(late: float, following: float) -> None:
    due = NOW + 0.25
    assert float(plan(dumped(interval=10), due, due + late).next_due) == due + following


def test_repeats_count_down_to_the_last() -> None:
    meta, runs = dumped(interval=5, repeat=3), 0
    while True:
        runs += 1
        following, new, reason = plan(meta, NOW, NOW)
        assert reason == ""
        meta = new
        if not following:
            break
    assert runs == 3
    assert pickle.loads(meta) == {"interval": 5, "repeat": 0}
    assert plan(dumped(interval=5, repeat=0), NOW, NOW).next_due == ""  # as rq-scheduler: one run
    assert plan(dumped(interval=5, repeat=0), NOW, NOW).meta == b""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_repeat_is_set_in_any_pickle_and_nothing_else_is_touched(protocol: int) -> None:
    meta = {"repeat": 5, "own": Own(3), "when": datetime(2027, 1, 1, tzinfo=timezone.utc),
            "text": "x" * 100_000, "deep": {"repeat": 9}}  # fmt: skip
    raw = pickle.dumps(meta, protocol)
    once = with_repeat(raw, 4)
    again = with_repeat(once, 300)
    assert len(again) == len(once)
    for data, repeat in ((once, 4), (again, 300), (with_repeat(again, -1), -1)):
        assert pickle.loads(data) == {**meta, "repeat": repeat}
        assert pickle._loads(data) == {**meta, "repeat": repeat}  # the one in Python is stricter
        assert read_meta(data)["repeat"] == repeat
    assert json.loads(with_repeat(b'{"repeat": 2, "a": 1}', 1)) == {"repeat": 1, "a": 1}


def test_reading_meta_runs_and_imports_nothing() -> None:
    raw = pickle.dumps({"interval": 3, "trap": Trap(), "own": OrderedDict(a=Own())})
    raw = raw.replace(b"test_rq_plan", b"none_rq_plan")
    assert read_meta(raw)["interval"] == 3
    assert not Trap.ran
    assert not any("none_rq_plan" in name for name in sys.modules)


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        (b"\x80\x04garbage", "cannot be read"),
        (b"{not json", "cannot be read"),
        (pickle.dumps([1, 2]), "a list, not a dict"),
        (dumped(interval="soon"), "interval is 'soon'"),
        (dumped(interval=-5), "interval is -5"),
        (dumped(interval=float("nan")), "interval is nan"),
        (dumped(interval=5, repeat="x"), "repeat is 'x'"),
        (dumped(cron_string="every tuesday"), "'every tuesday' cannot be read"),
        (dumped(cron_string="61 * * * *"), "'61 * * * *' cannot be read"),
        (dumped(cron_string=7), "cron_string is 7"),
        (dumped(cron_string="* * * * *", timezone="Mars/Phobos"), "no time zone 'Mars/Phobos'"),
    ],
)
def test_what_cannot_be_understood_has_a_reason(meta: bytes, words: str) -> None:
    assert words in plan(meta, NOW, NOW).reason


@given(st.binary(max_size=60))
def test_no_bytes_get_through_as_an_error(meta: bytes) -> None:
    assert plan(meta, NOW, NOW).next_due is not None


def at(*parts: int, zone: str = "UTC") -> float:
    return datetime(*parts, tzinfo=ZoneInfo(zone)).timestamp()


def due_times(expression: str, zone: str, start: float, count: int) -> list[str]:
    times, found, moment = CrontabTimes(expression, ZoneInfo(zone)), [], start
    for _ in range(count):
        moment = times.after(moment)
        found.append(f"{datetime.fromtimestamp(moment, ZoneInfo(zone)):%d. %H:%M:%S%z}")
    return found


def test_cron_is_utc_unless_a_zone_is_named() -> None:
    start = at(2027, 1, 4)
    meta = {"cron_string": "0 7 * * *", "use_local_timezone": False}
    assert float(plan(dumped(**meta), start, start).next_due) == at(2027, 1, 4, 7)
    berlin = plan(dumped(**meta, timezone="Europe/Berlin"), start, start)
    assert float(berlin.next_due) == at(2027, 1, 4, 6)
    usual = plan(dumped(**meta), start, start, ZoneInfo("America/New_York"))
    assert float(usual.next_due) == at(2027, 1, 4, 12)


def test_local_means_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    start = at(2027, 1, 4)
    meta = dumped(cron_string="0 7 * * *", use_local_timezone=True)
    assert float(plan(meta, start, start).next_due) == at(2027, 1, 4, 7, zone="Asia/Kathmandu")


def test_the_zone_of_the_machine_has_a_name_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    assert host_zone().utcoffset(datetime(2027, 1, 1)) is not None  # noqa: DTZ001 (wall clock)
    monkeypatch.setenv("TZ", ":Australia/Lord_Howe")
    assert host_zone() is host_zone()
    assert str(host_zone()) == "Australia/Lord_Howe"
    monkeypatch.setenv("TZ", "Mars/Phobos")
    assert host_zone() is not None


def test_missed_times_are_one_late_run() -> None:
    due = at(2027, 1, 4, 7)
    meta = dumped(cron_string="0 * * * *")
    assert float(plan(meta, due, due + 5 * 3600 + 7).next_due) == due + 6 * 3600
    assert float(plan(meta, due, due + 0.5).next_due) == due + 3600


def test_six_fields_end_with_a_year_and_seven_begin_with_seconds() -> None:
    start = at(2027, 1, 4)
    assert cron_after("0 0 1 1 * 2030", timezone.utc, start) == at(2030, 1, 1)
    assert cron_after("*/10 * * * * *", timezone.utc, start) == start + 600
    assert cron_after("*/10 * * * * * *", timezone.utc, start) == start + 10
    assert cron_after("0 0 1 1 * 2020", timezone.utc, start) is None
    assert plan(dumped(cron_string="0 0 1 1 * 2027"), start, start).next_due == ""


def test_an_impossible_date_is_never_due() -> None:
    assert cron_after("0 0 30 2 *", timezone.utc, NOW) is None


def test_clocks_that_change() -> None:
    spring, autumn = at(2027, 3, 27, 22, zone="Europe/Berlin"), at(2027, 10, 30, 22)
    assert due_times("30 2 * * *", "Europe/Berlin", spring, 2) == [
        "28. 03:00:00+0200", "29. 02:30:00+0200",
    ]  # fmt: skip
    assert due_times("0 * * * *", "Europe/Berlin", at(2027, 3, 28, 0, 30), 2) == [
        "28. 03:00:00+0200", "28. 04:00:00+0200",
    ]  # fmt: skip
    assert due_times("30 2 * * *", "Europe/Berlin", autumn, 2) == [
        "31. 02:30:00+0200", "01. 02:30:00+0100",
    ]  # fmt: skip
    assert due_times("30 * * * *", "Europe/Berlin", autumn + 7500, 3) == [
        "31. 02:30:00+0200", "31. 02:30:00+0100", "31. 03:30:00+0100",
    ]  # fmt: skip


def oracle(expression: str, zone: ZoneInfo, start: int, end: int) -> list[int]:
    """Walk minute by minute."""
    crontab = CrontabTimes(expression, zone)._crontab
    fixed = not any("*" in one.input for one in (crontab.matchers.hour, crontab.matchers.minute))
    found, before = [], None
    for moment in range(start - start % 60, end + 1, 60):
        there = datetime.fromtimestamp(moment, zone)
        wall, offset = there.replace(tzinfo=None, fold=0), there.utcoffset()
        due = crontab.test(wall) and not (fixed and there.fold)
        if fixed and before is not None and offset > before:
            skipped = int((offset - before).total_seconds()) // 60
            due = due or any(crontab.test(wall - timedelta(minutes=n + 1)) for n in range(skipped))
        if due and moment > start:
            found.append(moment)
        before = offset
    return found


CHANGES = [1_711_800_000, 1_729_950_000, 1_730_560_000, 1_710_020_000, 1_325_200_000, 1_712_360_000]


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"],
)
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/30 * * * *", "15 1-3 * * *"])
def test_as_an_oracle_that_walks(zone: str, expression: str) -> None:
    for start in CHANGES:
        end, moment, found = start + 90_000, float(start), []
        times = CrontabTimes(expression, ZoneInfo(zone))
        while (moment := times.after(moment)) <= end:
            found.append(moment)
        assert found == oracle(expression, ZoneInfo(zone), start, end)


def test_scores_keep_microseconds() -> None:
    assert score(1_800_000_000.0) == "1800000000"
    assert score(1_800_000_000.25) == "1800000000.25"


def test_the_usual_zone_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_zone() == ZoneInfo("UTC")
    monkeypatch.setenv("TASKQ_RQ_SCHEDULER_TZ", "Europe/Berlin")
    assert usual_zone() == ZoneInfo("Europe/Berlin")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("TASKQ_RQ_SCHEDULER_TZ", "local")
    assert str(usual_zone()) == "Asia/Kathmandu"
    monkeypatch.setenv("TASKQ_RQ_SCHEDULER_TZ", "Mars")
    with pytest.raises(ConfigError, match="TASKQ_RQ_SCHEDULER_TZ .* is 'Mars'"):
        usual_zone()


def test_no_meta_is_an_error_of_its_own() -> None:
    with pytest.raises(EntryError):
        read_meta(pickle.dumps(3))
