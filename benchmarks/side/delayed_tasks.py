"""The task of ``python -m benchmarks.delayed``."""

import time

from taskq import TaskQ

queue = TaskQ()


@queue.task
async def now() -> float:
    return time.time()
