"""RQ's own classes as the lane needs them: what is different is said at each.

Small subclasses where a lost connection, a lost lease or a pause of less than a second
would otherwise be handled wrongly.
"""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta, timezone
from typing import Any

from rq import Queue
from rq.job import Job, JobStatus
from rq.rate_limit import release_slot
from rq.registry import ReadyJobRegistry, ScheduledJobRegistry
from rq.worker.base import BaseWorker

from taskq.worker.rq_callback import CallbackLimit

_TRIES = 20


class LaneWorker(BaseWorker):
    """RQ's worker as far as the end of a job needs it. One for each thread of the lane."""

    death_penalty_class = CallbackLimit
    """Callbacks run in the lane's threads, where RQ's signals cannot reach."""
    counting = True
    """False for a job that the worker's counters have already seen."""

    def _set_connection(self, connection: Any) -> Any:
        return connection  # its time-outs are ours

    def execute_job(self, job: Job, queue: Queue) -> None:  # noqa: ARG002 (as in RQ)
        """Never called: the engine runs jobs.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("taskq's engine runs the jobs; the lane only settles them")

    def increment_successful_job_count(self, pipeline: Any = None) -> None:
        """Count a job, once."""
        if self.counting:
            super().increment_successful_job_count(pipeline)

    def increment_failed_job_count(self, pipeline: Any = None) -> None:
        """Count a job, once."""
        if self.counting:
            super().increment_failed_job_count(pipeline)

    def increment_total_working_time(self, job_execution_time: timedelta, pipeline: Any) -> None:
        """Count a job's time, once."""
        if self.counting:
            super().increment_total_working_time(job_execution_time, pipeline)

    def _enqueue_dependents_safely(self, queue: Queue, job: Job) -> None:
        queue.enqueue_dependents(job)  # errors come through: the lane tries again

    def _release_slot_safely(self, job: Job) -> None:
        release_slot(job)


class BoundedJob(Job):
    """RQ's job, which inflates whatever it reads: a few hundred kilobytes may be gigabytes."""

    most_bytes = 64_000_000
    """What inflates to more stays as it is: nobody can call it, and it fails with that reason."""

    def restore(self, raw_data: dict[bytes, bytes]) -> Any:
        """As RQ, but for fields that are bombs."""
        bombs = {
            name: b"\0" + raw_data[name]  # no zlib stream any more
            for name in (b"data", b"exc_info")
            if _inflates_to_more(raw_data.get(name, b""), self.most_bytes)
        }
        return super().restore({**raw_data, **bombs} if bombs else raw_data)


def _inflates_to_more(data: bytes, most: int) -> bool:
    """Whether a zlib stream holds more than `most` bytes, without holding them."""
    if data[:1] != b"x" or len(data) * _MOST_FACTOR <= most:
        return False
    stream, size = zlib.decompressobj(), 0
    try:
        while data and not stream.eof:
            size += len(stream.decompress(data, 1 << 20))
            if size > most:
                return True
            data = stream.unconsumed_tail
    except zlib.error:
        return False
    return False


_MOST_FACTOR = 1_032
"""Deflate makes no more of a byte (https://zlib.net/zlib_tech.html)."""


class LaneQueue(Queue):
    """RQ's queue; remembers which dependents are ready, and schedules to the microsecond."""

    job_class = BoundedJob
    own = prefix = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As RQ."""
        super().__init__(*args, **kwargs)
        self.moved: dict[str, list[str]] = {}

    def move_dependents_to_ready(self, *args: Any, **kwargs: Any) -> dict[str, list[str]]:
        """Also note the outcome."""
        found = super().move_dependents_to_ready(*args, **kwargs)
        for name, ids in found.items():  # of tries before, too: they may have been carried out
            known = self.moved.setdefault(name, [])
            known += [job_id for job_id in ids if job_id not in known]
        return found

    def enqueue_ready_jobs_by_queue(self, job_ids_by_queue_name: dict[str, list[str]]) -> None:
        """As RQ, which leaves to its upkeep what another thread or worker disturbs; not we."""
        left = job_ids_by_queue_name
        for _ in range(_TRIES):
            super().enqueue_ready_jobs_by_queue(left)
            left = {
                name: ids for name, all_ids in left.items() if (ids := self._still(name, all_ids))
            }
            if not left:
                return

    def _still(self, name: str, job_ids: list[str]) -> list[str]:
        key = ReadyJobRegistry(name, connection=self.connection).key
        scores: Any = self.connection.zmscore(key, job_ids)
        return [job_id for job_id, score in zip(job_ids, scores, strict=True) if score is not None]

    def schedule_job(
        self, job: Job, datetime: datetime, pipeline: Any = None, unique: bool = False
    ) -> Job:
        """RQ cuts the time down to whole seconds, so that the job would come too early."""
        super().schedule_job(job, datetime, pipeline, unique)
        if pipeline is not None:
            key = ScheduledJobRegistry(queue=self).key  # type: ignore[no-untyped-call]
            pipeline.zadd(key, {job.id: datetime.timestamp()})
            pipeline.publish(f"{self.own}wake", self.name)
        return job


class LaneJob(BoundedJob):
    """RQ's job; what it writes outside a transaction is left to the transaction."""

    again: tuple[float, bool, int | None] | None = None
    """Pause, front and retries left of its next execution, if there is one."""
    closing = False

    @property
    def should_retry(self) -> bool:
        """Whether it runs again, by the task's policy where it says more than RQ's fields."""
        return self.again is not None

    def retry(self, queue: Queue, pipeline: Any) -> None:
        """As RQ, with the pause that the policy chose."""
        assert self.again is not None
        pause, front, left = self.again
        if left is not None:
            pipeline.hsetnx(self.key, "tq_retries", left + 1)
            self.retries_left = left
        pipeline.hincrby(self.key, "tq_attempts", 1)
        if pause > 0:
            due = datetime.now(timezone.utc) + timedelta(seconds=pause)
            queue.schedule_job(self, due, pipeline=pipeline)
        else:
            queue._enqueue_job(self, pipeline=pipeline, at_front=front)  # noqa: SLF001 (as RQ)

    def set_status(self, status: JobStatus, pipeline: Any = None) -> None:
        """RQ sets "scheduled" at once, unfenced, and then again in the transaction."""
        if pipeline is None and self.closing:
            self._status = status
        else:
            super().set_status(status, pipeline)

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        """Send them once, whatever is tried again."""
        webhooks, self.webhooks = self.webhooks, []
        for webhook in webhooks:
            if webhook.job_status == status:
                webhook.send(self, exc_string=exc_string)


_made: dict[Any, Any] = {Queue: LaneQueue, Job: LaneJob}


def lane_queue(kind: type[Queue]) -> type[LaneQueue]:
    """`LaneQueue` on the base of somebody's own Queue class."""
    made: type[LaneQueue] = _on(LaneQueue, kind)
    return made


def lane_job(kind: type[Job]) -> type[LaneJob]:
    """`LaneJob` on the base of somebody's own Job class."""
    made: type[LaneJob] = _on(LaneJob, kind)
    return made


def _on(first: Any, kind: Any) -> Any:
    made = _made.get(kind)
    if made is None:
        made = _made[kind] = type(first.__name__, (first, kind), {"__module__": __name__})
    return made
