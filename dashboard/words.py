"""Numbers, durations and times for people. Text only: escaping is the templates' business."""

from __future__ import annotations

import math
from datetime import datetime, timezone

NONE = "\u2013"
"""What stands where nothing is known."""

_SIZES = ("B", "kB", "MB", "GB", "TB")


def number(value: float | None) -> str:
    """`1,234`, or a dash."""
    return NONE if value is None else f"{value:,.0f}"


def compact(value: float | None) -> str:
    """`1,234`, `12.3k`, `1.2M`: for where there is little room."""
    if value is None:
        return NONE
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    for limit, divisor, unit in ((1e6, 1e3, "k"), (1e9, 1e6, "M"), (math.inf, 1e9, "G")):
        if abs(value) < limit:
            shown = value / divisor
            return f"{shown:.1f}{unit}" if abs(shown) < 100 else f"{shown:.0f}{unit}"
    return NONE


def duration(seconds: float | None) -> str:
    """`4 ms`, `1.2 s`, `42 s`, `3m 20s`, `5h 12m`, `3d 4h`."""
    if seconds is None:
        return NONE
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        shown = seconds * 1000
        return f"{shown:.1f} ms" if shown < 10 and shown >= 0.05 else f"{shown:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}{unit} {rest}{small}" if rest else f"{whole // size}{unit}"
    rest = whole % 60
    return f"{whole // 60}m {rest}s" if rest else f"{whole // 60}m"


def rate(per_s: float | None) -> str:
    """`120/s`, `1.5/s`, `12/min`, `3/h`, `0`."""
    if per_s is None:
        return NONE
    if per_s <= 0:
        return "0"
    if per_s >= 1:
        return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"
    if per_s * 60 >= 1:
        return f"{per_s * 60:.0f}/min" if per_s * 60 >= 10 else f"{per_s * 60:.1f}/min"
    return f"{max(per_s * 3600, 1):.0f}/h"


def percent(share: float | None) -> str:
    """`0 %`, `0.4 %`, `12 %`."""
    if share is None:
        return NONE
    shown = share * 100
    return f"{shown:.1f} %" if 0 < shown < 1 else f"{shown:.0f} %"


def size(count: float | None) -> str:
    """`512 B`, `1.2 MB`."""
    if count is None:
        return NONE
    value = float(count)
    for unit in _SIZES:
        if value < 1000 or unit == _SIZES[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return NONE


def plural(count: int, word: str, many: str = "") -> str:
    """`1 job`, `3 jobs`."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def iso(at: float | None) -> str:
    """`2026-11-22T18:00:00.123Z`; "" where it is none, or beyond the calendar."""
    moment = _moment(at)
    if moment is None:
        return ""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: float | None, now: float) -> str:
    """`18:00:03` today, else `22 Nov 18:00`, or with its year; in UTC."""
    moment = _moment(at)
    if moment is None:
        return NONE
    today = _moment(now)
    if today is not None and moment.date() == today.date():
        return moment.strftime("%H:%M:%S")
    if today is not None and moment.year == today.year:
        return f"{moment.day} {moment:%b %H:%M}"
    return f"{moment.day} {moment:%b %Y %H:%M}"


def ago(at: float | None, now: float) -> str:
    """`12 s ago`, `in 3m 20s`."""
    if at is None:
        return NONE
    away = now - at
    if abs(away) < 1:
        return "now"
    return f"{duration(away)} ago" if away > 0 else f"in {duration(-away)}"


def _moment(at: float | None) -> datetime | None:
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
