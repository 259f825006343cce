"""Django: its setup in workers, tasks of installed apps, connections, jobs after the commit.

Add "taskq.contrib.django" to INSTALLED_APPS: database connections that are broken or too old
are then closed before and after each job, as Django does for each request. That holds for
taskq's workers, and for django-rq's with `taskq.worker.Worker`.
"""

# Django has no types:
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, TypeVar

import django
from django.apps import apps as installed
from django.db import transaction

from taskq.errors import ConfigError

if TYPE_CHECKING:
    from taskq.handle import Handle
    from taskq.tasks import Task

R = TypeVar("R")


def setup(settings: str = "") -> None:
    """Set Django up where nobody has done so: at the top of the module with the `TaskQ`.

    A worker imports that module before anything of Django is there; in the web process it does
    nothing.

    Args:
        settings: the settings module, unless DJANGO_SETTINGS_MODULE says another.
    """
    if settings:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings)
    if not installed.ready and not installed.loading:
        django.setup()


def task_modules(name: str = "tasks") -> list[str]:
    """The `tasks.py` of each installed app that has one: for `TaskQ(include=...)`.

    Raises:
        ConfigError: the apps are not loaded yet.
    """
    if not installed.apps_ready:
        raise ConfigError(
            "task_modules(): Django's apps are not loaded yet. Call taskq.contrib.django.setup() "
            "first, and do not import the module with the TaskQ from settings or models."
        )
    packages = [
        config.name for config in installed.get_app_configs() if hasattr(config.module, "__path__")
    ]
    modules = [f"{package}.{name}" for package in packages]
    return [module for module in modules if importlib.util.find_spec(module) is not None]


def delay_on_commit(
    task: Task[Any, R], *args: Any, using: str | None = None, **kwargs: Any
) -> Handle[R]:
    """Enqueue a call when the current transaction commits; outside of one, now.

    The call is checked and serialized at once. After a rollback nothing is enqueued, and the
    handle's job is not found.

    Args:
        task: what to call.
        args: its arguments.
        using: alias of the database whose transaction is meant; the default one.
        kwargs: its arguments by name.

    Returns:
        The handle: its id is known before the commit.

    Raises:
        InvalidArguments: the call does not fit the signature; nothing will be enqueued.
        NotSerializable: an argument cannot be carried; nothing will be enqueued.
        ConfigError: the task is unique, so that its job's id is known only when it is sent.
        BrokerUnavailable: outside of a transaction, no answer from Redis. After a commit it is
            raised where the transaction ends, as by any on_commit function.
    """
    app = task.app
    job = task.call(*args, **kwargs).new_job(app)
    if job.unique:
        raise ConfigError(
            f"delay_on_commit({task.name}): a unique task's job has no id before it is sent. "
            "Use transaction.on_commit(lambda: task.delay(...)). Nothing was enqueued."
        )
    transaction.on_commit(lambda: app.broker.enqueue((job,)), using=using)
    handle: Handle[R] = task.handle(job.id)
    return handle
