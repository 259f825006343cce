"""Tasks of ``python -m benchmarks.yields``."""

import time
from collections.abc import AsyncGenerator, Generator

from taskq import TaskQ

queue = TaskQ()
begun = 0


@queue.task
def count(values: int) -> Generator[int, None, None]:
    yield from range(values)


@queue.task
async def acount(values: int) -> AsyncGenerator[int, None]:
    for value in range(values):
        yield value


@queue.task
def race(values: int, runners: int) -> Generator[int, None, float]:
    """Wait until all have begun; returns the seconds that its own values took from then on."""
    global begun  # noqa: PLW0603 (all run in one thread of one process)
    begun += 1
    while begun < runners:
        yield -1
    start = time.monotonic()
    yield from range(values)
    return time.monotonic() - start
