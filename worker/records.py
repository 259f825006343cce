"""What Redis is told of jobs while they run: RQ's execution records, and progress.

Both are for people who look (`get_executions`, `rq info`, a progress bar); nothing
else rests on them, so what cannot be written is left out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import pack_all, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable

if TYPE_CHECKING:
    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.claim import Claim

log = logging.getLogger("taskq.worker")

_KEEP_S = 60
"""An execution's record outlives its last refresh by so much."""
PAGE = 100
"""Jobs in one request: of ten thousand at once the event loop would stand still for half a second.
"""
_PATIENCE_S = 10.0


class Records:
    """Writes them, and removes the records of jobs that have ended.

    Attributes:
        reports: the latest progress of each job that is not written yet.
    """

    def __init__(self, broker: Broker, link: AsyncLink, worker: str) -> None:
        """Nothing is written yet; `worker` is this worker's name."""
        self._broker = broker
        self._link = link
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self.reports: dict[str, tuple[float, float | None, str]] = {}
        self._gone: list[Claim] = []
        self._erasing: asyncio.Task[None] | None = None

    async def write(self, claims: Sequence[Claim]) -> None:
        """Write or refresh the execution records of at most `PAGE` jobs that run for a while.

        Raises:
            BrokerUnavailable: no answer.
        """
        keys, now, mono = self._broker.keys, self._broker.clock.time(), time.monotonic()
        mine = f"{keys.worker(self._worker)}:executions"
        commands: list[Sequence[Any]] = []
        for claim in claims:
            claim.recorded = mono
            both = f"{claim.id}:{claim.exec_id}"
            record = f"{keys.prefix}:execution:{both}"
            of_job = f"{keys.prefix}:executions:{claim.id}"
            commands += (
                ("HSET", record, "id", claim.exec_id, "job_id", claim.id, "created_at",
                 claim.begun_at, "last_heartbeat", now, "worker_name", self._worker),
                ("EXPIRE", record, _KEEP_S),
                ("ZADD", of_job, now + _KEEP_S, claim.exec_id),
                ("EXPIRE", of_job, _KEEP_S),
                ("SADD", mine, both),
            )  # fmt: skip
        commands.append(("EXPIRE", mine, _KEEP_S))
        packed = pack_all(commands)
        await self._link.ask(lambda _resend: packed, len(commands), _PATIENCE_S)

    def forget(self, claim: Claim) -> None:
        """A job is settled: nothing is to be said of it any more. Called on the event loop."""
        if claim.recorded:
            self._gone.append(claim)
            if self._erasing is None:
                self._erasing = self._loop.create_task(self._erase())
        self.reports.pop(claim.id, None)

    async def _erase(self) -> None:
        keys = self._broker.keys
        try:
            while self._gone:
                page, self._gone = self._gone[:PAGE], self._gone[PAGE:]
                commands: list[Sequence[Any]] = []
                for claim in page:
                    both = f"{claim.id}:{claim.exec_id}"
                    commands += (
                        ("DEL", f"{keys.prefix}:execution:{both}"),
                        ("ZREM", f"{keys.prefix}:executions:{claim.id}", claim.exec_id),
                        ("SREM", f"{keys.worker(self._worker)}:executions", both),
                    )
                await self._send(commands)
        finally:
            self._erasing = None

    async def _send(self, commands: Sequence[Sequence[Any]]) -> None:
        packed = pack_all(commands)
        with suppress(BrokerUnavailable):  # they carry a TTL
            await self._link.ask(lambda _resend: packed, len(commands), _PATIENCE_S)

    def report(self, job_id: str, done: float, total: float | None, note: str) -> None:
        """Take a running job's progress, from any thread; the latest report counts.

        Raises:
            TypeError, ValueError: `done` or `total` is no number.
        """
        # Called as often as a task likes: it is written as text only when it is sent.
        whole = None if total is None else _number(total)
        self.reports[job_id] = (_number(done), whole, str(note)[:200])

    async def write_progress(self) -> None:
        """Write the reports that have come since the last time."""
        reports, self.reports = self.reports, {}
        keys = self._broker.keys
        chosen = script("progress")
        args = [part for job_id, said in reports.items() for part in (job_id, json.dumps(said))]
        packed = pack_script(chosen, [keys.prefix, keys.own], args)
        try:
            await run_script(self._link, chosen, lambda _resend: packed, _PATIENCE_S)
        except (BrokerUnavailable, BrokerError):
            log.debug("Progress of %d jobs was not written", len(reports))


def _number(value: object) -> float:
    """What JSON can carry: numpy's numbers, Decimal and Fraction become floats."""
    return value if type(value) in (int, float) else float(value)  # type: ignore[arg-type,return-value]
