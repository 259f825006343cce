"""`taskq worker`: check the app and the options, say what will run, hand over to the supervisor."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskq import logs
from taskq.cli.appcheck import AppFacts, in_child
from taskq.cli.banner import banner
from taskq.cli.options import Duration, app_argument, command, log_options, setting
from taskq.cli.output import complain, say
from taskq.errors import ConfigError, TaskQError

if TYPE_CHECKING:
    from taskq.worker.settings import WorkerSettings

logger = logging.getLogger("taskq.worker")

_LOOK_S = 0.5
_POSITIVE = click.IntRange(min=1)

_HELP = """Run the jobs of APP: "package.module:app", a module, or a file.

\b
Examples:
  taskq worker shop.queue:queue
  taskq worker shop.py -q high -q default        "high" always first
  taskq worker shop.queue -q high=5 -q low=1     five of "high" for one of "low"
  taskq worker shop.queue --processes 4 --threads 16 --log-format json
  taskq worker shop.queue --burst                until the queues are empty
  taskq worker --rq -q default                   plain RQ jobs, without an app

Without APP: TASKQ_APP, or app = "..." under [tool.taskq] in pyproject.toml.

\b
Signals: TERM and INT finish what runs and leave, twice is now;
QUIT prints stacks; HUP replaces the processes one by one.
"""


@command("worker", text=_HELP, summary="Run the jobs of an app.")
@app_argument
@setting(
    "--queue",
    "-q",
    "queues",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    shared=True,
    help='Queue to serve, in this order; with weights, in that proportion. Default: "default".',
)
@setting(
    "--processes",
    type=_POSITIVE,
    shared=True,
    help="Worker processes. Default: the number of cores.",
)
@setting(
    "--threads",
    type=_POSITIVE,
    default=8,
    show_default=True,
    shared=True,
    help="Plain functions that run at once in one process.",
)
@setting(
    "--concurrency",
    type=_POSITIVE,
    default=100,
    show_default=True,
    shared=True,
    help="Async and generator tasks that run at once in one process.",
)
@setting(
    "--pool",
    type=_POSITIVE,
    shared=True,
    help="Job processes of one process, for tasks with mode='process'. Default: cores / processes.",
)
@setting(
    "--pool-max-jobs",
    type=_POSITIVE,
    shared=True,
    help="Replace a job process after this many jobs.",
)
@setting(
    "--default-mode",
    type=click.Choice(["thread", "process"]),
    default="thread",
    show_default=True,
    shared=True,
    help="Where plain functions run whose task does not say it.",
)
@setting(
    "--grace",
    type=Duration(),
    default=20.0,
    show_default="20s",
    shared=True,
    help="How long running jobs may go on after TERM.",
)
@setting("--burst", is_flag=True, help="Leave when the queues are empty.")
@setting(
    "--max-jobs",
    type=_POSITIVE,
    shared=True,
    help="Replace a process after this many jobs.",
)
@setting(
    "--max-memory",
    type=_POSITIVE,
    metavar="MB",
    shared=True,
    help="Replace a process (or job process) that uses more memory than this.",
)
@setting(
    "--max-stuck",
    type=click.IntRange(min=0),
    metavar="N",
    shared=True,
    help="Replace a process with more threads and coroutines than this that do not end at their "
    "time limit. Default: as many as --threads.",
)
@setting(
    "--slow-loop",
    type=Duration(),
    default=0.5,
    show_default="0.5s",
    shared=True,
    help="Log what holds up the event loop for longer; 0: nothing.",
)
@setting(
    "--with-scheduler",
    is_flag=True,
    shared=True,
    help="Fire schedules as well: no process for it, and any number may.",
)
@setting("--rq", is_flag=True, help="Run any RQ job too: unpickles, imports what jobs name.")
@setting(
    "--name", metavar="TEXT", help="Name of this worker. Default: made of host and process id."
)
@setting(
    "--health-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    shared=True,
    help="Answer GET /healthz and /readyz at this port, for probes; 0: any free one.",
)
@setting(
    "--health-host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    shared=True,
    help="The address for that; 0.0.0.0 in a container.",
)
@log_options
def worker_command(app: str | None, **options: Any) -> None:
    """Check everything that can be wrong, then run until told to stop."""
    if not app and not options["rq"]:
        from taskq.finder import find_app  # noqa: PLC0415 (for its message)

        find_app(app)
    if not hasattr(os, "fork"):
        raise ConfigError(
            f"taskq workers run on Linux and macOS, not on {sys.platform}. "
            "Enqueueing jobs and waiting for results works here."
        )
    settings = _settings(app or "", options)
    # Before the check: its child then finds redis and the like imported already.
    from taskq.worker import supervisor  # noqa: PLC0415 (redis: only when a worker starts)

    facts = check(settings)
    if settings.log_format == "text":  # else a program reads our output: log lines only
        announce(settings, facts)
    logs.configure(settings.log_level, settings.log_format)
    _look_for_redis(facts)
    sys.exit(supervisor.run(replace(settings, url=facts.url, url_source=facts.url_source)))


def check(settings: WorkerSettings) -> AppFacts:
    """Make sure that the app can be loaded, in a child process.

    Raises:
        ConfigError: it cannot; the message says why.
    """
    if settings.app:
        return in_child(settings.app)
    from taskq.settings import redis_url  # noqa: PLC0415 (late: a command imports what it needs)

    url, source = redis_url()
    return AppFacts("", url, source)


def _look_for_redis(facts: AppFacts) -> None:
    """Say so when Redis is not there. A worker waits for it, but not without a word."""
    from taskq.broker.client import Broker  # noqa: PLC0415 (late: a command imports what it needs)

    broker = Broker(facts.url, facts.url_source, deadline_s=_LOOK_S)
    try:
        broker.call("PING")
    except TaskQError as error:
        logger.warning("%s The worker waits for it.", error)
    finally:
        broker.close()


def announce(settings: WorkerSettings, facts: AppFacts) -> None:
    """Print what this worker will do, and what may surprise."""
    from taskq.settings import redact  # noqa: PLC0415 (late: a command imports what it needs)

    tasks = modes(settings, facts)
    lines = banner(
        app=facts.name,
        url=redact(facts.url),
        queues=settings.queues,
        tasks=tasks,
        slots=slots(settings, pool=any(mode == "process" for _, mode in tasks)),
    )
    for line in lines:
        say(line)
    if settings.rq:
        complain("--rq: payloads are unpickled and the functions they name are imported.")
    missed = sorted({queue for _, _, queue in facts.tasks} - {name for name, _ in settings.queues})
    if missed:
        flags = " ".join(f"-q {name}" for name in missed)
        complain(f"Tasks of this app use queues that this worker does not serve ({flags}).")


def modes(settings: WorkerSettings, facts: AppFacts) -> list[tuple[str, str]]:
    """Name and mode of each task, as this worker runs it."""
    undecided = frozenset(facts.undecided) if settings.default_mode == "process" else frozenset()
    return [
        (name, "process" if mode == "thread" and name in undecided else mode)
        for name, mode, _ in facts.tasks
    ]


def slots(settings: WorkerSettings, *, pool: bool = False) -> str:
    """How many jobs run at once, in words; `pool`: also in job processes."""
    each = f"{settings.threads} threads, {settings.concurrency} async"
    if pool or (settings.rq and settings.default_mode == "process"):
        each += f", {settings.pool} job process{'es' if settings.pool > 1 else ''}"
    if settings.processes == 1:
        return f"1 process: {each}"
    return f"{settings.processes} processes, each {each}"


def parse_queues(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """(name, weight) of each `-q`; without any `=WEIGHT` all weights are 0: strict order.

    Raises:
        ConfigError: an empty name, a name given twice, a weight that is none.
    """
    queues: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=") if "=" in text else (text, "", "")
        name = name.strip()
        if not name or not name.isprintable():
            raise ConfigError(f"-q {text!r}: a queue needs a name.")
        if name in queues:
            raise ConfigError(f"-q {name}: this queue is given twice.")
        queues[name] = _weight(name, number) if equals else 0.0
    if any(queues.values()):
        return tuple((name, weight or 1.0) for name, weight in queues.items())
    return tuple(queues.items())


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ConfigError(f"-q {name}={text}: a weight is a number above 0, as in -q {name}=5.")
    return weight


def _settings(app: str, options: dict[str, Any]) -> WorkerSettings:
    from taskq.worker.settings import WorkerSettings  # noqa: PLC0415 (late: a command imports what it needs)

    processes = options["processes"] or cores()
    return WorkerSettings(
        app=app,
        queues=parse_queues(options["queues"] or ("default",)),
        processes=processes,
        threads=options["threads"],
        concurrency=options["concurrency"],
        pool=options["pool"] or max(1, cores() // processes),
        pool_max_jobs=options["pool_max_jobs"],
        default_mode=options["default_mode"],
        grace_s=options["grace"],
        burst=options["burst"],
        max_jobs=options["max_jobs"],
        max_memory_mb=options["max_memory"],
        max_stuck=options["max_stuck"],
        slow_loop_s=options["slow_loop"],
        with_scheduler=options["with_scheduler"],
        rq=options["rq"],
        health_port=options["health_port"],
        health_host=options["health_host"],
        log_level=options["log_level"],
        log_format=options["log_format"],
        name=options["name"],
        directory=str(Path.cwd()),
    )


def cores() -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        # cgroup v2: "max 100000" or "150000 100000", microseconds of CPU for each period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2, or no quota
    return max(count, 1)
