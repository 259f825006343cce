"""Jobs in this process, without a server: `queue.testing(...)`, TASKQ_EAGER, the pytest plugin.

The real scripts run on a Redis in memory (fakeredis), stepped by `engine`; the code of
jobs runs on the worker's own runners (`bench`). So this package, like the command line,
reaches outward to `taskq.worker`; it is imported only where it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.testing.calls import Calls as Calls
    from taskq.testing.calls import EnqueuedCall as EnqueuedCall
    from taskq.testing.session import Session as Session

_HOME = {
    "Calls": "taskq.testing.calls",
    "EnqueuedCall": "taskq.testing.calls",
    "Session": "taskq.testing.session",
}

__all__ = ["Calls", "EnqueuedCall", "Session"]


def __getattr__(name: str) -> object:
    """Import what is asked for: pytest loads this package in every suite, for its plugin."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'taskq.testing' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
