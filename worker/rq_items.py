"""Ends of jobs with RQ's features as items of the settle script, a hundred times as fast.

They say what RQ's `handle_job_success`, `handle_job_failure` and `handle_job_retry` do, by the
job's record as it was when the job was handed out. What is rare, or is not as RQ's `enqueue`
leaves it, is for RQ's own code (see rq_lane.py).
"""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

from taskq.retry import RetryLater
from taskq.worker import items
from taskq.worker.claim import YEAR_S
from taskq.worker.outcome import Interrupted, TimeLimit, failure_item, success_item

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.claim import Claim
    from taskq.worker.items import Item


def asks_again(value: Any) -> bool:
    """Whether a job has returned RQ's `Retry`, or one of a subclass."""
    if value is None:
        return False
    rq = sys.modules.get("rq.job")
    return rq is not None and issubclass(type(value), rq.Retry)


def callback_due(claim: Claim, value: Any, error: BaseException | None) -> str:
    """Which callback is to be called in a thread now that this has ended, "success" or "failure".

    Returns:
        "" for none, and where RQ's own code calls it.
    """
    kind = "success" if error is None else "failure"
    if claim.called == kind or not claim.fields.get(f"{kind}_callback_name".encode()):
        return ""
    if not claim.pickled or asks_again(value):
        return ""  # a result that is not pickled may turn out not to be storable
    if isinstance(error, (RetryLater, TimeLimit, Interrupted)):
        return ""
    return kind if by_script(claim) else ""


def by_script(claim: Claim) -> bool:
    """Whether the script can settle such a job, once its callbacks are called."""
    return not (
        claim.rq_job is not None  # RQ's own code has run it
        or claim.stopped
        or claim.ready
        or claim.durable
        or claim.result_ttl_s == 0  # RQ's code also deletes what others know of the job
        or claim.failure_ttl_s == 0
    )


def _sends(claim: Claim, status: str) -> bool:
    """Whether a webhook is to be sent at this end.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: that cannot be read.
    """
    raw = claim.fields.get(b"webhooks")
    return any(hook["job_status"] == status for hook in json.loads(raw)) if raw else False


def feature_item(claim: Claim, value: Any, error: BaseException | None, app: TaskQ) -> Item | None:
    """The item of a job that may have RQ's features; None: RQ's own code settles it.

    Raises:
        NotSerializable, PayloadTooLarge: the result cannot be stored.
    """
    if not by_script(claim):
        return None
    item = _feature_item(claim, value, error, app)
    if item is None and (claim.called or _is_changed(claim)):
        claim.rq_job = claim.job  # RQ's code saves what is set on it
    return item


def _is_changed(claim: Claim, *, runs_again: bool = True) -> bool:
    """Whether somebody has set on the job's object what RQ's code would save."""
    job = claim.job
    return job is not None and not (job.is_as_read and (not runs_again or job.has_meta_as_read))


def _feature_item(claim: Claim, value: Any, error: BaseException | None, app: TaskQ) -> Item | None:
    if _is_changed(claim, runs_again=False):
        return None
    again = asks_again(value)
    kind = "" if again else "success" if error is None else "failure"
    if kind and claim.fields.get(f"{kind}_callback_name".encode()) and claim.called != kind:
        return None
    item: Item | None
    if again:
        item = _asked_again(claim, value, app)
    elif error is not None:
        item = failure_item(claim, error)
    else:
        item = success_item(claim, value, app, young=False)
        if claim.fields.get(b"repeats_left"):
            item = _repeated(claim, item)
    if item is None:
        return None
    if item.kind in ("e", "r", "y"):
        if _is_changed(claim) or (error is not None and value is not None):
            return None  # after a failed success callback RQ's code also saves the value
        if item.kind != "e":
            return item
    try:
        claim.sends = _sends(claim, "finished" if error is None else "failed")
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # RQ's code says what is wrong with them
    return item


def _repeated(claim: Claim, done: Item) -> Item | None:
    """By RQ's `Repeat.schedule`."""
    try:
        left = int(claim.fields[b"repeats_left"])
        intervals = json.loads(claim.fields.get(b"repeat_intervals") or b"[]")
        delay = _seconds(intervals[0]) if intervals else 0.0
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if left <= 0:
        return done
    if not _comes_back_plain(claim):
        return None
    rest = json.dumps(intervals[1:]).encode() if len(intervals) > 1 else None
    raw = base64.b64decode(done.rest[2])
    return items.repeated(done, raw, delay, left - 1, rest)


def _asked_again(claim: Claim, asked: Any, app: TaskQ) -> Item | None:
    """By RQ's `handle_job_retry`, unless it was asked for too often."""
    try:
        number = int(claim.fields.get(b"number_of_retries") or 0)
        intervals = asked.intervals
        if not isinstance(intervals, int):  # the last one counts for all that follow
            intervals = intervals[min(number, len(intervals) - 1)] if intervals else 0
        delay = _seconds(intervals)
        if number and number >= asked.max:
            return None
        if not (claim.pickled and _comes_back_plain(claim)):
            return None
        ttl = claim.failure_ttl_s if claim.fields.get(b"failure_ttl") else None
        front = claim.fields.get(b"enqueue_at_front_on_retry") == b"1" or asked.enqueue_at_front
    except (ValueError, TypeError, KeyError, AttributeError, LookupError):
        return None
    done = success_item(claim, asked, app, young=False)
    raw = base64.b64decode(done.rest[2])
    return items.asked_again(done, raw, ttl, delay, front=bool(front), number=number + 1)


def _comes_back_plain(claim: Claim) -> bool:
    """Whether nothing but RQ's code has a say in how it comes back into its queue."""
    return not (claim.dependents_by_rq or claim.fields.get(b"ttl"))


def _seconds(value: Any) -> float:
    """A pause between two executions.

    Raises:
        ValueError, TypeError: it is none.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= YEAR_S:
        raise ValueError(f"{value!r} is no pause of at most a year")
    return float(value)
