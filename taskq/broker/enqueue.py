"""Accepting jobs: what the enqueue script is sent, in chunks, and what it answers.

Sending a chunk again after a lost answer does no harm: the script knows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from taskq.broker.answers import BrokerError
from taskq.broker.link import pack
from taskq.broker.records import Accepted, NewJob
from taskq.broker.scripts import Script
from taskq.errors import DuplicateJob
from taskq.keys import Keys

MAX_JOBS = 1_000
"""Jobs in one call of the enqueue script (Lua's unpack fails at 8,000)."""
MAX_BYTES = 4_000_000
"""Payload in one call of the enqueue script."""

_Calls = list[tuple[Sequence[NewJob], asyncio.Future[list[Accepted]]]]


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


def request(
    chosen: Script, keys: Keys, iso: str, jobs: Sequence[NewJob]
) -> Callable[[bool], bytes]:
    """The script's request for one chunk, made anew for a resend.

    Args:
        chosen: the enqueue script.
        keys: names of keys.
        iso: the time, for the jobs' records.
        jobs: one chunk.
    """

    def make(resend: bool) -> bytes:
        args: list[Any] = [
            "EVALSHA", chosen.sha, 2, keys.prefix, keys.own, "1" if resend else "0", iso,
        ]  # fmt: skip
        for job in jobs:
            job.append_to(args)
        return pack(tuple(args))

    return make


def accepted(jobs: Sequence[NewJob], answer: Any) -> list[Accepted]:
    """Read the script's answer to one chunk.

    Raises:
        DuplicateJob: an id is taken; nothing of the chunk was enqueued.
    """
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


class Gathering:
    """Calls of one event loop at the same time go out together."""

    def __init__(self, send: Callable[[Sequence[NewJob]], Awaitable[Any]]) -> None:
        """Nothing waits yet.

        Args:
            send: gives one chunk to the script and returns its answer.
        """
        self._send_chunk = send
        self._waiting: _Calls = []
        self._sender: asyncio.Task[None] | None = None

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Accept jobs, with whatever else is being enqueued.

        Raises:
            DuplicateJob: an id is taken by another unfinished job.
            BrokerUnavailable: no answer before the deadline.
            BrokerError: the script refused.
        """
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
                together: _Calls = []
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

    async def _send(self, calls: _Calls) -> None:
        jobs = [job for call in calls for job in call[0]]
        got: list[Accepted] = []
        try:
            for chunk in chunks(jobs):
                got += accepted(chunk, await self._send_chunk(chunk))
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
            _set(future, got[position : position + len(call_jobs)])
            position += len(call_jobs)


def _set(future: asyncio.Future[Any], value: Any = None, error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
