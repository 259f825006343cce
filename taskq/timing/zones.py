"""Time zones, and days in them: which seconds of UTC a day's wall-clock times are.

Most days have one offset from UTC all day long, and then this is one addition. On the
others each wall-clock time is looked at by itself: it may be there once, twice (clocks
went back) or not at all (they went forward).
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from taskq.errors import ConfigError

UTC = timezone.utc
_ONE_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_214_400_000
"""9999-12-31: where the calendar of Python ends."""


@lru_cache(maxsize=1_000)
def zone(name: str) -> ZoneInfo:
    """The zone of that name, from the system's data or the package tzdata.

    Raises:
        ConfigError: there is none.
    """
    if type(name) is not str or not name:
        raise ConfigError(f'tz={name!r}: must be the name of a time zone, like "Europe/Berlin".')
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # ValueError: "../x"; OSError: a folder
        raise ConfigError(
            f"tz={name!r}: there is no such time zone{_nearest(name)}. Names are those of the IANA "
            'database, like "Europe/Berlin" or "UTC"; pip install -U tzdata brings the newest.'
        ) from None


def moment_ms(what: str, value: object) -> int:
    """Milliseconds since 1970 of an aware datetime.

    Args:
        what: its name, for messages: "start".
        value: what the user gave.

    Raises:
        ConfigError: no datetime, one without a zone, or one that is not in 1970 to 9999.
    """
    if not isinstance(value, datetime):
        raise ConfigError(f"{what}={value!r}: must be an aware datetime.")
    if value.utcoffset() is None:
        raise ConfigError(
            f"{what}={value!r}: is a datetime without a time zone: it means another moment on "
            "each server. Add one, for example tzinfo=datetime.timezone.utc."
        )
    found = (value - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= found < _LAST_MS:
        raise ConfigError(f"{what}={value!r}: must be between the years 1970 and 9999.")
    return found


def local_date(at_s: int, tz: ZoneInfo) -> date:
    """The date there at that second since 1970."""
    return datetime.fromtimestamp(at_s, tz).date()


@lru_cache(maxsize=20_000)
def plain_midnight(day: date, tz: ZoneInfo) -> int | None:
    """The second since 1970 at which the day begins, or None: its offset changes on that day."""
    start = datetime.combine(day, time())
    end = start + _ONE_DAY
    offset = start.replace(tzinfo=tz).utcoffset()
    for other in (start.replace(fold=1), end, end.replace(fold=1)):
        if other.replace(tzinfo=tz).utcoffset() != offset:
            return None
    return _seconds(start.replace(tzinfo=tz))


def instants(day: date, minute: int, tz: ZoneInfo) -> tuple[int, ...]:
    """The seconds since 1970 at which clocks there show this minute of the day.

    Two where clocks go back over it, none where they go forward over it.
    """
    first, second = _both(day, minute, tz)
    if first == second:
        return (first,)
    return (first, second) if first < second else ()


def after_gap(day: date, minute: int, tz: ZoneInfo) -> int:
    """The second at which clocks have gone forward over this minute of the day."""
    late, early = _both(day, minute, tz)
    before = _offset(early, tz)
    while late - early > 1:  # the offset changes between the two
        middle = (early + late) // 2
        if _offset(middle, tz) == before:
            early = middle
        else:
            late = middle
    return late


def _both(day: date, minute: int, tz: ZoneInfo) -> tuple[int, int]:
    """The minute by the offset before a change on that day, and by the one after it."""
    wall = datetime.combine(day, time(minute // 60, minute % 60), tzinfo=tz)
    return _seconds(wall), _seconds(wall.replace(fold=1))


def _offset(at_s: int, tz: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(at_s, tz).utcoffset()


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _nearest(name: str) -> str:
    import difflib  # noqa: PLC0415 (only for this message)
    from zoneinfo import available_timezones  # noqa: PLC0415 (the same)

    near = difflib.get_close_matches(name, available_timezones(), n=1)
    return f"; did you mean {near[0]!r}" if near else ""
