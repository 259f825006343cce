"""RQ's `get_current_job()` inside a task: a real `rq.job.Job`, read only if it is used.

Imported only in a process that has imported RQ: without that, nobody can ask.
"""

from __future__ import annotations

import functools
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rq.job import Job, JobStatus, _current_job
from rq.serializers import DefaultSerializer

if TYPE_CHECKING:
    import redis

    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim


class CurrentJob(Job):
    """The job that runs now. Its fields are read from its record at their first use."""

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet: everything, until the first use."""
        source = self.__dict__.pop("_tq_source", None)
        if source is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        claim, app, worker = source
        serializer = DefaultSerializer if claim.pickled else app.rq_serializer
        self.__init__(claim.id, _client(app.broker), serializer)  # type: ignore[misc]
        # a plain job's record says both at once; else what is there counts
        made = claim.fields.get(b"enqueued_at", b"")
        self.restore({b"created_at": made, **claim.fields})
        self._status = JobStatus.STARTED  # the fields are those from before it was handed out
        self.worker_name = worker
        self.origin = claim.queue
        self.started_at = datetime.fromtimestamp(claim.begun_at, timezone.utc)
        return getattr(self, name)

    def __eq__(self, other: object) -> bool:
        """As RQ's jobs: the id counts."""
        return isinstance(other, Job) and self.id == other.id

    __hash__ = Job.__hash__


@functools.lru_cache(maxsize=1)
def _client(broker: Broker) -> redis.Redis:
    return broker.redis()


def enter(claim: Claim, app: TaskQ, worker: str) -> None:
    """Let `get_current_job()` return this job in the present context."""
    job = CurrentJob.__new__(CurrentJob)
    job.__dict__["_tq_source"] = (claim, app, worker)
    _current_job.set(job)
