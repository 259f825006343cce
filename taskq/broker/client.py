"""The broker: everything taskq asks of Redis goes through here.

Blocking callers have one held connection a thread, asyncio callers one an event
loop. Both know their process id: after a fork the child opens its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis import exceptions as rexc

from taskq.broker import connect, replicate
from taskq.broker.alink import AsyncLink
from taskq.broker.answers import (
    BrokerError,
    reason_of,
    run_script,
    run_script_blocking,
    value_of,
)
from taskq.broker.enqueue import Gathering, accepted, chunks, request
from taskq.broker.link import SyncLink, pack, pack_all, pack_script
from taskq.broker.records import Accepted, NewJob
from taskq.broker.scripts import script
from taskq.broker.wait import Waits
from taskq.clock import Clock
from taskq.errors import BrokerUnavailable
from taskq.keys import Keys
from taskq.settings import redact

__all__ = ["Broker", "BrokerError", "run_script"]


class Broker:
    """Redis as one TaskQ app sees it. Cheap to make; connects when first used."""

    def __init__(self, url: str, source: str = "argument", *, deadline_s: float = 5.0) -> None:
        """Remember where Redis is.

        Args:
            url: redis, rediss, unix or redis+sentinel.
            source: where the URL came from, for messages.
            deadline_s: seconds after which a request fails with `BrokerUnavailable`.

        Raises:
            ConfigError: the URL is none.
        """
        connect.check_url(url)
        self.url = url
        self.source = source
        self.deadline_s = deadline_s
        self.keys = Keys()
        self.clock = Clock()
        self.waits = Waits(self)
        self._sync_pool = connect.sync_pool(url, deadline_s)
        self._async_pool = connect.async_pool(url)
        self._local = threading.local()
        self._sync_links: weakref.WeakSet[SyncLink] = weakref.WeakSet()
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopLinks] = (
            weakref.WeakKeyDictionary()
        )

    def explain(self, err: Exception) -> str:
        """A failure to reach Redis, in words: where we looked, why, what to do."""
        place = redact(self.url)
        if self.source == "default":
            return (
                f"No Redis at {place} (the default; TASKQ_REDIS_URL and REDIS_URL are not set): "
                f"{reason_of(err)}. Start one, set TASKQ_REDIS_URL, "
                'or run "taskq dev hello.py", which brings its own.'
            )
        origin = "" if self.source == "argument" else f" (from {self.source})"
        hint = ""
        if self.url.startswith("rediss:") and "Timeout connecting" in str(err):
            hint = " If it does not speak TLS, use redis://."  # then both sides wait for the other
        return f"No Redis at {place}{origin}: {reason_of(err)}.{hint}"

    # -- links ---------------------------------------------------------------------------

    def link(self) -> SyncLink:
        """This thread's blocking link."""
        link: SyncLink | None = getattr(self._local, "link", None)
        if link is None:
            link = self._local.link = SyncLink(self._sync_pool, self.explain)
            self._sync_links.add(link)
        return link

    def new_alink(self, on_state: Callable[[Exception | None], None] | None = None) -> AsyncLink:
        """A further asyncio link with a connection of its own; its maker closes it."""
        return AsyncLink(self._async_pool, self.explain, on_state)

    def _loop_links(self) -> _LoopLinks:
        loop = asyncio.get_running_loop()
        links = self._loops.get(loop)
        if links is None or links.pid != os.getpid():
            links = self._loops[loop] = _LoopLinks(self)
        return links

    def connection(self, socket_timeout_s: float | None = None) -> Any:
        """A new connected `redis.connection.Connection` for blocking reads; the caller closes it.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        try:
            connection = connect.make(self._sync_pool, socket_timeout=socket_timeout_s)
            connection.connect()
        except (rexc.RedisError, OSError) as err:
            raise BrokerUnavailable(self.explain(err)) from err
        return connection

    async def aconnection(self) -> Any:
        """A new connected asyncio connection without read time-out; the caller closes it.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        try:
            connection = connect.make(self._async_pool)
            await connection.connect()
        except (rexc.RedisError, OSError) as err:
            raise BrokerUnavailable(self.explain(err)) from err
        return connection

    def redis(self, socket_timeout_s: float | None = None) -> redis.Redis:
        """A client for RQ's classes: bytes in and out, no automatic retry."""
        return redis.Redis(connection_pool=connect.sync_pool(self.url, socket_timeout_s))

    # -- commands ------------------------------------------------------------------------

    def call(self, *command: Any) -> Any:
        """One command on this thread's connection. It may be sent twice: idempotent ones only.

        Raises:
            BrokerUnavailable: no answer before the deadline.
            BrokerError: Redis answered with an error.
        """
        packed = pack(command)
        return value_of(self.link().ask(lambda _resend: packed, 1, self.deadline_s)[0])

    def pipe(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Several commands in one round trip, not atomic; error answers stand in the list."""
        if not commands:
            return []
        packed = pack_all(commands)
        return self.link().ask(lambda _resend: packed, len(commands), self.deadline_s)

    async def acall(self, *command: Any) -> Any:
        """`call` for asyncio programs."""
        packed = pack(command)
        link = self._loop_links().link
        return value_of((await link.ask(lambda _resend: packed, 1, self.deadline_s))[0])

    async def apipe(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """`pipe` for asyncio programs."""
        if not commands:
            return []
        packed = pack_all(commands)
        link = self._loop_links().link
        return await link.ask(lambda _resend: packed, len(commands), self.deadline_s)

    def script(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run `lua/NAME.lua`. Scripts are idempotent, so a resend does no harm.

        Raises:
            BrokerUnavailable: no answer before the deadline.
            BrokerError: the script refused.
        """
        chosen, link = script(name), self.link()
        return run_script_blocking(
            link, chosen, lambda _resend: pack_script(chosen, keys, args), self.deadline_s
        )

    async def ascript(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """`script` for asyncio programs."""
        chosen = script(name)
        link = self._loop_links().link
        return await run_script(
            link, chosen, lambda _resend: pack_script(chosen, keys, args), self.deadline_s
        )

    async def arun(self, name: str, make: Callable[[bool], bytes]) -> Any:
        """`ascript` whose request (`make`) says whether it may have been sent before."""
        return await run_script(self._loop_links().link, script(name), make, self.deadline_s)

    def run(self, name: str, make: Callable[[bool], bytes]) -> Any:
        """`arun` that blocks."""
        return run_script_blocking(self.link(), script(name), make, self.deadline_s)

    # -- enqueue -------------------------------------------------------------------------

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Accept jobs, in atomic chunks of at most 1,000 jobs and 4 MB. Blocks.

        Sending a chunk again after a lost answer does no harm: the script knows it.

        Raises:
            DuplicateJob: an id is taken by another unfinished job; its chunk was not enqueued.
            BrokerUnavailable: no answer before the deadline.
            NotReplicated: all are enqueued, but too few replicas confirmed it.
        """
        chosen = script("enqueue")
        got: list[Accepted] = []
        replicas = replicate.wanted(jobs)
        confirmed = replicas
        for chunk in chunks(jobs):
            make = request(chosen, self.keys, self.clock.iso(), chunk)
            if replicas:
                both = replicate.with_wait(make, self.keys.own, replicas)
                answer, heard = replicate.run(self.link(), chosen, both, self.deadline_s)
                confirmed = min(confirmed, heard)
            else:
                answer = run_script_blocking(self.link(), chosen, make, self.deadline_s)
            got += accepted(chunk, answer)
        replicate.check(got, replicas, confirmed)
        return got

    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """`enqueue` for asyncio programs; calls made at the same time share round trips."""
        if replicate.wanted(jobs):
            return await self._loop_links().enqueue_replicated(jobs)
        return await self._loop_links().gathering.enqueue(jobs)

    # -- end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the blocking connections of all threads; they reopen when used again."""
        self.waits.close()
        for link in list(self._sync_links):
            link.close()

    async def aclose(self) -> None:
        """Close this event loop's connections, and the blocking ones."""
        await self.waits.aclose()
        links = self._loops.pop(asyncio.get_running_loop(), None)
        if links is not None:
            await links.aclose()
        self.close()


class _LoopLinks:
    """What one event loop shares: a link for commands, and enqueues that go out together."""

    def __init__(self, broker: Broker) -> None:
        self.pid = os.getpid()
        self.link = broker.new_alink()
        self.gathering = Gathering(self._send)
        self._broker = broker
        self._waiting: AsyncLink | None = None  # for replicas

    async def aclose(self) -> None:
        await self.link.aclose()
        if self._waiting is not None:
            await self._waiting.aclose()

    async def enqueue_replicated(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        chosen, broker = script("enqueue"), self._broker
        if self._waiting is None:
            self._waiting = broker.new_alink()
        replicas = confirmed = replicate.wanted(jobs)
        got: list[Accepted] = []
        for chunk in chunks(jobs):
            make = request(chosen, broker.keys, broker.clock.iso(), chunk)
            both = replicate.with_wait(make, broker.keys.own, replicas)
            answer, heard = await replicate.arun(self._waiting, chosen, both, broker.deadline_s)
            confirmed = min(confirmed, heard)
            got += accepted(chunk, answer)
        replicate.check(got, replicas, confirmed)
        return got

    async def _send(self, jobs: Sequence[NewJob]) -> Any:
        chosen, broker = script("enqueue"), self._broker
        make = request(chosen, broker.keys, broker.clock.iso(), jobs)
        return await run_script(self.link, chosen, make, broker.deadline_s)
