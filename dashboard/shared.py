"""One question to Redis for all who want to know: answers are kept for a moment and shared.

Fifty browsers that watch the same page cause the load of one. While a question is under
way, whoever asks the same waits for that answer; a failure is shared like an answer, so
that an outage is not made worse by those who look at it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

from taskq.errors import BrokerUnavailable, TaskQError
from taskq.inspector import Query
from taskq.keys import Keys

T = TypeVar("T")

_KEPT = 256
"""Answers kept at most: pages differ by what is in their URL, which anybody may type."""


_OUTAGE_S = 1.0
"""For so long nobody asks again after Redis did not answer one of us."""


class Link(Protocol):
    """What is needed of a connection to Redis."""

    keys: Keys

    async def apipe(self, commands: Any) -> list[Any]:
        """Send a pipeline; its replies."""
        ...


class _Answer:
    """One question: what is known, since when, and whether it is being asked now."""

    __slots__ = ("at", "error", "task", "value")

    def __init__(self) -> None:
        self.at = float("-inf")
        self.value: Any = None
        self.error: Exception | None = None
        self.task: asyncio.Task[Any] | None = None


class Shared:
    """Answers by name. One for each event loop."""

    def __init__(self, link: Link) -> None:
        """Ask over `link`."""
        self.keys = link.keys
        self._link = link
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()
        self._outage: BrokerUnavailable | None = None
        self._outage_until = float("-inf")

    async def ask(self, name: Hashable, max_age_s: float, make: Callable[[], Query[T]]) -> T:
        """The answer to a question, at most `max_age_s` old.

        Args:
            name: the same name means the same question.
            max_age_s: an older answer is asked for again.
            make: gives the query.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        answer = self._answers.get(name)
        if answer is None:
            answer = self._answers[name] = _Answer()
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        self._answers.move_to_end(name)
        now = time.monotonic()
        if now - answer.at > max_age_s:
            if answer.task is None and self._outage is not None and now < self._outage_until:
                raise self._outage.with_traceback(None)
            if answer.task is None:
                answer.task = asyncio.create_task(self._run(answer, make()))
            await asyncio.shield(answer.task)  # one who leaves does not end it for the others
        if answer.error is not None:
            raise answer.error.with_traceback(None)
        found: T = answer.value
        return found

    async def _run(self, answer: _Answer, query: Query[Any]) -> None:
        try:
            answer.value, answer.error = await self._converse(query), None
        except BrokerUnavailable as error:
            answer.error = self._outage = error
            self._outage_until = time.monotonic() + _OUTAGE_S
        except TaskQError as error:
            answer.error = error
        finally:
            answer.at = time.monotonic()
            answer.task = None

    async def _converse(self, query: Query[T]) -> T:
        try:
            commands = next(query)
            while True:
                commands = query.send(await self._link.apipe(commands))
        except StopIteration as stop:
            found: T = stop.value
            return found
