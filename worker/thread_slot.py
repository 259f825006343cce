"""One thread of the thread runner, and the code that it runs under the limits of a job."""

from __future__ import annotations

import ctypes
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from taskq.worker.outcome import ENDED_NOW, Overrun, overran

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context

    from taskq.worker.claim import Claim

_ARRIVAL_S = 0.1
"""An exception that was sent to a running thread and has not come by then was swallowed."""


class Slot:
    """One thread and the job it runs. `lock` orders the end of a job against its time limit."""

    __slots__ = ("abandoned", "claim", "fired", "fired_mono", "lock", "thread")

    def __init__(self) -> None:
        """Of a thread that runs nothing yet."""
        self.lock = threading.Lock()
        self.claim: Claim | None = None
        self.fired = False
        self.fired_mono = 0.0
        self.abandoned = False
        self.thread: threading.Thread | None = None

    def call(
        self, claim: Claim, own: Context, fn: Callable[..., Any],
        args: Sequence[Any] = (), kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[Any, BaseException | None]:  # fmt: skip
        """Call `fn` in the context `own` under the limits of `claim`; returns (value, error)."""
        value: Any = None
        error: BaseException | None = None
        try:
            with self.lock:
                self.fired = False
                self.claim = claim
            value = own.run(fn, *args, **kwargs)
        except BaseException as err:  # noqa: BLE001 (SystemExit in a task ends the job, not the worker)
            error = err
        # From here on the limit may still strike until `claim` is taken from the slot,
        # and what was fired before must have arrived before the next job begins.
        after = False
        while True:
            try:
                with self.lock:
                    self.claim = None
                    fired = self.fired
                if fired and not after and not isinstance(error, Overrun):
                    give_up = time.monotonic() + _ARRIVAL_S
                    while time.monotonic() < give_up:
                        time.sleep(0)
                break
            except Overrun:
                after = True
        if fired and not after:  # else it had ended by itself
            error = overran(claim, error)
        try:
            return value, error
        finally:
            # the frames of a traceback refer to this one: what a failed job held would stay
            del claim, value, error, own, fn, args, kwargs

    def strike(self, claim: Claim, now: float) -> None:
        """Raise `Overrun` in the code of `claim`, once, if it is to end and has not."""
        with self.lock:
            if self.claim is not claim or self.fired or self.thread is None:
                return
            if not is_due(claim, now):  # what runs by now has a limit of its own
                return
            self.fired, self.fired_mono = True, now
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self.thread.ident or 0), ctypes.py_object(Overrun)
            )


def is_due(claim: Claim, now: float) -> bool:
    """Whether the code of a job is to end: its time is over, or a command says so."""
    over = claim.deadline and now - claim.begun_mono > claim.deadline
    return bool(over) or claim.why in ENDED_NOW
