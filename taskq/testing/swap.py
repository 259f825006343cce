"""Another broker in the place of an app's own, for a while."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker import Broker

_lock = threading.Lock()
_aside: weakref.WeakKeyDictionary[TaskQ, list[Broker | None]] = weakref.WeakKeyDictionary()
"""For each app in a test its own broker (None: never used), and above it those in its place."""


@contextmanager
def replaced_broker(app: TaskQ, broker: Broker) -> Iterator[None]:
    """Let the whole process, all its threads, use `broker` for `app`; the latest one counts.

    They may end in any order: what is on top then is in use, and at last the app's own.
    """
    with _lock:
        stack = _aside.setdefault(app, [app._broker])  # noqa: SLF001 (what this module is for)
        stack.append(broker)
        app._broker = broker  # noqa: SLF001
    try:
        yield
    finally:
        with _lock:
            stack.remove(broker)
            app._broker = stack[-1]  # noqa: SLF001
            if len(stack) == 1:
                del _aside[app]
