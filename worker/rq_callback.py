"""The time limit of RQ's callbacks, which run in threads.

RQ's own class for threads writes its message into RQ's exception class, for all
time limits of the process, and may strike after the callback has ended.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import threading
import time
from types import TracebackType
from typing import Any, Literal

from rq.timeouts import BaseDeathPenalty, JobTimeoutException

_ARRIVE_S = 1.0


class _Clock:
    """One thread for all limits: a timer of its own for each cost more than most callbacks."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._limits: list[tuple[float, int, CallbackLimit]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def add(self, limit: CallbackLimit, due: float) -> None:
        """Strike `limit` at `due` (monotonic), unless it is over by then."""
        with self._change:
            self._forget()
            heapq.heappush(self._limits, (due, next(self._numbers), limit))
            if self._thread is None or not self._thread.is_alive():  # also after a fork
                self._thread = threading.Thread(
                    target=self._run, name="taskq-rq-limits", daemon=True
                )
                self._thread.start()
            elif self._limits[0][2] is limit:
                self._change.notify()

    def _forget(self) -> None:
        while self._limits and self._limits[0][2].is_over:
            heapq.heappop(self._limits)

    def _run(self) -> None:
        while True:
            with self._change:
                self._forget()
                pause = self._limits[0][0] - time.monotonic() if self._limits else None
                if pause is None or pause > 0:
                    self._change.wait(pause)
                    continue
                _due, _number, limit = heapq.heappop(self._limits)
            limit.strike()


_clock = _Clock()


class CallbackLimit(BaseDeathPenalty):
    """Raises RQ's `JobTimeoutException` in this thread when the time is over."""

    def __init__(
        self, timeout: float, exception: type[Exception] = JobTimeoutException, **_more: Any
    ) -> None:
        """Limit what runs inside the `with` to `timeout` seconds; 0 or less: no limit."""
        text = f"Task exceeded maximum timeout value ({timeout} seconds)"

        class Struck(exception):  # type: ignore[valid-type,misc]
            def __init__(self, *_args: object) -> None:
                super().__init__(text)

        Struck.__module__, Struck.__qualname__ = exception.__module__, exception.__qualname__
        Struck.__name__ = exception.__name__
        super().__init__(timeout, Struck)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        self.is_over = self._fired = False
        self._thread = threading.get_ident()

    def setup_death_penalty(self) -> None:
        """Start the clock."""
        if self._timeout > 0:
            _clock.add(self, time.monotonic() + self._timeout)

    def strike(self) -> None:
        """Raise it in the thread, if what it limits has not ended."""
        with self._lock:
            if not self.is_over:
                self._fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(self._exception)
                )

    def __exit__(
        self,
        type: type[BaseException] | None,  # noqa: A002 (as in RQ)
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        """Stop the clock. What was fired arrives here, not in what the thread does next."""
        arrived = type is self._exception
        try:
            with self._lock:
                self.is_over = True
            give_up = time.monotonic() + _ARRIVE_S
            while self._fired and not arrived and time.monotonic() < give_up:
                time.sleep(0)
        except self._exception:
            pass
        return False
