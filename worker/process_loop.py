"""A job process runs the jobs of `process` tasks, one after the other, for one worker process.

It reads a job's bytes, runs its code, and writes the bytes of its result. It never talks to
Redis, unless the code does.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq import context
from taskq.errors import UnknownTask
from taskq.retry import RetryLater
from taskq.worker import process_wire as wire
from taskq.worker.loading import resident_mb
from taskq.worker.outcome import (
    Overrun,
    TimeLimit,
    describe,
    names_of,
    overran,
    result_text,
)
from taskq.worker.process_ahead import Turns
from taskq.worker.reported import Reported
from taskq.worker.resolve import Resolver
from taskq.worker.settings import EXIT_OK

if TYPE_CHECKING:
    from types import FrameType

    from taskq.app import TaskQ
    from taskq.worker.claim import Claim
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.worker")

PROGRESS_S = 0.1
_MEMORY_S = 0.5
"""Resident memory is looked at after a job, at most so often."""


class Lines(NamedTuple):
    """What connects a job process with its worker process.

    Attributes:
        reports: go out here.
        orders: come in here.
        control: cancellations come in; it closes when the worker process is gone.
        turns: says which orders still hold.
    """

    reports: socket.socket
    orders: wire.Orders
    control: socket.socket
    turns: Turns


class JobProcess:
    """The loop of a job process."""

    def __init__(self, app: TaskQ, settings: WorkerSettings, worker: str, lines: Lines) -> None:
        """Nothing runs yet.

        Args:
            app: loaded app.
            settings: of the worker; they say when to make room for a fresh process.
            worker: name of the worker process.
            lines: to that one.
        """
        self._app = app
        self._settings = settings
        self._worker = worker
        self._socket = lines.reports
        self._orders = lines.orders
        self._control = lines.control
        self._turns = lines.turns
        self._resolver = Resolver(app, rq=settings.rq, report=self._progress)
        self._lock = threading.Lock()
        self._in_task = self._was_struck = False
        self._claim: Claim | None = None
        self._count = 0
        self._is_over = False
        self._looked = 0.0
        self._told = 0.0
        self._progress_body = b""
        self._timer: threading.Timer | None = None

    def serve(self) -> None:
        """Run jobs until the worker process wants no more."""
        signal.signal(wire.STRIKE, self._struck)
        threading.Thread(target=self._watch, name="taskq-control", daemon=True).start()
        self._tell(wire.READY)
        while True:
            try:
                order = self._orders.next()
            except ConnectionResetError:
                return
            if order is None:
                return
            number, text = order
            if not self._is_over and self._turns.has(number):
                contextvars.copy_context().run(self._job, text)
            del order, text

    def _job(self, order: bytes) -> None:
        """One job, in a context of its own."""
        claim = wire.read_order(order, time.monotonic())
        kind, body = self._carry_out(claim)
        with self._lock:
            self._claim = None
            self._progress_body = b""
            self._is_over = self._is_last()
            self._socket.sendall(wire.pack_report(kind, body, last=self._is_over))

    def _carry_out(self, claim: Claim) -> tuple[int, bytes]:
        """What became of the job."""
        try:
            self._resolver.prepare(claim)
        except UnknownTask as err:
            return wire.UNKNOWN, str(err).encode()
        except Exception as err:  # noqa: BLE001 (whatever bytes do, the process goes on)
            return wire.RAISED, _described(claim, err).pack()
        claim.begin()
        if "rq.job" in sys.modules:  # else no code can ask RQ for the current job
            from taskq.worker import rq_current  # noqa: PLC0415 (RQ is there anyway)

            rq_current.enter(claim, self._app, self._worker)
        context.enter(claim)
        self._claim = claim
        value, error = self._call(claim)
        try:
            if error is None:
                try:
                    return self._returned(claim, value)
                except BaseException as err:  # noqa: BLE001 (what cannot be stored fails the job)
                    error = err
            if isinstance(error, RetryLater):
                return wire.AGAIN, json.dumps({"later": error.seconds}).encode()
            return wire.RAISED, _described(claim, error).pack()
        finally:
            # the frames of a traceback refer to this one: what a failed job held would stay
            del claim, value, error

    def _call(self, claim: Claim) -> tuple[Any, BaseException | None]:
        value: Any = None
        error: BaseException | None = None
        assert claim.fn is not None
        self._was_struck = False
        try:
            try:
                if context.thread_hooks:
                    context.run_hooks()
                self._in_task = True
                value = claim.fn(*claim.args, **claim.kwargs)
                if claim.mode == "asyncio":  # any importable function, with --rq
                    import asyncio  # noqa: PLC0415 (rare)

                    value = asyncio.run(value)
            finally:
                self._in_task = False
        except BaseException as err:  # noqa: BLE001 (SystemExit in a task ends the job, not the process)
            error = err
        if self._was_struck:
            return None, overran(claim, error)
        return value, error

    def _returned(self, claim: Claim, value: Any) -> tuple[int, bytes]:
        """The report of a job that returned.

        Raises:
            NotSerializable, PayloadTooLarge: its result cannot be stored.
        """
        if value is None:
            return wire.FINISHED, b""
        if type(value).__name__ == "Retry" and type(value).__module__ == "rq.job":
            asked = {
                "max": value.max,
                "intervals": value.intervals,
                "at_front": value.enqueue_at_front,
            }
            return wire.AGAIN, json.dumps(asked).encode()
        if claim.result_ttl_s == 0 and not (claim.special or claim.tells):  # nobody will look
            return wire.FINISHED, b""
        return wire.FINISHED, result_text(claim, value, self._app)

    def _is_last(self) -> bool:
        """Whether to make room for a fresh process: jobs and memory have limits."""
        self._count += 1
        settings = self._settings
        if settings.pool_max_jobs is not None and self._count >= settings.pool_max_jobs:
            return True
        now = time.monotonic()
        if settings.max_memory_mb is None or now - self._looked < _MEMORY_S:
            return False
        self._looked = now
        used = resident_mb()
        if used <= settings.max_memory_mb:
            return False
        log.warning("A job process uses %d MB, over the limit of %d MB: makes room for a fresh one",
                    used, settings.max_memory_mb)  # fmt: skip
        return True

    # -- while a job runs ----------------------------------------------------------------

    def _struck(self, _number: int, _frame: FrameType | None) -> None:
        """The time limit. Signals are handled in the main thread, which runs the job."""
        if self._in_task:
            self._was_struck = True
            raise Overrun

    def _watch(self) -> None:
        """Take what comes over the control socket. In a thread: a job may run for hours."""
        text = b""
        while True:
            try:
                data = self._control.recv(4096)
            except OSError:
                data = b""
            if not data:
                os._exit(EXIT_OK)  # the worker process is gone, and its jobs run elsewhere
            *lines, text = (text + data).split(b"\n")
            for line in lines:
                claim = self._claim
                if claim is not None and line == wire.CANCEL + claim.id.encode():
                    claim.context.cancel_requested = True

    def _progress(self, job_id: str, done: float, total: float | None, note: str) -> None:
        """Pass on a job's progress, from any thread: a few times a second, always the latest."""
        body = json.dumps([done, total, str(note)[:200]], default=float).encode()
        with self._lock:
            claim = self._claim
            if claim is None or claim.context.id != job_id:
                return  # a thread that the job left behind
            self._progress_body = body
            wait_s = self._told + PROGRESS_S - time.monotonic()
            if wait_s <= 0:
                self._pass_on()
            elif self._timer is None:
                self._timer = threading.Timer(wait_s, self._later)
                self._timer.daemon = True
                self._timer.start()

    def _later(self) -> None:
        with self._lock:
            self._timer = None
            if self._progress_body:
                self._pass_on()

    def _pass_on(self) -> None:
        body, self._progress_body = self._progress_body, b""
        self._told = time.monotonic()
        with suppress(OSError):
            self._socket.sendall(wire.pack_report(wire.PROGRESS, body))

    def _tell(self, kind: int) -> None:
        with self._lock, suppress(OSError):
            self._socket.sendall(wire.pack_report(kind, b""))


def _described(claim: Claim, error: BaseException) -> Reported:
    """An exception as bytes and names: the objects stay here."""
    over = isinstance(error, TimeLimit)
    try:
        text, told = describe(claim, error)
        return Reported(json.loads(told)[1], names_of(error), text, told, over_limit=over)
    except Exception as broken:  # noqa: BLE001 (hostile exceptions: it fails plainly)
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        message = f"(what happened cannot be told: {type(broken).__name__})"
        return Reported(message, [name], b"", json.dumps([name, message, claim.attempt]))
