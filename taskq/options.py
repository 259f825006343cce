"""Options of a task or a call: one set of names, checked once, then only read.

The same names serve the decorator, `.options(...)` and the command line. A checked
`Options` also knows the fields of RQ's job hash that it stands for, so that the
enqueue path adds nothing but the data.

Invariant: whatever is inside an `Options` is valid; every wrong value was refused with
a `ConfigError` when it was given.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypedDict

from taskq.errors import ConfigError
from taskq.retry import Retry

DEFAULT_TIMEOUT_S = 180
"""RQ's own: a job without the field has this limit."""

DEFAULT_RESULT_TTL_S = 500
"""RQ's own: how long a result is kept when the job does not say."""

DEFAULT_FAILURE_TTL_S = 31_536_000
"""RQ's own, one year: how long a failed job is kept when it does not say."""

BATCH_RESULT_TTL_S = 86_400
"""Jobs of a batch keep their results this long unless their task says otherwise: the
first of many must not expire while the last one still waits. Reading the batch trims it."""

JOB_ID = re.compile(r"[A-Za-z0-9_-]+")
"""RQ's rule (`rq.job.JOB_ID_PATTERN`)."""

Duration = float | int | timedelta


class CallOptions(TypedDict, total=False):
    """The options of `@task(...)` and `.options(...)`, as the type checkers see them."""

    queue: str
    timeout: float | timedelta | None
    retry: Retry | int | None
    result_ttl: float | timedelta
    failure_ttl: float | timedelta
    ttl: float | timedelta | None
    delay: float | timedelta | None
    at: datetime | None
    at_front: bool
    unique: bool | str | Callable[..., str | None] | None
    redeliver: bool
    job_id: str | None
    description: str | None
    meta: Mapping[str, Any] | None


@dataclass(frozen=True)
class Options:
    """Checked options. Immutable; `merge` makes another.

    Attributes:
        queue: name of the queue.
        timeout: seconds that one execution may take; None: no limit.
        retry: what to do after a failure; None: nothing.
        result_ttl: seconds the result is kept; 0: not stored; -1: for ever.
        failure_ttl: seconds a failed job is kept; -1: for ever.
        ttl: seconds the job may wait before it is dropped; None: any time.
        delay: seconds before it may run; None: at once.
        at: time (seconds since 1970) at which it may run; None: at once.
        at_front: to the head of its queue instead of the tail.
        unique: True, a text, or a function of the arguments; None: not unique.
        redeliver: whether it runs again when its worker dies.
        job_id: an id of the caller's choice; None: made for each call.
        description: text for people; None: made from the call when shown.
        meta: what `job.meta` starts with.
        given: names that somebody chose, as against the defaults.
    """

    queue: str = "default"
    timeout: float | None = DEFAULT_TIMEOUT_S
    retry: Retry | None = None
    result_ttl: float = DEFAULT_RESULT_TTL_S
    failure_ttl: float = DEFAULT_FAILURE_TTL_S
    ttl: float | None = None
    delay: float | None = None
    at: float | None = None
    at_front: bool = False
    unique: bool | str | Callable[..., str | None] | None = None
    redeliver: bool = True
    job_id: str | None = None
    description: str | None = None
    meta: Mapping[str, Any] | None = None
    given: frozenset[str] = frozenset()

    def merge(self, where: str, changes: Mapping[str, Any]) -> Options:
        """Return these options with `changes` over them; what comes later wins.

        A later `at` replaces an earlier `delay` and the other way round; both at once
        contradict each other.

        Args:
            where: who gives them, for messages: "thumbnail.options()".
            changes: names and values as the user wrote them.

        Raises:
            ConfigError: an unknown name, a wrong value, `delay` together with `at`.
        """
        checked = {name: _check(where, name, value) for name, value in changes.items()}
        if checked.get("delay") is not None and checked.get("at") is not None:
            raise ConfigError(f"{where}: delay and at contradict each other; give one of them.")
        if checked.get("delay") is not None:
            checked["at"] = None
        elif checked.get("at") is not None:
            checked["delay"] = None
        for name in _LATER:
            checked.pop(name, None)
        merged = object.__new__(Options)
        # Not dataclasses.replace: this may happen for each call, and fifteen times
        # object.__setattr__ cost more than all the rest of it.
        state = merged.__dict__
        state.update(self.__dict__)
        for name in _CACHED:
            state.pop(name, None)
        state.update(checked)
        state["given"] = self.given | checked.keys()
        return merged

    @cached_property
    def is_plain(self) -> bool:
        """Whether a job is nothing but id, queue, payload and `fields`: most are."""
        own = (self.ttl, self.delay, self.at, self.unique, self.job_id, self.meta)
        return not self.at_front and all(value is None for value in own)

    @cached_property
    def ttl_s(self) -> int | None:
        """`ttl` in whole seconds, as Redis and RQ take it."""
        return None if self.ttl is None else whole_s(self.ttl)

    @cached_property
    def fields(self) -> list[str]:
        """Fields of the job hash for a single job, flat: name, value, name, value ...

        Only what differs from RQ's defaults is written: an empty hash field still costs
        memory, and the reader knows the defaults. Shared between jobs: never change it.
        """
        return _fields(self, self.result_ttl)

    @cached_property
    def batch_fields(self) -> list[str]:
        """The same for a job of a batch, whose result waits until the batch is read."""
        kept_s = self.result_ttl
        if "result_ttl" not in self.given:
            kept_s = max(kept_s, BATCH_RESULT_TTL_S)
        return _fields(self, kept_s)


def check_job_id(where: str, job_id: object) -> str:
    """Return `job_id` if RQ would take it.

    Raises:
        ConfigError: it is no text of letters, digits, underscores and dashes.
    """
    if isinstance(job_id, str) and JOB_ID.fullmatch(job_id):
        return job_id
    raise ConfigError(
        f"{where}: {job_id!r} is no job id: only letters, digits, underscores and dashes "
        "are allowed (RQ's rule)."
    )


def whole_s(seconds: float) -> int:
    """Seconds for a field that RQ reads with int(); never less than was asked for."""
    return math.ceil(seconds)


def _fields(options: Options, result_ttl: float) -> list[str]:
    fields: list[str] = []
    add = fields.extend
    timeout = options.timeout
    if timeout is None:
        add(("timeout", "-1"))
    elif timeout != DEFAULT_TIMEOUT_S:
        add(("timeout", str(whole_s(timeout))))
        if timeout != whole_s(timeout):  # RQ's field holds whole seconds; ours is exact
            add(("tq_timeout", repr(timeout)))
    if result_ttl != DEFAULT_RESULT_TTL_S:
        add(("result_ttl", str(whole_s(result_ttl))))
    if options.failure_ttl != DEFAULT_FAILURE_TTL_S:
        add(("failure_ttl", str(whole_s(options.failure_ttl))))
    if options.ttl is not None:
        add(("ttl", str(whole_s(options.ttl))))
    if options.retry is not None:
        add(_retry_fields(options.retry))
    if options.description is not None:
        add(("description", options.description))
    if options.at_front:
        add(("enqueue_at_front", "1"))
    if not options.redeliver:
        add(("tq_redeliver", "0"))
    return fields


def _retry_fields(retry: Retry) -> list[str]:
    fields = ["retries_left", str(retry.max)]
    intervals = retry.intervals()
    if any(intervals):  # without the field RQ retries at once
        fields += ["retry_intervals", json.dumps(intervals, separators=(",", ":"))]
    if more := retry.to_field():
        fields += ["tq_retry", more]
    return fields


# --- one check for each option: returns the value as we keep it, or raises _Refused -----


class _Refused(Exception):  # noqa: N818 - private, becomes a ConfigError with the name in it
    """What an option must be, in words."""


def _check(where: str, name: str, value: Any) -> Any:
    check = _CHECKS.get(name)
    if check is None:
        raise ConfigError(f"{where}: {_unknown(name)}")
    try:
        return check(value)
    except _Refused as refused:
        raise ConfigError(f"{where}: {name}={value!r}: {refused}") from None


def _unknown(name: str) -> str:
    if name in ("mode", "name", "aliases"):
        return f"{name!r} belongs to the decorator: it is the same for every call of a task."
    near = difflib.get_close_matches(name, _CHECKS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(option for option in _CHECKS if option not in _LATER)
    return f"there is no option {name!r}.{hint} Options: {known}."


def _seconds(value: Any) -> float:
    """Seconds of a number or a timedelta, finite."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Refused("must be seconds (int, float) or a timedelta.")
    if not math.isfinite(value):
        raise _Refused("must be a finite number of seconds.")
    return value


def _positive_or_none(value: Any) -> float | None:
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds <= 0:
        raise _Refused("must be more than 0 seconds; None means no limit.")
    return seconds


def _kept(value: Any) -> float:
    if value is None:
        raise _Refused("must be seconds; -1 means for ever, 0 not at all.")
    seconds = _seconds(value)
    if seconds < 0 and seconds != -1:
        raise _Refused("must be 0 or more seconds, or -1 for ever.")
    return seconds


def _delay(value: Any) -> float | None:
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds < 0:
        raise _Refused("must be 0 or more seconds.")
    return seconds or None


def _at(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise _Refused("must be an aware datetime; for seconds from now use delay=.")
    if value.utcoffset() is None:
        raise _Refused(
            "is a datetime without a time zone: it means another moment on each server. "
            "Add one, for example tzinfo=datetime.timezone.utc."
        )
    return value.timestamp()


def _queue(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _Refused("must be a queue's name: a text, not empty, without control characters.")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Refused("must be True or False.")
    return value


def _text_or_none(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _Refused("must be a text.")
    return value


def _retry(value: Any) -> Retry | None:
    if isinstance(value, bool) or not isinstance(value, (int, Retry, type(None))):
        raise _Refused("must be a number of retries or a Retry(...).")
    if isinstance(value, int) and value < 0:
        raise _Refused("must be 0 or more retries.")
    return Retry.of(value) if value else None


def _unique(value: Any) -> bool | str | Callable[..., str | None] | None:
    if value is None or value is False:
        return None
    if value is True or (isinstance(value, str) and value) or callable(value):
        return value  # type: ignore[no-any-return]
    raise _Refused("must be True, a text that is not empty, or a function of the arguments.")


def _job_id(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not JOB_ID.fullmatch(value):
        raise _Refused("only letters, digits, underscores and dashes are allowed (RQ's rule).")
    return value


def _meta(value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _Refused("must be a dict whose keys are texts.")
    return dict(value) or None


def _later(value: Any) -> None:
    if value is not None and value is not False:
        raise _Refused("this version of taskq does not have this option yet.")


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "queue": _queue,
    "timeout": _positive_or_none,
    "retry": _retry,
    "result_ttl": _kept,
    "failure_ttl": _kept,
    "ttl": _positive_or_none,
    "delay": _delay,
    "at": _at,
    "at_front": _flag,
    "unique": _unique,
    "redeliver": _flag,
    "job_id": _job_id,
    "description": _text_or_none,
    "meta": _meta,
    "on_success": _later,
    "on_failure": _later,
    "durable": _later,
}

_LATER = ("on_success", "on_failure", "durable")
_CACHED = ("fields", "batch_fields", "is_plain", "ttl_s")

DEFAULTS = Options()
"""What a call uses when nobody said anything."""
