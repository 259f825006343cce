"""What a worker is started with: one frozen record, passed from CLI to supervisor to children."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

LEASE_S = 15.0
"""An execution owns its job this long after its worker's last heartbeat."""
BEAT_S = 5.0
"""Seconds between heartbeats, and between sweeps for jobs of dead workers."""
MAX_CRASHES = 3
"""A job that was running when this many worker processes died is failed."""
PAGE = 100
"""Jobs in one reserve or settle call: longer scripts stall Redis's other clients."""
LOOKAHEAD_S = 0.05
"""A worker holds at most this much work that it has not begun."""
SETTLE_BYTES = 64_000_000
"""Results kept in memory while Redis is away; above it nothing more is reserved."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_APP = 3
"""Exit code of a worker process that cannot load the app."""
EXIT_REPLACE = 75
"""It served its jobs, grew too large, was fenced, or has too many stuck threads: start another."""


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of one server's worker.

    Attributes:
        app: "package.module:attr", a module or a file; "" with `rq`.
        queues: (name, weight) in order of priority; weight 0 means strict order.
        processes: worker processes.
        threads: `def` tasks that run at the same time in one process.
        concurrency: `async def` tasks that run at the same time in one process.
        pool: job processes of one process, for `process` tasks.
        pool_max_jobs: replace a job process after so many jobs, or None.
        default_mode: what plain functions run on that do not say it: "thread" or "process".
        grace_s: seconds that running jobs are given at a shutdown.
        burst: stop when the queues are empty.
        max_jobs: replace a worker process after so many jobs (with `burst`: stop it), or None.
        max_memory_mb: replace a worker or job process above this resident memory, or None.
        max_stuck: replace a worker process with more abandoned threads and coroutines than
            this; None: as many as it has threads.
        slow_loop_s: what holds up the event loop for longer is logged; 0: nothing is.
        with_scheduler: fire schedules as well (the first process does).
        rq: run any RQ job: pickle on, any importable function.
        health_port: the supervisor answers probes at this port; None: it does not.
        health_host: the address that it listens at for that.
        log_level: of the `taskq` loggers.
        log_format: "text" or "json".
        name: first part of the workers' names; the host's name by default.
        full_name: the whole name of the only worker process, or "".
        max_idle_s: stop after so many seconds without a job, or None.
        strategy: which queue comes next, as RQ has it: "default" (in order, or by weight),
            "round_robin", "random".
        result_ttl_s: for jobs that do not say how long their result is kept.
        directory: put first on the import path.
        url: Redis, with its password: never shown, passed through a pipe.
        url_source: where the URL came from, for messages.
    """

    app: str = ""
    queues: tuple[tuple[str, float], ...] = (("default", 0.0),)
    processes: int = 1
    threads: int = 8
    concurrency: int = 100
    pool: int = 1
    pool_max_jobs: int | None = None
    default_mode: str = "thread"
    grace_s: float = 20.0
    burst: bool = False
    max_jobs: int | None = None
    max_memory_mb: int | None = None
    max_stuck: int | None = None
    slow_loop_s: float = 0.5
    with_scheduler: bool = False
    rq: bool = False
    health_port: int | None = None
    health_host: str = "127.0.0.1"
    log_level: str = "INFO"
    log_format: str = "text"
    name: str | None = None
    full_name: str = ""
    max_idle_s: float | None = None
    strategy: str = "default"
    result_ttl_s: int = 500
    directory: str = "."
    url: str = ""
    url_source: str = "argument"

    @property
    def stuck_limit(self) -> int:
        """Abandoned threads and coroutines that a worker process may have."""
        return self.threads if self.max_stuck is None else self.max_stuck

    def to_json(self) -> str:
        """Text for the pipe to a child."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSettings:
        """The other end of `to_json`."""
        made = cls(**json.loads(text))
        return replace(made, queues=tuple((str(n), float(w)) for n, w in made.queues))


class Identity(NamedTuple):
    """Who one worker process is.

    Attributes:
        uid: 8 letters and digits, never used before: leases carry it.
        host: the machine, or what the user called this worker.
        name: in RQ's records.
        queues: names of those it serves, in order of priority.
        slots: what it can run at once, in words for people.
    """

    uid: str
    host: str
    name: str
    queues: list[str]
    slots: str = ""

    @classmethod
    def of(cls, settings: WorkerSettings, uid: str) -> Identity:
        """Of the process that runs with these settings."""
        host = _safe(settings.name or socket.gethostname())
        name = settings.full_name or f"{host}.{uid}"
        slots = f"{settings.threads} threads, {settings.concurrency} async"
        queues = [queue for queue, _weight in settings.queues]
        return cls(uid, host, name, queues, slots)


def _safe(text: str) -> str:
    """A name that is safe in keys and lists: letters, digits, `-`, `_` and `.`."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)[:60]
