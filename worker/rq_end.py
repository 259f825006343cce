"""The end of one job by RQ's own code: callbacks once, then its transaction, once."""

# ruff: noqa: SLF001 (RQ's own private steps are what this is about)
from __future__ import annotations

import base64
import json
import logging
import os
import signal
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from rq.callbacks import (
    execute_failure_callback,
    execute_stopped_callback,
    execute_success_callback,
)
from rq.exceptions import NoSuchJobError
from rq.job import JobStatus, Retry
from rq.job_lifecycle import format_exc_info
from rq.rate_limit import release_slot
from rq.timeouts import JobTimeoutException
from rq.utils import utcformat

from taskq.broker.scripts import script
from taskq.errors import TaskQError
from taskq.histogram import bucket
from taskq.retry import RetryLater
from taskq.worker.outcome import (
    Crashed,
    Killed,
    TimeLimit,
    describe,
    failure_item,
)
from taskq.worker.reported import Reported
from taskq.worker.rq_callback import CallbackLimit
from taskq.worker.rq_classes import LaneJob
from taskq.worker.tally import failure_field
from taskq.worker.traces import shortened, user_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rq.executions import Execution

    from taskq.worker.claim import Claim
    from taskq.worker.items import Item
    from taskq.worker.rq_classes import LaneQueue, LaneWorker
    from taskq.worker.rq_fence import Fence

log = logging.getLogger("taskq.worker")


class End:
    """One ended execution, as RQ settles it."""

    def __init__(
        self,
        worker: LaneWorker,
        queue: LaneQueue,
        execution: Execution,
        claim: Claim,
        seconds: float,
        job_class: type[LaneJob] = LaneJob,
    ) -> None:
        """Nothing is done yet.

        Args:
            worker: RQ's worker, of this thread.
            queue: where the job came from.
            execution: with the time at which its code began.
            claim: the job, with its outcome.
            seconds: for how long its code ran.
            job_class: of the job.
        """
        self._job_class = job_class
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

    def load(self, fields: dict[bytes, bytes]) -> None:
        """Take the job as it is in Redis.

        Raises:
            NoSuchJobError: somebody has deleted it.
            ValueError: a field cannot be read.
        """
        claim, connection, serializer = self._claim, self._worker.connection, self._queue.serializer
        job, claim.rq_job = claim.rq_job, None
        if not fields:
            raise NoSuchJobError(f"No such job: {claim.id}")
        if job is not None:  # as in RQ, what its code has set on the object is saved
            _ = job.created_at  # reads one that nobody has looked at yet
            job.__class__, job.connection = self._job_class, connection
        elif self._job_class is LaneJob:
            job = LaneJob(claim.id, connection=connection, serializer=serializer)
            job.restore(fields)
        else:
            job = self._job_class.fetch(claim.id, connection=connection, serializer=serializer)
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
        called = self._claim.called
        if isinstance(self._error, RetryLater) and not called:
            return  # the task's own decision, no failure
        job, penalty = self._loaded, CallbackLimit
        if self._claim.stopped:
            self._call_stopped(job)
            return
        if self._error is None and not self._asks_again:
            self._error = self._unfit()
        if self._error is None and not self._asks_again and not called:
            job._result = self._value
            job._status = JobStatus.FINISHED
            try:
                execute_success_callback(job, penalty, self._value)
            except BaseException as err:  # noqa: BLE001 (as RQ: it fails the job, whatever it is)
                self._error = err
        if self._error is not None:
            job._status = JobStatus.FAILED
            if called != "failure":
                try:
                    execute_failure_callback(job, penalty, *self._exc_info())
                except BaseException as err:  # noqa: BLE001 (as RQ: it replaces the job's own error)
                    self._error = err
            self._text = self._traceback()
            if isinstance(self._error, (Killed, Crashed)):
                # RQ's horse is our thread or job process; 9: as if SIGKILL had ended it
                killed: Any = self._worker.handle_work_horse_killed
                killed(job, os.getpid(), signal.SIGKILL, None)
            handle, context = self._worker.handle_exception, self._claim.rq_context
            if context is None:
                handle(job, *self._exc_info())
            else:  # an integration finds there what it knows of the job
                context.copy().run(handle, job, *self._exc_info())

    def _call_stopped(self, job: LaneJob) -> None:
        self._text = str(self._error)
        try:
            execute_stopped_callback(job, CallbackLimit)
        except BaseException:  # (as RQ: the job is stopped all the same)
            log.exception("The stopped callback of job %s raised", job.id)

    def _unfit(self) -> BaseException | None:
        """Why the result cannot be stored, if so. What stock RQ pickles it stores in any case."""
        claim = self._claim
        told = claim.tells and b"tq_on_success" in claim.fields
        unkept = claim.pickled or (claim.result_ttl_s == 0 and not told)
        if self._value is None or unkept:
            return None
        try:
            self._queue.serializer.dumps(self._value)
        except TaskQError as err:
            return err
        return None

    def _traceback(self) -> str:
        if isinstance(self._error, Reported):
            return self._error.traceback
        return shortened(format_exc_info(self._exc_info())).decode("utf-8", "replace")

    @property
    def _loaded(self) -> LaneJob:
        assert self._job is not None
        return self._job

    def _exc_info(self) -> tuple[Any, Any, Any]:
        err = cast("BaseException", self._error)
        if isinstance(err, Reported) and not err.over_limit:
            err = err.as_exception()
        elif isinstance(err, (TimeLimit, Reported)):
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
        item: Item | None = None
        if self._claim.stopped:
            worker._stopped_job_id = job.id
        elif self._error is not None:
            item = failure_item(self._claim, self._error)
            job.again = _again(item.rest) if item.kind == "r" else None
        fence.also = self._extra(own, counting=counting)
        if job.again and item is not None:
            ran = script("ran").text
            fence.also.append(
                ("EVAL", ran, 2, queue.prefix, own, job.id, item.rest[3], worker.name)
            )
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

    def _ends_unkept(self) -> bool:
        """Whether RQ deletes the job in this transaction."""
        if self._error is not None:
            return not self._loaded.again and self._loaded.failure_ttl == 0
        return not self._asks_again and self._claim.result_ttl_s == 0

    def _extra(self, own: str, *, counting: bool) -> list[Sequence[Any]]:
        """Our own part of the transaction: statistics, the marker of an end not kept."""
        commands: list[Sequence[Any]] = []
        claim, now = self._claim, time.time()
        if self._ends_unkept():
            part = int(now // 10)
            done, failures = f"{own}done:{part}", f"{own}failures:{part}"
            commands += (("SADD", done, claim.id), ("EXPIRE", done, 70))
            if self._error is None:
                commands.append(("HDEL", failures, claim.id))
            else:
                commands.append(("HSET", failures, claim.id, describe(claim, self._error)[1]))
                commands.append(("EXPIRE", failures, 70))
        if claim.tells and not self._asks_again and not self._loaded.again:
            commands += self._callback(own)
        if claim.durable:
            steps = script("steps").text
            commands.append(("EVAL", steps, 2, self._queue.prefix, own, claim.id, self._kept()))
        if counting:
            if self._error is not None:
                kind = "retried" if self._loaded.again else "failed"
            else:
                kind = "retried" if self._asks_again else "finished"
            tally = [kind, 1, f"r{bucket(self._seconds)}", 1, "run_us", int(self._seconds * 1e6)]
            if kind == "failed" and self._error is not None:
                tally += [failure_field(claim, json.loads(describe(claim, self._error)[1])[0]), 1]
            commands.append(
                ("EVAL", script("tally").text, 2, self._queue.prefix, own, claim.queue, *tally)
            )
        return commands

    def _kept(self) -> int | str:
        """Seconds for which the job is kept, or "again"."""
        if self._asks_again or self._loaded.again:
            return "again"
        return self._claim.result_ttl_s if self._error is None else self._claim.failure_ttl_s

    def _callback(self, own: str) -> list[Sequence[Any]]:
        """The job's callback (see notify.py), enqueued in this transaction."""
        claim = self._claim
        kind = "success" if self._error is None else "failure"
        prepared = claim.fields.get(f"tq_on_{kind}".encode())
        if not prepared:
            return []
        facts: list[Any] = ["tq_of_meta", claim.fields.get(b"meta", b"")]
        if self._error is None:
            raw = b""
            if self._value is not None:
                raw = self._queue.serializer.dumps(self._value)
            facts += ["tq_of_status", "finished", "tq_of_tries", claim.attempt]
            facts += ["tq_of_result", base64.b64encode(raw)]
        else:
            text, error = describe(claim, self._error)
            facts += ["tq_of_status", "failed", "tq_of_error", error, "tq_of_trace", text]
        iso = utcformat(self._ended_at)
        return [("EVAL", script("tell").text, 2, self._queue.prefix, own, prepared, iso, *facts)]


def _again(rest: tuple[Any, ...]) -> tuple[float, bool, int | None]:
    """Pause, front and retries left, from a retry item of the settle script."""
    delay, front, left, _run = rest
    return float(delay or 0), front == "1", None if left == "" else int(left)
