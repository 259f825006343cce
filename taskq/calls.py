"""Calls that are checked and not sent yet, and how several of them become a batch.

Invariant: of several calls, all are built (serialized) before the first is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from taskq.broker.records import Accepted, NewJob
from taskq.errors import ConfigError
from taskq.handle import Batch, Handle
from taskq.ids import new_id
from taskq.spec import Arguments, TaskSpec

R_co = TypeVar("R_co", covariant=True)


class Call(Generic[R_co]):
    """A checked call that is not sent yet; sending it twice makes two jobs.

    Attributes:
        task: the task, with the options of this call.
        args: positional arguments.
        kwargs: arguments by name.
    """

    __slots__ = ("args", "kwargs", "task")

    def __init__(self, task: TaskSpec, args: Arguments, kwargs: dict[str, Any]) -> None:
        """Keep what `Task.call` has checked."""
        self.task = task
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"<Call {self.task.name}({', '.join(shown)})>"

    def new_job(self, app: Any, *, in_batch: bool = False, job_id: str = "") -> NewJob:
        """Serialize the call for `app`, with an id of its own, or with `job_id`.

        Raises:
            NotSerializable: an argument cannot be carried.
            PayloadTooLarge: the arguments are over the limit.
            ConfigError: the task belongs to another app.
        """
        task = self.task
        if task.is_bound and task.app is not app:
            raise ConfigError(
                f"{task.name} belongs to {task.app}, not to {app}: its workers do not know it. "
                "Nothing was enqueued."
            )
        return task.build(app, self.args, self.kwargs, in_batch, job_id)


def build(app: Any, calls: Sequence[Call[Any]]) -> list[NewJob]:
    """Build the jobs of a batch, all of them, before any is sent.

    Raises:
        NotSerializable: an argument cannot be carried.
        ConfigError: a task of another app, or one `job_id` for several jobs.
    """
    jobs = [call.new_job(app, in_batch=True) for call in calls]
    if any(job.token for job in jobs):
        seen: set[str] = set()
        for job in jobs:
            if job.id in seen:
                raise ConfigError(
                    f"job_id={job.id!r} is given to more than one job of a batch; each needs an "
                    "id of its own. Nothing was enqueued."
                )
            seen.add(job.id)
    return jobs


def to_batch(app: Any, calls: Sequence[Call[Any]], accepted: Sequence[Accepted]) -> Batch[Any]:
    """Return the handles of the calls that `accepted` answers, as one batch."""
    handles: list[Handle[Any]] = [
        Handle(app, job_id, call.task, created)
        for call, (job_id, created) in zip(calls, accepted, strict=True)
    ]
    return Batch(app, handles, new_id())
