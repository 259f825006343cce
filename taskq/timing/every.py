"""Intervals: `Every(seconds=30)`. Real time, whatever clocks do; never drifts."""

from __future__ import annotations

import math
from datetime import timedelta

from taskq.errors import ConfigError

_SHORTEST_MS = 100
_LONGEST_MS = 10 * 366 * 86_400_000


class Every:
    """A time every so often: `Every(seconds=30)`, `Every(hours=1, minutes=30)`. Immutable.

    Counted from the schedule's `start`, or else from when it was made; the first time is
    one interval later, or `start` itself.

    Attributes:
        interval_ms: whole milliseconds.
    """

    __slots__ = ("interval_ms",)

    def __init__(
        self,
        interval: timedelta | float = 0,
        /,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Add up the parts.

        Args:
            interval: seconds, or a timedelta.
            days: of 24 hours.
            hours: likewise.
            minutes: likewise.
            seconds: likewise.

        Raises:
            ConfigError: no numbers, or not between 0.1 s and ten years.
        """
        if isinstance(interval, timedelta):
            interval = interval.total_seconds()
        total = 0.0
        parts = ((1, interval), (86_400, days), (3600, hours), (60, minutes), (1, seconds))
        for size, value in parts:
            if isinstance(value, bool) or not isinstance(value, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"Every({value!r}): must be numbers, or one timedelta.")
            total += size * value
        if not math.isfinite(total) or not _SHORTEST_MS <= round(total * 1000) <= _LONGEST_MS:
            raise ConfigError(f"Every() of {total:g} s: 0.1 s to ten years is allowed.")
        self.interval_ms = round(total * 1000)

    def __repr__(self) -> str:
        return f"Every(seconds={self.interval_ms / 1000:g})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Every):
            return NotImplemented
        return self.interval_ms == other.interval_ms

    def __hash__(self) -> int:
        return hash(self.interval_ms)

    @property
    def words(self) -> str:
        """In English: "Every 30 seconds", "Every 1 hour 30 minutes"."""
        left, parts = self.interval_ms / 1000, []
        for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
            count, left = divmod(left, size)
            if count:
                parts.append(f"{count:g} {name}{'' if count == 1 else 's'}")
        left = round(left, 3)
        if left:
            parts.append(f"{left:g} second{'' if left == 1 else 's'}")
        text = " ".join(parts)
        alone = len(parts) == 1 and text.startswith("1 ")
        return f"Every {text[2:] if alone else text}"

    def after(self, ms: int, anchor_ms: int) -> int:
        """The first time later than `ms`, counted from the anchor."""
        return anchor_ms + ((ms - anchor_ms) // self.interval_ms + 1) * self.interval_ms

    def latest(self, ms: int, anchor_ms: int) -> int:
        """The last time not later than `ms`, counted from the anchor."""
        return anchor_ms + (ms - anchor_ms) // self.interval_ms * self.interval_ms
