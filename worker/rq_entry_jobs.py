"""The jobs behind rq-scheduler's entries: options, times, connections, as its users write them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import redis
from rq.job import Job, JobStatus, Retry

from taskq.tasks import Task

_THEIRS = {
    "timeout": "timeout", "job_id": "id", "job_ttl": "ttl", "job_result_ttl": "result_ttl",
    "job_description": "description", "depends_on": "depends_on", "meta": "meta",
    "queue_name": "queue_name", "on_success": "on_success", "on_failure": "on_failure",
    "at_front": "at_front",
}  # fmt: skip
"""Keywords of `enqueue_at` and `enqueue_in` that rq-scheduler keeps from the function."""
_OURS = {
    "job_timeout": "timeout", "retry": "retry", "failure_ttl": "failure_ttl",
    "job_failure_ttl": "failure_ttl", "on_stopped": "on_stopped",
}  # fmt: skip
"""Those that it passes on, so that the job fails: kept, unless the function asks for them."""


def options_of(func: Callable[..., Any] | str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the options out of a call's keywords."""
    found = {ours: kwargs.pop(name) for name, ours in _THEIRS.items() if name in kwargs}
    for name, ours in _OURS.items():
        if name in kwargs and not _takes(func, name):
            found[ours] = kwargs.pop(name)
    return found


def _takes(func: Callable[..., Any] | str, name: str) -> bool:
    if isinstance(func, str):
        return False
    try:
        return name in inspect.signature(func).parameters
    except (TypeError, ValueError):
        return False


def make_job(
    job_class: type[Job],
    connection: redis.Redis,
    func: Any,
    call: dict[str, Any],
    options: dict[str, Any],
) -> Job:
    """An RQ job that is not in Redis yet; unlike rq-scheduler's, with retries and `at_front`.

    A task goes by its name, which every worker of its app knows.
    """
    if isinstance(func, Task):
        func = func.name
    retry, at_front = options.pop("retry", None), options.pop("at_front", None)
    job = job_class.create(
        func, **call, **options, connection=connection, status=JobStatus.SCHEDULED
    )
    if at_front:
        job.enqueue_at_front = True
    if retry:
        policy = Retry(max=retry) if isinstance(retry, int) else retry
        job.retries_left, job.retry_intervals = policy.max, policy.intervals
        job.enqueue_at_front_on_retry = policy.enqueue_at_front
    return job


def plain(connection: redis.Redis | None) -> redis.Redis | None:
    """The same connection, or one to the same Redis that gives bytes, as RQ needs it."""
    if connection is None:
        return None
    pool = connection.connection_pool
    if not pool.connection_kwargs.get("decode_responses"):
        return connection
    options: dict[str, Any] = {**pool.connection_kwargs, "decode_responses": False}
    return redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **options)
    )


def unix(moment: datetime) -> float:
    """Seconds since 1970, with fractions; naive times are UTC, as rq-scheduler has it."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return aware.timestamp()


def from_unix(seconds: float | str) -> datetime:
    """Naive UTC, as rq-scheduler gives times."""
    return datetime.fromtimestamp(float(seconds), timezone.utc).replace(tzinfo=None)


def until_score(until: Any, now: Callable[[], float]) -> str | float:
    """The end of a range of due times: None, a datetime, a timedelta from now, or an epoch."""
    if until is None:
        return "+inf"
    if isinstance(until, timedelta):
        return now() + until.total_seconds()
    return unix(until) if isinstance(until, datetime) else float(until)


def whole(interval: float | timedelta) -> int | float:
    """An interval in seconds; whole ones as rq-scheduler writes them.

    Raises:
        ValueError: below a millisecond.
    """
    seconds = interval.total_seconds() if isinstance(interval, timedelta) else float(interval)
    if not 0.001 <= seconds < float("inf"):
        raise ValueError(f"interval={interval!r}: give a number of seconds above 0.")
    return int(seconds) if seconds == int(seconds) else seconds


def warn_of_six_fields(expression: str) -> None:
    """Others read the first of six fields as seconds."""
    fields = expression.split()
    if len(fields) == 6 and not fields[-1].isdigit():
        warnings.warn(
            f"The cron expression {expression!r} has six fields: the last is a year here, as in "
            "rq-scheduler, not the first a second. Leave the year out, or write seven fields: "
            "seconds first, the year last.",
            stacklevel=3,
        )
