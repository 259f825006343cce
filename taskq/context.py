"""`current_job()`: what a task may know and say about the job it is running for.

Kept in a context variable, so it is right in every runner: threads, asyncio
tasks, and whatever a task starts with `asyncio.to_thread` or `copy_context`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar
from datetime import datetime, timezone
from typing import Any, Protocol, TypeVar, overload
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from taskq.clock import parse_iso
from taskq.errors import TaskQError

T = TypeVar("T")


class JobContext:
    """The job that the calling code runs for.

    Attributes:
        id: id of the job.
        task: name of the task.
        queue: name of the queue it came from.
        attempt: 1 for the first execution; retries and crashes count.
        enqueued_at: aware time at which it was put into its queue, or None (a property).
        scheduled_for: aware time of the occurrence that a schedule made it for, in the
            schedule's zone; None for other jobs (a property).
        meta: the job's `meta`, a copy.
        cancel_requested: True once somebody asked for the job to be canceled.
    """

    __slots__ = (
        "_due",
        "_enqueued",
        "_report",
        "attempt",
        "cancel_requested",
        "id",
        "meta",
        "queue",
        "task",
    )

    def __init__(  # noqa: PLR0913 (made for each job: keywords would cost)
        self,
        job_id: str,
        task: str,
        queue: str,
        attempt: int = 1,
        enqueued: bytes | None = None,
        meta: dict[str, Any] | None = None,
        report: Callable[[str, float, float | None, str], None] | None = None,
        due: bytes | None = None,
    ) -> None:
        """Made by the worker for each execution; `enqueued` and `due` are the record's texts."""
        self.id = job_id
        self.task = task
        self.queue = queue
        self.attempt = attempt
        self._enqueued = enqueued
        self._due = due
        self.meta = {} if meta is None else meta
        self.cancel_requested = False
        self._report = report

    @property
    def enqueued_at(self) -> datetime | None:
        """Aware time at which the job was put into its queue, or None where none is on record."""
        if not self._enqueued:
            return None
        try:
            return datetime.fromtimestamp(parse_iso(self._enqueued.decode()), timezone.utc)
        except (ValueError, UnicodeDecodeError):
            return None

    @property
    def scheduled_for(self) -> datetime | None:
        """Aware time of the occurrence that a schedule made it for, in the schedule's zone."""
        if not self._due:
            return None
        ms, _, name = self._due.decode("utf-8", "replace").partition(" ")
        try:
            at = datetime.fromtimestamp(int(ms) / 1000, timezone.utc)
        except (ValueError, OverflowError, OSError):
            return None
        try:
            return at.astimezone(ZoneInfo(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):  # no such zone on this machine
            return at

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell how far the job is; cheap, so call it as often as you like.

        At most a few of the calls a second reach Redis: always the latest one.

        Args:
            done: units of work that are done.
            total: units in all, or None where that is not known.
            note: a few words for people.
        """
        if self._report is not None:
            self._report(self.id, done, total, note)

    def __repr__(self) -> str:
        """For logs."""
        return f"<JobContext {self.id} {self.task} attempt {self.attempt}>"


class HasContext(Protocol):
    """What runs a job and can say who it is: most jobs never ask, so nothing is made before."""

    @property
    def context(self) -> JobContext: ...  # noqa: D102 (the class says it)


_current: ContextVar[HasContext | None] = ContextVar("taskq_current_job", default=None)
_RAISE: Any = object()
thread_hooks: list[Callable[[], None]] = []
"""Called before and after each plain function that a worker runs, in its thread or process."""


@overload
def current_job() -> JobContext: ...
@overload
def current_job(default: T) -> JobContext | T: ...


def current_job(default: Any = _RAISE) -> Any:
    """The job that the calling code runs for.

    Args:
        default: returned outside of a job; without it that is an error.

    Raises:
        TaskQError: called outside of a job and no default was given.
    """
    job = _current.get()
    if job is not None:
        return job.context
    if default is _RAISE:
        raise TaskQError(
            "current_job() was called outside of a job. Inside a task it gives the job; "
            "current_job(None) gives None elsewhere."
        )
    return default


def job_in(where: Context) -> HasContext | None:
    """The current job of another thread's or task's context (for the worker)."""
    return where.get(_current)


def enter(job: HasContext) -> None:
    """Make `job` the current one of this thread or asyncio task (for the worker)."""
    _current.set(job)


def leave() -> None:
    """No job is current any more (for the worker)."""
    _current.set(None)


def run_hooks() -> None:
    """Run the hooks (for the worker). What they raise is the job's error."""
    for hook in thread_hooks:
        hook()
