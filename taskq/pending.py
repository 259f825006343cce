"""A job whose end is awaited: what `Handle` is made of, and what `wait` and batches share.

Invariant: it settles once. An end that was seen is remembered, also if somebody sends the
failed job back to its queue later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from typing import Any, Generic, TypeVar

from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.wait import Waits
from taskq.broker.watch import Target
from taskq.errors import BrokerUnavailable, JobFailed, ResultTimeout, TaskQError
from taskq.patience import Picture, paint, sentence
from taskq.states import Status
from taskq.verdict import FINAL, error_of, value_of

logger = logging.getLogger("taskq.handle")

R_co = TypeVar("R_co", covariant=True)
Timeout = float | timedelta | None

_FRESH_S = 1.0
"""So long after the enqueue a first look at the status is not worth its round trip."""
_NOT_DECODED: Any = object()


class Pending(Generic[R_co]):
    """A job, its app, and its end once that is known. The public face is `Handle`.

    Attributes:
        id: id of the job.
    """

    __slots__ = (
        "__weakref__", "_app", "_created", "_is_known", "_last", "_outcome", "_sent_at", "_task",
        "_value", "id",
    )  # fmt: skip

    def __init__(
        self, app: Any, job_id: str, task: Any = None, created: bool | None = None
    ) -> None:
        """Make the handle of a job.

        Args:
            app: the `TaskQ`: its broker and codec are used.
            job_id: id of the job.
            task: its task, where that is known: names it in messages, rebuilds its result.
            created: True: enqueued just now; False: `unique` gave the first job instead;
                None: nothing is known but the id.
        """
        self.id = job_id
        self._app = app
        self._task = task
        self._created = created
        self._is_known = created is not None
        self._sent_at = time.monotonic() if created else 0.0
        self._outcome: Outcome | None = None
        self._last: Outcome | None = None  # the same, or an end that may not be final
        self._value: Any = _NOT_DECODED

    # -- shared by all ways of waiting ---------------------------------------------------

    @property
    def _waits(self) -> Waits:
        waits: Waits = self._app.broker.waits
        return waits

    def _target(self) -> Target:
        is_fresh = self._created is True and time.monotonic() - self._sent_at < _FRESH_S
        return Target(self.id, is_fresh, self._is_known)

    def _settle(self, outcome: Outcome) -> Outcome:
        """Remember how the job ended, if that is final."""
        if outcome.kind in FINAL:
            self._outcome = outcome
        self._last = outcome
        return outcome

    def _wait(self, timeout: Timeout, method: str) -> Outcome:
        if self._outcome is not None:
            return self._outcome
        if self._last is not None and running_loop() is not None:
            return self._last  # `as_completed` gave this handle: it has come, and is no job
        refuse_in_loop(f"{method} of {self._label()}", "await handle (or its a... twin)")
        seconds = seconds_of(timeout)
        outcome = self._waits.one(self._target(), seconds, self._tell_slow)
        if outcome.kind is Kind.LATE:
            picture = None if outcome.note else self._picture()
            raise self._late(seconds or 0.0, picture, 0)
        return self._settle(outcome)

    async def _await(self, timeout: Timeout) -> Outcome:
        if self._outcome is not None:
            return self._outcome
        seconds = seconds_of(timeout)
        outcome = await self._waits.loop(on_slow).one(self._target(), seconds, self)
        if outcome.kind is Kind.LATE:
            picture = None if outcome.note else await self._apicture()
            raise self._late(seconds or 0.0, picture, 0)
        return self._settle(outcome)

    def _error_of(self, outcome: Outcome) -> TaskQError | None:
        opts = getattr(self._task, "opts", None)
        return error_of(outcome, self.id, getattr(opts, "result_ttl", None))

    def _value_of(self, outcome: Outcome) -> R_co:
        if self._value is _NOT_DECODED:
            error = self._error_of(outcome)
            if error is not None:
                raise error
            rebuild = getattr(self._task, "rebuild_result", None)
            self._value = value_of(outcome, self.id, self._app.codec, rebuild)
        value: R_co = self._value
        return value

    def _failure_of(self, outcome: Outcome) -> JobFailed | None:
        if outcome.kind is Kind.UNKEPT:
            return None  # it finished; only its result is not kept
        error = self._error_of(outcome)
        if error is None or isinstance(error, JobFailed):
            return error
        raise error

    # -- why it takes so long ------------------------------------------------------------

    def _label(self) -> str:
        if self._task is None:
            return f"job {self.id}"
        return f"{self._task.name.rpartition('.')[2]} {self.id}"

    def _sentence(self, waited_s: float, picture: Picture | None) -> str:
        return sentence(self._label(), waited_s, picture, getattr(self._app, "name", "") or "APP")

    def _timeout_error(self, waited_s: float, others: int) -> ResultTimeout:
        return self._late(waited_s, self._picture(), others)

    async def _atimeout_error(self, waited_s: float, others: int) -> ResultTimeout:
        return self._late(waited_s, await self._apicture(), others)

    def _late(self, waited_s: float, picture: Picture | None, others: int) -> ResultTimeout:
        if picture is not None and picture.status:
            self._is_known = True
        return ResultTimeout(self._sentence(waited_s, picture) + _and_others(others))

    def _tell_slow(self, others: int = 0) -> None:
        self._log_slow(self._picture(), others)

    async def _atell_slow(self, others: int) -> None:
        self._log_slow(await self._apicture(), others)

    def _log_slow(self, picture: Picture | None, others: int) -> None:
        runs = picture is not None and picture.status == Status.STARTED
        level = logging.INFO if runs else logging.WARNING
        logger.log(level, "%s%s", self._sentence(5.0, picture), _and_others(others))

    def _picture(self) -> Picture | None:
        try:
            return self._waits.converse(paint(self._app.broker.keys, self.id))
        except BrokerUnavailable:
            return None

    async def _apicture(self) -> Picture | None:
        try:
            waiter = self._waits.loop(on_slow)
            return await waiter.converse(paint(self._app.broker.keys, self.id), 0.5)
        except BrokerUnavailable:
            return None


async def _tell(handle: Pending[Any], others: int) -> None:
    await handle._atell_slow(others)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


_TELLING: set[asyncio.Task[None]] = set()
"""Tasks that look up why a job takes long; the loop itself keeps only weak references."""


def on_slow(handle: Pending[Any], others: int) -> None:
    """Log, from the event loop's waiter, why a job takes long."""
    task = asyncio.get_running_loop().create_task(_tell(handle, others))
    _TELLING.add(task)
    task.add_done_callback(_TELLING.discard)


def _and_others(count: int) -> str:
    return f" ({count} more are waited for.)" if count else ""


def seconds_of(timeout: Any) -> float | None:
    """A time-out in seconds.

    Raises:
        TypeError: it is neither a number nor a timedelta.
    """
    if timeout is None:
        return None
    if isinstance(timeout, (int, float)):
        return float(timeout)
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    raise TypeError(f"timeout={timeout!r}: must be seconds, a timedelta, or None.")


def refuse_in_loop(what: str, instead: str) -> None:
    """Refuse to block a running event loop.

    Raises:
        TaskQError: one is running in this thread.
    """
    if running_loop() is not None:
        raise TaskQError(
            f"{what} would block the running event loop. Use {instead}. The job goes on."
        )


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
