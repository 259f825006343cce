"""RQ's `get_current_job()` inside a task: a real `rq.job.Job`, read only if it is used.

Imported only in a process that has imported RQ: without that, nobody can ask.
"""

from __future__ import annotations

import functools
import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from rq.job import UNEVALUATED, Job, JobStatus, _current_job
from rq.serializers import DefaultSerializer

from taskq.worker.rq_classes import BoundedJob

if TYPE_CHECKING:
    import redis

    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim


_FREE = frozenset((
    "_tq_source", "_id", "connection",
    "_success_callback", "_success_callback_name", "_success_callback_timeout",
    "_failure_callback", "_failure_callback_name", "_failure_callback_timeout",
    "_stopped_callback", "_func_name", "_instance", "_args", "_kwargs",
    "_dependency", "_cached_result", "redis_server_version",
    "_result", "_status", "ended_at", "meta", "_unreadable_meta", "_tq_meta",
))  # fmt: skip
"""Attributes that RQ fills in at their first use, writes at each end, or does not save there."""


class CurrentJob(BoundedJob):
    """The job that runs now. Its fields are read from its record at their first use.

    What was set on it before that counts.
    """

    log = logging.getLogger("rq.job")

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet: all but the id, until the first use."""
        own = self.__dict__
        before = dict(own)
        source = own.pop("_tq_source", None)
        if source is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            self._read(*source)
        except BaseException:
            own.clear()
            own.update(before)  # all of it again at the next use
            raise
        del before["_tq_source"]
        own["_tq_read"] = {
            name: list(value) if isinstance(value, list) else value for name, value in own.items()
        }
        own.update(before)
        return getattr(self, name)

    def _read(self, claim: Claim, app: TaskQ, worker: str) -> None:
        serializer = DefaultSerializer if claim.pickled else app.rq_serializer
        self.__init__(claim.id, _client(app.broker), serializer)  # type: ignore[misc]
        # a plain job's record says both at once; else what is there counts
        made = claim.fields.get(b"enqueued_at", b"")
        self.restore({b"created_at": made, **claim.fields})
        self._status = JobStatus.STARTED  # the fields are those from before it was handed out
        self.worker_name = worker
        self._tq_meta = claim.fields.get(b"meta")
        self.origin = claim.queue
        self.started_at = datetime.fromtimestamp(claim.begun_at, timezone.utc)

    def will_call(self, kind: str, name: str, limit_s: int) -> None:
        """Have what RQ's code needs to call a callback, so that it reads nothing else.

        Args:
            kind: "success" or "failure".
            name: of the callback.
            limit_s: its time limit; 0 or less: none.
        """
        own = self.__dict__
        if "_tq_source" in own:
            own.setdefault("connection", _client(own["_tq_source"][1].broker))
            own[f"_{kind}_callback"] = UNEVALUATED
            own[f"_{kind}_callback_name"] = name
            own[f"_{kind}_callback_timeout"] = limit_s

    @property
    def is_as_read(self) -> bool:
        """Whether nobody has set on it what RQ's code would save when the job has finished."""
        own = self.__dict__
        if "_tq_source" in own:
            return own.keys() <= _FREE
        return all(own.get(n) == was for n, was in own["_tq_read"].items() if n not in _FREE)

    @property
    def has_meta_as_read(self) -> bool:
        """Whether its meta is as it was: RQ's code saves that, too, when the job runs again."""
        own = self.__dict__
        if "_tq_source" in own:
            return "meta" not in own
        raw = own["_tq_meta"]
        before = self.serializer.loads(raw) if raw else {}
        return bool(self.serializer.dumps(self.meta) == self.serializer.dumps(before))

    def __eq__(self, other: object) -> bool:
        """As RQ's jobs: the id counts."""
        return isinstance(other, Job) and self.id == other.id

    __hash__ = Job.__hash__


@functools.lru_cache(maxsize=1)
def _client(broker: Broker) -> redis.Redis:
    return broker.redis()


def enter(claim: Claim, app: TaskQ, worker: str) -> CurrentJob:
    """Let `get_current_job()` return this job in the present context."""
    job = claim.job or job_of(claim, app, worker)
    _current_job.set(job)
    return cast("CurrentJob", job)


def job_of(claim: Claim, app: TaskQ, worker: str) -> CurrentJob:
    """The job of a claim; reads nothing yet."""
    job = CurrentJob.__new__(CurrentJob)
    own = job.__dict__
    own["_id"], own["_tq_source"] = claim.id, (claim, app, worker)
    return job
