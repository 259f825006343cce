"""Times of cron expressions against an oracle that walks minute by minute and knows no cronsim.

The oracle looks at what clocks show at each minute of UTC, in the zones and days where they
change. Expressions are made together with the sets that they mean, so it parses nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskq import Cron, Every
from taskq.schedules.occurrences import MOST_AT_ONCE, PAGE, fires_at, plan
from taskq.schedules.terms import Terms

pytestmark = pytest.mark.timeout(90)  # minute by minute, on whatever machine
UTC = timezone.utc
MINUTE = 60
DAY = 86_400
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "Asia/Kathmandu",  # a quarter of an hour, in 1986
    "Pacific/Apia",  # 30 December 2011 was left out
    "America/St_Johns",  # changes at 00:01, so a day comes back after its end
    "UTC",
)
FIRST, LAST = 0, int(datetime(2101, 1, 1, tzinfo=UTC).timestamp())


@cache
def changes(name: str) -> tuple[int, ...]:
    """The seconds from 1970 to 2100 at which the zone's offset changes."""
    tz = ZoneInfo(name)

    def offset(at: int) -> timedelta | None:
        return datetime.fromtimestamp(at, tz).utcoffset()

    found = []
    for early in range(FIRST, LAST, 7 * DAY):
        low, high = early, early + 7 * DAY
        if offset(low) == offset(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
        found.append(high)
    return tuple(found)


# --- the oracle -------------------------------------------------------------------------


class Means(NamedTuple):
    """An expression, and what it means."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    either: bool  # the day of the month, or the day of the week
    fixed: bool

    def fits(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours:
            return False
        if wall.month not in self.months:
            return False
        by_day, by_weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        return by_day or by_weekday if self.either else by_day and by_weekday


def oracle(means: Means, zone: str, start: int, end: int) -> list[int]:
    """All seconds from `start` to `end` at which it is time, by looking at every minute."""
    tz = ZoneInfo(zone)
    if not means.fixed:
        walk = range(-(-start // MINUTE) * MINUTE, end + 1, MINUTE)
        return [at for at in walk if means.fits(datetime.fromtimestamp(at, tz))]
    found = []
    shown: set[datetime] = set()
    before: datetime | None = None
    begin = (start - 26 * 3600) // MINUTE * MINUTE  # what clocks have shown already is known
    for at in range(begin, end + 1, MINUTE):
        wall = datetime.fromtimestamp(at, tz).replace(tzinfo=None, fold=0)
        # what clocks have gone over, and what they show: each once
        news = [wall]
        if before is not None and wall - before > timedelta(minutes=1):
            gap = int((wall - before) / timedelta(minutes=1))
            news += [before + timedelta(minutes=n) for n in range(1, gap)]
        due = any(one not in shown and means.fits(one) for one in news)
        shown.update(news)
        if due and at >= start:
            found.append(at)
        before = wall
    return found


# --- expressions with their meaning ----------------------------------------------------


@st.composite
def field(draw: st.DrawFn, low: int, high: int, star: int = 2) -> tuple[str, frozenset[int]]:
    kind = draw(st.sampled_from(["*"] * star + ["*/n", "a", "a", "a,b", "a-b", "a-b/n"]))
    a = draw(st.integers(low, high - 1))
    b = draw(st.integers(a + 1, high))
    n = draw(st.integers(1, max(2, (high - low) // 2)))
    return {
        "*": ("*", frozenset(range(low, high + 1))),
        "*/n": (f"*/{n}", frozenset(range(low, high + 1, n))),
        "a": (str(a), frozenset([a])),
        "a,b": (f"{a},{b}", frozenset([a, b])),
        "a-b": (f"{a}-{b}", frozenset(range(a, b + 1))),
        "a-b/n": (f"{a}-{b}/{n}", frozenset(range(a, b + 1, n))),
    }[kind]


NAMES = "sun mon tue wed thu fri sat".split()


@st.composite
def expressions(draw: st.DrawFn) -> Means:
    minute, minutes = draw(field(0, 59))
    hour, hours = draw(st.one_of(field(0, 23), field(0, 4)))
    if hour.startswith("*"):
        hour, hours = draw(field(0, 23))
    day, days = draw(field(1, 31, star=8))
    month, months = draw(field(1, 12, star=12))
    weekday, weekdays = draw(field(0, 6, star=8))
    if weekday.isdigit() and draw(st.booleans()):
        weekday = NAMES[int(weekday)]
    return Means(
        f"{minute} {hour} {day} {month} {weekday}",
        minutes,
        hours,
        days,
        months,
        weekdays,
        either=not day.startswith("*") and not weekday.startswith("*"),
        fixed=not minute.startswith("*") and not hour.startswith("*"),
    )


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, int]:
    """A zone, and a second: near a change of its clocks, or anywhere."""
    zone = draw(st.sampled_from(ZONES))
    known = changes(zone)
    if known and draw(st.integers(0, 3)):
        near = draw(st.sampled_from(known))
        return zone, max(near + draw(st.integers(-2 * DAY, DAY)), 3 * DAY)
    return zone, draw(st.integers(3 * DAY, LAST - 10 * DAY))


def means(text: str, **sets: set[int]) -> Means:
    """An expression for an example; sets that are left out mean all."""
    minute, hour, day, _month, weekday = text.split()
    full = {"minutes": range(60), "hours": range(24), "days": range(1, 32), "months": range(1, 13),
            "weekdays": range(7)}  # fmt: skip
    chosen = {name: frozenset(sets.get(name, values)) for name, values in full.items()}
    return Means(
        text,
        **chosen,
        either=not day.startswith("*") and not weekday.startswith("*"),
        fixed=not minute.startswith("*") and not hour.startswith("*"),
    )


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


LORD_HOWE = means("*/5 2 * * *", minutes=set(range(0, 60, 5)), hours={2})


@settings(max_examples=80, deadline=None)
@given(expressions(), moments(), st.integers(0, DAY))
@example(LORD_HOWE, ("Australia/Lord_Howe", at("2026-04-03T16:00")), DAY)
@example(means("15 2 * * *", minutes={15}, hours={2}),
         ("Australia/Lord_Howe", at("2026-10-03T10:00")), DAY)  # fmt: skip
@example(means("0 7 * * *", minutes={0}, hours={7}), ("Pacific/Apia", at("2011-12-29T00:00")), DAY)
@example(means("30 0 * * *", minutes={30}, hours={0}),
         ("America/St_Johns", at("2009-11-01T00:00")), DAY)  # fmt: skip
@example(means("5 0 1 * *", minutes={5}, hours={0}, days={1}),
         ("Asia/Kathmandu", at("1985-12-31T00:00")), DAY)  # fmt: skip
def test_cron_is_what_a_walk_by_the_minute_says(
    expected: Means, moment: tuple[str, int], ahead: int
) -> None:
    zone, start = moment
    end = start + DAY + ahead
    if not any(True for m in expected.months for d in expected.days if d <= 29 or expected.either):
        return
    cron = cron_or_none(expected.text, zone)
    if cron is None:  # "31 2": refused, since it never comes
        assert oracle(expected, zone, start, end) == []
        return
    walked = oracle(expected, zone, start, end)
    found = []
    now: int | None = (start - 1) * 1000
    while (now := cron.after(now)) is not None and now <= end * 1000:
        found.append(now // 1000)
    assert found == walked
    last = cron.latest(end * 1000)
    if walked:
        assert last == walked[-1] * 1000
        assert cron.latest(walked[-1] * 1000 - 1) == (
            walked[-2] * 1000 if len(walked) > 1 else cron.latest(start * 1000 - 1)
        )
    else:
        assert last is None or last < start * 1000


def cron_or_none(text: str, zone: str) -> Cron | None:
    try:
        return Cron(text, tz=zone)
    except ValueError:
        return None


@settings(max_examples=60, deadline=None)
@given(expressions(), st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]),
       st.integers(3 * DAY, LAST - 400 * DAY))  # fmt: skip
def test_where_clocks_go_by_whole_hours_cronsim_says_the_same(
    expected: Means, zone: str, start: int
) -> None:
    cron = cron_or_none(expected.text, zone)
    if cron is None:
        return
    walk = CronSim(expected.text, datetime.fromtimestamp(start // MINUTE * MINUTE, ZoneInfo(zone)))
    now: int | None = start // MINUTE * MINUTE * 1000
    last = 0
    for _ in range(10):
        theirs = int(next(walk).timestamp())
        while theirs <= max(last, (now or 0) // 1000):  # it gives some times in a gap twice
            theirs = int(next(walk).timestamp())
        assert now is not None
        now = cron.after(now)
        assert now == theirs * 1000
        last = theirs


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_leap_days_from_1970_to_2100(zone: str) -> None:
    cron = Cron("30 12 29 2 *", tz=zone)
    now, years = 0, []
    while (later := cron.after(now)) is not None and later < LAST * 1000:
        now = later
        years.append(datetime.fromtimestamp(now / 1000, ZoneInfo(zone)).year)
    assert years == [y for y in range(1970, 2101) if y % 4 == 0 and y != 2100]


def test_the_end_of_2100_and_of_february() -> None:
    cron = Cron("0 0 L * *", tz="UTC")
    found = datetime.fromtimestamp((cron.after(at("2100-02-01T00:00") * 1000) or 0) / 1000, UTC)
    assert found == datetime(2100, 2, 28, tzinfo=UTC)
    cron = Cron("59 23 31 12 *", tz="Asia/Kathmandu")
    found = datetime.fromtimestamp((cron.after(at("2100-06-01T00:00") * 1000) or 0) / 1000, UTC)
    assert found == datetime(2100, 12, 31, 18, 14, tzinfo=UTC)


# --- intervals -------------------------------------------------------------------------


@given(st.integers(100, 10**9), st.integers(0, 10**12), st.integers(0, 10**13))
def test_intervals_never_drift(interval: int, anchor: int, now: int) -> None:
    every = Every(seconds=interval / 1000)
    later, last = every.after(now, anchor), every.latest(now, anchor)
    assert (later - anchor) % every.interval_ms == (last - anchor) % every.interval_ms == 0
    assert last <= now < later
    assert later - last == every.interval_ms


# --- what is fired, and what is next ---------------------------------------------------


@settings(deadline=None)
@given(
    st.sampled_from(["run_once", "run_all", "skip"]),
    st.one_of(st.none(), st.integers(0, 400_000)),
    st.integers(0, 90_000),
    st.lists(st.integers(1, 2_000_000), min_size=1, max_size=12),
)
def test_looks_at_any_times_fire_what_the_policy_says(
    missed: str, window: int | None, jitter: int, steps: list[int]
) -> None:
    """However the scheduler is held up: against a list of all occurrences."""
    terms = Terms(Every(seconds=60), missed=missed, window_ms=window, jitter_ms=jitter)
    everything = [n * 60_000 for n in range(1, 1 + sum(steps) // 60_000 + 3)]
    due: int | None = 60_000
    now, fired, dropped = 0, [], 0
    for step in steps:
        now += step
        while due is not None and fires_at("x", terms, due) <= now:
            found = plan("x", terms, due, now, 0)
            late = [one for one in everything if one >= due and fires_at("x", terms, one) <= now]
            if fires_at("x", terms, due + 60_000) > now:
                late = [due]  # in order, though more jitter than interval lets a later one pass
            for one in found.fire:
                assert one in everything
                assert fires_at("x", terms, one) <= now or one < late[-1]  # never early
                limit = window if missed != "skip" or window is not None else 10_000
                assert limit is None or now - fires_at("x", terms, one) <= limit
            if missed != "run_all":
                assert len(found.fire) <= 1
                assert not found.fire or found.fire[0] == late[-1]
            fired += found.fire
            dropped += found.dropped
            due = found.next_ms
    assert fired == sorted(set(fired))
    passed = [one for one in everything if due is not None and one < due]
    assert len(fired) + dropped == len(passed)
    if missed == "run_all" and window is None:
        assert fired == passed


def test_run_all_catches_up_with_the_newest_thousand_in_pages() -> None:
    terms = Terms(Cron("* * * * *"), missed="run_all")
    now = 10**12 // 60_000 * 60_000
    due: int | None = now - 5_000 * 60_000
    fired: list[int] = []
    dropped = 0
    while due is not None and due <= now:
        found = plan("x", terms, due, now, 0)
        assert len(found.fire) <= PAGE
        fired += found.fire
        dropped += found.dropped
        due = found.next_ms
    assert fired == list(range(now - (MOST_AT_ONCE - 1) * 60_000, now + 1, 60_000))
    assert dropped == 5_001 - MOST_AT_ONCE
    assert due == now + 60_000


def test_a_year_away_does_not_cost_a_walk_through_the_year() -> None:
    terms = Terms(Cron("* * * * *"))
    now = 1_780_000_020_000
    found = plan("x", terms, now - 366 * DAY * 1000, now, 0)
    assert found.fire == (1_780_000_020_000 // 60_000 * 60_000,)
    assert found.dropped >= 1_000
