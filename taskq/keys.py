"""Names of all keys in Redis: RQ's (the contract) and ours beside them.

RQ's prefix comes from `RQ_KEY_PREFIX`, as in RQ itself. Ours is `taskq:` where
RQ's is `rq`, else `taskq:PREFIX:`, so that two applications on one server stay
apart and a hash tag in the prefix is kept.
"""

from __future__ import annotations

import os
import re

from taskq.errors import ConfigError

_ALLOWED = re.compile(r"[A-Za-z0-9_.:{}-]+")


class Keys:
    """Key names below one prefix. Immutable; cheap to make."""

    def __init__(self, prefix: str | None = None) -> None:
        """Take `prefix`, or the one of the environment, or `rq`.

        Raises:
            ConfigError: a character that RQ refuses, too.
        """
        chosen = prefix if prefix is not None else os.environ.get("RQ_KEY_PREFIX", "rq")
        if not _ALLOWED.fullmatch(chosen):
            raise ConfigError(
                f"RQ_KEY_PREFIX is {chosen!r}: only letters, digits and _ . : - {{ }} are allowed."
            )
        self.prefix = chosen
        self.own = "taskq:" if chosen == "rq" else f"taskq:{chosen}:"
        self.queues = f"{chosen}:queues"
        self.workers = f"{chosen}:workers"
        self.suspended = f"{chosen}:suspended"
        self.paused = f"{self.own}paused"
        self.alive = f"{self.own}alive"
        self.wake = f"{self.own}wake"
        self.pause = f"{self.own}pause"
        self.rolling = f"{self.own}rolling"

    def job(self, job_id: str) -> str:
        """Hash of a job."""
        return f"{self.prefix}:job:{job_id}"

    def results(self, job_id: str) -> str:
        """Stream with the results of a job."""
        return f"{self.prefix}:results:{job_id}"

    def queue(self, name: str) -> str:
        """List of waiting job ids, the head is next."""
        return f"{self.prefix}:queue:{name}"

    def registry(self, kind: str, queue: str) -> str:
        """Sorted set of a registry; kind: wip, failed, finished, scheduled, canceled, deferred."""
        return f"{self.prefix}:{kind}:{queue}"

    def wip(self, queue: str) -> str:
        """Running executions, `job_id:execution_id` by end of lease (+ a day for ours)."""
        return self.registry("wip", queue)

    def failed(self, queue: str) -> str:
        """Failed jobs by the time at which they are forgotten."""
        return self.registry("failed", queue)

    def finished(self, queue: str) -> str:
        """Finished jobs by the time at which they are forgotten."""
        return self.registry("finished", queue)

    def scheduled(self, queue: str) -> str:
        """Delayed jobs and retries by due time."""
        return self.registry("scheduled", queue)

    def canceled(self, queue: str) -> str:
        """Canceled jobs."""
        return self.registry("canceled", queue)

    def deferred(self, queue: str) -> str:
        """Jobs that wait for others (RQ's dependencies)."""
        return self.registry("deferred", queue)

    def worker(self, name: str) -> str:
        """Hash of a worker."""
        return f"{self.prefix}:worker:{name}"

    def claim(self, worker_uid: str, queue: str) -> str:
        """List into which an idle worker's blocked BLMOVE puts the id that wakes it."""
        return f"{self.own}claim:{worker_uid}:{queue}"

    def unique(self, text: str) -> str:
        """Lock of a unique job; its value is the id of the job that holds it."""
        return f"{self.own}unique:{text}"

    def done(self, bucket: int) -> str:
        """Set of ids that ended and were deleted in the ten seconds `bucket` (epoch // 10)."""
        return f"{self.own}done:{bucket}"

    def failures(self, bucket: int) -> str:
        """Hash of those among them that failed: id, and the error in our JSON."""
        return f"{self.own}failures:{bucket}"

    def stream(self, job_id: str) -> str:
        """Stream with what a generator task yielded."""
        return f"{self.own}stream:{job_id}"

    def sent(self, job_id: str) -> str:
        """Stream with what was sent to a generator task: its box."""
        return f"{self.own}sent:{job_id}"

    def steps(self, job_id: str) -> str:
        """Hash with the recorded steps of a durable job (see record.lua)."""
        return f"{self.own}steps:{job_id}"

    def stats(self, queue: str, minute: int) -> str:
        """Counters of a queue for one minute (epoch // 60); queue "": of all together."""
        return f"{self.own}stats:{queue}:{minute}"

    def hours(self, queue: str, hour: int) -> str:
        """The same for one hour (epoch // 3600)."""
        return f"{self.own}hours:{queue}:{hour}"

    def depth(self, queue: str, hour: int) -> str:
        """Hash: minute of the hour, and how many jobs waited then."""
        return f"{self.own}depth:{queue}:{hour}"

    def failures_by(self, day: int) -> str:
        """Hash: who failed with what, how often, on one day (epoch // 86400)."""
        return f"{self.own}failures-by:{day}"
