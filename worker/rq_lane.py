"""The RQ lane: ends of jobs that only RQ's own, inherited code can record.

What the settle script cannot say (see rq_items.py) keeps RQ's meaning by construction: the
engine runs the job, then a thread with connections of its own calls what
`rq.worker.BaseWorker` does at a job's end.

Fenced (see rq_fence.py), and carried out exactly once whatever becomes of the
connection. Several threads, because callbacks and webhooks may take long.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from taskq.worker.rq_crew import Crew
from taskq.worker.rq_desk import Desk
from taskq.worker.rq_hooks import Hooks
from taskq.worker.rq_settling import settle as settle_by_rq
from taskq.worker.rq_share import MOST_WAITING, Share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim
    from taskq.worker.rq_host import Host

log = logging.getLogger("taskq.worker")

THREADS = 8
_SOCKET_TIMEOUT_S = 15.0
_TIDY = 100


class Lane:
    """A few threads that settle one job after the other."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        queues: Sequence[str],
        app: TaskQ,
        left: Callable[[Claim], None],
        host: Host | None = None,
        is_busy: Callable[[], bool] = bool,
    ) -> None:
        """Start nothing yet.

        Args:
            broker: its keys and connections.
            name: of the worker.
            queues: that it serves.
            app: with its codec.
            left: called in a thread when a job is out of our hands.
            host: the RQ worker that the engine works for, if there is one.
            is_busy: whether other jobs want all the time there is.
        """
        self._share = Share(is_busy, MOST_WAITING)
        self._host = host
        self._broker = broker
        self._pool = broker.redis(_SOCKET_TIMEOUT_S).connection_pool
        self._name = name
        self._queues = list(queues)
        self._app = app
        self._left = left
        self._crew: Crew[Desk] = Crew("taskq-rq-lane", THREADS, self._desk, Desk.tidy)
        self._hooks = Hooks(self._pool, broker, app, name, is_busy)
        self._maintaining = False
        _log_as_we_do()

    def _desk(self) -> Desk:
        return Desk(self._pool, self._broker, self._app, self._name, self._host)

    def submit(self, claim: Claim, *, counted: bool = False) -> None:
        """Settle a job that has ended; `counted`: the worker's counters have seen it."""
        seconds = time.monotonic() - claim.begun_mono if claim.begun_mono else 0.0

        def settle(desk: Desk) -> None:
            began = self._share.take_turn(self._crew.waiting)
            try:
                settle_by_rq(desk, claim, seconds, counting=not counted)
            except Exception:
                log.exception("RQ's code could not settle job %s; its lease will end", claim.id)
            finally:
                if not self._crew.waiting or len(desk.used) >= _TIDY:
                    desk.tidy()
                self._share.used(began)
                self._left(claim)

        self._crew.add(settle)

    def send(self, claim: Claim, sent: Callable[[], None], *, sure: bool) -> None:
        """Send the webhooks of a job whose end was recorded (see rq_hooks.py)."""
        self._hooks.send(claim, sent, sure=sure)

    def promote(self, jobs: list[tuple[str, str]]) -> None:
        """Enqueue due jobs (queue, id) that only RQ may enqueue: those with a rate limit."""
        self._crew.add(lambda desk: desk.promote(jobs))

    def maintain(self) -> None:
        """Finish what a worker that died in the middle of RQ's steps has left."""
        if not self._maintaining:
            self._maintaining = True
            self._crew.add(self._maintain)
            self._hooks.look()

    def _maintain(self, desk: Desk) -> None:
        try:
            desk.maintain(self._queues)
        finally:
            self._maintaining = False

    def stop(self) -> None:
        """End the threads after what they have."""
        self._crew.stop()
        self._hooks.stop()


def _log_as_we_do() -> None:
    """Warnings and errors of RQ's code go where ours go, unless somebody has decided that."""
    theirs = logging.getLogger("rq")
    if not theirs.handlers and not logging.getLogger().handlers:
        theirs.handlers = list(logging.getLogger("taskq").handlers)
        if theirs.level == logging.NOTSET:
            theirs.setLevel(logging.WARNING)
