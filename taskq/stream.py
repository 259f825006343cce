# ruff: noqa: SLF001 - the inside of handles is shared with this module
# pyright: reportPrivateUsage=false
"""The handle of a generator task: what it yields is read, and it can be sent values.

Readers share the one connection on which the process waits for results: nothing polls. The
yields of a job are all in its stream before its end is recorded, so who has seen the end
reads the rest and is done.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from taskq.broker.link import backoff_s, pack_script
from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.scripts import script
from taskq.broker.tap import FULL, PAGE, START, Entries, Place, Tap
from taskq.commands import pack_error
from taskq.errors import (
    BrokerUnavailable,
    JobNotFound,
    PayloadError,
    ResultTimeout,
    TaskQError,
)
from taskq.future import Handle
from taskq.ids import new_id
from taskq.pending import Timeout, on_slow, refuse_in_loop, seconds_of

Y_co = TypeVar("Y_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_DONE = (Kind.FINISHED, Kind.UNKEPT)


class StreamHandle(Handle[R_co], Generic[Y_co, S_contra, R_co]):
    """The handle of a job that yields: Y is what it yields, S what it is sent, R its result."""

    __slots__ = ()

    def stream(
        self,
        timeout: Timeout = None,
        *,
        on_restart: Callable[[], object] | None = None,
        after: str | None = None,
    ) -> Stream[Y_co]:
        """Read what the task yields, from its first value: `for x in h.stream()`.

        In asyncio programs `async for x in h.stream()`. It ends with the job, and raises
        what `result()` would raise for one that did not finish. Lost connections are
        mended. When the job runs again (a retry, a crash), its values come again from the
        first: those of the execution that counts.

        Args:
            timeout: seconds to wait for each next value; None waits for ever.
            on_restart: called before the first value of another execution.
            after: `position` of an earlier stream: go on behind it.

        Returns:
            An iterable; iterating it once more goes on where it was left.
        """
        return Stream(self, timeout, on_restart, after)

    def send(self, value: S_contra) -> bool:
        """Send a value: what the task's next `yield` or `yield receive()` gives.

        Values sent before the job begins wait for it. A job that runs again is sent all of
        them again.

        Returns:
            False if the job had ended.

        Raises:
            NotSerializable: the value cannot be carried; nothing was sent.
            JobNotFound: Redis knows no such job.
            BrokerUnavailable: Redis did not answer.
        """
        return self._send_now("v", self._packed(value))

    async def asend(self, value: S_contra) -> bool:
        """`send` for asyncio programs."""
        return await self._asend_now("v", self._packed(value))

    def throw(self, error: Exception) -> bool:
        """Raise an exception in the task, at its `yield`; after what was sent before it.

        It travels as its class's name and its message: a builtin is raised as itself, any
        other as `RemoteError`.

        Returns:
            False if the job had ended.

        Raises:
            InvalidArguments: it is no exception; nothing was sent.
            JobNotFound: Redis knows no such job.
            BrokerUnavailable: Redis did not answer.
        """
        return self._send_now("t", pack_error(error))

    async def athrow(self, error: Exception) -> bool:
        """`throw` for asyncio programs."""
        return await self._asend_now("t", pack_error(error))

    def _packed(self, value: Any) -> bytes:
        name = self._task.name if self._task is not None else ""
        raw: bytes = self._app.codec.dump_value(value, job_id=self.id, kind="send", name=name)
        return raw

    def _send_now(self, kind: str, body: str | bytes) -> bool:
        return self._sent(self._app.broker.run("send", self._message(kind, body)))

    async def _asend_now(self, kind: str, body: str | bytes) -> bool:
        return self._sent(await self._app.broker.arun("send", self._message(kind, body)))

    def _message(self, kind: str, body: str | bytes) -> Callable[[bool], bytes]:
        if self._task is not None and self._task.opts.durable:
            raise TaskQError(
                f"{self._task.name} is durable: what is sent to a job is no part of its recorded "
                "steps, so it cannot receive anything. Nothing was sent."
            )
        keys, token = self._app.broker.keys, new_id()

        def make(resend: bool) -> bytes:
            args = ["1" if resend else "0", token, self.id, kind, body]
            return pack_script(script("send"), [keys.prefix, keys.own], args)

        return make

    def _sent(self, answer: int) -> bool:
        if answer < 0:
            if self._is_known:
                return False  # it ended, and is forgotten
            raise JobNotFound(
                f"No job {self.id} in Redis: never enqueued there, or ended and forgotten. "
                "Nothing was sent."
            )
        self._is_known = True
        return answer > 0


class Stream(Generic[Y_co]):
    """What a job yields: `for` in plain programs, `async for` in asyncio ones.

    Attributes:
        restarts: how often the job began anew while it was read.
        missed: values that were no longer kept when they were to be read.
        position: where it is: `h.stream(after=position)` goes on from here, in any process.
    """

    def __init__(
        self,
        handle: StreamHandle[Y_co, Any, Any],
        timeout: Timeout,
        on_restart: Callable[[], object] | None,
        after: str | None,
    ) -> None:
        """Made by `handle.stream()`."""
        self._handle = handle
        self._timeout_s = seconds_of(timeout)
        self._on_restart = on_restart
        self._place = Place(START if after is None else after.encode())
        task = handle._task
        self._key = handle._app.broker.keys.stream(handle.id).encode()
        self._rebuild = getattr(task, "rebuild_item", None)
        self._ahead: int | None = getattr(task, "stream_ahead", None)
        self._unacked = 0

    @property
    def restarts(self) -> int:  # noqa: D102 (the class says it)
        return self._place.restarts

    @property
    def missed(self) -> int:  # noqa: D102 (the class says it)
        return self._place.missed

    @property
    def position(self) -> str:  # noqa: D102 (the class says it)
        return self._place.id.decode()

    # -- what both ways of reading share -------------------------------------------------

    def _values(self, entries: Entries) -> Generator[Y_co, None, None]:
        handle = self._handle
        load = handle._app.codec.load_value
        for raw, is_restart in self._place.walk(entries):
            if is_restart and self._on_restart is not None:
                self._on_restart()
            self._unacked += 1
            value = load(raw, job_id=handle.id, kind="yield")
            yield value if self._rebuild is None else self._rebuild(value)

    def _acknowledgement(self, at_least: int) -> tuple[list[str], list[str]] | None:
        """Arguments of the script that tells a waiting task how far it was read, if it is time."""
        if self._ahead is None or self._unacked < at_least:
            return None
        self._unacked = 0
        keys = self._handle._app.broker.keys
        return [keys.prefix, keys.own], [self._handle.id, self.position]

    def _page(self) -> tuple[Any, ...]:
        return ("XRANGE", self._key, b"(" + self._place.id, "+", "COUNT", PAGE)

    def _late(self) -> ResultTimeout:
        return ResultTimeout(
            f"Nothing was yielded by {self._handle._label()} within {self._timeout_s:g} s. "
            "The job goes on."
        )

    def _raise_for(self, outcome: Outcome) -> None:
        error = None if outcome.kind in _DONE else self._handle._error_of(outcome)
        if error is not None:
            raise error

    # -- plain programs ------------------------------------------------------------------

    def __iter__(self) -> Iterator[Y_co]:
        """Read; blocks.

        Raises:
            JobFailed, JobCanceled, ResultExpired, JobNotFound: as `result()`, at its end.
            ResultTimeout: nothing came for so long; the job goes on.
            PayloadError: a value cannot be decoded.
            TaskQError: called in a running event loop, which it would block.
        """
        handle = self._handle
        refuse_in_loop(f"stream() of {handle._label()}", "async for x in handle.stream()")
        outcome = handle._outcome
        if outcome is None:
            outcome = yield from self._follow()
        while entries := self._ask(self._page()):  # what stood behind the last that came
            yield from self._values(entries)
        self._raise_for(outcome)

    def _follow(self) -> Generator[Y_co, None, Outcome]:
        """Give values as they come, until the job has ended."""
        handle, waits = self._handle, self._handle._waits
        box: SimpleQueue[Entries | Outcome] = SimpleQueue()
        tap = Tap(self._key, self._place.id, box.put, lambda: box.qsize() > FULL // PAGE)

        def sink(_tag: Any, outcome: Outcome) -> None:
            box.put(outcome)

        waits.add([(handle._target(), None)], sink)
        try:
            while True:
                if box.empty():
                    self._acknowledge(1)
                    waits.tap(tap)  # it may have been full
                got = self._next(box)
                if isinstance(got, Outcome):
                    return handle._settle(got)
                for value in self._values(got):
                    yield value
                    self._acknowledge((self._ahead or 2) // 2)
        finally:
            waits.untap(tap)
            waits.remove([handle.id], sink)

    def _next(self, box: SimpleQueue[Entries | Outcome]) -> Entries | Outcome:
        try:
            return box.get(timeout=self._timeout_s)
        except Empty:
            raise self._late() from None

    def _acknowledge(self, at_least: int) -> None:
        told = self._acknowledgement(at_least)
        if told is not None:
            self._handle._app.broker.script("read", *told)

    def _ask(self, command: tuple[Any, ...]) -> Entries:
        attempt = 0
        while True:
            try:
                return self._entries(self._handle._app.broker.pipe([command])[0])
            except BrokerUnavailable:
                attempt += 1
                time.sleep(backoff_s(attempt))

    def _entries(self, reply: Any) -> Entries:
        if isinstance(reply, Exception):
            raise PayloadError(f"The stream of job {self._handle.id} cannot be read: {reply}.")
        entries: Entries = reply
        return entries

    # -- asyncio programs ----------------------------------------------------------------

    async def __aiter__(self) -> AsyncGenerator[Y_co, None]:
        """Read in an asyncio program; raises as `for` does."""
        handle = self._handle
        outcome = handle._outcome
        if outcome is None:
            ends: list[Outcome] = []
            async for value in self._afollow(ends):
                yield value
            outcome = handle._settle(ends[0])
        while entries := await self._aask(self._page()):
            for value in self._values(entries):
                yield value
        self._raise_for(outcome)

    async def _afollow(self, ends: list[Outcome]) -> AsyncGenerator[Y_co, None]:
        """Give values as they come, until the end of the job is in `ends`."""
        handle, waiter = self._handle, self._handle._waits.loop(on_slow)
        bell = asyncio.Event()
        box: deque[Entries] = deque()

        def take(entries: Entries) -> None:
            box.append(entries)
            bell.set()

        def sink(_tag: Any, outcome: Outcome) -> None:
            ends.append(outcome)
            bell.set()

        tap = Tap(self._key, self._place.id, take, lambda: len(box) > FULL // PAGE)
        waiter.add([(handle._target(), handle)], sink)
        try:
            while True:
                while box:
                    for value in self._values(box.popleft()):
                        yield value
                        await self._aacknowledge((self._ahead or 2) // 2)
                if ends:
                    return
                await self._aacknowledge(1)
                waiter.tap(tap)  # it may have been full
                try:
                    await asyncio.wait_for(bell.wait(), self._timeout_s)
                except asyncio.TimeoutError:
                    raise self._late() from None
                bell.clear()
        finally:
            waiter.untap(tap)
            waiter.remove([handle.id], sink)

    async def _aacknowledge(self, at_least: int) -> None:
        told = self._acknowledgement(at_least)
        if told is not None:
            await self._handle._app.broker.ascript("read", *told)

    async def _aask(self, command: tuple[Any, ...]) -> Entries:
        attempt = 0
        while True:
            try:
                return self._entries((await self._handle._app.broker.apipe([command]))[0])
            except BrokerUnavailable:
                attempt += 1
                await asyncio.sleep(backoff_s(attempt))
