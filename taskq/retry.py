"""Retrying: how often, after how long, and for which exceptions.

What a stock RQ worker understands goes into RQ's own fields: `retries_left` and
`retry_intervals` (seconds before each retry). The rest, jitter and the choice of
exceptions, goes into `tq_retry`, which a stock worker does not read: it retries after
every exception and without jitter. At the first retry `tq_retries` keeps how many there
were, for who runs the job once more by hand.

Exceptions are kept as dotted names (`exc_names`).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, cast

from taskq.errors import ConfigError
from taskq.exc_names import ExceptionRef, given_names, is_among

Backoff = Literal["fixed", "linear", "exponential"] | Callable[[int], float]

_GROWING: dict[str, Callable[[float, int], float]] = {
    "linear": lambda base, attempt: base * attempt,
    # ldexp instead of **: no huge integers on the way to the cap
    "exponential": lambda base, attempt: math.ldexp(base, min(attempt - 1, 1000)),
}
_MOST_DIFFERENT = 1_000  # delays that are stored one by one
_MOST_RETRIES = 1_000_000_000
_LONGEST_S = 10 * 366 * 86_400.0
_JITTER_FROM = 0.5


class RetryLater(Exception):
    """Raise `Retry.later(seconds)` inside a task: run it again after that time.

    Attributes:
        seconds: time to wait, at least 0.
    """

    def __init__(self, seconds: float | timedelta) -> None:
        """Check and keep the time.

        Raises:
            TypeError, ConfigError: no duration, or one that is negative or endless.
        """
        self.seconds = _seconds("Retry.later()", seconds)
        super().__init__(self.seconds)

    def __str__(self) -> str:
        """For the log, and for who catches it by accident."""
        return f"the task asked to be run again in {self.seconds:g} s"


@dataclass(frozen=True, init=False)
class Retry:
    """How a failed job is retried. Immutable.

    `Retry(5)` waits a second before each retry; an int as a task's `retry=` retries at
    once. `Retry(5, backoff="exponential", base=1, cap=300, jitter=True, on=(OSError,))`
    waits 1, 2, 4, 8 and 16 s, each shortened at random by up to a half, and only after an
    OSError or one of its subclasses.

    Attributes:
        max: retries after the first execution, at least 1.
        backoff: "fixed" (base each time), "linear" (base times the attempt),
            "exponential" (doubling from base), or a function that takes the number of
            the failed attempt, from 1, and gives seconds.
        base: seconds, or a timedelta.
        cap: longest delay of "linear" and "exponential", in seconds; the others are as
            long as they say.
        jitter: wait a random part between half and all of each delay, so that jobs which
            failed together do not return together.
        on: only for these exceptions and their subclasses: classes, or dotted names; all
            when empty.
        never_on: not for these, even where `on` has them.
    """

    max: int
    backoff: Backoff
    base: float
    cap: float
    jitter: bool
    on: tuple[str, ...]
    never_on: tuple[str, ...]

    def __init__(
        self,
        max: int,  # noqa: A002 - the name in RQ's Retry, too
        *,
        backoff: Backoff = "fixed",
        base: float | timedelta = 1.0,
        cap: float | timedelta = 300.0,
        jitter: bool = False,
        on: ExceptionRef | Sequence[ExceptionRef] = (),
        never_on: ExceptionRef | Sequence[ExceptionRef] = (),
    ) -> None:
        """Check everything.

        Raises:
            TypeError: an argument of a wrong type.
            ConfigError (ValueError): a value that is not allowed.
        """
        put = object.__setattr__  # the class is frozen
        put(self, "max", _count(max))
        put(self, "backoff", _backoff(backoff))
        put(self, "base", _seconds("Retry: base", base))
        put(self, "cap", _seconds("Retry: cap", cap))
        if type(jitter) is not bool:
            raise TypeError(f"Retry: jitter is {jitter!r}: True or False is allowed.")
        put(self, "jitter", jitter)
        put(self, "on", given_names("on", on))
        put(self, "never_on", given_names("never_on", never_on))
        if backoff in _GROWING and self.base > self.cap:
            raise ConfigError(
                f"Retry: base ({self.base:g} s) is above cap ({self.cap:g} s). Raise cap."
            )
        if backoff != "fixed" and max > _MOST_DIFFERENT:
            raise ConfigError(
                f"Retry: max is {max:,} with {self._backoff_name} backoff, whose delays are "
                f'stored one by one: at most {_MOST_DIFFERENT:,}. backoff="fixed" has no limit.'
            )
        self.intervals()  # a function that gives nonsense is found where the task is defined

    @classmethod
    def of(cls, value: int | Retry | None) -> Retry | None:
        """What stands behind a `retry=` option; an int means so many, without delay.

        Raises:
            TypeError, ConfigError: neither of these, or a negative number.
        """
        if value is None or isinstance(value, Retry):
            return value
        if type(value) is not int:
            raise TypeError(f"retry is {value!r}: an int, a Retry(...) or None is allowed.")
        return None if value == 0 else cls(value, base=0.0)

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after the failed attempt number `attempt`, from 1; no jitter."""
        if attempt < 1:
            raise ValueError(f"attempt is {attempt}: they count from 1.")
        if isinstance(self.backoff, str):
            grow = _GROWING.get(self.backoff)
            return self.base if grow is None else min(grow(self.base, attempt), self.cap)
        return _seconds(f"Retry: backoff {self._backoff_name}({attempt})", self.backoff(attempt))

    def jittered(self, delay_s: float, rng: Callable[[], float] = random.random) -> float:
        """`delay_s`, or a random part of it between a half and all where jitter is on.

        Args:
            delay_s: seconds.
            rng: gives a number from 0 up to 1.
        """
        if not self.jitter:
            return delay_s
        return delay_s * (_JITTER_FROM + (1 - _JITTER_FROM) * rng())

    def matches(self, exc_type_names: Sequence[str]) -> bool:
        """Tell whether an exception is retried.

        Args:
            exc_type_names: dotted names of its class and of all that it inherits from
                (`class_names`).
        """
        if self.never_on and is_among(exc_type_names, self.never_on):
            return False
        return not self.on or is_among(exc_type_names, self.on)

    def intervals(self) -> list[float]:
        """RQ's `retry_intervals`: seconds before each retry, whole ones as int.

        One item where all are equal (RQ uses the first when there are too few), so an
        unlimited `max` costs nothing. Empty where retries come at once: the field is
        then left out (RQ fails on an empty list).
        """
        if self.backoff == "fixed":
            delays = [self.base]
        else:
            delays = [self.delay_s(attempt) for attempt in range(1, self.max + 1)]
        if not any(delays):
            return []
        return [int(delay) if delay == int(delay) else round(delay, 3) for delay in delays]

    def to_field(self) -> str:
        """The field `tq_retry`; empty where RQ's fields say all."""
        said: dict[str, Any] = {}
        if self.jitter:
            said["j"] = 1
        if self.on:
            said["on"] = self.on
        if self.never_on:
            said["no"] = self.never_on
        if not said:
            return ""
        return json.dumps({"n": self.max, **said}, separators=(",", ":"))

    @classmethod
    def from_field(cls, text: str | bytes) -> Retry:
        """What `to_field` wrote: `max`, `jitter`, `on` and `never_on`.

        Its own delays are 0: they are in RQ's `retry_intervals`.

        Raises:
            ValueError: anything else.
        """
        try:
            said = json.loads(text)
            on, never_on = said.get("on", []), said.get("no", [])
            if type(on) is not list or type(never_on) is not list:
                raise TypeError("on and no must be lists")
            return cls(said["n"], base=0.0, jitter=bool(said.get("j")), on=on, never_on=never_on)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"tq_retry cannot be read: {error!r}") from None

    @staticmethod
    def later(seconds: float | timedelta) -> RetryLater:
        """The exception to raise in a task that should run again after `seconds`.

        Such a retry does not count against `max`.
        """
        return RetryLater(seconds)

    @property
    def _backoff_name(self) -> str:
        if isinstance(self.backoff, str):
            return self.backoff
        return str(getattr(self.backoff, "__name__", type(self.backoff).__name__))


def _count(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"Retry: max is {value!r}: a whole number is allowed.")
    if not 1 <= value <= _MOST_RETRIES:
        raise ConfigError(f"Retry: max is {value}: 1 to {_MOST_RETRIES:,} is allowed.")
    return value


def _backoff(value: object) -> Backoff:
    if callable(value) or value in ("fixed", "linear", "exponential"):
        return cast("Backoff", value)
    raise ConfigError(
        f'Retry: backoff is {value!r}: "fixed", "linear", "exponential" or a function of the '
        "attempt is allowed."
    )


def _seconds(what: str, value: object) -> float:
    """A duration in seconds, checked."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} is {value!r}: seconds or a timedelta is allowed.")
    if not 0 <= value <= _LONGEST_S:  # also false for NaN
        raise ConfigError(f"{what} is {value} s: 0 to {_LONGEST_S:.0f} (ten years) is allowed.")
    return float(value)
