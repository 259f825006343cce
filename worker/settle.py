"""Settling: what became of jobs goes to Redis in batches.

One settle is in flight at a time, and what ends meanwhile goes with the next one
(group commit: no timer, no added delay). While Redis is away, ended jobs wait
here and are settled when it is back, fenced; nothing is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker import items
from taskq.worker.claim import YEAR_S
from taskq.worker.items import Item, pack_items
from taskq.worker.settings import PAGE
from taskq.worker.tally import Tally, Waits

if TYPE_CHECKING:
    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.claim import Claim
    from taskq.worker.rq_door import Door
    from taskq.worker.settings import Identity

log = logging.getLogger("taskq.worker")

PATIENCE_S = 15.0
"""A settle unanswered for so long is sent again on a new connection: the old one may be
half open (a firewall that forgot it), where no answer and no error will ever come."""
DONE, LOST, HAS_DEPENDENTS = 1, 0, 2
_BATCH_BYTES = 4_000_000


class Settler:
    """Collects ended jobs and settles them."""

    def __init__(
        self,
        broker: Broker,
        link: AsyncLink,
        me: Identity,
        door: Door,
        settled: Callable[[Claim], None],
    ) -> None:
        """Use `link` alone.

        Args:
            broker: for key names and the clock.
            link: a connection of its own.
            me: this worker's name, and its queues by position.
            door: takes jobs whose dependents only RQ's own code may enqueue, and those that
                have webhooks.
            settled: called when a job is out of our hands.
        """
        self._broker = broker
        self._link = link
        self._worker = me.name
        self._queues = me.queues
        self._door = door
        self._settled = settled
        self._items: list[tuple[Claim, Item]] = []
        self._task: asyncio.Task[None] | None = None
        self._waits = Waits(broker.clock)
        self.tally = Tally(self._waits)
        self._page = PAGE
        self._flush = False
        self.bytes = 0
        self.lost = 0

    def add(self, claim: Claim, item: Item) -> None:
        """Settle a job with the next batch. Called on the event loop."""
        self._items.append((claim, item))
        self.bytes += item.size
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def pending(self) -> int:
        """Jobs that have ended and are not settled yet."""
        return len(self._items)

    def job_ids(self) -> set[str]:
        """Ids of those jobs."""
        return {claim.id for claim, _item in self._items}

    async def drain(self) -> None:
        """Wait until everything is settled."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def flush(self) -> None:
        """Send what is counted, where no job ends that would take it along."""
        self._flush = bool(self.tally)
        if self._flush and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._items or self._flush:
                self._flush = False
                batch = self._next()
                await self._send(batch)
        except BrokerError as err:  # out of memory, a wrong type: it lasts until somebody mends it
            log.error("Redis refuses to record the end of %d jobs: %s Trying again",
                      len(self._items), err)  # fmt: skip
            await asyncio.sleep(0.5)
        except BrokerUnavailable as err:  # the link has its own patience; what ended waits here
            log.warning("%s %d ended jobs wait to be settled", err, len(self._items))
            await asyncio.sleep(random.uniform(0.2, 0.5))  # noqa: S311 (not a secret)
        except Exception:
            log.exception("Settling failed; it is tried again, one by one")
            self._give_up_or_single()
        finally:
            self._task = None
            if self._items:
                self._task = asyncio.get_running_loop().create_task(self._run())

    def _give_up_or_single(self) -> None:
        """A batch that cannot even be sent is taken apart; the one job at fault fails plainly."""
        if self._page > 1 or not self._items:
            self._page = 1
            return
        self._page = PAGE
        claim, item = self._items[0]
        if item.kind == "x" and not item.rest[2]:
            log.critical("The end of job %r cannot be recorded at all", claim.id)
            del self._items[0]
            self._settled(claim)
            return
        error = '["taskq.errors.TaskQError","The end of this job could not be recorded.",1]'
        at = claim.begun_at
        self._items[0] = (claim, items.failed(at, at, b"", error, YEAR_S, ""))

    def _next(self) -> list[tuple[Claim, Item]]:
        size = n = 0
        for _claim, item in self._items[: self._page]:
            size += item.size
            if n and size > _BATCH_BYTES:
                break
            n += 1
        return self._items[:n]

    async def _send(self, batch: list[tuple[Claim, Item]]) -> None:
        # what cannot be sent is counted with the next batch
        counted, self.tally = self.tally, Tally(self._waits)
        iso = self._broker.clock.iso()
        args, order = settle_args(self._worker, iso, self._queues, counted, batch)
        keys = [self._broker.keys.prefix, self._broker.keys.own]
        chosen = script("settle")
        resent = False

        def make(resend: bool) -> bytes:
            nonlocal resent
            resent = resent or resend
            return pack_script(chosen, keys, args)

        try:
            answer = await run_script(self._link, chosen, make, PATIENCE_S)
        except BaseException:
            self.tally.add(counted)
            raise
        del self._items[: len(batch)]
        for place, code in zip(order, answer, strict=True):
            claim, item = batch[place]
            self.bytes -= item.size
            if code == HAS_DEPENDENTS:
                if not (seen := DONE in answer):
                    self.tally.began(claim)
                self._door.enter(claim, seen)
                continue
            if code == LOST and not resent:  # else it was we who settled it
                self._say_lost(claim, item)
            elif claim.sends:
                self._door.send(claim, sure=code == DONE)
            self._settled(claim)

    def _say_lost(self, claim: Claim, item: Item) -> None:
        self.lost += 1
        what = {"f": "its result", "x": "its failure", "r": "its retry"}.get(item.kind, "its end")
        log.warning(
            "Job %s (%s) no longer belongs to this worker: %s was not recorded. "
            "Its lease had ended, or the record was already made",
            claim.id, claim.name, what,
        )  # fmt: skip


def settle_args(
    worker: str,
    iso: str,
    queues: Sequence[str],
    counted: Tally,
    batch: Sequence[tuple[Claim, Item]],
) -> tuple[list[Any], list[int]]:
    """Arguments of the script, and for each of its answers the position of the job in the batch.

    Args:
        worker: its name.
        iso: the time, for the jobs' records.
        queues: names; a claim's `position` counts from 1.
        counted: what has ended since the last time.
        batch: jobs and what became of them.
    """
    jobs, order = pack_items(batch)
    head = [worker, iso, *counted.totals(), len(queues), *queues, *counted.fields()]
    return [*head, *jobs], order
