"""The app for INSTALLED_APPS: "taskq.contrib.django"."""

# Django has no types:
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

from django.apps import AppConfig
from django.db import close_old_connections

from taskq import context


class TaskQConfig(AppConfig):
    """Closes database connections that are broken or too old around each job."""

    name = "taskq.contrib.django"
    label = "taskq"

    def ready(self) -> None:
        """Called by Django when all apps are loaded."""
        if close_old_connections not in context.thread_hooks:
            context.thread_hooks.append(close_old_connections)
