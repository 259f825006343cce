"""Cron expressions: five fields as in crontab(5), read by cronsim, walked day by day here.

When clocks change, the rule is Debian's cron's, and cronsim's:

- Fixed times (neither the minute nor the hour begins with `*`) happen once a day. One that
  clocks go forward over happens at the moment after the gap, and several of them once. In
  an hour that comes twice they happen the first time only.
- All others (`*/5 * * * *`, `0 * * * *`) follow real time: whenever clocks show a time that
  fits, so twice in an hour that comes twice, and not at all in a gap.

cronsim's own walk goes in steps of an hour, and loses times where clocks go by half an
hour (Australia/Lord_Howe: `*/5 2 * * *` on 2026-04-05 begins at 02:30 with it). So only its
parser and its rule for days are used (docs/decisions/0010-schedules.md).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from taskq.errors import ConfigError
from taskq.timing import zones

NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_MOST_YEARS = 51
"""29 February on a given weekday may be 40 years away (around 2100)."""
_ONE_DAY = timedelta(days=1)
_FIRST_DAY = date(1970, 1, 1)


class Fields(NamedTuple):
    """An expression, parsed.

    Attributes:
        minutes: those of a day that fit, 0 to 1439, in order.
        months: those that fit.
        fits: whether a day fits by its day of the month and of the week.
        fixed: whether it means fixed times of the day; else it follows real time.
    """

    minutes: tuple[int, ...]
    months: frozenset[int]
    fits: Callable[[date], bool]
    fixed: bool


class Cron:
    """Times by a cron expression: `Cron("0 7 * * mon-fri", tz="Europe/Berlin")`.

    Five fields: minute, hour, day of the month, month, day of the week; or `@hourly`,
    `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`. Immutable.

    Attributes:
        expression: as it was given, in single blanks.
        tz: name of the time zone.
    """

    __slots__ = ("_fields", "_zone", "expression", "tz")

    def __init__(self, expression: str, tz: str | ZoneInfo = "UTC") -> None:
        """Read the expression.

        Args:
            expression: five fields, or one of the names.
            tz: name of a time zone, or a ZoneInfo.

        Raises:
            ConfigError: it cannot be read, or never comes; or there is no such zone.
        """
        if isinstance(tz, ZoneInfo):
            tz = tz.key
        self._zone = zones.zone(tz)
        self.tz = self._zone.key
        if not isinstance(expression, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f'Cron({expression!r}): must be a text like "0 7 * * mon-fri".')
        self.expression = " ".join(expression.split())
        self._fields = _fields(self.expression)

    def __repr__(self) -> str:
        return f"Cron({self.expression!r}, tz={self.tz!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cron):
            return NotImplemented
        return (self.expression, self.tz) == (other.expression, other.tz)

    def __hash__(self) -> int:
        return hash((self.expression, self.tz))

    @property
    def words(self) -> str:
        """The expression in English: "At 07:00 on Monday through Friday"."""
        return _words(self.expression)

    def after(self, ms: int) -> int | None:
        """The first time later than `ms`, or None: there is none in the next 50 years."""
        at_s = ms // 1000
        best: int | None = None
        for day in _days(zones.local_date(at_s, self._zone), 1, self._fields):
            if best is not None and best < _begin_at_most(day):
                break
            found = self._first(day, at_s)
            if found is not None and (best is None or found < best):
                best = found
        return None if best is None else best * 1000

    def latest(self, ms: int) -> int | None:
        """The last time not later than `ms`, or None: there is none in the 50 years before."""
        at_s = ms // 1000
        best: int | None = None
        for day in _days(zones.local_date(at_s, self._zone), -1, self._fields):
            if best is not None and best > _end_at_least(day):
                break
            found = self._last(day, at_s)
            if found is not None and (best is None or found > best):
                best = found
        return None if best is None or best < 0 else best * 1000

    def _first(self, day: date, at_s: int) -> int | None:
        """The first time of a day that fits, later than `at_s`."""
        minutes = self._fields.minutes
        midnight = zones.plain_midnight(day, self._zone)
        if midnight is None:
            times = _changing(day, minutes, self._zone, fixed=self._fields.fixed)
            place = bisect_right(times, at_s)
            return times[place] if place < len(times) else None
        place = bisect_right(minutes, (at_s - midnight) // 60)
        return midnight + minutes[place] * 60 if place < len(minutes) else None

    def _last(self, day: date, at_s: int) -> int | None:
        """The last time of a day that fits, not later than `at_s`."""
        minutes = self._fields.minutes
        midnight = zones.plain_midnight(day, self._zone)
        if midnight is None:
            times = _changing(day, minutes, self._zone, fixed=self._fields.fixed)
            place = bisect_right(times, at_s)
            return times[place - 1] if place else None
        place = bisect_right(minutes, (at_s - midnight) // 60)
        return midnight + minutes[place - 1] * 60 if place else None


def _days(day: date, step: int, fields: Fields) -> Iterator[date]:
    """Days that fit, from one before (or behind) `day` on: an offset's change may lie between."""
    day -= step * _ONE_DAY
    if step < 0:
        years = range(max(day.year - _MOST_YEARS, 1969), day.year + 1)
    else:
        years = range(day.year, min(day.year + _MOST_YEARS, 9999))
    while day.year in years:
        if day.month not in fields.months:
            day = _month_over(day, step)
            continue
        if fields.fits(day):
            yield day
        day += step * _ONE_DAY


def _month_over(day: date, step: int) -> date:
    """The first day of the next month, or the last of the one before."""
    if step < 0:
        return day.replace(day=1) - _ONE_DAY
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


_WIDEST_S = 26 * 3600
"""Zones are at most 14 hours ahead and 12 behind; a day may be gone altogether."""


def _begin_at_most(day: date) -> int:
    """A second before which nothing of that day can be, in any zone."""
    return (day - _FIRST_DAY).days * 86_400 - _WIDEST_S


def _end_at_least(day: date) -> int:
    """A second after which nothing of that day can be, in any zone."""
    return ((day - _FIRST_DAY).days + 1) * 86_400 + _WIDEST_S


@lru_cache(maxsize=500)
def _changing(day: date, minutes: tuple[int, ...], tz: ZoneInfo, *, fixed: bool) -> tuple[int, ...]:
    """The times of a day on which clocks change, by the rule of this module."""
    found: set[int] = set()
    for minute in minutes:
        at = zones.instants(day, minute, tz)
        if not fixed:
            found.update(at)
        else:
            found.add(at[0] if at else zones.after_gap(day, minute, tz))
    return tuple(sorted(found))


@lru_cache(maxsize=5_000)
def _fields(expression: str) -> Fields:
    """Parse an expression.

    Raises:
        ConfigError: it cannot be read, or never comes.
    """
    parts = _parts(expression)
    try:
        parsed = CronSim(" ".join(parts), datetime(2000, 1, 1))  # noqa: DTZ001 (only parsed)
    except CronSimError as error:
        raise ConfigError(f"Cron({expression!r}): {_reason(str(error))}.") from None
    minutes = tuple(hour * 60 + minute for hour in sorted(parsed.hours)
                    for minute in sorted(parsed.minutes))  # fmt: skip
    fixed = not parts[0].startswith("*") and not parts[1].startswith("*")
    fields = Fields(minutes, frozenset(parsed.months), parsed.match_day, fixed)
    if next(_days(date(2000, 1, 1), 1, fields), None) is None:
        raise ConfigError(f"Cron({expression!r}): there is no such day: it would never come.")
    return fields


def _parts(expression: str) -> list[str]:
    """The five fields.

    Raises:
        ConfigError: there are more or less, or it is a name that means nothing here.
    """
    if expression.startswith("@"):
        known = NAMES.get(expression.lower())
        if known is None:
            raise ConfigError(
                f"Cron({expression!r}): no such name; there are {', '.join(NAMES)}. Others write "
                "five fields, or Every(minutes=...)."
            )
        return known.split()
    parts = expression.split()
    if len(parts) == 6:
        raise ConfigError(
            f"Cron({expression!r}): six fields. There are five, and the first is the minute: "
            "libraries do not agree whether a sixth means seconds (before or behind) or years. "
            "For seconds: Every(seconds=10)."
        )
    if len(parts) != 5:
        raise ConfigError(
            f"Cron({expression!r}): {len(parts)} fields. There are five: minute, hour, day of the "
            'month, month, day of the week, like "0 7 * * mon-fri".'
        )
    return parts


_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31 (and no such day in some months), L for the last, LW",
    "month": "1 to 12, or jan to dec",
    "day-of-week": "0 to 7 (0 and 7 are Sunday), or sun to sat, fri#2, friL as 5L",
}


def _reason(text: str) -> str:
    """The message of cronsim with what is allowed."""
    field = text.removeprefix("Bad ")
    allowed = _FIELDS.get(field)
    if allowed is None:
        return text
    return f"the {field.replace('-', ' ').replace('of ', 'of the ')} cannot be read; {allowed}"


@lru_cache(maxsize=5_000)
def _words(expression: str) -> str:
    return CronSim(" ".join(_parts(expression)), datetime(2000, 1, 1)).explain()  # noqa: DTZ001 (the same)
