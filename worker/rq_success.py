"""RQ's success callback, called where the job has just run: in its thread, in its context.

As in RQ, whose horse does the same. The end is then recorded like that of any other job, which is
thirty times as fast as by RQ's own code (see rq_lane.py); that keeps what is not plain: it asks
Redis first whether the job is still ours, and saves what somebody has set on the job's object.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from rq.callbacks import execute_success_callback
from rq.defaults import CALLBACK_TIMEOUT
from rq.job import Job, JobStatus, Retry, _current_job

from taskq.worker.rq_current import CurrentJob
from taskq.worker.rq_host import NoLimit
from taskq.worker.settings import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim

_SURELY_OURS_S = LEASE_S / 2
"""Nobody takes a job before its lease ends, which began before we heard of it."""


def following(claim: Claim, value: Any) -> Callable[[], None] | None:
    """The call of the success callback of a job that has returned, with the claim's new time limit.

    Returns:
        None if nothing is to be called here. Where nothing is to be called at all, the claim is no
        longer special; else RQ's own code does it.
    """
    if not claim.pickled or claim.rq_job is not None or not claim.only_calls():
        return None  # a result that is not pickled may turn out not to be storable
    if isinstance(value, Retry):
        return None
    name = claim.fields.get(b"success_callback_name")
    if not name:
        claim.special = False
        return None
    job, now = _current_job.get(), time.monotonic()
    if not isinstance(job, CurrentJob) or now - claim.reserved_mono > _SURELY_OURS_S:
        return None
    raw = claim.fields.get(b"success_callback_timeout")
    try:
        limit_s = CALLBACK_TIMEOUT if raw is None else int(raw)
        deadline = now - claim.begun_mono + limit_s if limit_s > 0 else 0.0
        job.will_call(name.decode(), limit_s)
    except (ValueError, OverflowError):
        return None  # RQ's code says what is wrong with it
    claim.rq_job, claim.callback_s, claim.deadline = job, limit_s, deadline
    job._result, job._status = value, JobStatus.FINISHED  # noqa: SLF001 (as RQ)
    job.ended_at = datetime.now(timezone.utc)
    return partial(_call, job, value)


def _call(job: Job, value: Any) -> None:
    _current_job.set(None)  # as in RQ: its function has returned
    execute_success_callback(job, NoLimit, value)  # type: ignore[arg-type]


def called(claim: Claim) -> None:
    """The callback has returned: unless RQ's code has something to save, the end is a plain one."""
    if claim.rq_job.is_as_read:
        claim.special, claim.rq_job = False, None
