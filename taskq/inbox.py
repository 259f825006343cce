# ruff: noqa: SLF001 - the inside of handles is shared with this module
# pyright: reportPrivateUsage=false
"""Handles as their jobs end: what `wait`, `as_completed`, `gather` and batches read from.

An inbox registers its handles with the waiters of their apps when it is entered, and
takes back what is left when it is left. When the caller's time is over, Redis is asked
once more: an end may have left nothing that wakes a waiter (a canceled job), or its
message may be on its way.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from taskq.broker.outcomes import Outcome
from taskq.broker.pump import LOOK_AT_MOST, PATIENCE_S
from taskq.broker.wait import Waits
from taskq.broker.wait_loop import LAST_LOOK_S
from taskq.broker.watch import Conversation, Ended, Watch, aconverse, converse, look
from taskq.errors import BrokerUnavailable
from taskq.future import Handle
from taskq.pending import on_slow


class Inbox:
    """Handles as their jobs end, for a caller that blocks."""

    def __init__(self, handles: Iterable[Handle[Any]], timeout_s: float | None) -> None:
        self.pending: dict[Handle[Any], None] = dict.fromkeys(handles)
        self._timeout_s = timeout_s
        self._start = time.monotonic()
        self._is_told = timeout_s is not None
        self._has_looked = False
        self._arrived: SimpleQueue[tuple[Handle[Any], Outcome]] = SimpleQueue()
        self._pid = os.getpid()

    def __enter__(self) -> Inbox:
        try:
            for handle in self.pending:
                if (outcome := handle._outcome) is not None:
                    self._sink(handle, outcome)
            if self._timeout_s is not None and self._timeout_s <= 0:
                self._has_looked = True
                for _waits, group in _by_app(self._unsettled()):
                    broker = group[0]._app.broker
                    for chunk in _chunks(group):
                        for handle, outcome in converse(_look_at(chunk), broker.pipe):
                            self._sink(handle, outcome)
            else:
                self._register()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for waits, group in _by_app(self._unsettled()):
            waits.remove([handle.id for handle in group], self._sink)

    def __iter__(self) -> Iterator[tuple[Handle[Any], Outcome]]:
        while self.pending:
            if self._pid != os.getpid():  # forked while iterating: the parent's thread is not here
                self._pid = os.getpid()
                self._register()
            if self._arrived.empty():
                next(iter(self.pending))._waits.before_blocking(
                    is_timed=self._timeout_s is not None
                )
            try:
                handle, outcome = self._arrived.get(timeout=self._slice_s())
            except Empty:
                if self._left_s() > 0:
                    self._tell()
                elif self._has_looked:
                    return
                else:
                    self._take_last_look()
                continue
            if handle in self.pending:
                del self.pending[handle]
                yield handle, handle._settle(outcome)

    def raise_if_late(self) -> None:
        """Raise if the time was over before all had come.

        Raises:
            ResultTimeout: with the state of the first that is missing.
        """
        if self.pending:
            first, others = next(iter(self.pending)), len(self.pending) - 1
            raise first._timeout_error(self._timeout_s or 0.0, others)

    def has_more_now(self) -> bool:
        """Whether another one can be had without waiting."""
        return not self._arrived.empty()

    def _sink(self, handle: Handle[Any], outcome: Outcome) -> None:
        self._arrived.put((handle, outcome))

    def _unsettled(self) -> list[Handle[Any]]:
        return [handle for handle in self.pending if handle._outcome is None]

    def _register(self) -> None:
        for waits, group in _by_app(self._unsettled()):
            waits.add([(handle._target(), handle) for handle in group], self._sink)

    def _take_last_look(self) -> None:
        self._has_looked = True
        for waits, group in _by_app(self._unsettled()):
            with suppress(
                BrokerUnavailable
            ):  # then nothing is known: the time is over all the same
                for chunk in _chunks(group):
                    for handle, outcome in waits.converse(_look_at(chunk)):
                        self._sink(handle, outcome)

    def _left_s(self) -> float:
        if self._timeout_s is None:
            return float("inf")
        return self._start + self._timeout_s - time.monotonic()

    def _slice_s(self) -> float:
        return min(max(self._left_s(), 0.0), PATIENCE_S)

    def _tell(self) -> None:
        if not self._is_told and time.monotonic() - self._start >= PATIENCE_S:
            self._is_told = True
            next(iter(self.pending))._tell_slow(len(self.pending) - 1)


class AsyncInbox:
    """The same for an event loop."""

    def __init__(self, handles: Sequence[Handle[Any]], timeout_s: float | None) -> None:
        self.pending: dict[Handle[Any], None] = dict.fromkeys(handles)
        self._timeout_s = timeout_s
        self._arrived: deque[tuple[Handle[Any], Outcome]] = deque()
        self._bell: asyncio.Future[None] | None = None
        self._is_over = self._has_looked = False
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> AsyncInbox:
        try:
            await self._open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for waits, group in _by_app(self._unsettled()):
            waits.loop(on_slow).remove([handle.id for handle in group], self._sink)

    async def _open(self) -> None:
        for handle in self.pending:
            if (outcome := handle._outcome) is not None:
                self._arrived.append((handle, outcome))
        groups = _by_app(self._unsettled())
        if self._timeout_s is not None and self._timeout_s <= 0:
            for _waits, group in groups:
                broker = group[0]._app.broker
                for chunk in _chunks(group):
                    self._arrived += await aconverse(_look_at(chunk), broker.apipe)
            self._is_over = self._has_looked = True
            return
        if self._timeout_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_s, self._expire)
        for waits, group in groups:
            waits.loop(on_slow).add(
                [(handle._target(), handle) for handle in group],
                self._sink,
                is_patient=self._timeout_s is None,
            )

    async def next(self) -> tuple[Handle[Any], Outcome] | None:
        """The next one; None when all have come.

        Raises:
            ResultTimeout: the time is over, with the state of the first that is missing.
        """
        while self.pending:
            while self._arrived:
                handle, outcome = self._arrived.popleft()
                if handle in self.pending:
                    del self.pending[handle]
                    return handle, handle._settle(outcome)
            if self._is_over and not self._has_looked:
                await self._take_last_look()
                continue
            if self._is_over:
                first, others = next(iter(self.pending)), len(self.pending) - 1
                raise await first._atimeout_error(self._timeout_s or 0.0, others)
            self._bell = asyncio.get_running_loop().create_future()
            try:
                await self._bell
            finally:
                self._bell = None
        return None

    def _sink(self, handle: Handle[Any], outcome: Outcome) -> None:
        self._arrived.append((handle, outcome))
        self._ring()

    async def _take_last_look(self) -> None:
        self._has_looked = True
        for waits, group in _by_app(self._unsettled()):
            with suppress(
                BrokerUnavailable
            ):  # then nothing is known: the time is over all the same
                waiter = waits.loop(on_slow)
                for chunk in _chunks(group):
                    self._arrived += await waiter.converse(_look_at(chunk), LAST_LOOK_S)

    def _expire(self) -> None:
        self._is_over = True
        self._ring()

    def _ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def _unsettled(self) -> list[Handle[Any]]:
        return [handle for handle in self.pending if handle._outcome is None]


def _by_app(handles: Iterable[Handle[Any]]) -> list[tuple[Waits, list[Handle[Any]]]]:
    groups: dict[int, tuple[Waits, list[Handle[Any]]]] = {}
    for handle in handles:
        waits = handle._waits
        groups.setdefault(id(waits), (waits, []))[1].append(handle)
    return list(groups.values())


def _chunks(handles: Sequence[Handle[Any]]) -> Iterator[Sequence[Handle[Any]]]:
    for start in range(0, len(handles), LOOK_AT_MOST):
        yield handles[start : start + LOOK_AT_MOST]


def _look_at(
    handles: Sequence[Handle[Any]],
) -> Conversation[list[tuple[Handle[Any], Outcome]]]:
    """Which of the jobs have ended by now, for a caller that does not wait (any longer)."""
    keys = handles[0]._app.broker.keys
    watches = [Watch(keys, handle._target()) for handle in handles]
    owner = {id(watch): handle for watch, handle in zip(watches, handles, strict=True)}
    ended: list[Ended] = yield from look(keys, watches)
    return [(owner[id(watch)], outcome) for watch, outcome in ended]
