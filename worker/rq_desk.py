"""One desk of the RQ lane: what a thread of it ends jobs with, and how it goes about it."""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from redis import exceptions as rexc
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.rate_limit import RateLimitRegistry
from rq.registry import ReadyJobRegistry, ScheduledJobRegistry
from rq.serializers import DefaultSerializer

from taskq.broker.link import backoff_s, is_refusal
from taskq.errors import PayloadError
from taskq.worker.claim import YEAR_S
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
from taskq.worker.rq_fence import Fence, FencedRedis, LeaseLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim
    from taskq.worker.rq_host import Host

log = logging.getLogger("taskq.worker")

RECORD_TTL_S = 900
"""The execution's record outlives the callbacks, which have their own limit (60 s each)."""
_TRIES = 3
"""An error that is no outage is worth so many tries."""
_OUTAGES = (
    rexc.ConnectionError, rexc.TimeoutError, rexc.ReadOnlyError, rexc.OutOfMemoryError, OSError,
)  # fmt: skip


class Desk:
    """What one thread of the lane works with."""

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

    def settle(self, claim: Claim, seconds: float, *, counting: bool) -> None:
        """Settle one job; returns when it is settled, or lost."""
        keys = self._keys
        member = f"{claim.id}:{claim.exec_id}"
        fence = Fence(f"{keys.prefix}:execution:{member}", keys.wip(claim.queue), member,
                      f"{keys.own}ended:{member}")  # fmt: skip
        settling = _Settling(self, claim, fence, seconds, counting=counting)
        outages = 0
        try:
            while True:
                try:
                    if settling.step():
                        return
                except _OUTAGES as err:
                    outages += 1
                    if outages in (1, 2, 5) or outages % 20 == 0:
                        log.warning("The end of job %s cannot be recorded now (%s); trying again",
                                    claim.id, err)  # fmt: skip
                    time.sleep(backoff_s(outages))
        finally:
            self._connection.fence = None

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

    def take_lease(self, fence: Fence, claim: Claim) -> bool:
        """Write the record that fences us, if the lease is still ours."""
        connection = self._connection
        connection.fence = None
        if connection.zscore(fence.registry, fence.member) is None:
            connection.delete(fence.record)  # a heartbeat may have written it too late
            return False
        execution = Execution(claim.exec_id, claim.id, connection, worker_name=self._name)
        execution.created_at = datetime.fromtimestamp(claim.begun_at or time.time(), timezone.utc)
        execution.save(ttl=RECORD_TTL_S)
        connection.fence = fence
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


class _Settling:
    """How far the end of one job is."""

    def __init__(
        self, desk: Desk, claim: Claim, fence: Fence, seconds: float, *, counting: bool
    ) -> None:
        self._desk = desk
        self._claim = claim
        self._fence = fence
        self._counting = counting
        self._end = desk.end(claim, seconds)
        self._problems = 0
        self._problem: Exception = RuntimeError()
        self._sent = False

    def step(self) -> bool:
        """Go on from where it stands; True when there is nothing left to do."""
        if self._committed():
            self._follow()
            return True
        try:
            return self._try()
        except LeaseLost:
            if self._committed():
                self._follow()
                return True
            return False  # looks at the lease again
        except _OUTAGES:
            raise
        except Exception as err:
            _raise_if_refused(err)
            if self._committed():
                log.warning("RQ's code after the end of job %s: %s", self._claim.id, err)
                return False  # the next step does what follows
            if isinstance(err, rexc.WatchError):
                return False
            self._problems += 1
            self._problem = err
            if self._problems == _TRIES:
                log.exception("RQ's code cannot settle job %s: recorded without its dependents",
                              self._claim.id)  # fmt: skip
            return False

    def _try(self) -> bool:
        desk, claim, fence, end = self._desk, self._claim, self._fence, self._end
        if not desk.take_lease(fence, claim):
            log.warning(
                "Job %s no longer belongs to this worker: its end was not recorded", claim.id
            )
            return True
        try:
            end.load()  # again after a failed try, which has changed it
        except NoSuchJobError:
            desk.drop(fence, claim)
            self._tidy()
            return True
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            desk.fail(fence, claim, err)
            self._tidy()
            return True
        if self._problems > 2 * _TRIES:
            desk.fail(fence, claim, self._problem)
            self._tidy()
            return True
        end.call()
        self._sent = True
        if self._problems >= _TRIES:
            end.plain(fence, desk.own, counting=self._counting)
        else:
            end.persist(fence, desk.own, counting=self._counting)
        if not fence.committed:  # RQ logs errors of a failure's transaction and goes on
            raise fence.error or RuntimeError("RQ's code wrote nothing")
        self._tidy()
        end.tell()
        return True

    def _committed(self) -> bool:
        """Whether the transaction was carried out, also when its answer was lost."""
        if not self._fence.committed and self._sent:
            self._fence.committed = bool(self._desk.connection.exists(self._fence.mark))
        return self._fence.committed

    def _follow(self) -> None:
        try:
            self._end.follow()
        except _OUTAGES:
            raise
        except Exception as err:
            _raise_if_refused(err)
            log.exception("RQ's code after the end of job %s failed", self._claim.id)
        self._tidy()
        self._end.tell()

    def _tidy(self) -> None:
        with contextlib.suppress(rexc.RedisError, OSError):  # it carries a TTL
            self._desk.connection.delete(self._fence.mark)


def _raise_if_refused(err: Exception) -> None:
    """A server that takes no writes (full disk, no replicas) is an outage, not the job's fault."""
    if isinstance(err, rexc.ResponseError) and is_refusal(err):
        raise rexc.ConnectionError(str(err)) from err
