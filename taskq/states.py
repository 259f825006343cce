"""The states of a job: RQ's names and values, and what taskq concludes from them.

::

    scheduled -> queued -> started -> finished
        ^          |          |-----> failed
        |          v          |-----> stopped
        +------ canceled      +--> scheduled / queued   (a retry, or its worker died)

RQ's own `deferred`, `ready_to_enqueue` and `rate_limited` come before `queued`.
"""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """Value of the hash field `status` (rq.job.JobStatus)."""

    CREATED = "created"
    QUEUED = "queued"
    FINISHED = "finished"
    FAILED = "failed"
    STARTED = "started"
    DEFERRED = "deferred"
    READY = "ready_to_enqueue"
    SCHEDULED = "scheduled"
    STOPPED = "stopped"
    CANCELED = "canceled"
    RATE_LIMITED = "rate_limited"

    def __str__(self) -> str:
        """The value itself, also in f-strings on every Python."""
        return self.value


ENDED = frozenset({Status.FINISHED, Status.FAILED, Status.STOPPED, Status.CANCELED})
"""A job in one of these never runs again unless somebody asks for it."""

STATUSES = (
    "queued",
    "started",
    "scheduled",
    "deferred",
    "failed",
    "stopped",
    "finished",
    "canceled",
)
"""What lists can be filtered by, in the order in which people are shown them."""
