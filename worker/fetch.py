"""Fetching: reserves jobs while there is room, and blocks without polling when there are none.

Idle, a watcher waits at each queue; it is armed for one id at a time, and disarmed
(CLIENT UNBLOCK) when there is no room.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import backoff_s, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker.claim import Claim
from taskq.worker.outcome import lost_text
from taskq.worker.settings import LEASE_S
from taskq.worker.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.room import Room
    from taskq.worker.settings import Identity

log = logging.getLogger("taskq.worker")

IDLE_CHECK_S = 5.0
"""An idle worker looks this often by itself, should a wake-up ever be lost."""
PAUSE_CHECK_S = 1.0
_RESERVE_S = 10.0


class Fetcher:
    """The loop that reserves."""

    def __init__(
        self,
        broker: Broker,
        link: AsyncLink,
        me: Identity,
        queues: Sequence[tuple[str, float]],
        room: Room,
        deliver: Callable[[Claim], None],
    ) -> None:
        """Reserve nothing yet.

        Args:
            broker: for key names and the clock.
            link: a connection of its own.
            me: leases carry it.
            queues: names with their weights, in order of priority.
            room: says how many jobs are wanted.
            deliver: takes one job.
        """
        self._broker = broker
        self._link = link
        self._uid = me.uid
        self._worker = me.name
        self._queues = queues
        self._names = [name for name, _weight in queues]
        self._weighted = any(weight > 0 for _name, weight in queues)
        self._room = room
        self._deliver = deliver
        self._lost_text = lost_text()
        self._seq = 0
        self._wake = asyncio.Event()
        self._watchers: list[Watcher] = []
        self._stopping = False
        self._paused: frozenset[int] = frozenset()
        self._claimed = False
        self._backlog = False
        self.empty = False
        self.fenced = False

    def nudge(self) -> None:
        """Something has changed: there is room, or a job."""
        self._wake.set()

    def _fired(self) -> None:
        """An id has come into a claim list, or may have."""
        self._claimed = True
        self._wake.set()

    async def run(self) -> None:
        """Reserve until `stop`."""
        self._watchers = [
            Watcher(self._broker, self._uid, name, self._fired) for name in self._names
        ]
        while not self._stopping:
            try:
                await self._step()
            except BrokerUnavailable as err:
                log.warning("%s Trying again", err)
                await self._give_up_call()
            except BrokerError as err:  # refused (disk full, an ACL): until somebody mends it
                log.error("%s Trying again", err)
                await self._give_up_call()
                await asyncio.sleep(random.uniform(0.5, 1.0))  # noqa: S311 (not a secret)

    async def stop(self) -> None:
        """Reserve nothing more; ids claimed meanwhile are given back by `release`."""
        self._stopping = True
        self.nudge()
        for watcher in self._watchers:
            await watcher.close()

    async def _step(self) -> None:
        self._wake.clear()
        room = self._room.wanted(backlog=self._backlog)
        if room <= 0:
            if self._claimed or any(w.armed for w in self._watchers):
                await self._disarm()
            elif not self._stopping:
                await self._wake.wait()
            return
        want = min(room, self._room.pace.next_batch())
        got = await self._reserve(want)
        self._backlog = got == want
        if got < want and not self._stopping:
            self.empty = got == 0
            await self._idle()

    async def _idle(self) -> None:
        for position, watcher in enumerate(self._watchers):
            if position not in self._paused and not watcher.armed:
                watcher.arm()
        limit = PAUSE_CHECK_S if self._paused else IDLE_CHECK_S
        limit *= random.uniform(0.9, 1.1)  # noqa: S311 (not a secret)
        # a timer, not wait_for: that one costs a task and a turn of the loop on each wake-up
        timer = asyncio.get_running_loop().call_later(limit, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    async def _disarm(self) -> None:
        await asyncio.gather(*(w.disarm(self._link) for w in self._watchers))
        await self._reserve(0)  # what was claimed meanwhile goes back to its queue

    def _order(self) -> list[int]:
        """Positions in the order to serve: as given, or drawn by weight."""
        if not self._weighted:
            return list(range(len(self._names)))
        # Efraimidis and Spirakis: sorting by u^(1/w) draws without replacement by weight
        keyed = [
            (random.random() ** (1.0 / weight) if weight > 0 else 0.0, position)  # noqa: S311 (not a secret)
            for position, (_name, weight) in enumerate(self._queues)
        ]
        return [position for _key, position in sorted(keyed, reverse=True)]

    async def _reserve(self, limit: int) -> int:
        self._seq += 1
        order = self._order()
        exec_id = f"tq{self._uid}{self._seq}"
        args: list[Any] = [
            self._uid, self._worker, self._seq, limit, LEASE_S, self._broker.clock.iso(),
            self._lost_text, *(self._names[p] for p in order),
        ]  # fmt: skip
        keys = [self._broker.keys.prefix, self._broker.keys.own]
        chosen = script("reserve")
        self._claimed = False  # the script looks into the claim lists
        # A lost answer holds jobs that nobody knows of: it is never resent but given back.
        answer = await run_script(
            self._link, chosen, lambda _resend: pack_script(chosen, keys, args), _RESERVE_S,
            once=True,
        )  # fmt: skip
        now_text, state, jobs, paused = answer
        self._broker.clock.offset_s = float(now_text) - time.time()
        self._paused = frozenset(order[int(p)] for p in paused)
        if state == b"fenced":
            self.fenced = True
            self._stopping = True
            log.error("This worker was taken for dead and its jobs were given away: it stops")
            return 0
        now = time.monotonic()
        for position, raw_id, flat in jobs:
            place = order[int(position)]
            self._deliver(Claim(place + 1, self._names[place], _text(raw_id), exec_id, flat, now))
        if jobs:
            self.empty = False
        return len(jobs)

    async def _give_up_call(self) -> None:
        """A reserve may have been carried out unheard: fence its number, give back what it took."""
        args = [self._uid, self._seq, self._broker.clock.iso(), 3, self._lost_text]
        keys = [self._broker.keys.prefix, self._broker.keys.own]
        chosen = script("release")
        attempt = 0
        while not self._stopping:
            try:
                await run_script(
                    self._link, chosen, lambda _resend: pack_script(chosen, keys, args), _RESERVE_S
                )
                return
            except (BrokerUnavailable, BrokerError) as err:
                attempt += 1
                log.warning("%s Trying again", err)
                await asyncio.sleep(backoff_s(attempt))


def _text(raw: bytes) -> str:
    """An id as text; bytes that are none stay as they are, to be refused with their record."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw  # type: ignore[return-value]
