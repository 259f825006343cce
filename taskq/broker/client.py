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

from taskq.broker import connect
from taskq.broker.alink import AsyncLink
from taskq.broker.link import SyncLink, pack, pack_all, pack_script
from taskq.broker.records import Accepted, NewJob
from taskq.broker.scripts import Script, script
from taskq.broker.wait import Waits
from taskq.clock import Clock
from taskq.errors import BrokerUnavailable, DuplicateJob, TaskQError
from taskq.keys import Keys
from taskq.settings import redact

MAX_JOBS = 1_000
"""Jobs in one call of the enqueue script (Lua's unpack fails at 8,000)."""
MAX_BYTES = 4_000_000
"""Payload in one call of the enqueue script."""


class BrokerError(TaskQError):
    """Redis answered a request of ours with an error; the text is its own."""


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
                f"{_reason(err)}. Start one, set TASKQ_REDIS_URL, "
                'or run "taskq dev hello.py", which brings its own.'
            )
        origin = "" if self.source == "argument" else f" (from {self.source})"
        return f"No Redis at {place}{origin}: {_reason(err)}."

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
        return _value(self.link().ask(lambda _resend: packed, 1, self.deadline_s)[0])

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
        return _value((await link.ask(lambda _resend: packed, 1, self.deadline_s))[0])

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
        return self._run(script(name), lambda _resend: pack_script(script(name), keys, args))

    async def ascript(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """`script` for asyncio programs."""
        chosen = script(name)
        link = self._loop_links().link
        return await run_script(
            link, chosen, lambda _resend: pack_script(chosen, keys, args), self.deadline_s
        )

    def _run(self, chosen: Script, make: Callable[[bool], bytes]) -> Any:
        link = self.link()
        answer = link.ask(make, 1, self.deadline_s)[0]
        if isinstance(answer, rexc.NoScriptError):
            load = pack(("SCRIPT", "LOAD", chosen.text))
            link.ask(lambda _resend: load, 1, self.deadline_s)
            answer = link.ask(make, 1, self.deadline_s)[0]
        return _value(answer)

    # -- enqueue -------------------------------------------------------------------------

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Accept jobs, in atomic chunks of at most 1,000 jobs and 4 MB. Blocks.

        Sending a chunk again after a lost answer does no harm: the script knows it.

        Raises:
            DuplicateJob: an id is taken by another unfinished job; its chunk was not enqueued.
            BrokerUnavailable: no answer before the deadline.
        """
        chosen = script("enqueue")
        accepted: list[Accepted] = []
        for chunk in chunks(jobs):
            answer = self._run(chosen, self.enqueue_request(chosen, chunk))
            accepted += _accepted(chunk, answer)
        return accepted

    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """`enqueue` for asyncio programs; calls made at the same time share round trips."""
        return await self._loop_links().enqueue(jobs)

    def enqueue_request(self, chosen: Script, jobs: Sequence[NewJob]) -> Callable[[bool], bytes]:
        """The enqueue script's request for one chunk, made anew for a resend."""
        iso = self.clock.iso()

        def make(resend: bool) -> bytes:
            args: list[Any] = [
                "EVALSHA", chosen.sha, 2, self.keys.prefix, self.keys.own,
                "1" if resend else "0", iso,
            ]  # fmt: skip
            for job in jobs:
                job.append_to(args)
            return pack(tuple(args))

        return make

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
            await links.link.aclose()
        self.close()


class _LoopLinks:
    """What one event loop shares: a link for commands, and enqueues waiting to go out together."""

    def __init__(self, broker: Broker) -> None:
        self.pid = os.getpid()
        self.broker = broker
        self.link = broker.new_alink()
        self._waiting: list[tuple[Sequence[NewJob], asyncio.Future[list[Accepted]]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Accepted]] = loop.create_future()
        self._waiting.append((jobs, future))
        if self._sender is None:
            self._sender = loop.create_task(self._send_all())
        return await future

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting, []
                together: list[tuple[Sequence[NewJob], asyncio.Future[list[Accepted]]]] = []
                size = 0
                for call in calls:
                    if together and size + len(call[0]) > MAX_JOBS:
                        await self._send(together)
                        together, size = [], 0
                    together.append(call)
                    size += len(call[0])
                if together:
                    await self._send(together)
        finally:
            self._sender = None

    async def _send(
        self, calls: list[tuple[Sequence[NewJob], asyncio.Future[list[Accepted]]]]
    ) -> None:
        jobs = [job for call in calls for job in call[0]]
        try:
            accepted = await self._send_jobs(jobs)
        except (DuplicateJob, BrokerError) as err:
            if len(calls) > 1:  # one caller's bad job must not fail its neighbours
                for call in calls:
                    await self._send([call])
            else:
                _set(calls[0][1], error=err)
            return
        except Exception as err:  # noqa: BLE001 (handed to every caller)
            for _jobs, future in calls:
                _set(future, error=err)
            return
        position = 0
        for call_jobs, future in calls:
            _set(future, accepted[position : position + len(call_jobs)])
            position += len(call_jobs)

    async def _send_jobs(self, jobs: list[NewJob]) -> list[Accepted]:
        chosen = script("enqueue")
        accepted: list[Accepted] = []
        for chunk in chunks(jobs):
            make = self.broker.enqueue_request(chosen, chunk)
            answer = await run_script(self.link, chosen, make, self.broker.deadline_s)
            accepted += _accepted(chunk, answer)
        return accepted


async def run_script(
    link: AsyncLink,
    chosen: Script,
    make: Callable[[bool], bytes],
    deadline_s: float,
    *,
    once: bool = False,
) -> Any:
    """Run a script on a link, loading it where the server does not know it yet.

    Args:
        link: carries it.
        chosen: the script.
        make: gives the packed request; its argument says whether this is a resend.
        deadline_s: seconds until giving up.
        once: a lost answer is an error instead of a resend.
    """
    answer = (await link.ask(make, 1, deadline_s, once=once))[0]
    if isinstance(answer, rexc.NoScriptError):
        load = pack(("SCRIPT", "LOAD", chosen.text))
        await link.ask(lambda _resend: load, 1, deadline_s)
        answer = (await link.ask(make, 1, deadline_s, once=once))[0]
    return _value(answer)


def chunks(jobs: Sequence[NewJob]) -> list[Sequence[NewJob]]:
    """Cut a batch into pieces that one script call takes."""
    if len(jobs) == 1:
        return [jobs]
    out: list[Sequence[NewJob]] = []
    start = size = 0
    for i, job in enumerate(jobs):
        if i > start and (i - start >= MAX_JOBS or size + len(job.data) > MAX_BYTES):
            out.append(jobs[start:i])
            start, size = i, 0
        size += len(job.data)
    if start < len(jobs):
        out.append(jobs[start:])
    return out


def _accepted(jobs: Sequence[NewJob], answer: Any) -> list[Accepted]:
    if isinstance(answer, bytes):
        job_id = answer.partition(b":")[2].decode()
        raise DuplicateJob(
            f"Job id {job_id!r} belongs to another job that has not ended. "
            "Choose another job_id, or wait for it. Nothing was enqueued."
        )
    return [
        Accepted(job.id, True) if (got := raw.decode()) == job.id else Accepted(got, False)
        for job, raw in zip(jobs, answer, strict=True)
    ]


def _set(future: asyncio.Future[Any], value: Any = None, error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


def _value(answer: Any) -> Any:
    if isinstance(answer, rexc.NoPermissionError):
        raise BrokerError(f"Redis refused it for this user: {answer}")
    if isinstance(answer, rexc.RedisError):
        raise BrokerError(f"Redis answered with an error: {answer}")
    return answer


def _reason(err: Exception) -> str:
    text = str(err).strip().rstrip(".")
    if "Connection refused" in text or isinstance(err, ConnectionRefusedError):
        return "connection refused"
    if isinstance(err, rexc.TimeoutError) or "imed out" in text:
        return "no answer in time; whether the last request was carried out is not known"
    return text or type(err).__name__
