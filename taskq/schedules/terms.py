"""What a schedule says besides its task: when, and what to do when it could not be kept.

Invariant: whatever is inside `Terms` is valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, get_args

from taskq.errors import ConfigError
from taskq.timing import Cron, Every, When, moment_ms

Missed = Literal["run_once", "run_all", "skip"]
Overlap = Literal["allow", "skip", "queue_one"]

SKIP_WINDOW_MS = 10_000
"""`missed="skip"`: an occurrence fired so late still counts as on time."""
_LONGEST_MS = 10 * 366 * 86_400_000
_NAME_BYTES = 200


class ScheduleOptions(TypedDict, total=False):
    """What `queue.schedule(...)` and `@queue.cron(...)` take besides the task and the time."""

    missed: Missed
    window: float | timedelta | None
    overlap: Overlap
    jitter: float | timedelta | None
    start: datetime | None
    end: datetime | None
    max_runs: int | None


@dataclass(frozen=True)
class Terms:
    """When a schedule has its occurrences, and the rules for late ones. Immutable.

    Attributes:
        when: a cron expression or an interval.
        missed: which of the occurrences that are overdue run: the latest ("run_once"), all
            ("run_all"), or the latest only if it is hardly late ("skip").
        window_ms: an occurrence later than that does not run at all; None: however late.
        overlap: what to do while the job of the one before has not ended: nothing special
            ("allow"), drop this one ("skip"), run it when that one has ended ("queue_one").
        jitter_ms: fires up to so much later, the same for the same occurrence.
        start_ms: no occurrence before; intervals are counted from it.
        end_ms: no occurrence after.
        max_runs: ends after so many; None: never.
    """

    when: When
    missed: str = "run_once"
    window_ms: int | None = None
    overlap: str = "allow"
    jitter_ms: int = 0
    start_ms: int | None = None
    end_ms: int | None = None
    max_runs: int | None = None

    @property
    def tz(self) -> str:
        """Name of the zone that occurrences are shown in."""
        return self.when.tz if isinstance(self.when, Cron) else "UTC"

    @property
    def expression(self) -> str:
        """The cron expression, or the interval: "0 7 * * *", "every 30 s"."""
        if isinstance(self.when, Cron):
            return self.when.expression
        return f"every {self.when.interval_ms / 1000:g} s"

    @property
    def latest_ms(self) -> int | None:
        """How late the latest overdue occurrence may be, by `missed` and `window_ms`."""
        if self.missed == "skip" and self.window_ms is None:
            return SKIP_WINDOW_MS
        return self.window_ms


def terms(where: str, when: object, options: dict[str, Any]) -> Terms:
    """Check what the user gave.

    Args:
        where: who gives it, for messages: `schedule("report")`.
        when: `Cron(...)` or `Every(...)`.
        options: names and values.

    Raises:
        ConfigError: a wrong value, or an unknown name.
    """
    if not isinstance(when, (Cron, Every)):
        raise ConfigError(f"{where}: {when!r} is no time: Cron(...) or Every(...) is needed.")
    unknown = options.keys() - ScheduleOptions.__annotations__.keys()
    if unknown:
        raise ConfigError(
            f"{where}: there is no option {min(unknown)!r}. There are "
            f"{', '.join(ScheduleOptions.__annotations__)}; options of the job go to the task: "
            "task.options(queue=...).call(...)."
        )
    start = _moment(where, "start", options.get("start"))
    end = _moment(where, "end", options.get("end"))
    if start is not None and end is not None and end < start:
        raise ConfigError(f"{where}: end is before start: it would never come.")
    return Terms(
        when,
        missed=_choice(where, "missed", options.get("missed", "run_once"), get_args(Missed)),
        window_ms=_ms(where, "window", options.get("window")),
        overlap=_choice(where, "overlap", options.get("overlap", "allow"), get_args(Overlap)),
        jitter_ms=_ms(where, "jitter", options.get("jitter")) or 0,
        start_ms=start,
        end_ms=end,
        max_runs=_runs(where, options.get("max_runs")),
    )


def check_name(name: object) -> str:
    """Return the name of a schedule.

    Raises:
        ConfigError: no text, empty, too long, or with control characters.
    """
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ConfigError(
            f"A schedule's name is {name!r}: it must be a text, not empty, without control "
            "characters."
        )
    if len(name.encode("utf-8", "surrogatepass")) > _NAME_BYTES:
        raise ConfigError(f"The name of a schedule, {name[:40]!r}..., is over {_NAME_BYTES} bytes.")
    return name


def _moment(where: str, name: str, value: object) -> int | None:
    return None if value is None else moment_ms(f"{where}: {name}", value)


def _choice(where: str, name: str, value: object, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ConfigError(f"{where}: {name}={value!r}: must be one of {', '.join(allowed)}.")
    return str(value)


def _ms(where: str, name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{where}: {name}={value!r}: must be seconds or a timedelta.")
    if not math.isfinite(value) or not 0 <= value * 1000 <= _LONGEST_MS:
        raise ConfigError(f"{where}: {name}={value!r}: 0 s to ten years is allowed.")
    return round(value * 1000)


def _runs(where: str, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise ConfigError(f"{where}: max_runs={value!r}: must be a number above 0.")
    return value
