"""The RQ worker whose jobs the engine runs: its classes, its handlers, its habits.

`taskq.worker.Worker` is one. Most jobs need nothing of it. What it says of its own (a Job
class, a serializer, an overridden step, an integration that has patched RQ) is obeyed by
running the job through RQ's inherited `perform_job` in a thread: slower, and exactly RQ's.
"""

from __future__ import annotations

import copy
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import DefaultSerializer
from rq.worker.base import BaseWorker

if TYPE_CHECKING:
    from taskq.worker.claim import Claim

_STEPS = (
    "perform_job", "prepare_job_execution", "prepare_execution",
    "handle_job_success", "handle_job_failure", "handle_job_retry", "handle_exception",
    "handle_execution_ended", "cleanup_execution", "main_work_horse",
)  # fmt: skip
"""What a subclass may override to have a say in each job."""
_LOOP = ("execute_job", "dequeue_job_and_maintain_ttl", "reorder_queues")
_WATCHING = ("handle_exception", "handle_job_failure")
_QUEUE_STEPS = (
    "move_dependents_to_ready", "enqueue_dependents", "enqueue_ready_jobs_by_queue",
    "schedule_job", "_enqueue_job", "push_job_id",
)  # fmt: skip
"""What a job comes back into a queue by, and its dependents."""


class NoLimit:
    """The engine has time limits of its own, which hold in any thread."""

    def __init__(self, *_args: Any, **_more: Any) -> None:
        """As RQ makes its limits."""

    def __enter__(self) -> None:
        """Limit nothing."""

    def __exit__(
        self,
        type: type[BaseException] | None,  # noqa: A002 (as in RQ)
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        return False


class _Performing(BaseWorker):
    """RQ's worker as far as running one job; what follows from its end is the lane's."""

    death_penalty_class = cast("Any", NoLimit)
    outcome: tuple[Any, BaseException | None] = (None, None)
    context: Context | None = None

    def prepare_job_execution(  # (arguments as in RQ, here and below)
        self,
        job: Job,
        remove_from_intermediate_queue: bool = False,
    ) -> None:
        """Nothing: the reserve script has done it."""

    def _finalize_success(
        self,
        job: Job,  # noqa: ARG002
        queue: Queue,  # noqa: ARG002
        execution: Any,  # noqa: ARG002
        return_value: Any,
    ) -> None:
        self.outcome = (return_value, None)

    def _finalize_failure(
        self,
        job: Job,  # noqa: ARG002
        queue: Queue,  # noqa: ARG002
        execution: Any,  # noqa: ARG002
        exc_info: Any,
    ) -> None:
        self.outcome = (None, exc_info[1])
        self.context = copy_context()  # an integration tells by it whose failure it is


class Host:
    """What the engine has to know of the RQ worker that it works for.

    Attributes:
        by_rq: every job runs through RQ's own `perform_job`.
        watches: somebody wants to see each failure: RQ's code settles it.
        job_class: for `fetch`.
        queue_class: makes the queues that RQ's code uses.
        own_queues: that is somebody's own class, or has been patched.
        keep_s: the worker's record outlives a heartbeat by so many seconds.
        serializer: reads and writes calls, results and meta.
    """

    def __init__(self, worker: BaseWorker, plain: dict[str, Any]) -> None:
        """Look at `worker`; `plain` has the methods that change nothing (`steps_of`)."""
        self._worker = worker
        self.job_class: type[Job] = worker.job_class
        self.queue_class: type[Queue] = worker.queue_class
        self.own_queues = self.queue_class is not Queue or any(
            _patched(Queue, name) for name in _QUEUE_STEPS
        )
        self.serializer: Any = worker.serializer
        self.keep_s = int(worker.worker_ttl) + 60  # as RQ's own heartbeat
        self.by_rq = (
            self.job_class is not Job
            or self.serializer is not DefaultSerializer
            or any(_overridden(worker, plain, name) for name in _STEPS)
        )
        self.watches = (
            bool(worker._exc_handlers)  # noqa: SLF001 (RQ has no public name for it)
            or worker._work_horse_killed_handler is not None  # noqa: SLF001 (the same)
            or worker.disable_default_exception_handler
            or any(_overridden(worker, plain, name) for name in _WATCHING)
        )

    def take(self, claim: Claim) -> None:
        """Let RQ's own code read and run a job, whatever its record holds."""
        claim.fn = partial(self.perform, claim)
        claim.args, claim.kwargs = (), {}
        claim.name = claim.name or "A job"
        claim.mode = "thread"
        claim.special = True

    def perform(self, claim: Claim) -> Any:
        """Run a job as RQ does, in this thread; returns what it returned.

        Raises:
            BaseException: whatever it raised, or RQ before it.
        """
        host = self._worker
        job = self.job_class.fetch(claim.id, host.connection, self.serializer)
        job.worker_name = host.name
        claim.rq_job = job
        queue = self.queue_class(
            claim.queue, connection=host.connection, job_class=self.job_class,
            serializer=self.serializer,
        )  # fmt: skip
        performing = cast("_Performing", self.copy_as(_Performing))
        execution = Execution(claim.exec_id, claim.id, host.connection, worker_name=host.name)
        performing.perform_job(job, queue, execution)
        value, error = performing.outcome
        claim.rq_context = performing.context
        if error is not None:
            raise error
        return value

    def copy_as(self, kind: type[BaseWorker]) -> BaseWorker:
        """The worker again, with the methods of `kind` before its own."""
        made = copy.copy(self._worker)
        theirs = type(self._worker)
        made.__class__ = type(kind.__name__, (kind, theirs), {"__module__": kind.__module__})
        made.executions = {}
        return made


def steps_of(kind: type[BaseWorker]) -> dict[str, Any]:
    """The methods by which somebody may have a say in each job, as they are now."""
    return {name: getattr(kind, name) for name in (*_STEPS, *_LOOP)}


def _overridden(worker: BaseWorker, plain: dict[str, Any], name: str) -> bool:
    """Whether a step is another than it was: by a subclass, on the object, or by a patch."""
    if name in vars(worker) or getattr(type(worker), name) is not plain[name]:
        return True
    return _patched(BaseWorker, name)  # perhaps before we looked


def _patched(kind: type, name: str) -> bool:
    """Whether an integration has put a function of its own into one of RQ's classes."""
    return getattr(vars(kind).get(name), "__module__", "") != kind.__module__


def needs_rqs_loop(worker: BaseWorker, plain: dict[str, Any]) -> str:
    """Why only RQ's own loop can serve a worker, or ""."""
    for name in _LOOP:
        if _overridden(worker, plain, name):
            return f"{name}() is overridden"
    if worker.job_class.redis_job_namespace_prefix != Job.redis_job_namespace_prefix:
        return f"{worker.job_class.__qualname__} has a key prefix of its own"
    queues = {type(queue) for queue in worker.queues} | {worker.queue_class}
    for kind in queues:
        if kind.redis_queue_namespace_prefix != Queue.redis_queue_namespace_prefix:
            return f"{kind.__qualname__} has a key prefix of its own"
    return ""
