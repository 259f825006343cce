"""One check for each option: what is allowed, and the words for what is not."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from taskq.errors import ConfigError
from taskq.retry import Retry
from taskq.targets import wrong_target

JOB_ID = re.compile(r"[A-Za-z0-9_-]+")
"""RQ's rule (`rq.job.JOB_ID_PATTERN`)."""

_MOST_S = 1_000 * 366 * 86_400


class _Refused(Exception):
    """What an option must be, in words; becomes a `ConfigError` with its name in it."""


def check_option(where: str, name: str, value: Any) -> Any:
    """Return the value of an option as it is kept: durations in seconds, dates as epoch.

    Args:
        where: who gives it, for messages: "thumbnail.options()".
        name: name of the option.
        value: what the user wrote.

    Raises:
        ConfigError: no such option, or a wrong value; says what is allowed.
    """
    check = _CHECKS.get(name)
    if check is None:
        raise ConfigError(f"{where}: {_unknown(name)}")
    try:
        return check(value)
    except _Refused as refused:
        raise ConfigError(f"{where}: {name}={value!r}: {refused}") from None


def check_job_id(where: str, job_id: object) -> str:
    """Return `job_id` if RQ would take it.

    Raises:
        ConfigError: it is no text of letters, digits, underscores and dashes.
    """
    return str(check_option(where, "job_id", "" if job_id is None else job_id))


def _unknown(name: str) -> str:
    if name in ("mode", "name", "aliases", "stream_keep", "stream_ahead"):
        return f"{name!r} belongs to the decorator: it is the same for every call of a task."
    near = difflib.get_close_matches(name, _CHECKS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(_CHECKS)
    return f"there is no option {name!r}.{hint} Options: {known}."


def _seconds(value: Any) -> float:
    """Seconds of a number or a timedelta, finite."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
        value = int(value) if value.is_integer() else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Refused("must be seconds (int, float) or a timedelta.")
    if not math.isfinite(value):
        raise _Refused("must be a finite number of seconds.")
    if abs(value) > _MOST_S:
        raise _Refused("must be less than 1,000 years.")
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


def _replicas(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100:
        raise _Refused("must be a number of replicas, 0 (do not wait for any) to 100.")
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


def _target(value: Any) -> Any:
    if value is None:
        return None
    if wrong := wrong_target(value):
        raise _Refused(wrong)
    return value


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
    "replicas": _replicas,
    "job_id": _job_id,
    "description": _text_or_none,
    "meta": _meta,
    "on_success": _target,
    "on_failure": _target,
    "durable": _flag,
}
