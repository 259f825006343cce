"""Time, injected so that tests can move it.

Wall-clock time (seconds since 1970, UTC) is what we store; monotonic time
measures intervals and never leaves the process.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone


class Clock:
    """The machine's clocks, with an offset that follows the clock of Redis.

    Leases and due times are computed inside Redis. The ISO dates in RQ's hashes
    come from here; `offset_s` (Redis minus us, measured at each heartbeat) keeps
    them comparable between servers whose clocks differ.
    """

    def __init__(self) -> None:
        """Start without an offset."""
        self.offset_s = 0.0
        self._cached = (-1, "")

    def time(self) -> float:
        """Seconds since 1970, on the clock of Redis as far as we know it."""
        return time.time() + self.offset_s

    def monotonic(self) -> float:
        """Seconds for measuring intervals."""
        return time.monotonic()

    def iso(self, at: float | None = None) -> str:
        """`at` (now by default) as RQ writes dates: `2026-11-22T18:00:00.123456Z`.

        The part up to the second is kept: formatting it costs more than all else
        on the enqueue path.
        """
        now = self.time() if at is None else at
        second = int(now)
        cached_second, prefix = self._cached  # one read: threads may replace it meanwhile
        if second != cached_second:
            prefix = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.")
            self._cached = (second, prefix)
        return f"{prefix}{int((now - second) * 1e6):06d}Z"


def parse_iso(text: str) -> float:
    """Seconds since 1970 of a date as RQ writes it.

    Raises:
        ValueError: the text is no such date.
    """
    if len(text) == 27 and text[26] == "Z" and text[10] == "T":
        # a tenth of strptime's time, which is most of the cost of a list of jobs
        return datetime.fromisoformat(text[:26]).replace(tzinfo=timezone.utc).timestamp()
    form = "%Y-%m-%dT%H:%M:%S.%fZ" if "." in text else "%Y-%m-%dT%H:%M:%SZ"
    return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
