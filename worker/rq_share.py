"""How much of a worker's time the RQ lane takes while other jobs wait.

RQ's own code needs as much of the interpreter for the end of one job as thirty plain jobs
need in all. So while there are those, the lane waits between two ends, as long as it takes
for its part to stay small; and what it has not come to is kept, in its order, until there is
time, or until it is so much that everybody has to wait for it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SHARE = 0.08
"""Of the time, not counting what Redis does for it."""
HOOKS_SHARE = 0.04
"""The same for webhooks, not counting what the system and the other side do."""
MOST_WAITING = 2_000
"""Ended jobs that wait for the lane: with more, nothing is reserved. A crash runs them again."""
MOST_HOOKS = 10_000
"""Jobs whose webhooks wait to be sent: with more, the same. About 2 kB each."""
_FIRST_S = 0.0005
_LOOK_S = 0.02


class Share:
    """Keeps the time that the lane's threads have used. Thread-safe."""

    def __init__(self, is_busy: Callable[[], bool], most: int, least: float = SHARE) -> None:
        """Nothing is used.

        Args:
            is_busy: whether there are jobs for all the time there is.
            most: what may wait: from three quarters of it on the part grows, at last it is all.
            least: the part before that.
        """
        self._is_busy = is_busy
        self._most = most
        self._least = least
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._next = 0.0
        self._each_s = _FIRST_S

    def take_turn(self, waiting: int) -> float:
        """Wait until the next end is due, and return its beginning, for `used`.

        Args:
            waiting: ends that wait for the lane: the more, the larger its part.
        """
        with self._turn:  # one thread waits by the clock, the others for it
            while True:
                with self._lock:
                    now = time.monotonic()
                    pause = self._next - now
                    if pause <= 0 or not self._is_busy():
                        # what was not used is not saved up, and is no debt
                        self._next = now + self._each_s / share(waiting, self._most, self._least)
                        return time.thread_time()
                time.sleep(min(pause, _LOOK_S))

    def used(self, began: float) -> None:
        """An end is done that `take_turn` allowed."""
        seconds = time.thread_time() - began
        with self._lock:
            self._each_s += (seconds - self._each_s) / 8


def share(waiting: int, most: int, least: float = SHARE) -> float:
    """The lane's part of the time: larger from three quarters of `most` on, at last all of it."""
    over = max(0.0, 4.0 * waiting / most - 3.0)
    return min(1.0, least + (1.0 - least) * over)
