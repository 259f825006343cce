"""taskq: a Redis-backed task queue on RQ's data.

Decorate a function, call `.delay()`, and workers on any number of servers run it::

    from taskq import TaskQ

    queue = TaskQ()

    @queue.task
    def thumbnail(path: str, size: int = 256) -> str: ...

    handle = thumbnail.delay("a.png", size=64)
    print(handle.result(timeout=10))

Names are imported when they are first used, so that `taskq --help` starts without
the rest. No exported name may be that of a module in this package: importing the
module would put it in the name's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.app import TaskQ as TaskQ
    from taskq.app import task as task
    from taskq.calls import Call as Call
    from taskq.commands import receive as receive
    from taskq.context import JobContext as JobContext
    from taskq.context import current_job as current_job
    from taskq.depends import Depends as Depends
    from taskq.endings import Ending as Ending
    from taskq.errors import AmbiguousApp as AmbiguousApp
    from taskq.errors import BrokerUnavailable as BrokerUnavailable
    from taskq.errors import ConfigError as ConfigError
    from taskq.errors import DuplicateJob as DuplicateJob
    from taskq.errors import InvalidArguments as InvalidArguments
    from taskq.errors import JobCanceled as JobCanceled
    from taskq.errors import JobFailed as JobFailed
    from taskq.errors import JobNotFound as JobNotFound
    from taskq.errors import NotReplicated as NotReplicated
    from taskq.errors import NotSerializable as NotSerializable
    from taskq.errors import PayloadError as PayloadError
    from taskq.errors import PayloadTooLarge as PayloadTooLarge
    from taskq.errors import RemoteError as RemoteError
    from taskq.errors import ResultExpired as ResultExpired
    from taskq.errors import ResultTimeout as ResultTimeout
    from taskq.errors import ScheduleNotFound as ScheduleNotFound
    from taskq.errors import StepFailed as StepFailed
    from taskq.errors import StepMismatch as StepMismatch
    from taskq.errors import TaskQError as TaskQError
    from taskq.errors import TaskTimeout as TaskTimeout
    from taskq.errors import UnknownTask as UnknownTask
    from taskq.handle import Batch as Batch
    from taskq.handle import Handle as Handle
    from taskq.handle import StreamHandle as StreamHandle
    from taskq.handle import as_completed as as_completed
    from taskq.handle import gather as gather
    from taskq.handle import wait as wait
    from taskq.retry import Retry as Retry
    from taskq.schedules.store import Schedule as Schedule
    from taskq.steps import Step as Step
    from taskq.steps import sleep as sleep
    from taskq.steps import sleep_until as sleep_until
    from taskq.steps import step as step
    from taskq.tasks import Task as Task
    from taskq.timing import Cron as Cron
    from taskq.timing import Every as Every
    from taskq.webhooks import verify_webhook as verify_webhook

_HOME = {
    "taskq.app": ("TaskQ", "task"),
    "taskq.calls": ("Call",),
    "taskq.commands": ("receive",),
    "taskq.context": ("JobContext", "current_job"),
    "taskq.depends": ("Depends",),
    "taskq.endings": ("Ending",),
    "taskq.errors": (
        "AmbiguousApp",
        "BrokerUnavailable",
        "ConfigError",
        "DuplicateJob",
        "InvalidArguments",
        "JobCanceled",
        "JobFailed",
        "JobNotFound",
        "NotSerializable",
        "PayloadError",
        "NotReplicated",
        "PayloadTooLarge",
        "RemoteError",
        "ResultExpired",
        "ResultTimeout",
        "ScheduleNotFound",
        "StepFailed",
        "StepMismatch",
        "TaskQError",
        "TaskTimeout",
        "UnknownTask",
    ),
    "taskq.handle": ("Batch", "Handle", "StreamHandle", "as_completed", "gather", "wait"),
    "taskq.retry": ("Retry",),
    "taskq.schedules.store": ("Schedule",),
    "taskq.steps": ("Step", "sleep", "sleep_until", "step"),
    "taskq.tasks": ("Task",),
    "taskq.timing": ("Cron", "Every"),
    "taskq.webhooks": ("verify_webhook",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

# A test compares it with the imports above, which are what the checkers read.
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import what is asked for, and keep it."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'taskq' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
