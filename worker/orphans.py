"""Jobs of a child that died: those over their time limit have failed, the others run again."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import pack, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker import heartbeat
from taskq.worker.claim import Claim
from taskq.worker.items import Item, pack_items
from taskq.worker.outcome import TimeLimit, failure_item
from taskq.worker.traces import NO_TRACEBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.begun import Begun
    from taskq.worker.children import Child

log = logging.getLogger("taskq.supervisor")

_PATIENCE_S = 5.0
_AGAIN_S = 0.5
_LEASE_LOST, _HAS_DEPENDENTS = 0, 2


class Orphans:
    """Finds a place for them."""

    def __init__(
        self, broker: Broker, link: AsyncLink, queues: list[str], hurry: Callable[[], bool]
    ) -> None:
        """Look after jobs of these queues; with `hurry()`, an outage of Redis ends the care."""
        self._broker = broker
        self._link = link
        self._queues = queues
        self._hurry = hurry
        self._story = NO_TRACEBACK

    async def settle(self, child: Child, begun: list[Begun]) -> None:
        """Give back or fail what a child held.

        Args:
            child: it has died.
            begun: jobs whose code ran when it died: their crash counts.
        """
        while True:
            try:
                open_ = await self._fail_overdue(child)
                # killed by us: for one job, or in a hurry: the others deserve no crash mark
                ids = open_ if child.killed_for or child.cut_off else [b.job_id for b in begun]
                requeued, failed = await heartbeat.release(
                    self._broker, self._link, child.uid, "dead", self._story, ids
                )
            except (BrokerUnavailable, BrokerError) as err:
                if self._hurry():
                    log.error("%s Jobs of %s run again when their leases end", err, child.title)
                    return
                await asyncio.sleep(_AGAIN_S)
            else:
                if requeued or failed:
                    log.warning("Jobs of %s: %d queued again, %d failed",
                                child.title, requeued, failed)  # fmt: skip
                return

    async def _fail_overdue(self, child: Child) -> list[str]:
        """End (or retry) jobs for which a child was killed; returns those left as they are."""
        broker, queues = self._broker, self._queues
        left: list[str] = []
        for job in child.killed_for:
            flat = await self._ask(pack(("HGETALL", broker.keys.job(job.job_id))))
            flat = flat if isinstance(flat, list) else []
            # which of our queues it came from is not in the table: the fence tells
            for position, name in enumerate(queues, 1):
                claim = Claim(position, name, job.job_id, job.exec_id, flat, 0.0)
                code = await self._settle_one(child.name, claim, _overdue_item(claim, job))
                if code == _HAS_DEPENDENTS:
                    left.append(job.job_id)
                if code != _LEASE_LOST:
                    break
        return left

    async def _settle_one(self, worker: str, claim: Claim, item: Item) -> int:
        """One call of the settle script, as the worker itself would have made it."""
        broker, queues = self._broker, self._queues
        args = [worker, broker.clock.iso(), 0, 1, "0", len(queues), *queues, 0]
        args += pack_items([(claim, item)])[0]
        chosen = script("settle")
        packed = pack_script(chosen, [broker.keys.prefix, broker.keys.own], args)
        answer = await run_script(self._link, chosen, lambda _resend: packed, _PATIENCE_S)
        return int(answer[0])

    async def _ask(self, packed: bytes) -> Any:
        return (await self._link.ask(lambda _resend: packed, 1, _PATIENCE_S))[0]


def _overdue_item(claim: Claim, job: Begun) -> Item:
    """A retry or the end of a job for which its worker process was killed."""
    claim.begun_at = time.time() - (time.monotonic() - job.deadline)
    with suppress(ValueError):
        claim.begun_at -= claim.timeout_s
        claim.attempt = claim.attempt_by_record
    return failure_item(
        claim,
        TimeLimit(
            "It ran longer than its time limit, could not be stopped, and its worker process "
            "was killed"
        ),
    )
