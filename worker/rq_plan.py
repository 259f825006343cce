"""What an entry of rq-scheduler says, and when it is due next. No Redis, no imports by name.

An entry is a job whose `meta` may have `interval`, `cron_string`, `repeat` and
`use_local_timezone` (and `timezone`, which is ours). Meta is pickled or JSON. A pickle
may name any class, so names are never looked up here: they become empty shells.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
from datetime import timezone, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from taskq.worker.crontab_times import CrontabTimes, host_zone

ONCE = "once"
_ZONE = "timezone"


class Plan(NamedTuple):
    """What becomes of a due entry, as entries_fire.lua wants it.

    Attributes:
        next_due: seconds since 1970, "" after the last one, `ONCE` where it is not periodic.
        meta: what the job's meta is from now on; empty: as it is.
        reason: why it cannot be fired; empty: it can.
    """

    next_due: str
    meta: bytes = b""
    reason: str = ""


class EntryError(ValueError):
    """An entry that cannot be understood; the text says what and why."""


class _Shell:
    """Stands for an object of a class that is not looked up."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As a list subclass is filled."""

    def extend(self, values: Any) -> None:
        """The same."""


class _Reader(pickle.Unpickler):
    def find_class(self, _module: str, _name: str) -> Any:
        return _Shell

    def persistent_load(self, _pid: Any) -> Any:
        return _Shell()


def read_pickle(data: bytes) -> Any:
    """What a pickle holds, with shells for objects of classes. It may raise anything."""
    return _Reader(io.BytesIO(data)).load()


def read_meta(meta: bytes) -> dict[str, Any]:
    """The meta of a job as a dict; objects of other classes than Python's plain ones are shells.

    Raises:
        EntryError: it is neither a pickle nor JSON, or no dict.
    """
    if not meta:
        return {}
    try:
        found: Any = json.loads(meta) if meta[:1] == b"{" else read_pickle(meta)
    except Exception as err:
        # a broken pickle raises whatever its bytes lead to
        raise EntryError(f"Its meta cannot be read: {err!r}.") from err
    if not isinstance(found, dict):
        raise EntryError(f"Its meta is a {type(found).__name__}, not a dict.")
    return found


_TAIL = b"N0X\x06\x00\x00\x00repeatJ"


def with_repeat(meta: bytes, repeat: int) -> bytes:
    """The same meta with another `repeat`, everything else untouched.

    A pickle is a program that leaves one object on a stack. Ours goes on after its end, and sets
    the item; so objects of any class in it stay as they are.
    """
    if meta[:1] == b"{":
        return json.dumps({**json.loads(meta), "repeat": repeat}).encode()
    if meta[-len(_TAIL) - 6 : -6] == _TAIL:
        meta = meta[: -len(_TAIL) - 6] + b"."
    # "N" stands where the last byte was, so that frames of protocol 4 keep their length
    return meta[:-1] + _TAIL + struct.pack("<i", repeat) + b"s."


def zone_of(meta: dict[str, Any], usual: tzinfo) -> tzinfo:
    """The zone in which an entry's cron expression is read.

    Raises:
        EntryError: unknown zone.
    """
    name = meta.get(_ZONE)
    if name:
        try:
            return ZoneInfo(str(name))
        except (LookupError, ValueError, OSError) as err:
            raise EntryError(f"There is no time zone {name!r}.") from err
    return host_zone() if meta.get("use_local_timezone") else usual


@lru_cache(maxsize=10_000)
def _times(expression: str, zone: tzinfo) -> CrontabTimes:
    return CrontabTimes(expression, zone)


def cron_after(expression: Any, zone: tzinfo, moment: float) -> float | None:
    """When a cron expression is due next after `moment`, or None: never again.

    Raises:
        EntryError: it is no cron expression.
    """
    if not isinstance(expression, str):
        raise EntryError(f"Its cron_string is {expression!r}, not a text.")
    try:
        return _times(expression, zone).after(moment)
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as err:
        raise EntryError(f"Its cron_string {expression!r} cannot be read: {err}.") from err


def interval_after(interval: Any, due: float, now: float) -> float | None:
    """The first time after `now` that is a multiple of the interval after `due`; None without one.

    Raises:
        EntryError: it is no number of seconds.
    """
    try:
        seconds = float(interval or 0)
    except (TypeError, ValueError) as err:
        raise EntryError(f"Its interval is {interval!r}, not a number of seconds.") from err
    if not math.isfinite(seconds) or seconds < 0 or 0 < seconds < 0.001:
        raise EntryError(f"Its interval is {interval!r} seconds.")
    if not seconds:
        return None
    return due + seconds * max(1, math.floor((now - due) / seconds) + 1)


def score(moment: float) -> str:
    """A due time as it stands in Redis."""
    return f"{moment:.6f}".rstrip("0").rstrip(".")


def plan(meta: bytes, due: float, now: float, usual_zone: tzinfo = timezone.utc) -> Plan:
    """What to do with an entry that is due.

    Args:
        meta: of its job, as it is stored.
        due: when this occurrence was due; the next one is computed from this.
        now: what of the schedule has gone by is skipped: one late run, not many.
        usual_zone: for cron expressions that name none.
    """
    try:
        known = read_meta(meta)
        following = interval_after(known.get("interval"), due, now)
        cron = known.get("cron_string")
        periodic = following is not None or bool(cron)
        if following is None and cron:
            following = cron_after(cron, zone_of(known, usual_zone), max(due, now))
        if not periodic:
            return Plan(ONCE)
        left, new = _repeats(known), b""
        if left:
            left, new = left - 1, with_repeat(meta, left - 1)
    except EntryError as err:
        return Plan("", reason=str(err))
    over = left == 0 or following is None
    return Plan("" if over else score(following or 0), new)


def _repeats(meta: dict[str, Any]) -> int | None:
    repeat = meta.get("repeat")
    if repeat is None:
        return None
    try:
        return int(repeat)
    except (TypeError, ValueError) as err:
        raise EntryError(f"Its repeat is {repeat!r}, not a number.") from err
