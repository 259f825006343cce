"""The handle of a job: a future whose other end is in another process.

Invariant: a handle settles once. An end that was seen is remembered, also if somebody
sends the failed job back to its queue later; `status()` always asks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.wait import Waits
from taskq.broker.wait_loop import LoopWaiter
from taskq.broker.watch import aconverse, converse
from taskq.callbacks import CALLBACKS, run_callback
from taskq.errors import JobFailed, JobNotFound, PayloadError, ResultExpired
from taskq.pending import Pending, R_co, Timeout, on_slow, running_loop
from taskq.progress import FIELD as PROGRESS_FIELD
from taskq.progress import Progress, parse_progress
from taskq.questions import MISSING, as_status, ask_states
from taskq.states import ENDED, Status
from taskq.verdict import error_of


class Handle(Pending[R_co]):
    """A job that was enqueued, as the caller sees it. Cheap to make, no network call.

    Waiting blocks no connection of its own: thousands of handles share one. Giving up
    waiting (a time-out, a cancelled asyncio task) never cancels the job; `cancel()` does.

    Attributes:
        id: id of the job.
    """

    __slots__ = ()

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
        loop = running_loop()

        def call() -> None:
            if loop is None:
                CALLBACKS.submit(function, self)
            else:
                loop.call_soon(run_callback, function, self)

        if self._outcome is not None:
            call()
            return

        def sink(_tag: Any, outcome: Outcome) -> None:
            if outcome.kind is not Kind.CLOSED:
                self._settle(outcome)
                call()

        waiter: Waits | LoopWaiter = self._waits if loop is None else self._waits.loop(on_slow)
        waiter.add([(self._target(), self)], sink)

    def _status(self, state: str) -> Status:
        if state != MISSING:
            self._is_known = True
            return as_status(self.id, state)
        outcome = self._outcome
        if outcome is not None and outcome.kind is not Kind.EXPIRED:
            return Status.FINISHED if outcome.kind is Kind.UNKEPT else Status(outcome.kind.value)
        self._was_known()
        raise ResultExpired(str(self._error_of(Outcome(Kind.EXPIRED))))

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
        if isinstance(reply, Exception):
            raise PayloadError(f"What Redis holds for job {self.id} cannot be read: {reply}.")
        if reply == [None, None]:
            self._status(MISSING)
        return parse_progress(reply[0])

    def _cancel_arguments(self) -> tuple[list[str], list[str]]:
        broker = self._app.broker
        return [broker.keys.prefix, broker.keys.own], [self.id, broker.clock.iso()]
