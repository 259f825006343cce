"""What `.delay()` and `.map()` return, and waiting for several jobs: the names to import."""

from __future__ import annotations

from taskq.batch import Batch
from taskq.future import Handle
from taskq.progress import Progress
from taskq.stream import Stream, StreamHandle
from taskq.waiting import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Arrivals,
    DoneAndNotDone,
    as_completed,
    gather,
    wait,
)

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "Arrivals",
    "Batch",
    "DoneAndNotDone",
    "Handle",
    "Progress",
    "Stream",
    "StreamHandle",
    "as_completed",
    "gather",
    "wait",
]
