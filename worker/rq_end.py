"""The end of one job by RQ's own code: callbacks once, then its transaction, once.

RQ's classes are used as they are, with small subclasses where a lost connection, a
lost lease or a pause of less than a second would otherwise be handled wrongly.
"""

# ruff: noqa: SLF001 (RQ's own private steps are what this is about)
from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

from rq import Queue
from rq.callbacks import execute_failure_callback, execute_success_callback
from rq.executions import Execution
from rq.job import Job, JobStatus, Retry
from rq.job_lifecycle import format_exc_info
from rq.rate_limit import release_slot
from rq.registry import ScheduledJobRegistry
from rq.timeouts import JobTimeoutException
from rq.worker.base import BaseWorker

from taskq.errors import TaskQError
from taskq.retry import RetryLater
from taskq.worker.execute import TRACEBACK_BYTES, TimeLimit, failure_item, user_part
from taskq.worker.rq_callback import CallbackLimit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskq.worker.claim import Claim
    from taskq.worker.rq_fence import Fence


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


class LaneQueue(Queue):
    """RQ's queue; remembers which dependents are ready, and schedules to the microsecond."""

    own = ""

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


class LaneJob(Job):
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
            self.retries_left = left
        pipeline.hincrby(self.key, "tq_attempts", 1)
        if pause > 0:
            due = datetime.now(timezone.utc) + timedelta(seconds=pause)
            queue.schedule_job(self, due, pipeline=pipeline)
        else:
            queue._enqueue_job(self, pipeline=pipeline, at_front=front)

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


class End:
    """One ended execution, as RQ settles it."""

    def __init__(
        self,
        worker: LaneWorker,
        queue: LaneQueue,
        execution: Execution,
        claim: Claim,
        seconds: float,
    ) -> None:
        """Nothing is done yet.

        Args:
            worker: RQ's worker, of this thread.
            queue: where the job came from.
            execution: with the time at which its code began.
            claim: the job, with its outcome.
            seconds: for how long its code ran.
        """
        self._worker = worker
        self._queue = queue
        self._execution = execution
        self._claim = claim
        self._seconds = seconds
        self._ended_at = execution.created_at + timedelta(seconds=seconds)
        self._value, self._error = claim.outcome
        self._job: LaneJob | None = None
        self._text = ""
        self._called = False

    @property
    def _asks_again(self) -> bool:
        return self._error is None and isinstance(self._value, Retry)

    def load(self) -> None:
        """Read the job from Redis.

        Raises:
            NoSuchJobError: somebody has deleted it.
            ValueError: a field cannot be read.
        """
        claim, connection = self._claim, self._worker.connection
        job = LaneJob.fetch(claim.id, connection=connection, serializer=self._queue.serializer)
        self._job = cast("LaneJob", job)
        job.origin = claim.queue
        job.started_at = self._execution.created_at
        job.ended_at = self._ended_at
        job.worker_name = self._worker.name

    def call(self) -> None:
        """The job's callbacks, once; a success callback that raises makes it a failure."""
        if self._called:
            return
        self._called = True
        self._queue.moved = {}
        if isinstance(self._error, RetryLater):
            return  # the task's own decision, no failure
        job, penalty = self._loaded, CallbackLimit
        if self._error is None and not self._asks_again:
            self._error = self._unfit()
        if self._error is None and not self._asks_again:
            job._result = self._value
            job._status = JobStatus.FINISHED
            try:
                execute_success_callback(job, penalty, self._value)
            except BaseException as err:  # noqa: BLE001 (as RQ: it fails the job, whatever it is)
                self._error = err
        if self._error is not None:
            job._status = JobStatus.FAILED
            try:
                execute_failure_callback(job, penalty, *self._exc_info())
            except BaseException as err:  # noqa: BLE001 (as RQ: it replaces the job's own error)
                self._error = err
            self._text = _shortened(format_exc_info(self._exc_info()))
            self._worker.handle_exception(job, *self._exc_info())

    def _unfit(self) -> BaseException | None:
        """Why the result cannot be stored, if so. What stock RQ pickles it stores in any case."""
        if self._value is None or self._claim.pickled or self._claim.result_ttl_s == 0:
            return None
        try:
            self._queue.serializer.dumps(self._value)
        except TaskQError as err:
            return err
        return None

    @property
    def _loaded(self) -> LaneJob:
        assert self._job is not None
        return self._job

    def _exc_info(self) -> tuple[Any, Any, Any]:
        err = cast("BaseException", self._error)
        if isinstance(err, TimeLimit):
            shown = JobTimeoutException.__new__(JobTimeoutException, str(err))
            err = shown.with_traceback(err.__traceback__)
        return type(err), err, user_part(err.__traceback__)

    # -- the transaction -----------------------------------------------------------------

    def persist(self, fence: Fence, own: str, *, counting: bool) -> None:
        """RQ's last step: one transaction, then what follows from it."""
        job, worker, queue = self._loaded, self._worker, self._queue
        worker.counting = counting
        job.closing = True
        job._result = self._value
        job._status = JobStatus.FINISHED if self._error is None else JobStatus.FAILED
        if self._error is not None:
            item = failure_item(self._claim, self._error)
            job.again = _again(item.rest) if item.kind == "r" else None
        fence.also = self._extra(own, counting=counting)
        registry = queue.started_job_registry
        if self._error is not None:
            worker.handle_job_failure(
                job, queue, started_job_registry=registry, exc_string=self._text,
                execution=self._execution,
            )  # fmt: skip
        elif self._asks_again:
            worker.handle_job_retry(job, queue, self._value, registry, self._execution)
        else:
            worker.handle_job_success(job, queue, registry, self._execution)

    def plain(self, fence: Fence, own: str, *, counting: bool) -> None:
        """The job's own end without its dependents: RQ's code cannot handle those."""
        job, worker = self._loaded, self._worker
        job.closing = True
        fence.also = self._extra(own, counting=counting)
        ttl = job.get_result_ttl(worker.default_result_ttl)
        with worker.connection.pipeline() as pipeline:
            if self._error is None and not self._asks_again:
                if ttl != 0:
                    job._handle_success(ttl, pipeline=pipeline, worker_name=worker.name)
                job.cleanup(ttl, pipeline=pipeline, remove_from_queue=False)
            else:
                job.set_status(JobStatus.FAILED, pipeline=pipeline)
                job._handle_failure(self._text, pipeline=pipeline, worker_name=worker.name)
            worker.cleanup_execution(job, pipeline=pipeline, execution=self._execution)
            pipeline.execute()

    def follow(self) -> None:
        """What RQ does after its transaction, if it did not come to it. May be repeated."""
        job, queue = self._loaded, self._queue
        if job._status == JobStatus.FAILED:
            job.send_webhooks(JobStatus.FAILED, exc_string=self._text)
            queue.enqueue_dependents(job)
        elif self._error is None and not self._asks_again:
            queue.enqueue_ready_jobs_by_queue(queue.moved)
        release_slot(job)

    def tell(self) -> None:
        """Webhooks of success; those of failure RQ sends by itself."""
        if self._error is None and not self._asks_again:
            self._loaded.send_webhooks(JobStatus.FINISHED)

    def _extra(self, own: str, *, counting: bool) -> list[Sequence[Any]]:
        """Our own part of the transaction: statistics, the marker of a result not kept."""
        commands: list[Sequence[Any]] = []
        claim, now = self._claim, time.time()
        if self._error is None and not self._asks_again and claim.result_ttl_s == 0:
            done = f"{own}done:{int(now // 10)}"
            commands += (("SADD", done, claim.id), ("EXPIRE", done, 70))
        if counting:
            if self._error is not None:
                kind = "retried" if self._loaded.again else "failed"
            else:
                kind = "retried" if self._asks_again else "finished"
            ms = int(self._seconds * 1000)
            stats = f"{own}stats:{claim.queue}:{int(now // 60)}"
            for field, n in ((kind, 1), (f"r{ms.bit_length()}", 1), ("run_ms", ms)):
                commands.append(("HINCRBY", stats, field, n))
            commands.append(("EXPIRE", stats, 90_000))
        return commands


def _again(rest: tuple[Any, ...]) -> tuple[float, bool, int | None]:
    """Pause, front and retries left, from a retry item of the settle script."""
    delay, front, left = rest
    return float(delay or 0), front == "1", None if left == "" else int(left)


def _shortened(text: str) -> str:
    """At most `TRACEBACK_BYTES`, and nothing that UTF-8 cannot carry."""
    data = text.encode("utf-8", "replace")
    if len(data) > TRACEBACK_BYTES:
        half = TRACEBACK_BYTES // 2
        data = data[:half] + b"\n  [... traceback shortened ...]\n" + data[-half:]
    return data.decode("utf-8", "replace")
