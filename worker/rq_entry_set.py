"""The set of rq-scheduler's entries, read and fired through its own class.

`RQScheduler` (rq_scheduler.py) adds what writes entries.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
import rq_scheduler  # pyright: ignore[reportMissingTypeStubs]  # it has no types
from redis import exceptions as rexc
from rq.exceptions import NoSuchJobError
from rq.job import Job

from taskq.broker.link import backoff_s
from taskq.keys import Keys
from taskq.worker.rq_entries import read_asides, text, usual_zone
from taskq.worker.rq_entry_jobs import from_unix, plain, unix, until_score
from taskq.worker.rq_mover import Mover
from taskq.worker.rq_plan import score

if TYPE_CHECKING:
    from rq import Queue

log = logging.getLogger("taskq.worker")

_CHECK_S = 1.0
"""Look at least this often: stock rq-scheduler adds entries without a word to anybody."""

_Scheduler: Any = rq_scheduler.Scheduler


class AsideEntry(NamedTuple):
    """An entry that could not be fired, kept apart from the others."""

    id: str
    reason: str
    due_at: datetime
    since: datetime


class EntrySet(_Scheduler):  # type: ignore[misc]  # it has no types
    """rq-scheduler's `Scheduler` without what writes entries: reading is safe, firing is atomic."""

    def __init__(
        self,
        queue_name: str = "default",
        queue: Queue | None = None,
        interval: float = 60,
        connection: redis.Redis | None = None,
        job_class: Any = None,
        queue_class: Any = None,
        name: str | None = None,
    ) -> None:
        """Take the same arguments as rq-scheduler.

        Keys follow `RQ_KEY_PREFIX`; a connection with `decode_responses` is used without.

        Raises:
            ValueError: no connection.
        """
        super().__init__(
            queue_name, queue, interval, plain(connection), job_class, queue_class, name
        )
        keys = Keys()
        self._wake_channel = keys.wake
        self._aside_key = f"{keys.own}aside"
        self.scheduler_key = f"{keys.prefix}:scheduler"
        self.scheduler_lock_key = f"{keys.prefix}:scheduler_lock"
        self.scheduled_jobs_key = f"{keys.prefix}:scheduler:scheduled_jobs"
        self.redis_scheduler_namespace_prefix = f"{keys.prefix}:scheduler_instance:"
        self._zone = usual_zone()
        self._mover = Mover(self.connection, keys, self._zone)

    # -- the entries there are -----------------------------------------------------------

    def cancel(self, job: Job | str) -> None:
        """Take a job or job id out of the schedule. A canceled job (`job.cancel()`) goes, too."""
        self.connection.zrem(self.scheduled_jobs_key, _id_of(job))

    def __contains__(self, item: Job | str) -> bool:
        return self.connection.zscore(self.scheduled_jobs_key, _id_of(item)) is not None

    def change_execution_time(self, job: Job | str, date_time: datetime) -> None:
        """Let an entry be due at another time.

        Raises:
            ValueError: it is not there, or was fired meanwhile.
        """
        job_id, key = _id_of(job), self.scheduled_jobs_key
        with self.connection.pipeline() as pipeline:
            while True:
                try:
                    pipeline.watch(key)
                    if pipeline.zscore(key, job_id) is None:
                        raise ValueError(f"Job {job_id} is not among the scheduled jobs in {key}.")
                    pipeline.multi()
                    pipeline.zadd(key, {job_id: score(unix(date_time))})
                    pipeline.hdel(self.job_class.key_for(job_id), "tq_due")
                    pipeline.publish(self._wake_channel, "")
                    pipeline.execute()
                except rexc.WatchError:
                    continue
                return

    def count(self, until: Any = None) -> int:
        """How many entries there are, or are due until a datetime, in a timedelta, at an epoch."""
        end = until_score(until, self._now)
        return int(self.connection.zcount(self.scheduled_jobs_key, "-inf", end))

    def get_jobs(
        self,
        until: Any = None,
        with_times: bool = False,
        offset: int | None = None,
        length: int | None = None,
    ) -> Iterator[Any]:
        """The jobs of entries, by due time; `with_times`: (job, naive UTC time). Changes nothing.

        Entries whose job is gone or cannot be read are left out; firing them sets them aside.
        """
        found = self.connection.zrangebyscore(
            self.scheduled_jobs_key, "-inf", until_score(until, self._now),
            withscores=True, start=offset, num=length,
        )  # fmt: skip
        for raw, due in found:
            try:
                job = self.job_class.fetch(raw.decode(), connection=self.connection)
            except NoSuchJobError:
                continue
            except Exception as err:  # noqa: BLE001 (whatever its bytes lead to)
                log.warning("Job %s of an entry cannot be read: %r", text(raw), err)
                continue
            yield (job, from_unix(due)) if with_times else job

    def get_jobs_to_queue(self, with_times: bool = False) -> Iterator[Any]:
        """The jobs of entries that are due."""
        return self.get_jobs(self._now(), with_times=with_times)

    def set_aside(self) -> list[AsideEntry]:
        """Entries that could not be fired, with the reasons; `restore(id)` puts one back."""
        return [
            AsideEntry(one.id, one.reason, from_unix(one.due), from_unix(one.since))
            for one in read_asides(self.connection.hgetall(self._aside_key))
        ]

    def restore(self, job_id: str) -> bool:
        """Put an entry that was set aside back to the time at which it was due."""
        value = self.connection.hget(self._aside_key, job_id)
        if value is None:
            return False
        with self.connection.pipeline() as pipeline:
            pipeline.zadd(self.scheduled_jobs_key, {job_id: score(json.loads(value)[1])})
            pipeline.hdel(self._aside_key, job_id)
            pipeline.publish(self._wake_channel, "")
            pipeline.execute()
        return True

    # -- firing them ---------------------------------------------------------------------

    def acquire_lock(self) -> bool:
        """Take or renew rq-scheduler's lock; ours have it together. False: a stock one has it."""
        self._lock_acquired = self._mover.hold()
        return self._lock_acquired

    def remove_lock(self) -> None:
        """Give it back, unless another scheduler of ours is at work."""
        if self._lock_acquired:
            self._mover.leave()
            self._lock_acquired = False

    def enqueue_job(self, job: Job) -> None:
        """Fire an entry now, and put it to its next time, in one step."""
        self._mover.fire(job.id)

    def enqueue_jobs(self) -> int:
        """Fire all that is due; returns how many. None while a stock scheduler has the lock."""
        return self._mover.fire_due()[0]

    def run(self, burst: bool = False) -> None:
        """Fire entries until told to stop (TERM, INT); `burst`: those that are due now.

        Wakes when the next one is due. Goes on when Redis was away.
        """
        self._install_signal_handlers()
        failures, born = 0, False
        try:
            while True:
                try:
                    if not born:
                        self.register_birth()
                        born = True
                    self.heartbeat()
                    pause = self._mover.fire_due()[1]
                    self._lock_acquired = self._mover.holds
                    failures = 0
                except (rexc.ConnectionError, rexc.TimeoutError, OSError) as err:
                    failures += 1
                    pause = backoff_s(failures)
                    log.warning("No entries can be fired now: %s", err)
                if burst and not failures:
                    break
                time.sleep(min(pause, _CHECK_S))
        finally:
            self.remove_lock()
            self.register_death()

    def _install_signal_handlers(self) -> None:
        """TERM and INT end `run`; outside the main thread Python allows no handlers."""
        if threading.current_thread() is threading.main_thread():
            super()._install_signal_handlers()

    def _now(self) -> float:
        seconds, micros = self.connection.time()
        return float(seconds) + float(micros) / 1e6


def _id_of(job: Job | str) -> str:
    return job.id if isinstance(job, Job) else job
