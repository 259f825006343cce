"""The RQ lane: jobs with RQ features are settled by RQ's own, inherited code.

Callbacks of failures, webhooks, repeats, rate limits and a returned
`rq.Retry` keep RQ's meaning by construction: the engine runs the job, then a thread
with connections of its own calls what `rq.worker.BaseWorker` does at a job's end.

Fenced (see rq_fence.py), and carried out exactly once whatever becomes of the
connection. Several threads, because callbacks and webhooks may take long.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

from taskq.worker.rq_desk import Desk
from taskq.worker.rq_settling import settle as settle_by_rq
from taskq.worker.rq_share import Share

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
        self._share = Share(is_busy)
        self._host = host
        self._broker = broker
        self._pool = broker.redis(_SOCKET_TIMEOUT_S).connection_pool
        self._name = name
        self._queues = list(queues)
        self._app = app
        self._left = left
        self._todo: SimpleQueue[Callable[[Desk], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._free = 0
        self._maintaining = False
        _log_as_we_do()

    def submit(self, claim: Claim, *, counted: bool = False) -> None:
        """Settle a job that has ended; `counted`: the worker's counters have seen it."""
        seconds = time.monotonic() - claim.begun_mono if claim.begun_mono else 0.0

        def settle(desk: Desk) -> None:
            began = self._share.take_turn(self._todo.qsize())
            try:
                settle_by_rq(desk, claim, seconds, counting=not counted)
            except Exception:
                log.exception("RQ's code could not settle job %s; its lease will end", claim.id)
            finally:
                if self._todo.empty() or len(desk.used) >= _TIDY:
                    desk.tidy()
                self._share.used(began)
                self._left(claim)

        self._add(settle)

    def promote(self, jobs: list[tuple[str, str]]) -> None:
        """Enqueue due jobs (queue, id) that only RQ may enqueue: those with a rate limit."""
        self._add(lambda desk: desk.promote(jobs))

    def maintain(self) -> None:
        """Finish what a worker that died in the middle of RQ's steps has left."""
        if not self._maintaining:
            self._maintaining = True
            self._add(self._maintain)

    def _maintain(self, desk: Desk) -> None:
        try:
            desk.maintain(self._queues)
        finally:
            self._maintaining = False

    def stop(self) -> None:
        """End the threads after what they have."""
        for _ in self._threads:
            self._todo.put(None)

    def _add(self, work: Callable[[Desk], None]) -> None:
        self._todo.put(work)
        with self._lock:
            if self._todo.qsize() <= self._free or len(self._threads) >= THREADS:
                return
            thread = threading.Thread(target=self._run, name="taskq-rq-lane", daemon=True)
            self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        desk: Desk | None = None
        while True:
            with self._lock:
                self._free += 1
            work = self._todo.get()
            with self._lock:
                self._free -= 1
            if work is None:
                return
            desk = desk or Desk(self._pool, self._broker, self._app, self._name, self._host)
            try:
                work(desk)
            except Exception as err:  # noqa: BLE001 (the thread goes on: there is always a next time)
                log.warning("RQ's upkeep not possible now: %s", err)


def _log_as_we_do() -> None:
    """Warnings and errors of RQ's code go where ours go, unless somebody has decided that."""
    theirs = logging.getLogger("rq")
    if not theirs.handlers and not logging.getLogger().handlers:
        theirs.handlers = list(logging.getLogger("taskq").handlers)
        if theirs.level == logging.NOTSET:
            theirs.setLevel(logging.WARNING)
