"""The handle of a job: a future whose other end is in another process.

Invariant: a handle settles once. An end that was seen is remembered, also if somebody
sends the failed job back to its queue later; `status()` always asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, Generic, TypeVar

from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.wait import Waits
from taskq.broker.wait_loop import LoopWaiter
from taskq.broker.watch import Target, aconverse, converse
from taskq.callbacks import CALLBACKS, run_callback
from taskq.errors import (
    BrokerUnavailable,
    JobFailed,
    JobNotFound,
    ResultTimeout,
    TaskQError,
)
from taskq.patience import Picture, paint, sentence
from taskq.progress import FIELD as PROGRESS_FIELD
from taskq.progress import Progress, parse_progress
from taskq.questions import MISSING, as_status, ask_states
from taskq.states import ENDED, Status
from taskq.verdict import FINAL, error_of, value_of

logger = logging.getLogger("taskq.handle")

R_co = TypeVar("R_co", covariant=True)
Timeout = float | timedelta | None

_FRESH_S = 1.0
"""So long after the enqueue a first look at the status is not worth its round trip."""
_NOT_DECODED: Any = object()


class Handle(Generic[R_co]):
    """A job that was enqueued, as the caller sees it. Cheap to make, no network call.

    Waiting blocks no connection of its own: thousands of handles share one. Giving up
    waiting (a time-out, a cancelled asyncio task) never cancels the job; `cancel()` does.

    Attributes:
        id: id of the job.
    """

    __slots__ = (
        "__weakref__", "_app", "_created", "_is_known", "_outcome", "_sent_at", "_task", "_value",
        "id",
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
        self._value: Any = _NOT_DECODED

    def __repr__(self) -> str:
        name = f" of {self._task.name}" if self._task is not None else ""
        state = f" {self._outcome.kind.value}" if self._outcome is not None else ""
        return f"<Handle {self.id}{name}{state}>"

    @property
    def created(self) -> bool:
        """False where `unique` found an unfinished job and this is that one's handle."""
        return self._created is not False

    # -- the state -----------------------------------------------------------------------

    def status(self) -> Status:
        """Ask for the job's status. One round trip.

        Raises:
            JobNotFound: Redis knows no such job, or (`ResultExpired`) no longer.
            BrokerUnavailable: Redis did not answer.
        """
        broker = self._app.broker
        return self._status(converse(ask_states(broker.keys, [self.id]), broker.pipe)[0])

    async def astatus(self) -> Status:
        """`status` for asyncio programs."""
        broker = self._app.broker
        return self._status((await aconverse(ask_states(broker.keys, [self.id]), broker.apipe))[0])

    def done(self) -> bool:
        """Whether the job has ended, with or without a result. One round trip at most.

        Raises:
            JobNotFound: Redis knows no such job.
            BrokerUnavailable: Redis did not answer.
        """
        return self._outcome is not None or self._is_over(self.status)

    async def adone(self) -> bool:
        """`done` for asyncio programs."""
        if self._outcome is not None:
            return True
        try:
            return await self.astatus() in ENDED
        except JobNotFound:
            return self._was_known()

    def progress(self) -> Progress | None:
        """What the job reported last, or None. One round trip.

        Raises:
            JobNotFound: Redis knows no such job, or no longer.
            BrokerUnavailable: Redis did not answer.
        """
        return self._progress(self._app.broker.pipe([self._progress_command()])[0])

    async def aprogress(self) -> Progress | None:
        """`progress` for asyncio programs."""
        return self._progress((await self._app.broker.apipe([self._progress_command()]))[0])

    def cancel(self) -> bool:
        """Take the job out of its queue, or ask it to stop if it runs. Idempotent.

        Returns:
            True if it will not run, or was asked to stop; False if it had ended.

        Raises:
            JobNotFound: Redis knows no such job.
            BrokerUnavailable: Redis did not answer.
        """
        broker = self._app.broker
        answer = broker.script("cancel", *self._cancel_arguments())
        return answer > 0 or (answer < 0 and not self._is_over(self.status))

    async def acancel(self) -> bool:
        """`cancel` for asyncio programs."""
        answer = await self._app.broker.ascript("cancel", *self._cancel_arguments())
        return answer > 0 or (answer < 0 and not await self.adone())

    # -- the result ----------------------------------------------------------------------

    def result(self, timeout: Timeout = None) -> R_co:
        """Wait for the end of the job and return its result. Blocks.

        Survives lost connections to Redis. An untimed wait logs after five seconds what it
        waits for.

        Args:
            timeout: seconds, or a `timedelta`; 0 looks once; None waits for ever.

        Raises:
            JobFailed: the job failed (`TaskTimeout`: it ran longer than its limit).
            JobCanceled: it was canceled or stopped.
            ResultTimeout: the time is over; the job goes on.
            ResultExpired: it ended, and its result is not kept.
            JobNotFound: Redis knows no such job.
            PayloadError: the result cannot be decoded.
            TaskQError: called in a running event loop, which it would block.
        """
        return self._value_of(self._wait(timeout, "result()"))

    async def aresult(self, timeout: Timeout = None) -> R_co:
        """`result` for asyncio programs; `await handle` is the same without a time limit."""
        return self._value_of(await self._await(timeout))

    def __await__(self) -> Generator[Any, None, R_co]:
        """Wait for the result in an asyncio program."""
        return self.aresult().__await__()

    def exception(self, timeout: Timeout = None) -> JobFailed | None:
        """Wait for the end of the job and return its failure, or None if it finished. Blocks.

        Raises:
            JobCanceled: it was canceled or stopped.
            ResultTimeout: the time is over; the job goes on.
            ResultExpired: it ended, and its result is not kept.
            JobNotFound: Redis knows no such job.
        """
        return self._failure_of(self._wait(timeout, "exception()"))

    async def aexception(self, timeout: Timeout = None) -> JobFailed | None:
        """`exception` for asyncio programs."""
        return self._failure_of(await self._await(timeout))

    def add_done_callback(self, function: Callable[[Handle[R_co]], Any]) -> None:
        """Call `function(handle)` once the job has ended, or is found not to exist.

        Called in a running event loop: in that loop. Else in a thread of taskq's, one
        callback after the other. Errors of the callback are logged. It is not called if
        this process ends first, nor in a forked child.
        """
        loop = _running_loop()
        if loop is None:
            call: Callable[[Any, Any], None] = CALLBACKS.submit
        else:
            run = loop.call_soon

            def call(function: Any, handle: Any) -> None:
                run(run_callback, function, handle)

        if self._outcome is not None:
            call(function, self)
            return

        def sink(_tag: Any, outcome: Outcome) -> None:
            if outcome.kind is not Kind.CLOSED:
                self._settle(outcome)
                call(function, self)

        waiter: Waits | LoopWaiter = self._waits if loop is None else self._waits.loop(on_slow)
        waiter.add([(self._target(), self)], sink)

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
        return outcome

    def _wait(self, timeout: Timeout, method: str) -> Outcome:
        if self._outcome is not None:
            return self._outcome
        refuse_in_loop(f"{method} of {self._label()}", "await handle (or its a... twin)")
        seconds = seconds_of(timeout)
        outcome = self._waits.one(self._target(), seconds, self._tell_slow)
        if outcome is None:
            raise self._timeout_error(seconds or 0.0)
        return self._settle(outcome)

    async def _await(self, timeout: Timeout) -> Outcome:
        if self._outcome is not None:
            return self._outcome
        seconds = seconds_of(timeout)
        outcome = await self._waits.loop(on_slow).one(self._target(), seconds, self)
        if outcome is None:
            raise await self._atimeout_error(seconds or 0.0)
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
        error = self._error_of(outcome)
        if error is None or isinstance(error, JobFailed):
            return error
        raise error

    def _status(self, state: str) -> Status:
        if state != MISSING:
            self._is_known = True
            return as_status(self.id, state)
        outcome = self._outcome
        if outcome is not None and outcome.kind is not Kind.EXPIRED:
            return Status.FINISHED if outcome.kind is Kind.UNKEPT else Status(outcome.kind.value)
        kind = Kind.EXPIRED if self._was_known() else Kind.UNKNOWN
        error = self._error_of(Outcome(kind))
        assert error is not None
        raise error

    def _was_known(self) -> bool:
        """Whether the job is over, now that Redis does not know it.

        Raises:
            JobNotFound: it never was.
        """
        if not self._is_known:
            raise JobNotFound(str(error_of(Outcome(Kind.UNKNOWN), self.id)))
        return True

    def _is_over(self, status: Callable[[], Status]) -> bool:
        try:
            return status() in ENDED
        except JobNotFound:
            return self._was_known()

    def _progress_command(self) -> tuple[Any, ...]:
        return ("HMGET", self._app.broker.keys.job(self.id), PROGRESS_FIELD, "status")

    def _progress(self, reply: Any) -> Progress | None:
        if isinstance(reply, Exception) or reply == [None, None]:
            self._status(MISSING)
            return None
        return parse_progress(reply[0])

    def _cancel_arguments(self) -> tuple[list[str], list[str]]:
        broker = self._app.broker
        return [broker.keys.prefix, broker.keys.own], [self.id, broker.clock.iso()]

    # -- why it takes so long ------------------------------------------------------------

    def _label(self) -> str:
        if self._task is None:
            return f"job {self.id}"
        return f"{self._task.name.rpartition('.')[2]} {self.id}"

    def _sentence(self, waited_s: float, picture: Picture | None) -> str:
        return sentence(self._label(), waited_s, picture, getattr(self._app, "name", "") or "APP")

    def _timeout_error(self, waited_s: float, others: int = 0) -> ResultTimeout:
        return ResultTimeout(self._sentence(waited_s, self._picture()) + _and_others(others))

    async def _atimeout_error(self, waited_s: float, others: int = 0) -> ResultTimeout:
        picture = await self._apicture()
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


_TELLING: set[asyncio.Task[None]] = set()
"""Tasks that look up why a job takes long; the loop itself keeps only weak references."""


def on_slow(handle: Handle[Any], others: int) -> None:
    task = asyncio.get_running_loop().create_task(handle._atell_slow(others))  # noqa: SLF001
    _TELLING.add(task)
    task.add_done_callback(_TELLING.discard)


def _and_others(count: int) -> str:
    return f" ({count} more are waited for.)" if count else ""


def seconds_of(timeout: Timeout) -> float | None:
    """A time-out in seconds.

    Raises:
        TypeError: it is neither a number nor a timedelta.
    """
    if timeout is None or isinstance(timeout, (int, float)):
        return timeout
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    raise TypeError(f"timeout={timeout!r}: must be seconds, a timedelta, or None.")


def refuse_in_loop(what: str, instead: str) -> None:
    """Refuse to block a running event loop.

    Raises:
        TaskQError: one is running in this thread.
    """
    if _running_loop() is not None:
        raise TaskQError(
            f"{what} would block the running event loop. Use {instead}. The job goes on."
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
