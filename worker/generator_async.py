"""Runs an async generator to its end, on the event loop: the body of its asyncio task.

The async runner holds it to its time limit and cancels it as any coroutine.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from taskq.commands import Command, Receive, driver
from taskq.errors import TaskQError

if TYPE_CHECKING:
    from taskq.worker.generator_run import Run
    from taskq.worker.mail import Mail
    from taskq.worker.yields import Yields


class AsyncDriver:
    """Drives one async generator, and obeys what it awaits: `receive()`, a step."""

    def __init__(self, run: Run, yields: Yields, mail: Mail, make: Any) -> None:
        """Nothing runs yet.

        Args:
            run: its state.
            yields: takes what it yields.
            mail: brings what is sent.
            make: called with the job's arguments, gives the generator.
        """
        self._state = run
        self._yields = yields
        self._mail = mail
        self._make = make
        self._bell: asyncio.Future[None] | None = None

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run it to its end; what it yielded is in Redis then."""
        run = self._state
        run.host = self
        driver.set(self)
        if run.journal is None:
            self._mail.add(run)
        error: BaseException | None = None
        try:
            if run.journal is not None and run.steps is not None:
                run.context = copy_context()  # that of its steps
                await run.steps.records.load(run)
            await self._drive(self._make(*args, **kwargs))
            if run.journal is not None and (wrong := run.journal.check_end()) is not None:
                raise wrong
        except BaseException as err:
            error = err
            raise
        finally:
            self._mail.remove(run)
            if run.steps is not None:
                run.is_over = True
                run.steps.abort(run, strike=run.claim.why != "cancel")
            claim = run.claim
            if claim.why == "shutdown" or run.lost:
                self._yields.forget(run)
            else:
                if error is None:  # from now on it is Redis that takes time
                    claim.deadline = 0.0
                    if claim.timer is not None:
                        claim.timer.cancel()
                await self._flushed(claim.why != "cancel" and run.may_run_again(error))
            run.host = None
            claim.fn = self._make  # no circle is left for the garbage collector
            del error  # its frames refer to this one

    async def _drive(self, generator: Any) -> None:
        run, put, mark = self._state, self._state.put, self._yields.mark
        try:
            item = await generator.__anext__()
            while True:
                if put(item):
                    mark(run)
                    await asyncio.sleep(0)  # the turn of the next
                elif isinstance(item, Receive):
                    await self._until_it_may(item.timeout_s)
                if not run.may_go():
                    await self._until_it_may(None)
                if run.doom is not None:
                    raise run.doom
                value, error = run.next_sent()
                if error is None:
                    item = await generator.asend(value)
                else:
                    item = await generator.athrow(error)
        except StopAsyncIteration:
            return
        finally:
            await generator.aclose()

    async def obey(self, command: Command) -> Any:
        """Do what the generator awaits.

        Raises:
            TimeoutError: a `receive` brought nothing in its time.
            StepFailed: a step failed for good.
            TaskQError: the generator awaits another one at the same time.
        """
        run = self._state
        if run.is_asking:
            raise TaskQError(
                f"{command!r} was awaited while another one is: they have to come one after the "
                "other. Several steps at once: yield [step(...), step(...)]."
            )
        run.begin_command(command)
        await self._until_it_may(command.timeout_s if isinstance(command, Receive) else None)
        if run.doom is not None:
            raise run.doom
        value, error = run.next_sent()
        if error is not None:
            raise error
        return value

    async def _until_it_may(self, timeout_s: float | None) -> None:
        """Wait until the run may go on; after `timeout_s` a `receive` is answered by an error."""
        run, loop = self._state, asyncio.get_running_loop()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._expire)
        try:
            while not run.may_go():
                run.is_parked = True
                self._bell = loop.create_future()
                await self._bell
        finally:
            run.is_parked = False
            self._bell = None
            if timer is not None:
                timer.cancel()

    def _expire(self) -> None:
        self._state.expire(float("inf"))

    def nudge(self, _run: Run) -> None:
        """Go on if that is possible now."""
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def _flushed(self, again: bool) -> None:
        done = asyncio.Event()
        self._yields.end(self._state, again, done.set)
        await done.wait()
