"""How questions are asked: as generators that know nothing of sockets.

A query yields lists of commands and is sent their replies, so one text serves the
blocking command line and the asynchronous dashboard. An error reply of Redis stands
in the list as an exception object; the readers in `values` take it for "not there".
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from taskq.broker.client import Broker

T = TypeVar("T")

Command = Sequence[Any]
Query = Generator[Sequence[Command], list[Any], T]


class Inspector:
    """Asks queries of one broker."""

    def __init__(self, broker: Broker) -> None:
        """Use this broker's connections and key names."""
        self._broker = broker
        self.keys = broker.keys
        self.url = broker.url

    def run(self, query: Query[T]) -> T:
        """Answer `query`, blocking.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        try:
            commands = next(query)
            while True:
                commands = query.send(self._broker.pipe(commands))
        except StopIteration as stop:
            answer: T = stop.value
            return answer

    async def arun(self, query: Query[T]) -> T:
        """Answer `query` in an asyncio program.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        try:
            commands = next(query)
            while True:
                commands = query.send(await self._broker.apipe(commands))
        except StopIteration as stop:
            answer: T = stop.value
            return answer
