"""The time limit of RQ's callbacks, which run in threads.

RQ's own class for threads writes its message into RQ's exception class, for all
time limits of the process, and may strike after the callback has ended.
"""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType
from typing import Any, Literal

from rq.timeouts import BaseDeathPenalty, JobTimeoutException

_ARRIVE_S = 1.0


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
        self._over = self._fired = False
        self._thread = threading.get_ident()
        self._timer: threading.Timer | None = None

    def setup_death_penalty(self) -> None:
        """Start the clock."""
        if self._timeout > 0:
            self._timer = threading.Timer(self._timeout, self._strike)
            self._timer.daemon = True
            self._timer.start()

    def _strike(self) -> None:
        with self._lock:
            if not self._over:
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
                self._over = True
            if self._timer is not None:
                self._timer.cancel()
            give_up = time.monotonic() + _ARRIVE_S
            while self._fired and not arrived and time.monotonic() < give_up:
                time.sleep(0)
        except self._exception:
            pass
        return False
