"""When something is due: cron expressions and intervals. Pure computing, no Redis, no clock.

Times are milliseconds since 1970, UTC. What happens when clocks change is in `cron`.
"""

from __future__ import annotations

from taskq.timing.cron import Cron
from taskq.timing.every import Every
from taskq.timing.zones import moment_ms, zone

When = Cron | Every
"""What says when the occurrences of a schedule are."""

__all__ = ["Cron", "Every", "When", "moment_ms", "zone"]
