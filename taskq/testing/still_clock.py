"""The clock of a test: it stands still until it is moved."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone

from taskq.clock import Clock
from taskq.errors import ConfigError


class StillClock(Clock):
    """Wall-clock time that moves only by `move_to`; intervals stay real."""

    def __init__(self, start: datetime | None = None) -> None:
        """Stop at `start`, or at the next full second: what says `at=now` is due then.

        Raises:
            ConfigError: a time without a zone.
        """
        super().__init__()
        if start is not None and (not isinstance(start, datetime) or start.tzinfo is None):
            raise ConfigError(
                f"testing(now={start!r}): must be an aware datetime, like "
                "datetime(2026, 3, 1, 12, tzinfo=timezone.utc)."
            )
        self._at: float = math.ceil(time.time()) if start is None else round(start.timestamp(), 6)

    def time(self) -> float:
        """Seconds since 1970."""
        return self._at

    def now(self) -> datetime:
        """The same as an aware datetime."""
        return datetime.fromtimestamp(self._at, timezone.utc)

    def move_to(self, at: float) -> None:
        """Go on to that second since 1970; never back."""
        self._at = max(self._at, round(at, 6))


def seconds_to_move(delta: object) -> float:
    """How far `advance(delta)` goes.

    Raises:
        ConfigError: neither seconds nor a timedelta, or backwards.
    """
    if isinstance(delta, timedelta):
        seconds = delta.total_seconds()
    elif isinstance(delta, (int, float)) and not isinstance(delta, bool):
        seconds = float(delta)
    else:
        raise ConfigError(f"advance({delta!r}): must be seconds or a timedelta.")
    if not 0 <= seconds < 1e11:
        raise ConfigError(f"advance({delta!r}): the clock only goes forward.")
    return seconds
