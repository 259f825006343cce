"""One desk of the RQ lane: what a thread of it ends jobs with, and how it goes about it."""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from redis import exceptions as rexc
from rq import Queue
from rq.executions import Execution
from rq.rate_limit import RateLimitRegistry
from rq.registry import ReadyJobRegistry, ScheduledJobRegistry
from rq.serializers import DefaultSerializer

from taskq.errors import PayloadError
from taskq.worker.claim import DAY_S, YEAR_S
from taskq.worker.outcome import describe
from taskq.worker.rq_classes import (
    BoundedJob,
    LaneJob,
    LaneQueue,
    LaneWorker,
    lane_job,
    lane_queue,
)
from taskq.worker.rq_end import End
from taskq.worker.rq_fence import Fence, FencedRedis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim
    from taskq.worker.rq_host import Host

log = logging.getLogger("taskq.worker")

RECORD_TTL_S = 900
"""The execution's record outlives the callbacks, which have their own limit (60 s each)."""


class Desk:
    """What one thread of the lane works with.

    Attributes:
        used: marks of ends (see rq_fence.py) that nobody needs any more.
    """

    def __init__(
        self, pool: Any, broker: Broker, app: TaskQ, name: str, host: Host | None = None
    ) -> None:
        self._connection = FencedRedis(connection_pool=pool)
        self._keys = broker.keys
        self._app = app
        self._name = name
        self._host = host
        self._worker: LaneWorker | None = None
        self._queue_of: dict[tuple[str, bool], LaneQueue] = {}
        self.used: list[str] = []

    def _queue(self, name: str, *, pickled: bool) -> LaneQueue:
        queue = self._queue_of.get((name, pickled))
        if queue is None:
            serializer = DefaultSerializer if pickled else self._app.rq_serializer
            kind = LaneQueue
            if self._host is not None:
                serializer = self._host.serializer if self._host.by_rq else serializer
                kind = lane_queue(self._host.queue_class)
            queue = kind(name, connection=self._connection, serializer=serializer)
            queue.own, queue.prefix = self._keys.own, self._keys.prefix
            self._queue_of[name, pickled] = queue
        return queue

    # -- the end of a job ----------------------------------------------------------------

    def fence(self, claim: Claim) -> Fence:
        """What guards the end of a job."""
        keys = self._keys
        member = f"{claim.id}:{claim.exec_id}"
        record, mark = f"{keys.prefix}:execution:{member}", f"{keys.own}ended:{member}"
        return Fence(record, keys.wip(claim.queue), member, mark)

    def tidy(self) -> None:
        """Delete what ended jobs have left; for when there is time."""
        used, self.used = self.used, []
        if used:
            with contextlib.suppress(rexc.RedisError, OSError):  # they carry a TTL
                self._connection.delete(*used)

    def end(self, claim: Claim, seconds: float) -> End:
        """RQ's view of an ended execution."""
        if self._worker is None:
            self._worker = self._new_worker(claim.queue)
        execution = Execution(claim.exec_id, claim.id, self._connection, worker_name=self._name)
        began = claim.begun_at or time.time()
        execution.created_at = datetime.fromtimestamp(began, timezone.utc)
        queue = self._queue(claim.queue, pickled=claim.pickled)
        job_class = LaneJob if self._host is None else lane_job(self._host.job_class)
        return End(self._worker, queue, execution, claim, seconds, job_class)

    def _new_worker(self, queue: str) -> LaneWorker:
        if self._host is None:
            return LaneWorker(
                [queue], name=self._name, connection=self._connection, prepare_for_work=False
            )
        made = cast("LaneWorker", self._host.copy_as(LaneWorker))
        made.connection = self._connection
        return made

    @property
    def connection(self) -> FencedRedis:
        """This thread's client."""
        return self._connection

    @property
    def own(self) -> str:
        """Prefix of our own keys."""
        return self._keys.own

    def take_lease(self, fence: Fence, claim: Claim) -> dict[bytes, bytes] | None:
        """Write the record that fences us, if the lease is still ours.

        Returns:
            The job's fields, read in the same step; None: somebody else has it.
        """
        connection = self._connection
        connection.fence = None
        execution = Execution(claim.exec_id, claim.id, connection, worker_name=self._name)
        execution.created_at = datetime.fromtimestamp(claim.begun_at or time.time(), timezone.utc)
        with connection.pipeline() as pipeline:
            pipeline.zscore(fence.registry, fence.member)
            pipeline.hgetall(self._keys.job(claim.id))
            execution.save(ttl=RECORD_TTL_S, pipeline=pipeline)
            score, fields, *_rest = pipeline.execute()
        if score is None and not self._retaken(fence, claim, fields):
            connection.delete(fence.record)
            return None
        connection.fence = fence
        return cast("dict[bytes, bytes]", fields)

    def _retaken(self, fence: Fence, claim: Claim, fields: dict[bytes, bytes]) -> bool:
        """Whether only RQ's `job.cancel()` took the lease: as in RQ, the end of the job counts."""
        canceled = fields.get(b"status") == b"canceled" and fields.get(b"tq_cancel") != b"1"
        mine = fields.get(b"worker_name") == self._name.encode()
        if not (claim.overwrites and canceled and mine):
            return False
        self._connection.zadd(fence.registry, {fence.member: time.time() + DAY_S})
        return True

    def drop(self, fence: Fence, claim: Claim) -> None:
        """Its record was deleted while it ran: nothing is left to settle but the lease."""
        log.warning("Job %s was deleted while it ran: its end is not recorded", claim.id)
        with self._connection.pipeline() as pipeline:
            self._close(pipeline, fence, claim)
            pipeline.execute()
        limit = claim.fields.get(b"rate_limit_key", b"").decode("utf-8", "replace")
        if limit:
            RateLimitRegistry(limit, self._connection).release_and_enqueue(claim.id)

    def fail(self, fence: Fence, claim: Claim, reason: Exception) -> None:
        """Set a job aside whose record RQ cannot read."""
        log.error("Job %s cannot be settled: its record is broken (%s)", claim.id, reason)
        err = PayloadError(f"The job's record is broken: {type(reason).__name__}: {reason}.")
        text, error = describe(claim, err)
        key, results = self._keys.job(claim.id), self._keys.results(claim.id)
        now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        with self._connection.pipeline() as pipeline:
            pipeline.hset(key, mapping={"status": "failed", "ended_at": now})
            pipeline.xadd(results, {"type": 2, "worker_name": self._name, "exc_string": text,
                                    "tq_error": error}, maxlen=10)  # fmt: skip
            pipeline.zadd(self._keys.failed(claim.queue), {claim.id: time.time() + YEAR_S})
            self._close(pipeline, fence, claim)
            pipeline.execute()

    def _close(self, pipeline: Any, fence: Fence, claim: Claim) -> None:
        fence.also = []
        pipeline.zrem(fence.registry, fence.member)
        pipeline.zrem(f"{self._keys.prefix}:executions:{claim.id}", claim.exec_id)
        pipeline.delete(fence.record)

    # -- upkeep --------------------------------------------------------------------------

    def promote(self, jobs: list[tuple[str, str]]) -> None:
        """Put due jobs with a rate limit to their limit's waiting set."""
        for name, job_id in jobs:
            try:
                self._promote(self._queue(name, pickled=False), job_id)
            except rexc.WatchError:
                pass  # another worker does the same
            except Exception:
                log.exception("Could not enqueue the rate-limited job %s", job_id)

    def _promote(self, queue: Queue, job_id: str) -> None:
        registry = ScheduledJobRegistry(queue=queue)  # type: ignore[no-untyped-call]
        with self._connection.pipeline() as pipeline:
            pipeline.watch(registry.key)  # type: ignore[no-untyped-call]
            if pipeline.zscore(registry.key, job_id) is None:
                return
            job = BoundedJob.fetch(job_id, connection=self._connection, serializer=queue.serializer)
            pipeline.multi()
            registry.remove(job_id, pipeline=pipeline)
            front = job.should_enqueue_at_front()
            queue._enqueue_rate_limited_job(  # noqa: SLF001 (as RQ's scheduler)
                job, pipeline=pipeline, at_front=front
            )
            pipeline.execute()

    def maintain(self, queues: Sequence[str]) -> None:
        """Dependents that are ready and nobody enqueued; slots of rate limits that leaked."""
        for name in queues:
            ReadyJobRegistry(queue=self._queue(name, pickled=False)).cleanup()
        for limit in RateLimitRegistry.all(self._connection):
            limit.cleanup()
