"""The TaskQ of the project: `taskq worker shop.queue:queue`."""

from taskq import TaskQ
from taskq.contrib import django as taskq_django

taskq_django.setup("shop.settings")
queue = TaskQ(include=taskq_django.task_modules())
