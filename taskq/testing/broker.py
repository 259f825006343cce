"""The broker of a test: everything that a real one does, on a Redis in memory.

Commands are carried out in the calling thread, also for asyncio callers: no connection,
no round trip, nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from taskq.broker.alink import AsyncLink
from taskq.broker.client import Broker
from taskq.broker.link import SyncLink

if TYPE_CHECKING:
    import redis

    from taskq.broker.records import Accepted, NewJob
    from taskq.broker.wait import Waits
    from taskq.clock import Clock
    from taskq.testing.memory import MemoryRedis

URL = "redis://in-memory:0/0"
"""Shown where a message names the Redis of a test."""


class MemoryBroker(Broker):
    """A broker whose Redis is in this process."""

    def __init__(
        self,
        memory: MemoryRedis,
        clock: Clock,
        arrived: Callable[[Sequence[NewJob], Sequence[Accepted]], None],
    ) -> None:
        """Use `memory`; `arrived` is called in `accept` with the jobs and what became of them."""
        super().__init__(URL, "testing")
        self.clock = clock
        self.memory = memory
        self._arrived = arrived
        self._memory_link = MemoryLink(memory)
        self.told: Callable[[str, Sequence[Any]], None] = _nobody

    def use(self, waits: Waits, told: Callable[[str, Sequence[Any]], None]) -> None:
        """Wait by `waits`; tell `told` the name and arguments of each script after it has run."""
        self.waits = waits
        self.told = told

    # -- links ---------------------------------------------------------------------------

    def link(self) -> SyncLink:
        """The one of all threads."""
        return self._memory_link

    def new_alink(self, on_state: Callable[[Exception | None], None] | None = None) -> AsyncLink:  # noqa: ARG002 (it never breaks)
        """The same for asyncio callers."""
        return MemoryAsyncLink(self.memory, lambda: self.told("", ()))

    def connection(self, socket_timeout_s: float | None = None) -> Any:  # noqa: ARG002 (it always answers)
        """A connection of its own."""
        return self.memory.connect()

    def redis(self, socket_timeout_s: float | None = None) -> redis.Redis:  # noqa: ARG002 (the same)
        """A client for RQ's classes."""
        return self.memory.client()

    # -- what changes something ----------------------------------------------------------

    def script(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run `lua/NAME.lua`."""
        answer = super().script(name, keys, args)
        self.told(name, args)
        return answer

    async def ascript(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """`script` for asyncio programs."""
        return self.script(name, keys, args)

    def run(self, name: str, make: Callable[[bool], bytes]) -> Any:
        """`script` with a request that is packed already."""
        answer = super().run(name, make)
        self.told(name, ())
        return answer

    async def arun(self, name: str, make: Callable[[bool], bytes]) -> Any:
        """`run` for asyncio programs."""
        return self.run(name, make)

    def accept(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Put jobs into their queues, and run nothing.

        Raises:
            DuplicateJob: an id is taken by another unfinished job.
        """
        for job in jobs:
            job.replicas = 0  # there are none to wait for
        accepted = super().enqueue(jobs)
        self._arrived(jobs, accepted)
        return accepted

    # -- end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing: what the program under test closes is still there for the test."""

    async def aclose(self) -> None:
        """Nothing, as `close`."""


class MemoryLink(SyncLink):
    """Requests go to a Redis in memory."""

    def __init__(self, memory: MemoryRedis) -> None:
        """Nothing is connected."""
        self._memory = memory

    def close(self) -> None:
        """Nothing to close."""

    def ask(self, requests: Callable[[bool], bytes], replies: int, deadline_s: float) -> list[Any]:  # noqa: ARG002 (no time passes)
        """Carry out a request; error answers stand in the list."""
        return self._memory.ask(requests(False), replies)


class MemoryAsyncLink(AsyncLink):
    """The same for asyncio callers."""

    def __init__(self, memory: MemoryRedis, asked: Callable[[], None]) -> None:
        """Nothing is connected; `asked` is called after each request."""
        self._memory = memory
        self._asked = asked

    async def ask(
        self,
        make: Callable[[bool], bytes],
        replies: int,
        deadline_s: float,  # noqa: ARG002 (no time passes)
        *,
        once: bool = False,  # noqa: ARG002 (nothing is lost)
    ) -> list[Any]:
        """Carry out a request; error answers stand in the list."""
        answers = self._memory.ask(make(False), replies)
        self._asked()
        return answers

    async def aclose(self) -> None:
        """Nothing to close."""


def _nobody(_name: str, _args: Sequence[Any]) -> None:
    """Who is told before anybody wants to know."""
