"""What worker and job processes both do at their start: load the app; and how large they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.settings import WorkerSettings

SWITCH_S = 0.001
"""How long a busy thread may keep the interpreter while the event loop wants it. Python's own 5 ms
cost a quarter of the drain of short `def` tasks on two processes (measured)."""


def load_app(settings: WorkerSettings) -> TaskQ:
    """The app of the settings, with its tasks imported and its Redis as the supervisor chose.

    Raises:
        ConfigError: there is no such app.
    """
    from taskq.app import TaskQ  # noqa: PLC0415 (in the child only, after logging is set up)
    from taskq.finder import find_app  # noqa: PLC0415 (the same)

    sys.setswitchinterval(SWITCH_S)
    sys.path.insert(0, settings.directory)
    if settings.app:
        app = find_app(settings.app)
        if settings.rq:
            app.codec = app.codec.accepting("pickle")
    else:
        app = TaskQ(settings.url or None, accept=("json", "pickle"))
    app.load()
    if settings.default_mode == "process":
        for task in app.tasks.values():
            if task.mode == "thread" and not task.has_own_mode:
                task.mode = "process"
    return app


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        import resource  # noqa: PLC0415 (macOS: the highest value so far, in bytes)

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
