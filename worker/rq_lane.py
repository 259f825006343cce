"""The RQ lane: jobs with RQ features are settled by RQ's own, inherited code.

Dependents, callbacks, webhooks, groups, repeats, rate limits and a returned
`rq.Retry` keep RQ's meaning by construction: the engine runs the job, then a thread
with a connection of its own calls what `rq.worker.BaseWorker` does at a job's end.

Fenced: each of RQ's transactions watches the execution's record, which recovery
deletes when it takes the job from us; without the record nothing is written.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timezone
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import redis
from redis.client import Pipeline
from rq import Queue
from rq.callbacks import execute_failure_callback, execute_success_callback
from rq.executions import Execution
from rq.job import Job, JobStatus, Retry
from rq.registry import ScheduledJobRegistry
from rq.serializers import DefaultSerializer
from rq.timeouts import TimerDeathPenalty
from rq.worker.base import BaseWorker

from taskq.broker.link import backoff_s
from taskq.worker.execute import TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim

log = logging.getLogger("taskq.worker")

RECORD_TTL_S = 900
"""The execution's record outlives the callbacks, which have their own limit (60 s each)."""


class LeaseLost(Exception):
    """The job belongs to somebody else by now: nothing was written."""


class _FencedPipeline(Pipeline):
    """A transaction that is carried out only while the execution's record exists."""

    fence: bytes = b""

    def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        connection.send_command("WATCH", self.fence)
        connection.read_response()
        connection.send_command("EXISTS", self.fence)
        if not connection.read_response():
            connection.send_command("UNWATCH")
            connection.read_response()
            raise LeaseLost
        return super()._execute_transaction(connection, commands, raise_on_error)  # type: ignore[no-untyped-call]


class _FencedRedis(redis.Redis):
    """A client whose transactions are fenced while a job is being settled."""

    fence: bytes = b""

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """RQ asks for its transactions here."""
        if not self.fence:
            return super().pipeline(transaction, shard_hint)
        made = _FencedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.fence = self.fence
        return made


class LaneWorker(BaseWorker):
    """RQ's worker as far as the end of a job needs it."""

    death_penalty_class = TimerDeathPenalty
    """Callbacks run in the lane's thread, where RQ's signals cannot reach."""

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Never called: the engine runs jobs.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("taskq's engine runs the jobs; the lane only settles them")


class Lane:
    """A thread that settles one job after the other."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        queues: Sequence[str],
        app: TaskQ,
        left: Callable[[Claim], None],
    ) -> None:
        """Start the thread; `left` is called in it when a job is out of our hands."""
        self._connection = _FencedRedis(connection_pool=broker.redis().connection_pool)
        self._name = name
        self._queues = list(queues)
        self._app = app
        self._left = left
        self._worker: LaneWorker | None = None
        self._todo: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="taskq-rq-lane", daemon=True)
        self._thread.start()

    def submit(self, claim: Claim) -> None:
        """Settle a job that has ended."""
        self._todo.put(claim)

    def promote(self, jobs: list[tuple[str, str]]) -> None:
        """Enqueue due jobs (queue, id) that only RQ may enqueue: those with a rate limit."""
        self._todo.put(jobs)

    def stop(self) -> None:
        """End the thread after what it has."""
        self._todo.put(None)

    def _run(self) -> None:
        while (todo := self._todo.get()) is not None:
            if isinstance(todo, list):
                self._promote(todo)
                continue
            try:
                self._settle(todo)
            except Exception:
                log.exception("RQ's code could not settle job %s; its lease will end", todo.id)
            finally:
                self._connection.fence = b""
                self._left(todo)

    def _serializer(self, claim: Claim) -> Any:
        return DefaultSerializer if claim.pickled else self._app.rq_serializer

    def _rq_worker(self) -> LaneWorker:
        if self._worker is None:
            self._worker = LaneWorker(self._queues, name=self._name, connection=self._connection)
        return self._worker

    def _settle(self, claim: Claim) -> None:
        fence = f"{self._app.broker.keys.prefix}:execution:{claim.id}:{claim.exec_id}".encode()
        attempt = 0
        end: _End | None = None
        while True:
            try:
                if end is None:
                    end = self._open(claim, fence)
                if end is None:
                    log.warning("Job %s no longer belongs to this worker: its end was not recorded",
                                claim.id)  # fmt: skip
                    return
                end.run_callbacks()
                self._connection.fence = fence
                end.persist()
                # RQ logs and swallows errors of its last transaction, which deletes the record
                if not self._connection.exists(fence):
                    self._connection.fence = b""
                    end.tell()
                    return
            except LeaseLost:
                end = None
                continue
            except (redis.RedisError, OSError) as err:
                log.warning("RQ's code could not settle job %s (%s); trying again", claim.id, err)
            attempt += 1
            time.sleep(backoff_s(attempt))

    def _open(self, claim: Claim, fence: bytes) -> _End | None:
        """Write the record that fences us, then look whether the lease is still ours."""
        connection, keys = self._connection, self._app.broker.keys
        connection.fence = b""
        worker = self._rq_worker()
        serializer = self._serializer(claim)
        execution = Execution(claim.exec_id, claim.id, connection, worker_name=self._name)
        execution.created_at = _aware(claim.begun_at or time.time())
        execution.save(ttl=RECORD_TTL_S)
        if connection.zscore(keys.wip(claim.queue), f"{claim.id}:{claim.exec_id}") is None:
            connection.delete(fence)
            return None
        job = Job.fetch(claim.id, connection=connection, serializer=serializer)
        job.started_at = execution.created_at
        queue = Queue(claim.queue, connection=connection, serializer=serializer)
        return _End(worker, job, queue, execution, claim)

    def _promote(self, jobs: list[tuple[str, str]]) -> None:
        for name, job_id in jobs:
            try:
                queue = Queue(name, connection=self._connection, serializer=self._app.rq_serializer)
                job = Job.fetch(job_id, connection=self._connection, serializer=queue.serializer)
                registry = ScheduledJobRegistry(queue=queue)
                with self._connection.pipeline() as pipeline:
                    registry.remove(job_id, pipeline=pipeline)
                    front = job.should_enqueue_at_front()
                    queue._enqueue_rate_limited_job(job, pipeline=pipeline, at_front=front)
                    pipeline.execute()
            except Exception:
                log.exception("Could not enqueue the rate-limited job %s", job_id)


class _End:
    """The end of one job: callbacks once, then RQ's transaction until it is carried out."""

    def __init__(
        self, worker: LaneWorker, job: Job, queue: Queue, execution: Execution, claim: Claim
    ) -> None:
        self._worker = worker
        self._job = job
        self._queue = queue
        self._execution = execution
        self._value, self._error = claim.outcome
        self._called = False
        self._ended_at = datetime.now(timezone.utc)

    def run_callbacks(self) -> None:
        """Success or failure callback; a success callback that raises makes it a failure."""
        if self._called:
            return
        self._called = True
        job, penalty = self._job, self._worker.death_penalty_class
        job.ended_at = self._ended_at
        if self._error is None:
            if isinstance(self._value, Retry):
                return
            job._result = self._value
            job._status = JobStatus.FINISHED
            try:
                execute_success_callback(job, penalty, self._value)
            except Exception as err:  # noqa: BLE001 (as RQ: it fails the job)
                self._error = err
        if self._error is not None:
            job._status = JobStatus.FAILED
            try:
                execute_failure_callback(job, penalty, *self._exc_info())
            except Exception as err:  # noqa: BLE001 (as RQ: it replaces the job's own error)
                self._error = err
            self._worker.handle_exception(job, *self._exc_info())

    def _exc_info(self) -> tuple[Any, Any, Any]:
        err = cast("BaseException", self._error)
        if isinstance(err, TimeLimit):
            from rq.timeouts import JobTimeoutException  # noqa: PLC0415

            err = JobTimeoutException(str(err)).with_traceback(err.__traceback__)
        return type(err), err, err.__traceback__

    def persist(self) -> None:
        """RQ's own last step."""
        job, queue = self._job, self._queue
        registry = queue.started_job_registry
        if self._error is not None:
            from rq.job_lifecycle import format_exc_info  # noqa: PLC0415

            text = format_exc_info(self._exc_info())
            self._worker.handle_job_failure(
                job, queue, started_job_registry=registry, exc_string=text, execution=self._execution
            )
        elif isinstance(self._value, Retry):
            self._worker.handle_job_retry(job, queue, self._value, registry, self._execution)
        else:
            self._worker.handle_job_success(job, queue, registry, self._execution)

    def tell(self) -> None:
        """Webhooks of success; those of failure RQ sends by itself."""
        if self._error is None and not isinstance(self._value, Retry):
            self._job.send_webhooks(JobStatus.FINISHED)


def _aware(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, timezone.utc)
