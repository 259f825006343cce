"""RQ's callbacks of success and failure, called where the job has just run: in its thread.

And in its context, as RQ's horse does. The end is then recorded like that of any other job, which
is a hundred times as fast as by RQ's own code (see rq_lane.py); that keeps what is not plain: it
asks Redis first whether the job is still ours, and saves what somebody has set on the job's object.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from rq.callbacks import execute_failure_callback, execute_success_callback
from rq.defaults import CALLBACK_TIMEOUT
from rq.job import Job, JobStatus, _current_job

from taskq.worker.rq_current import CurrentJob
from taskq.worker.rq_host import NoLimit
from taskq.worker.rq_items import callback_due
from taskq.worker.settings import LEASE_S
from taskq.worker.traces import user_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim

_SURELY_OURS_S = LEASE_S / 2
"""Nobody takes a job before its lease ends, which began before we heard of it."""


def following(claim: Claim, value: Any, error: BaseException | None) -> Callable[[], None] | None:
    """The call of the callback of a job that has ended, with the claim's new time limit.

    Returns:
        None if nothing is to be called here: nothing at all, or RQ's own code calls it.
    """
    kind = callback_due(claim, value, error)
    if not kind:
        return None
    job, now = claim.job, time.monotonic()
    if not isinstance(job, CurrentJob) or now - claim.reserved_mono > _SURELY_OURS_S:
        return None
    raw = claim.fields.get(f"{kind}_callback_timeout".encode())
    try:
        limit_s = CALLBACK_TIMEOUT if raw is None else int(raw)
        deadline = now - claim.begun_mono + limit_s if limit_s > 0 else 0.0
        job.will_call(kind, claim.fields[f"{kind}_callback_name".encode()].decode(), limit_s)
    except (ValueError, OverflowError):
        return None  # RQ's code says what is wrong with it
    claim.called, claim.callback_s, claim.deadline = kind, limit_s, deadline
    job.ended_at = datetime.now(timezone.utc)
    if error is None:
        job._result, job._status = value, JobStatus.FINISHED  # noqa: SLF001 (as RQ)
        return partial(_call, execute_success_callback, job, value)
    job._status = JobStatus.FAILED  # noqa: SLF001 (the same)
    shown = type(error), error, user_part(error.__traceback__)
    return partial(_call, execute_failure_callback, job, *shown)


def _call(execute: Callable[..., None], job: Job, *told: Any) -> None:
    _current_job.set(None)  # as in RQ: its function has returned
    execute(job, NoLimit, *told)
