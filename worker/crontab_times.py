"""When a cron expression of rq-scheduler is due: its own reading of the fields, in a time zone.

The fields are read by `crontab`, as in rq-scheduler: five, or six with a year at the
end, or seven with seconds before them; day and weekday must both match. What is ours
is the zone. Where clocks change, expressions with a fixed hour and minute run once: a
time that is skipped at the moment of the change, one that is repeated at its first
occurrence. All others (`*` or `*/n` in hour or minute) follow elapsed time.
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from crontab import CronTab

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (wall clocks have no zone here)
_DAY_S = 86400.0


def host_zone() -> tzinfo:
    """The zone of this machine, with its changes of the clock: `TZ`, or /etc/localtime."""
    file = Path("/etc/localtime")
    place = os.path.realpath(file).partition("zoneinfo/")[2]
    for name in (os.environ.get("TZ", "").lstrip(":"), place):
        with contextlib.suppress(OSError, ValueError, LookupError):
            if name:
                return ZoneInfo(name)  # the same object each time
    with contextlib.suppress(OSError, ValueError), file.open("rb") as data:
        return ZoneInfo.from_file(data)
    return datetime.now().astimezone().tzinfo or timezone.utc


class CrontabTimes:
    """The moments of one expression."""

    def __init__(self, expression: str, zone: tzinfo) -> None:
        """Read it.

        Raises:
            ValueError: it is none; the text says which part.
        """
        self._crontab: Any = CronTab(expression)  # it has no types
        self._zone = zone
        matchers = self._crontab.matchers
        self._fixed = not any("*" in one.input for one in (matchers.hour, matchers.minute))

    def after(self, moment: float) -> float | None:
        """The first moment later than `moment` (seconds since 1970), or None: there is none."""
        return self._after_fixed(moment) if self._fixed else self._after_elapsed(moment)

    def _next_wall(self, wall: datetime) -> datetime | None:
        found: datetime | None = self._crontab.next(wall, default_utc=True, return_datetime=True)
        return found

    def _after_fixed(self, moment: float) -> float | None:
        wall = self._wall(moment)
        while (following := self._next_wall(wall)) is not None:
            wall = following
            first = wall.replace(tzinfo=self._zone, fold=0).timestamp()
            if self._wall(first) != wall:  # skipped: clocks went over it
                second = wall.replace(tzinfo=self._zone, fold=1).timestamp()
                first = self._change(min(first, second) - 1, max(first, second))
            if first > moment:
                return first
        return None

    def _after_elapsed(self, moment: float) -> float | None:
        offset = self._offset(moment)
        while True:
            wall = self._next_wall(_EPOCH + timedelta(seconds=moment + offset))
            if wall is None:
                return None
            found = (wall - _EPOCH).total_seconds() - offset
            for end in (min(found, moment + _DAY_S), found):  # a repeated hour is near, if any
                if self._offset(end) != offset:
                    break
            else:
                return found
            # other clocks before it is reached: the search goes on where they begin
            change = self._change(moment, end)
            moment, offset = change - 1, self._offset(change)

    def _wall(self, moment: float) -> datetime:
        there = datetime.fromtimestamp(moment, timezone.utc).astimezone(self._zone)
        return there.replace(tzinfo=None, fold=0)

    def _offset(self, moment: float) -> float:
        there = datetime.fromtimestamp(moment, timezone.utc).astimezone(self._zone)
        return (there.utcoffset() or timedelta()).total_seconds()

    def _change(self, low: float, high: float) -> float:
        """The second after `low`, up to `high`, from which on clocks have another offset."""
        before = self._offset(low)
        low, high = int(low), int(high + 1)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == before:
                low = middle
            else:
                high = middle
        return float(high)
