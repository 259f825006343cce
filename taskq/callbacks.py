"""The thread that runs the callbacks of finished jobs in plain programs.

A thread apart from the one that waits for results: a callback may block, or wait for
another job, without holding up those who wait.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

logger = logging.getLogger("taskq.handle")

_IDLE_S = 10.0


class Callbacks:
    """Runs calls one after the other in a daemon thread, which ends when idle."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child: what was to be called belongs to the parent."""
        self._calls: SimpleQueue[tuple[Callable[[Any], Any], Any]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Call `function(argument)` soon, in the thread."""
        with self._lock:
            self._calls.put((function, argument))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._main, name="taskq-callbacks", daemon=True
                )
                self._thread.start()

    def drain(self, limit_s: float) -> None:
        """Wait until what was submitted so far has been called; not from a callback itself."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        reached = threading.Event()
        self.submit(lambda _: reached.set(), None)
        reached.wait(limit_s)

    def _main(self) -> None:
        while True:
            try:
                function, argument = self._calls.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if self._calls.empty():
                        self._thread = None
                        return
                continue
            run_callback(function, argument)


def run_callback(function: Callable[[Any], Any], argument: Any) -> None:
    """Call it; an error is logged, for nobody is there to take it."""
    try:
        function(argument)
    except Exception:
        logger.exception("Callback %r of %r failed", function, argument)


CALLBACKS = Callbacks()
"""Of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CALLBACKS.reset)
