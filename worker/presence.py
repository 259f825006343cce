"""A worker process in Redis: it says hello, that it lives and what it runs, and takes its leave."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from importlib import metadata
from typing import TYPE_CHECKING

from taskq.broker.client import BrokerError
from taskq.broker.link import pack_all
from taskq.errors import BrokerUnavailable
from taskq.worker import heartbeat
from taskq.worker.loading import resident_mb
from taskq.worker.records import PAGE
from taskq.worker.traces import NO_TRACEBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.claim import Claim
    from taskq.worker.records import Records
    from taskq.worker.rq_door import Door
    from taskq.worker.runners import Runners
    from taskq.worker.settings import Identity

log = logging.getLogger("taskq.worker")

RECORD_S = 1.0
"""Jobs that run longer get RQ's execution record; shorter ones never pay for it."""
REFRESH_S = 20.0
"""And it is refreshed so often: what Redis and the event loop do for thousands stays small."""
_PATIENCE_S = 10.0


def _begun(claims: Sequence[Claim]) -> list[str]:
    """Job id, execution id, job id, ..."""
    return [text for claim in claims for text in (claim.id, claim.exec_id)]


class Presence:
    """What Redis knows of this process; `beat` and `sweep` are called every few seconds.

    Attributes:
        is_suspended: whether all workers are (`rq suspend`).
        hosted_s: RQ's own code writes and removes the worker's record; seconds for which it is
            kept after a heartbeat. 0: we do.
    """

    def __init__(
        self,
        broker: Broker,
        link: AsyncLink,
        me: Identity,
        runners: Runners,
        records: Records,
        door: Door,
    ) -> None:
        """Nothing is known yet.

        Args:
            broker: for key names and the clock.
            link: to Redis.
            me: who this process is.
            runners: have the jobs that it runs.
            records: write RQ's execution records.
            door: to RQ's own code, which has upkeep to do.
        """
        self._broker = broker
        self._link = link
        self._me = me
        self._runners = runners
        self._records = records
        self._door = door
        self._story = NO_TRACEBACK
        self._stuck = 0
        self._memory_mb = 0.0
        self.is_suspended: Callable[[], bool] = bool
        self.hosted_s = 0

    @property
    def name(self) -> str:
        """Of this worker, in RQ's records."""
        return self._me.name

    def state(self) -> str:
        """What this worker does, in RQ's words."""
        if self._runners.running():
            return "busy"
        return "suspended" if self.is_suspended() else "idle"

    async def hello(self, listening: asyncio.Event) -> None:
        """Register, once this worker listens; waits for Redis as long as it takes.

        Who finds it may speak to it at once, hence not before.
        """
        try:
            version = metadata.version("taskq")
        except metadata.PackageNotFoundError:
            version = "0"
        attempt = 0
        while True:
            try:
                await heartbeat.reach(self._link)
                await listening.wait()
                if not self.hosted_s:
                    await heartbeat.register(self._broker, self._link, self._me, version)
                await self.beat()
            except (BrokerUnavailable, BrokerError) as err:
                attempt += 1
                if attempt <= 3 or attempt % 10 == 0:
                    log.warning("%s Waiting for it", err)
                pause = min(0.2 * 2**attempt, 2.0)
                await asyncio.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311 (not a secret)
            else:
                return

    async def beat(self) -> None:
        """Tell Redis that this process lives, and which jobs have run for a while.

        Raises:
            BrokerUnavailable: no answer.
        """
        me, now = self._me, time.monotonic()
        running = self._runners.running()
        due = [
            c for c in running
            if c.begun_mono and now - c.begun_mono > RECORD_S and now - c.recorded > REFRESH_S
        ]  # fmt: skip
        keep_s = self.hosted_s or heartbeat.KEEP_S
        one = heartbeat.Beat(
            me.uid, me.name, "\n".join(me.queues), self.state(), _begun(due[:PAGE])
        )
        await heartbeat.beat(self._broker, self._link, [one], keep_s)
        await self._show_state()
        for start in range(0, len(due), PAGE):
            # what has ended meanwhile is erased already
            page = [c for c in due[start : start + PAGE] if self._runners.runs(c)]
            if start and page:
                await heartbeat.beat(
                    self._broker, self._link, [one._replace(begun=_begun(page))], keep_s
                )
            if page:
                await self._records.write(page)

    async def _show_state(self) -> None:
        """Write how many threads and coroutines are abandoned, and the memory; if changed."""
        stuck, memory_mb = self._runners.stuck, resident_mb()
        if stuck == self._stuck and abs(memory_mb - self._memory_mb) < 1.0:
            return
        key = self._broker.keys.worker(self._me.name)
        fields = ("tq_stuck", stuck, "tq_memory", int(memory_mb * 1e6))
        packed = pack_all([("HSET", key, *fields)])
        await self._link.ask(lambda _resend: packed, 1, _PATIENCE_S)
        self._stuck, self._memory_mb = stuck, memory_mb

    async def sweep(self) -> None:
        """Take back what dead workers hold; let RQ's own code look after its own.

        Raises:
            BrokerUnavailable: no answer.
        """
        await heartbeat.sweep(self._broker, self._link, self._story)
        prefix = self._broker.keys.prefix
        marks = [f"{prefix}:ready:{name}" for name in self._me.queues]
        hooks = f"{self._broker.keys.own}hooks"
        packed = pack_all([("EXISTS", f"{prefix}:rl-keys", hooks, *marks)])
        if (await self._link.ask(lambda _resend: packed, 1, _PATIENCE_S))[0]:
            self._door.maintain()

    async def canceled(self) -> list[str]:
        """Ids of jobs in hand that somebody wants to be stopped.

        Raises:
            BrokerUnavailable: no answer.
        """
        ids = [claim.id for claim in self._runners.in_hand()]
        if not ids:
            return []
        packed = pack_all([("HGET", self._broker.keys.job(job_id), "tq_cancel") for job_id in ids])
        answers = await self._link.ask(lambda _resend: packed, len(ids), _PATIENCE_S)
        return [job_id for job_id, answer in zip(ids, answers, strict=True) if answer == b"1"]

    async def leave(self) -> None:
        """Give back what is left, and go from RQ's sets. An outage is no reason to stay."""
        try:
            await heartbeat.release(self._broker, self._link, self._me.uid, "bye", self._story)
            if not self.hosted_s:
                await heartbeat.unregister(self._broker, self._link, self._me)
        except (BrokerUnavailable, BrokerError) as err:
            log.warning("Could not take leave: %s", err)
