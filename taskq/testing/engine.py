"""A worker in steps: takes jobs from a Redis in memory, has them run, settles them.

The same scripts as a worker's; what a worker does all the time (looking at its queues,
moving jobs that are due) happens here when it is asked for.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskq.errors import TaskQError
from taskq.notify import DELIVER
from taskq.testing.bench import Bench, depth
from taskq.testing.ends import WORKER, Ended, StepDoor, StepSettler
from taskq.worker import items
from taskq.worker.claim import Claim
from taskq.worker.resolve import Resolver
from taskq.worker.settings import LEASE_S, PAGE
from taskq.worker.traces import NO_TRACEBACK

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.endings import Ending

MOST = 10_000
"""Executions in one `run()` or `advance()`: more of them would never end."""
HURRIES = 100
"""So often a job that puts itself off again is run at once (TASKQ_EAGER); then it stays put off."""
_HELD = "testing:held:"


class Engine:
    """Serves all queues of one app.

    Attributes:
        running: ids of jobs whose code runs now.
        executions: how many there were.
        webhooks: URLs, and what they would have been told.
    """

    def __init__(self, app: TaskQ, broker: Broker, ended: Ended, *, at_once: bool = False) -> None:
        """Nothing is taken yet.

        Args:
            app: whose tasks run.
            broker: in memory.
            ended: called with ids of jobs whose record has changed.
            at_once: whether delayed jobs and retries are due as soon as nothing else waits.
        """
        self._app = app
        self._broker = broker
        self._keys = [broker.keys.prefix, broker.keys.own]
        self._uid = secrets.token_hex(4)
        self._seq = 0
        self._queues: list[str] = []
        self._lock = threading.RLock()
        self._lost = NO_TRACEBACK
        self._resolver = Resolver(app, rq=False, report=self._report)
        self._settler = StepSettler(broker, self._queues, ended)
        door = StepDoor(app, broker, ended)
        self._settler.to_rq = door.enter
        self._bench = Bench(app, broker, WORKER, self._settler, door)
        self.running: set[str] = set()
        self.executions = 0
        self.webhooks: list[tuple[str, Ending]] = []
        self._at_once = at_once
        self._hurried: Counter[bytes] = Counter()

    # -- one step ------------------------------------------------------------------------

    def know(self, queues: Iterable[str]) -> None:
        """Serve these queues as well, behind those that are known."""
        with self._lock:
            self._queues += [name for name in dict.fromkeys(queues) if name not in self._queues]

    def take(self, limit: int = 1) -> list[Claim]:
        """Reserve waiting jobs: queue by queue in the order of their first use."""
        with self._lock:
            head = f"{self._broker.keys.queue('')}"
            stored = self._broker.call("SMEMBERS", self._broker.keys.queues)
            self.know(sorted(raw.decode()[len(head) :] for raw in stored))
            keys = [self._broker.keys.queue(name) for name in self._queues]
            if not keys or not self._broker.call("EXISTS", *keys):  # far cheaper than the script
                return []
            self._seq += 1
            _now, _state, jobs, _paused = self._broker.script(
                "reserve",
                self._keys,
                [
                    self._uid, WORKER, self._seq, limit, LEASE_S, self._broker.clock.iso(),
                    self._lost, *self._queues,
                ],
            )  # fmt: skip
            exec_id = f"tq{self._uid}{self._seq}"
            return [
                Claim(position + 1, self._queues[position], _text(raw), exec_id, flat, 0.0)
                for position, raw, flat in jobs
            ]

    def take_all(self) -> deque[Claim]:
        """Reserve all that waits now."""
        taken: deque[Claim] = deque()
        while len(taken) % PAGE == 0 and (found := self.take(PAGE)):
            taken += found
        return taken

    def promote(self) -> None:
        """Move what is due to its queue."""
        if self._queues:
            args = [self._broker.clock.iso(), MOST, *self._queues]
            self._broker.script("promote", self._keys, args)

    def next_due(self) -> float | None:
        """When the next delayed job or retry is due, in seconds since 1970."""
        keys = self._broker.keys
        asked = [("ZRANGE", keys.scheduled(q), 0, 0, "WITHSCORES") for q in self._queues]
        heads = [float(reply[1]) for reply in self._broker.pipe(asked) if reply]
        return min(heads, default=None)

    @contextmanager
    def holding_back(self) -> Iterator[None]:
        """What waits now goes on waiting: it is put aside, and back before all that came later."""
        keys = self._broker.keys
        with self._lock:
            held = list(self._queues)
            for name in held:
                aside = f"{keys.own}{_HELD}{name}"
                self._broker.pipe([("RENAME", keys.queue(name), aside)])
        try:
            yield
        finally:
            for name in held:
                aside = f"{keys.own}{_HELD}{name}"
                ids = self._broker.call("LRANGE", aside, 0, -1)
                if ids:
                    self._broker.pipe([("LPUSH", keys.queue(name), *ids[::-1]), ("DEL", aside)])

    # -- running what waits --------------------------------------------------------------

    def drain(self, first: Iterable[Claim] = (), limit: int | None = None) -> int:
        """Run jobs in the calling thread: `first`, then what waits; returns how many ran.

        Raises:
            TaskQError: no limit is given and there is no end of them.
        """
        with self._pending(first) as pending:
            count = 0
            while limit is None or count < limit:
                claim = self._next(pending)
                if claim is None:
                    break
                _check_end(count, limit)
                if self._ready(claim):
                    count += 1
                    self.executions += 1
                    self.running.add(claim.id)
                    try:
                        self._bench.run(claim)
                    finally:
                        self.running.discard(claim.id)
            return count

    async def adrain(self, first: Iterable[Claim] = (), limit: int | None = None) -> int:
        """`drain` on the running event loop."""
        with self._pending(first) as pending:
            count = 0
            while limit is None or count < limit:
                claim = self._next(pending)
                if claim is None:
                    break
                _check_end(count, limit)
                if self._ready(claim):
                    count += 1
                    self.executions += 1
                    self.running.add(claim.id)
                    try:
                        error = await self._bench.arun(claim)
                    finally:
                        self.running.discard(claim.id)
                    if error is not None:
                        raise error
            return count

    @contextmanager
    def _pending(self, first: Iterable[Claim]) -> Iterator[deque[Claim]]:
        """Jobs in hand; what is left of them goes back to its queue, in order."""
        pending = deque(first)
        try:
            yield pending
        finally:
            for claim in reversed(pending):
                self._settler.add(claim, items.GIVEN_BACK)

    def _next(self, pending: deque[Claim]) -> Claim | None:
        if pending:
            return pending.popleft()
        found = self.take()
        if not found:
            if self._at_once:
                self._hurry()
            due = self.next_due()
            if due is not None and due <= self._broker.clock.time():
                self.promote()
                found = self.take()
        return found[0] if found else None

    def _hurry(self) -> None:
        """Delayed jobs and retries are due now; but none for ever."""
        keys = self._broker.keys
        for name in self._queues:
            for raw in self._broker.call("ZRANGE", keys.scheduled(name), 0, -1):
                self._hurried[raw] += 1
                if self._hurried[raw] <= HURRIES:
                    self._broker.call("ZADD", keys.scheduled(name), "XX", 0, raw)

    def _ready(self, claim: Claim) -> bool:
        """Find out what a job calls; what cannot or must not run is settled here."""
        try:
            self._resolver.prepare(claim)
        except Exception as err:  # noqa: BLE001 (as the worker: it ends with the reason)
            # On a worker an unknown task waits for the next release; in a test it is a mistake.
            self._bench.life.refuse(claim, err)
            return False
        if claim.name == DELIVER and not self._at_once:
            claim.fn = self._keep_webhook
        if self._broker.call("HGET", self._broker.keys.job(claim.id), "tq_cancel") == b"1":
            self._settler.add(claim, items.canceled(claim.unique))
            return False
        return True

    def _keep_webhook(self, url: str, ending: Ending, _keys: Sequence[str] = ()) -> int:
        """Nothing leaves a test: what would be sent is kept; returns "accepted"."""
        self.webhooks.append((url, ending))
        return 202

    def _report(self, job_id: str, done: float, total: float | None, note: str) -> None:
        progress = json.dumps([done, total, str(note)[:200]])
        self._broker.script("progress", self._keys, [job_id, progress])

    def is_inside(self) -> bool:
        """Whether the calling code is (part of) a job."""
        return depth() > 0

    def runs_elsewhere(self) -> bool:
        """Whether another thread or asyncio task runs jobs: what is waited for may come."""
        return len(self.running) > depth()

    def post(self) -> None:
        """Something was sent to a generator: those that run look for it."""
        self._bench.post()

    def close(self) -> None:
        """Close event loops and threads."""
        self._bench.close()


def _check_end(count: int, limit: int | None) -> None:
    if limit is None and count >= MOST:
        raise TaskQError(
            f"{MOST} jobs ran and still more are waiting: does a job enqueue itself, or a retry "
            "come back at once for ever? t.run(limit=...) runs so many."
        )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
