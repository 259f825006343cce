"""`RQScheduler`: rq-scheduler's `Scheduler` on its own data, without its faults.

The entries are those of rq-scheduler, so both can be used side by side: a set of job
ids by due time, and RQ jobs whose `meta` says whether they come again. What is different
is said at each method; docs/guides/migrating-from-rq-scheduler.md has it in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from rq.job import Job, Retry

from taskq.worker.rq_entry_jobs import make_job, options_of, unix, warn_of_six_fields, whole
from taskq.worker.rq_entry_set import EntrySet
from taskq.worker.rq_plan import EntryError, cron_after, read_meta, score, zone_of


class RQScheduler(EntrySet):
    """Schedules RQ jobs as `rq_scheduler.Scheduler` does.

    `taskq scheduler` and workers with `--with-scheduler` fire the entries; `run()` here does, too.
    Naive times are UTC, as rq-scheduler documents; give aware ones. Each method talks to Redis and
    blocks; writing an entry is one transaction.
    """

    # -- writing entries -----------------------------------------------------------------

    def enqueue_at(
        self, scheduled_time: datetime, func: Callable[..., Any] | str, *args: Any, **kwargs: Any
    ) -> Job:
        """Run `func(*args, **kwargs)` once, at a time; fractions of a second count.

        These keywords are not passed on: `timeout` (or `job_timeout`), `job_id`, `job_ttl`,
        `job_result_ttl`, `job_description`, `depends_on`, `meta`, `queue_name`, `on_success`,
        `on_failure`, `at_front`; and, unless the function has a parameter of that name: `retry` (an
        `rq.Retry` or a number), `failure_ttl`, `on_stopped`.
        """
        options = options_of(func, kwargs)
        return self._put(self._job(func, args, kwargs, options), unix(scheduled_time))

    def enqueue_in(
        self, time_delta: timedelta, func: Callable[..., Any] | str, *args: Any, **kwargs: Any
    ) -> Job:
        """`enqueue_at` so much later than now, by the clock of Redis."""
        options = options_of(func, kwargs)
        due = self._now() + time_delta.total_seconds()
        return self._put(self._job(func, args, kwargs, options), due)

    def schedule(  # noqa: PLR0913 (rq-scheduler's signature, and what it lacks)
        self,
        scheduled_time: datetime,
        func: Callable[..., Any] | str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        interval: float | None = None,
        repeat: int | None = None,
        result_ttl: int | None = None,
        ttl: int | None = None,
        timeout: int | str | None = None,
        id: str | None = None,  # noqa: A002 (rq-scheduler's name)
        description: str | None = None,
        queue_name: str | None = None,
        meta: dict[str, Any] | None = None,
        depends_on: Any = None,
        on_success: Any = None,
        on_failure: Any = None,
        at_front: bool | None = None,
        retry: Retry | int | None = None,
        failure_ttl: int | None = None,
        on_stopped: Any = None,
    ) -> Job:
        """Run `func` at a time, and with `interval` (seconds) again and again after it.

        Without drift: each time is computed from the one before. After a pause (nobody fired
        entries) it runs once, not once for each time that has gone by. A run that is due while the
        last one has not ended begins when that ends. `repeat`: how often in all.

        Raises:
            ValueError: `repeat` without `interval`.
        """
        if repeat and interval is None:
            raise ValueError("Can't repeat a job without interval argument")
        if interval is not None and result_ttl is None:
            result_ttl = -1
        own = {} if interval is None else {"interval": whole(interval)}
        if repeat is not None:
            own["repeat"] = int(repeat)
        options = {
            "result_ttl": result_ttl, "ttl": ttl, "timeout": timeout, "id": id,
            "description": description, "queue_name": queue_name, "meta": {**(meta or {}), **own},
            "depends_on": depends_on, "on_success": on_success, "on_failure": on_failure,
            "at_front": at_front, "retry": retry, "failure_ttl": failure_ttl,
            "on_stopped": on_stopped,
        }  # fmt: skip
        return self._put(self._job(func, args, kwargs, options), unix(scheduled_time))

    def cron(  # noqa: PLR0913 (rq-scheduler's signature, and what it lacks)
        self,
        cron_string: str,
        func: Callable[..., Any] | str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        repeat: int | None = None,
        queue_name: str | None = None,
        result_ttl: int = -1,
        ttl: int | None = None,
        id: str | None = None,  # noqa: A002 (rq-scheduler's name)
        timeout: int | str | None = None,
        description: str | None = None,
        meta: dict[str, Any] | None = None,
        use_local_timezone: bool = False,
        depends_on: Any = None,
        on_success: Any = None,
        on_failure: Any = None,
        at_front: bool = False,
        retry: Retry | int | None = None,
        failure_ttl: int | None = None,
        on_stopped: Any = None,
        timezone: str | tzinfo | None = None,
    ) -> Job:
        """Run `func` whenever a cron expression is due.

        Five fields, or six with a year at the end, or seven with seconds before them, as
        rq-scheduler reads them. They are times in UTC, in the zone of the machine with
        `use_local_timezone`, in `timezone` where it is given (rq-scheduler itself always takes the
        zone of the machine). The same `id` with the same expression again keeps the next time.

        Raises:
            ValueError: no such expression or zone, or it is never due.
        """
        own: dict[str, Any] = {"cron_string": cron_string, "use_local_timezone": use_local_timezone}
        if timezone is not None:
            own["timezone"] = str(timezone)
        if repeat is not None:
            own["repeat"] = int(repeat)
        warn_of_six_fields(cron_string)
        due = self._cron_due(own)
        options = {
            "result_ttl": result_ttl, "ttl": ttl, "timeout": timeout, "id": id,
            "description": description, "queue_name": queue_name, "meta": {**(meta or {}), **own},
            "depends_on": depends_on, "on_success": on_success, "on_failure": on_failure,
            "at_front": at_front, "retry": retry, "failure_ttl": failure_ttl,
            "on_stopped": on_stopped,
        }  # fmt: skip
        job = self._job(func, args, kwargs, options)
        return self._put(job, due, keep=self._is_same_cron(job.id, own) if id else False)

    def _cron_due(self, own: Mapping[str, Any]) -> float:
        expression = own["cron_string"]
        due = cron_after(expression, zone_of(dict(own), self._zone), self._now())
        if due is None:
            raise ValueError(f"The cron expression {expression!r} is never due.")
        return due

    def _is_same_cron(self, job_id: str, own: Mapping[str, Any]) -> bool:
        raw = self.connection.hget(self.job_class.key_for(job_id), "meta")
        try:
            before = read_meta(raw or b"")
        except EntryError:
            return False
        names = ("cron_string", "use_local_timezone", "timezone")
        return all(before.get(name) == own.get(name) for name in names)

    def _job(
        self,
        func: Callable[..., Any] | str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> Job:
        """An RQ job that is not in Redis yet."""
        options["origin"] = options.pop("queue_name", None) or self.queue_name
        if self.queue_class_name:
            options["meta"] = {
                **(options.get("meta") or {}), "queue_class_name": self.queue_class_name
            }  # fmt: skip
        call = {"args": tuple(args or ()), "kwargs": dict(kwargs or {})}
        return make_job(self.job_class, self.connection, func, call, options)

    def _put(self, job: Job, due: float, *, keep: bool = False) -> Job:
        """Write job and entry in one transaction; `keep`: the due time of one that is there."""
        with self.connection.pipeline() as pipeline:
            job.save(pipeline=pipeline)
            if job.retries_left:
                pipeline.hset(job.key, "tq_retries", job.retries_left)
            pipeline.zadd(self.scheduled_jobs_key, {job.id: score(due)}, nx=keep)
            pipeline.hdel(self._aside_key, job.id)
            pipeline.publish(self._wake_channel, "")
            pipeline.execute()
        return job
