"""`taskq.worker.Worker`: in the place of RQ's worker classes, with the engine underneath.

`rq worker -w taskq.worker.Worker`, django-rq's `WORKER_CLASS`, or in a program. RQ's
constructor, `work(...)`, records, commands and handlers; its jobs run concurrently on our
runners, under leases, and what a dead worker held is run again.
"""

from __future__ import annotations

import logging
from types import FrameType
from typing import Any

from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.exceptions import StopRequested
from rq.job import Job
from rq.logutils import setup_loghandlers
from rq.queue import Queue
from rq.utils import now
from rq.worker.base import SHUTDOWN_SIGNAL, BaseWorker, DequeueStrategy, WorkerStatus

from taskq.worker.rq_engine import Engine, settings_of
from taskq.worker.rq_host import needs_rqs_loop, steps_of

_TWICE_S = 1.0
"""Signals within this time are one: a worker pool and the terminal both send it (as in RQ)."""


class Worker(BaseWorker):
    """RQ's worker on taskq's engine.

    Attributes:
        threads: plain functions that run at the same time; TASKQ_THREADS overrides it.
        concurrency: `async def` functions at the same time; TASKQ_CONCURRENCY.
        default_mode: "thread", or "process": each plain function in a process of a warm pool,
            apart from all others, as RQ's horses are; TASKQ_DEFAULT_MODE.
        pool: processes of that pool; TASKQ_POOL.
        grace_s: seconds that running jobs are given at a warm shutdown, then they are given
            back; None: as long as they take, as in RQ; TASKQ_GRACE.
    """

    threads = 8
    concurrency = 100
    default_mode = "thread"
    pool = 2
    grace_s: float | None = None
    _engine: Engine | None = None

    def work(  # noqa: PLR0913 (RQ's signature)
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Run jobs until told to stop, in this thread; the arguments are RQ's.

        Args:
            burst: end when the queues are empty.
            logging_level: of RQ's loggers and ours.
            date_format: of log lines.
            log_format: of log lines.
            max_jobs: end after so many.
            max_idle_time: end after so many seconds without a job.
            with_scheduler: also run RQ's scheduler: delayed jobs and retries of these queues.
            dequeue_strategy: "default" (queues in order), "round_robin" or "random".

        Returns:
            Whether any job ran.

        Raises:
            ConfigError: its Redis connection cannot be opened by the engine, or a TASKQ_*
                variable has a wrong value.
            ValueError: an unknown strategy, or a worker of this name lives already.
            SystemExit: at a cold shutdown.
        """
        why_not = needs_rqs_loop(self, PLAIN)
        if why_not:
            self.log.warning("Worker %s: RQ's own loop runs the jobs, one at a time: %s",
                             self.name, why_not)  # fmt: skip
            return super().work(
                burst, logging_level, date_format, log_format, max_jobs, max_idle_time,
                with_scheduler, dequeue_strategy,
            )  # fmt: skip
        settings = settings_of(
            self, burst=burst, max_jobs=max_jobs, max_idle_s=max_idle_time,
            strategy=DequeueStrategy(dequeue_strategy or "default").value,
        )  # fmt: skip
        engine = Engine(self, PLAIN, settings)
        self._dequeue_strategy = dequeue_strategy
        self._engine = engine
        engine.listen()
        try:
            self.bootstrap(logging_level, date_format, log_format)
            _log_ours(logging_level, date_format, log_format)
            self.log.info("Worker %s: RQ mode: payloads are unpickled and the functions that they "
                          "name are imported", self.name)  # fmt: skip
            if with_scheduler:
                self._start_scheduler(burst, logging_level, date_format, log_format)
            self._install_signal_handlers()
            jobs, why = self._run(engine, burst=burst)
        finally:
            self._engine = None
        if why == "cold":
            raise SystemExit
        return jobs > 0

    def _run(self, engine: Engine, *, burst: bool) -> tuple[int, str]:
        try:
            if burst:
                self.check_for_suspension(burst)
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
            jobs, why = engine.run()
            self.log.info("Worker %s: %d jobs done, quitting (%s)", self.name, jobs, why)
        except StopRequested:
            return 0, "suspended"
        else:
            return jobs, why
        finally:
            self.teardown()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one job here and now, by RQ's own steps: for who dequeues by himself."""
        execution = self.prepare_execution(job)
        self.perform_job(job, queue, execution)
        self.set_state(WorkerStatus.IDLE)

    # -- commands and signals ------------------------------------------------------------

    def subscribe(self) -> None:
        """Listen for commands; while the engine runs, it does so."""
        if self._engine is None:
            super().subscribe()

    def handle_payload(self, message: Any) -> None:
        """Carry out a command; one that is malformed is logged, and the listener lives."""
        try:
            super().handle_payload(message)
        except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as err:
            self.log.warning("Worker %s: ignored a message that is no command (%s: %s)",
                             self.name, type(err).__name__, err)  # fmt: skip

    def kill_horse(self, sig: Any = SHUTDOWN_SIGNAL) -> None:
        """End all running jobs: they have failed."""
        if self._engine is not None:
            self._engine.kill()
        else:
            super().kill_horse(sig)

    def _shutdown(self) -> None:
        """The first signal: what runs may end."""
        engine = self._engine
        if engine is None:
            super()._shutdown()
            return
        if engine.is_busy:
            self._stop_requested = True
            self.set_shutdown_requested_date()
        if self.scheduler:
            self.stop_scheduler()
        engine.stop()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """The second signal: what runs is given back to its queue, and the worker exits."""
        engine = self._engine
        if engine is None:
            super().request_force_stop(signum, frame)
            return
        asked = self._shutdown_requested_date
        if asked is not None and (now() - asked).total_seconds() < _TWICE_S:
            return
        self.log.warning("Worker %s: cold shut down", self.name)
        engine.hurry()


PLAIN = steps_of(Worker)
"""Its methods as they are here: who has replaced one since then has a say in each job."""


def _log_ours(level: str | None, date_format: str, log_format: str) -> None:
    """Our loggers write where RQ's do, unless the program has decided that."""
    setup_loghandlers(level, date_format, log_format, name="taskq")
    ours, theirs = logging.getLogger("taskq"), logging.getLogger("rq.worker")
    if ours.level == logging.NOTSET:
        ours.setLevel(theirs.level)
