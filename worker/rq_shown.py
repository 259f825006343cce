"""What RQ's tools show of a worker while it works: its state, and the executions of its jobs.

The engine's heartbeats say both every few seconds. Whoever works with RQ's tools expects them
within a moment: `rq info`, `job.get_executions()`, the command `stop-execution`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from taskq.broker.client import BrokerError
from taskq.broker.link import pack_all
from taskq.errors import BrokerUnavailable
from taskq.worker.records import PAGE

if TYPE_CHECKING:
    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.claim import Claim
    from taskq.worker.presence import Presence
    from taskq.worker.records import Records
    from taskq.worker.runners import Runners

log = logging.getLogger("taskq.worker")

AGE_S = 0.1
"""Jobs that run for longer get their record at the next look; shorter ones never pay for it."""
_PATIENCE_S = 5.0


class Shown:
    """Called often; writes only what has changed, one request at a time."""

    def __init__(
        self,
        broker: Broker,
        link: AsyncLink,
        presence: Presence,
        runners: Runners,
        records: Records,
    ) -> None:
        """Nothing is shown yet.

        Args:
            broker: for key names.
            link: to Redis.
            presence: knows the state, and the worker's name.
            runners: have the jobs.
            records: write RQ's execution records.
        """
        self._broker = broker
        self._link = link
        self._presence = presence
        self._runners = runners
        self._records = records
        self._state = ""
        self._task: asyncio.Task[None] | None = None

    def step(self) -> None:
        """Begin to write what is new. On the event loop."""
        if self._task is None or self._task.done():
            new, state = self._new(), self._presence.state()
            if new or state != self._state:
                self._task = asyncio.get_running_loop().create_task(self._write(new, state))

    def _new(self) -> list[Claim]:
        now = time.monotonic()
        return [
            claim for claim in self._runners.running()
            if not claim.recorded and claim.begun_mono and now - claim.begun_mono > AGE_S
        ][:PAGE]  # fmt: skip

    async def _write(self, new: list[Claim], state: str) -> None:
        try:
            if state != self._state:
                key = self._broker.keys.worker(self._presence.name)
                packed = pack_all([("HSET", key, "state", state)])
                await self._link.ask(lambda _resend: packed, 1, _PATIENCE_S)
                self._state = state
            if new := [claim for claim in new if self._runners.runs(claim)]:
                await self._records.write(new)
        except (BrokerUnavailable, BrokerError) as err:
            log.debug("Not shown now: %s", err)
