"""How a job ended: what its callbacks and webhooks are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True)
class Ending:
    """How a job ended: the one argument of a task given as `on_success` or `on_failure`.

    Attributes:
        id: id of the job that ended.
        task: name of its task.
        queue: the queue it came from.
        status: "finished", "failed", or "expired" (its `ttl` was over before it could run).
        result: what it returned; None where it did not.
        exc_type: dotted name of the error's class; "" where it finished.
        message: the error's text.
        traceback: of the error, as text.
        attempts: how many executions there were; retries and crashes count.
        ended_at: aware time of the end.
        meta: the job's `meta`.
    """

    id: str
    task: str
    queue: str
    status: str = ""
    result: Any = None
    exc_type: str = ""
    message: str = ""
    traceback: str = ""
    attempts: int = 0
    ended_at: datetime | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it finished."""
        return self.status == "finished"


class Callback(Protocol):
    """A task that takes an `Ending`: what `on_success` and `on_failure` take."""

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    def __call__(self, ending: Ending, /) -> Any:
        """Called by a worker."""
        ...
