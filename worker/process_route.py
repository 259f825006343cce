"""Which jobs go to a job process unread: only the name of their task is looked at here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskq.notify import DELIVER
from taskq.serializers.peek import task_of

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.claim import Claim
    from taskq.worker.settings import WorkerSettings


class Route:
    """Knows the tasks that run in job processes.

    What the name says is not verified: a job process reads the whole payload, checks its
    signature, and runs no other task than the app has.
    """

    def __init__(self, app: TaskQ, *, any_function: bool) -> None:
        """With `any_function`, also what is no task of the app (`--rq`) goes there."""
        self._tasks = app.tasks
        self._any_function = any_function

    @classmethod
    def of(cls, app: TaskQ, settings: WorkerSettings) -> Route | None:
        """The route of a worker, or None where nothing takes it."""
        any_function = settings.rq and settings.default_mode == "process"
        if any_function or any(task.mode == "process" for task in app.tasks.values()):
            return cls(app, any_function=any_function)
        return None

    def takes(self, claim: Claim, data: bytes) -> bool:
        """Whether a job process reads and runs it; then fill in its name and mode."""
        end = data.find(b'"', 2) if data[:2] == b'["' else -1
        # a name has neither escapes nor anything beyond ASCII, mostly
        if end > 0 and b"\\" not in data[2:end]:
            name = data[2:end].decode("utf-8", "replace")
        else:
            name = task_of(data)
        task = self._tasks.get(name)
        if task is None:
            if not (self._any_function and name) or name == DELIVER:
                return False
        elif task.mode != "process":
            return False
        claim.name = name
        claim.mode = "process"
        return True
