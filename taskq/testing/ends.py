"""The end of a job in a test: settled at once, by the worker's script or by RQ's own code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from taskq.worker.rq_door import Door
from taskq.worker.settle import DONE, Settler, settle_args
from taskq.worker.tally import Tally, Waits

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim
    from taskq.worker.items import Item
    from taskq.worker.rq_desk import Desk

log = logging.getLogger("taskq.testing")

WORKER = "testing"
"""Name of the worker in the records of its jobs."""
_HAS_DEPENDENTS = 2

Ended = Callable[[list[str]], None]
"""Called with ids of jobs whose record has changed."""


class StepSettler(Settler):
    """Settles each job at once."""

    def __init__(self, broker: Broker, queues: list[str], ended: Ended) -> None:
        """Nothing has ended.

        Args:
            broker: in memory.
            queues: names by position; the list grows.
            ended: told of each settled job.
        """
        self._memory = broker
        self._names = queues
        self._ended = ended
        self._waits = Waits(broker.clock)
        self.tally = Tally(self._waits)
        self.lost = 0
        self.to_rq: Callable[[Claim], None] | None = None

    def add(self, claim: Claim, item: Item) -> None:
        """Settle a job."""
        counted, self.tally = self.tally, Tally(self._waits)
        keys, clock = self._memory.keys, self._memory.clock
        if item.kind in ("f", "x"):  # begun and ended, by the clock of the test
            at = f"{clock.time():.6f}"
            item = item._replace(rest=(at, at, *item.rest[2:]))
        args, _order = settle_args(WORKER, clock.iso(), self._names, counted, [(claim, item)])
        answer = self._memory.script("settle", [keys.prefix, keys.own], args)
        if answer == [_HAS_DEPENDENTS] and self.to_rq is not None:
            self.to_rq(claim)
        elif answer != [DONE]:
            self.lost += 1
            log.warning("The end of job %s was not recorded: it is no longer ours", claim.id)
        self._ended([claim.id])


class StepDoor(Door):
    """Has RQ's own code settle a job here and now: what RQ enqueued with RQ's features."""

    def __init__(self, app: TaskQ, broker: Broker, ended: Ended) -> None:
        """RQ is imported when the first such job ends."""
        self._jobs_app = app
        self._memory = broker
        self._ended = ended
        self._desk: Desk | None = None
        self.inside: set[str] = set()

    def enter(self, claim: Claim, counted: bool = False) -> None:
        """Settle a job by RQ's code."""
        if self._desk is None:
            # RQ: only where a job needs it
            from taskq.worker.rq_desk import Desk  # noqa: PLC0415
            from taskq.worker.rq_settling import settle  # noqa: PLC0415

            self._settle = settle
            pool = self._memory.redis().connection_pool
            self._desk = Desk(pool, self._memory, self._jobs_app, WORKER)
        self._settle(self._desk, claim, 0.0, counting=not counted)
        self._desk.tidy()
        self._ended([claim.id])
