# ruff: noqa: SLF001 - the inside of handles is shared with this module
# pyright: reportPrivateUsage=false
"""Waiting for several jobs: `wait`, `as_completed`, `gather`.

The jobs may be of several apps; each app's broker waits for its own on one connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

from taskq.broker.outcomes import Kind, Outcome
from taskq.errors import TaskQError
from taskq.future import Handle
from taskq.inbox import AsyncInbox, Inbox
from taskq.pending import Timeout, refuse_in_loop, seconds_of

R = TypeVar("R")

FIRST_COMPLETED = "FIRST_COMPLETED"
FIRST_EXCEPTION = "FIRST_EXCEPTION"
ALL_COMPLETED = "ALL_COMPLETED"


class DoneAndNotDone(NamedTuple):
    """What `wait` returns."""

    done: set[Handle[Any]]
    not_done: set[Handle[Any]]


def wait(
    handles: Iterable[Handle[Any]],
    timeout: Timeout = None,
    return_when: Literal["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"] = "ALL_COMPLETED",
) -> DoneAndNotDone:
    """Wait for jobs, as `concurrent.futures.wait` does. Blocks; never cancels a job.

    Args:
        handles: of one app or several.
        timeout: seconds; 0 looks once; None waits for ever.
        return_when: FIRST_COMPLETED, FIRST_EXCEPTION (a job that ended without a result),
            or ALL_COMPLETED.

    Returns:
        `(done, not_done)`, two sets.

    Raises:
        ValueError: another `return_when`.
    """
    if return_when not in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
        raise ValueError(
            f"return_when={return_when!r}: must be FIRST_COMPLETED, FIRST_EXCEPTION "
            "or ALL_COMPLETED."
        )
    refuse_in_loop("taskq.wait()", "`async for h in taskq.as_completed(...)` or taskq.gather()")
    every = set(handles)
    done: set[Handle[Any]] = set()
    with Inbox(every, seconds_of(timeout)) as inbox:
        for handle, outcome in inbox:
            done.add(handle)
            is_enough = return_when == FIRST_COMPLETED or (
                return_when == FIRST_EXCEPTION and outcome.kind is not Kind.FINISHED
            )
            if is_enough and not inbox.has_more_now():
                break
    return DoneAndNotDone(done, every - done)


def as_completed(handles: Iterable[Handle[R]], timeout: Timeout = None) -> Arrivals[R]:
    """Give the handles back in the order in which their jobs end.

    For `for` and for `async for`. What a handle's `result()` then gives or raises is known
    without another network call. Jobs that do not exist come, too.

    Args:
        handles: of one app or several.
        timeout: seconds for all of them, from the start of the iteration; None: for ever.

    Raises:
        ResultTimeout: while iterating, when the time is over before all have ended.
    """
    return Arrivals(handles, timeout)


@overload
async def gather(*handles: Handle[R]) -> list[R]: ...
@overload
async def gather(*handles: Handle[R], return_exceptions: bool) -> list[R | TaskQError]: ...
async def gather(*handles: Handle[Any], return_exceptions: bool = False) -> list[Any]:
    """Wait for all results in an asyncio program, in the order of the handles.

    Like `asyncio.gather` over the handles, but with one registration for all of them.

    Args:
        handles: of one app or several.
        return_exceptions: put errors into the list instead of raising the first one.

    Raises:
        JobFailed: a job failed; raised as soon as that is known, the others go on.
        TaskQError: whatever else `Handle.result` raises.
    """
    return await agather(handles, None, return_exceptions=return_exceptions)


async def agather(
    handles: Sequence[Handle[Any]], timeout: Timeout, *, return_exceptions: bool
) -> list[Any]:
    """`gather` with a time limit; see there."""
    ends: dict[Handle[Any], Outcome] = {}
    async with AsyncInbox(handles, seconds_of(timeout)) as inbox:
        while (pair := await inbox.next()) is not None:
            handle, outcome = pair
            if not return_exceptions and (error := handle._error_of(outcome)) is not None:
                raise error
            ends[handle] = outcome
    return [value_or_error(h, ends[h], return_exceptions=return_exceptions) for h in handles]


def gather_blocking(
    handles: Sequence[Handle[Any]], timeout: Timeout, *, return_exceptions: bool
) -> list[Any]:
    """`agather` for callers that block."""
    ends: dict[Handle[Any], Outcome] = {}
    with Inbox(handles, seconds_of(timeout)) as inbox:
        for handle, outcome in inbox:
            if not return_exceptions and (error := handle._error_of(outcome)) is not None:
                raise error
            ends[handle] = outcome
        inbox.raise_if_late()
    return [value_or_error(h, ends[h], return_exceptions=return_exceptions) for h in handles]


def value_or_error(handle: Handle[Any], outcome: Outcome, *, return_exceptions: bool) -> Any:
    """What a list of results holds for one job.

    Raises:
        TaskQError: it has no result that can be read, unless `return_exceptions`.
    """
    try:
        return handle._value_of(outcome)
    except TaskQError as error:
        if return_exceptions:
            return error
        raise


class Arrivals(Generic[R]):
    """Handles in the order in which their jobs end; for `for` and `async for`, once each."""

    def __init__(self, handles: Iterable[Handle[R]], timeout: Timeout) -> None:
        """Keep the handles; waiting begins with the iteration."""
        self._handles = list(dict.fromkeys(handles))
        self._timeout_s = seconds_of(timeout)

    def __iter__(self) -> Iterator[Handle[R]]:
        refuse_in_loop("for ... in as_completed()", "`async for`")
        return self._iterate()

    def _iterate(self) -> Generator[Handle[R], None, None]:
        with Inbox(self._handles, self._timeout_s) as inbox:
            for handle, _outcome in inbox:
                yield handle
            inbox.raise_if_late()

    async def __aiter__(self) -> AsyncGenerator[Handle[R], None]:
        async with AsyncInbox(self._handles, self._timeout_s) as inbox:
            while (pair := await inbox.next()) is not None:
                yield pair[0]
