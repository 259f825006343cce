"""A time limit on a call in the calling thread: the same means as in a worker's threads."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from taskq.worker.outcome import Overrun

_ARRIVAL_S = 0.1
"""What was sent to a running thread and has not come by then was swallowed."""


class Ended(NamedTuple):
    """How a call ended.

    Attributes:
        value: what it returned.
        error: what it raised, or None.
        was_struck: whether its time was over before it ended, whatever it made of that.
    """

    value: Any
    error: BaseException | None
    was_struck: bool


def call_limited(
    limit_s: float, fn: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
) -> Ended:
    """Call `fn`; after `limit_s` seconds (0: never) `Overrun` is raised in it.

    Code that holds the thread (C code, `time.sleep`) gets it when it comes back.
    """
    strike = _Strike()
    timer = threading.Timer(limit_s, strike.now) if limit_s else None
    value: Any = None
    error: BaseException | None = None
    try:
        if timer is not None:
            timer.daemon = True
            timer.start()
        value = fn(*args, **kwargs)
    except BaseException as err:  # noqa: BLE001 (the worker's rule: whatever it raises ends the job)
        own = err.__traceback__
        error = err.with_traceback(own.tb_next if own is not None and own.tb_next else own)
    was_struck = strike.settle(has_arrived=isinstance(error, Overrun))
    if timer is not None:
        timer.cancel()
    return Ended(value, error, was_struck)


class _Strike:
    """Raises `Overrun` in the thread that made it, once, unless that is settled before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ident = threading.get_ident()
        self._is_settled = self._has_fired = False

    def now(self) -> None:
        with self._lock:
            if not self._is_settled:
                self._has_fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._ident), ctypes.py_object(Overrun)
                )

    def settle(self, *, has_arrived: bool) -> bool:
        """Nothing strikes after this, and what was fired has arrived.

        Returns:
            Whether it struck before the call had ended.
        """
        after = False
        while True:
            try:
                with self._lock:
                    self._is_settled = True
                if self._has_fired and not has_arrived and not after:
                    give_up = time.monotonic() + _ARRIVAL_S
                    while time.monotonic() < give_up:
                        time.sleep(0)
                break
            except Overrun:
                after = True
        return self._has_fired and not after
