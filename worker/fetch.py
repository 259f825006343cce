"""Fetching: reserves jobs while there is room, and blocks without polling when there are none.

Idle, a watcher waits at each queue; it is armed for one id at a time, and disarmed
(CLIENT UNBLOCK) when there is no room. It brings the job itself: a reserve waits in Redis
behind its BLMOVE. Those are numbered in a lane of their own, since they arrive late.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import backoff_s, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker.claim import Claim
from taskq.worker.settings import LEASE_S, PAGE
from taskq.worker.traces import NO_TRACEBACK
from taskq.worker.watcher import Call, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.room import Room
    from taskq.worker.settings import Identity, WorkerSettings

log = logging.getLogger("taskq.worker")

IDLE_CHECK_S = 5.0
"""An idle worker looks this often by itself, should a wake-up ever be lost."""
PAUSE_CHECK_S = 1.0
_RESERVE_S = 10.0
_AT_END_S = 1.0
_REARM_S = 0.001
"""The thread that got the job needs the interpreter first: 0.12 instead of 0.25 ms to its start."""


class Fetcher:
    """The loop that reserves."""

    def __init__(
        self,
        broker: Broker,
        link: AsyncLink,
        me: Identity,
        settings: WorkerSettings,
        room: Room,
        deliver: Callable[[list[Claim]], None],
    ) -> None:
        """Reserve nothing yet.

        Args:
            broker: for key names and the clock.
            link: a connection of its own.
            me: leases carry it.
            settings: name queues with their weights, in order of priority; and say whether
                the worker ends when they are empty.
            room: says how many jobs are wanted.
            deliver: takes the jobs of one call.
        """
        self._broker = broker
        self._link = link
        self._uid = me.uid
        self._worker = me.name
        self._queues = settings.queues
        self._names = [name for name, _weight in settings.queues]
        self._weighted = any(weight > 0 for _name, weight in settings.queues)
        self._strategy = settings.strategy if len(self._names) > 1 else "default"
        self._first = 0
        self._burst = settings.burst
        self._room = room
        self._deliver = deliver
        self._keys = (broker.keys.prefix, broker.keys.own)
        self._story = NO_TRACEBACK
        self._seq = 0
        self._wake = asyncio.Event()
        self._watchers: list[Watcher] = []
        self._unheard: list[str] = []
        self._stopping = False
        self._paused: frozenset[int] = frozenset()
        self._claimed = False
        self._backlog = False
        self._due = True
        self._timer: asyncio.TimerHandle | None = None
        self.empty = self._is_fresh = False
        self.fenced = False
        self.suspended = False

    def nudge(self) -> None:
        """A job has ended: there is more room, and it may have enqueued others."""
        self.empty = self._is_fresh = False
        self._wake.set()

    def look(self) -> None:
        """A queue was paused or goes on: ask Redis at once."""
        self._look_again()

    @property
    def has_backlog(self) -> bool:
        """Whether the last look found more jobs than it took."""
        return self._backlog and not self._stopping

    def unanswered(self) -> set[str]:
        """Execution ids of calls that may have reserved jobs of which nobody has heard yet."""
        behind = [watcher.call.seq for watcher in self._watchers if watcher.call is not None]
        return {f"tq{self._uid}{seq}" for seq in (*self._unheard, *behind)}

    async def run(self) -> None:
        """Reserve until `stop`."""
        self._watchers = [
            Watcher(self._broker, self._uid, name, partial(self._behind, n), self._fired)
            for n, name in enumerate(self._names)
        ]
        while not self._stopping:
            try:
                await self._step()
            except BrokerUnavailable as err:
                log.warning("%s Trying again", err)
                self._due = True
                await self._give_up_calls()
            except BrokerError as err:  # refused (disk full, an ACL): until somebody mends it
                log.error("%s Trying again", err)
                self._due = True
                await self._give_up_calls()
                await asyncio.sleep(random.uniform(0.5, 1.0))  # noqa: S311 (not a secret)

    async def stop(self) -> None:
        """After the end of `run`: what was reserved unheard is given back, now or at the leave."""
        self._stopping = True
        for watcher in self._watchers:
            await watcher.close()
            if watcher.call is not None:
                self._unheard.append(watcher.call.seq)
        if self._unheard:
            await asyncio.wait([asyncio.ensure_future(self._give_up_calls())], timeout=_AT_END_S)

    # -- looking, and waiting for a reason to ----------------------------------------------

    async def _step(self) -> None:
        if self._unheard:
            await self._give_up_calls()
        self._wake.clear()
        room = self._room.wanted(backlog=self._backlog)
        if room <= 0:
            if self._claimed or any(w.armed for w in self._watchers):
                await self._disarm()
            elif not self._stopping:
                self._due = True  # nobody watches the queues meanwhile
                await self._wake.wait()
        elif self._due or (self._burst and not self.empty):
            await self._pages(min(room, self._room.pace.next_batch()))
        else:
            await self._idle()

    def _look_again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = True
        self._wake.set()

    async def _idle(self) -> None:
        for position, watcher in enumerate(self._watchers):
            if position in self._paused:
                await watcher.disarm(self._link)
            elif not watcher.armed:
                watcher.arm()
        if self._timer is None:
            limit = PAUSE_CHECK_S if self._paused else IDLE_CHECK_S
            limit *= random.uniform(0.9, 1.1)  # noqa: S311 (not a secret)
            # a timer, not wait_for: that one costs a task and a turn of the loop at each wake-up
            self._timer = asyncio.get_running_loop().call_later(limit, self._look_again)
        await self._wake.wait()

    async def _disarm(self) -> None:
        await asyncio.gather(*(w.disarm(self._link) for w in self._watchers))
        call = self._new_call(0)  # what was claimed meanwhile goes back to its queue
        self._accept(call, await self._ask(call))
        self._unheard.remove(call.seq)

    # -- the call ---------------------------------------------------------------------------

    def _order(self) -> list[int]:
        """Positions in the order to serve: as given, drawn by weight, or in turn."""
        positions = list(range(len(self._names)))
        if self._strategy == "random":
            random.shuffle(positions)
            return positions
        if self._strategy == "round_robin":
            return positions[self._first :] + positions[: self._first]
        if not self._weighted:
            return positions
        # Efraimidis and Spirakis: sorting by u^(1/w) draws without replacement by weight
        keyed = [
            (random.random() ** (1.0 / weight) if weight > 0 else 0.0, position)  # noqa: S311 (not a secret)
            for position, (_name, weight) in enumerate(self._queues)
        ]
        return [position for _key, position in sorted(keyed, reverse=True)]

    def _call(self, lane: str, limit: int, iso: str) -> Call:
        """A reserve with a new number. Numbers of one lane reach Redis in their order."""
        self._seq += 1
        seq = f"{lane}{self._seq}"
        order = self._order()
        # RQ's other strategies choose anew for each job: one of each queue, again and again
        most = limit if self._strategy == "default" else f"{limit}e"
        args: list[Any] = [
            self._uid, self._worker, seq, most, LEASE_S, iso,
            self._story, *(self._names[p] for p in order),
        ]  # fmt: skip
        return Call(seq, limit, order, pack_script(script("reserve"), self._keys, args))

    async def _pages(self, limit: int) -> None:
        """Reserve; while full pages come, each is asked for before the one before is delivered."""
        call = self._new_call(limit)
        answer = await self._ask(call)
        while True:
            got = len(answer[2])
            self._backlog = self._due = got == call.limit
            if not self._due or self._room.wanted(backlog=True) - got < PAGE:
                self._hand_on(call, answer)
                return
            following = self._new_call(self._room.pace.next_batch())
            asking = asyncio.get_running_loop().create_task(self._ask(following))
            try:
                await asyncio.sleep(0)  # it gives its request to the link
                await asyncio.sleep(0)  # which sends it
                self._hand_on(call, answer)
                call, answer = following, await asking
            finally:
                asking.cancel()

    def _new_call(self, limit: int) -> Call:
        # A lost answer holds jobs that nobody knows of: it is never resent but given back. So is
        # one that was not delivered.
        call = self._call("", limit, self._broker.clock.iso())
        self._unheard.append(call.seq)
        self._claimed = False  # the script looks into the claim lists
        self._is_fresh = True
        return call

    async def _ask(self, call: Call) -> Any:
        return await run_script(
            self._link, script("reserve"), lambda _resend: call.packed, _RESERVE_S, once=True
        )

    def _hand_on(self, call: Call, answer: Any) -> None:
        self._unheard.remove(call.seq)
        self.empty = self._accept(call, answer) == 0 and self._is_fresh

    def _behind(self, position: int) -> Call | None:
        """The reserve that goes out behind a watcher's BLMOVE, for all queues."""
        # each watcher may get that much at the same moment
        room = self._room.wanted(backlog=False) // len(self._watchers)
        if room <= 0 or self._stopping:
            return None
        return self._call(f"w{position}n", min(room, PAGE), "")

    def _fired(self, call: Call | None, answer: Any) -> None:
        """An id has come into a claim list, or may have, and was reserved, or may have been."""
        if call is None or answer is None:
            self._claimed = self._due = True
            if call is not None:
                self._unheard.append(call.seq)
        elif self._accept(call, answer) == call.limit:
            self._backlog = self._due = True
        else:
            asyncio.get_running_loop().call_later(_REARM_S, self._wake.set)
            return
        self._wake.set()

    def _accept(self, call: Call, answer: Any) -> int:
        """Deliver what a reserve took; returns how many."""
        now_text, state, jobs, paused = answer
        self._broker.clock.offset_s = float(now_text) - time.time()
        was, self._paused = self._paused, frozenset(call.order[int(p)] for p in paused)
        if self._paused != was and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if state == b"fenced":
            self.fenced = True
            self._stopping = True
            log.error("This worker was taken for dead and its jobs were given away: it stops")
            return 0
        self.suspended = state == b"suspended"
        now = time.monotonic()
        exec_id = f"tq{self._uid}{call.seq}"
        claims: list[Claim] = []
        for position, raw_id, flat in jobs:
            place = call.order[int(position)]
            claims.append(Claim(place + 1, self._names[place], _text(raw_id), exec_id, flat, now))
        if claims:
            self._first = claims[-1].position % len(self._names)
            self.empty = False
            self._deliver(claims)
        return len(claims)

    async def _give_up_calls(self) -> None:
        """Reserves may have been carried out unheard: fence them, give back what they took."""
        attempt = 0
        while self._unheard:
            try:
                await self._give_up(self._unheard[-1])  # the last first: each goes to the head
                del self._unheard[-1]
            except (BrokerUnavailable, BrokerError) as err:
                if self._stopping:
                    return
                attempt += 1
                log.warning("%s Trying again", err)
                await asyncio.sleep(backoff_s(attempt))

    async def _give_up(self, seq: str) -> None:
        chosen = script("release")
        args = [self._uid, seq, self._broker.clock.iso(), 3, self._story]
        packed = pack_script(chosen, self._keys, args)
        await run_script(self._link, chosen, lambda _resend: packed, _RESERVE_S)


def _text(raw: bytes) -> str:
    """An id as text; bytes that are none stay as they are, to be refused with their record."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw  # type: ignore[return-value]
