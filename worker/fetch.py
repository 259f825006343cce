"""Fetching: reserves jobs while there is room, and blocks without polling when there are none.

Idle, one blocked `BLMOVE queue -> claim list` waits for each queue, so exactly one
worker wakes for one job; the reserve script then adopts from the claim list. It is
armed for one id at a time, and disarmed (CLIENT UNBLOCK) when there is no room.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from redis import exceptions as rexc

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import backoff_s, pack, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker.claim import Claim
from taskq.worker.settings import LEASE_S, LOOKAHEAD_S, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink

log = logging.getLogger("taskq.worker")

IDLE_CHECK_S = 5.0
"""An idle worker looks this often by itself, should a wake-up ever be lost."""
PAUSE_CHECK_S = 1.0
_BLOCK_S = 20
_RESERVE_S = 10.0


class Watcher:
    """One blocked connection: waits for an id in one queue."""

    def __init__(self, broker: Broker, uid: str, queue: str, fired: Callable[[], None]) -> None:
        """`fired` is called when an id has been moved to the claim list."""
        self._broker = broker
        self._command = pack(
            ("BLMOVE", broker.keys.queue(queue), broker.keys.claim(uid, queue), "LEFT", "RIGHT",
             _BLOCK_S)
        )  # fmt: skip
        self._queue = queue
        self._fired = fired
        self._go = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._connection: Any = None
        self.client_id = 0
        self.armed = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    def arm(self) -> None:
        """Wait for one id."""
        self.armed = True
        self._go.set()

    async def disarm(self, link: AsyncLink) -> None:
        """Stop waiting, without losing an id that comes at this moment: it is in the claim list."""
        if not self.armed:
            return
        self.armed = False
        self._go.clear()
        while not self._at_rest.is_set():
            if self.client_id:
                unblock = pack(("CLIENT", "UNBLOCK", self.client_id))
                answer = (await link.ask(lambda _resend: unblock, 1, _RESERVE_S))[0]
                if isinstance(answer, rexc.ResponseError):  # an ACL forbids it: hang up instead
                    await self._drop()
            try:
                await asyncio.wait_for(self._at_rest.wait(), 0.2)
            except asyncio.TimeoutError:
                continue

    async def close(self) -> None:
        """End the task and the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection, self.client_id = self._connection, None, 0
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _run(self) -> None:
        attempt = 0
        while True:
            await self._go.wait()
            self._at_rest.clear()
            try:
                if await self._wait_once():
                    self.armed = False
                    self._go.clear()
                    self._fired()
                attempt = 0
            except (rexc.RedisError, BrokerUnavailable, OSError) as err:
                await self._drop()
                attempt += 1
                if isinstance(err, rexc.ResponseError):
                    log.error("Cannot wait on queue %r: %s", self._queue, err)
                # something may be in the claim list: whoever adopts it looks
                self._fired()
                await asyncio.sleep(backoff_s(attempt))
            except Exception:
                # a watcher that ended would leave its queue to the idle check alone
                log.exception("Waiting on queue %r failed; it is tried again", self._queue)
                await self._drop()
                self._fired()
                await asyncio.sleep(1.0)
            finally:
                self._at_rest.set()

    async def _wait_once(self) -> bool:
        loop = asyncio.get_running_loop()
        if self._connection is None:
            connection = await self._broker.aconnection()
            await connection.send_packed_command(pack(("CLIENT", "ID")))
            self.client_id = int(await connection.read_response())
            self._connection = connection
        connection = self._connection
        if not self._go.is_set():
            return False
        await connection.send_packed_command(self._command)
        me = asyncio.current_task()
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            if me is not None:
                me.cancel()

        timer = loop.call_later(_BLOCK_S + 10, expire)
        try:
            return await connection.read_response(disable_decoding=True) is not None
        except asyncio.CancelledError:
            if late:
                raise rexc.TimeoutError("a blocked connection did not answer") from None
            raise
        finally:
            timer.cancel()


class Pace:
    """How many jobs to hold: by a moving average of run time, and by how late jobs begin.

    The average goes up at once and down slowly, so that a slow task never holds a
    fast one hostage while another worker is idle.
    """

    def __init__(self) -> None:
        """Nothing is known: begin small."""
        self.average_s = 1.0
        self.batch = 16
        self._lag_s = 0.0

    def ran(self, seconds: float) -> None:
        """A job ended after `seconds`."""
        if seconds > self.average_s:
            self.average_s = seconds
        else:
            self.average_s += (seconds - self.average_s) * 0.05

    def began(self, lag_s: float) -> None:
        """A job began `lag_s` after it was reserved."""
        if lag_s > self._lag_s:
            self._lag_s = lag_s

    def next_batch(self) -> int:
        """Jobs to ask for at once: doubled while jobs begin in time, cut when they do not."""
        lag, self._lag_s = self._lag_s, 0.0
        if lag > LOOKAHEAD_S:
            self.batch = max(1, int(self.batch * LOOKAHEAD_S / lag))
        elif self.batch < PAGE:
            self.batch = min(PAGE, self.batch * 2)
        return self.batch

    def lookahead(self, slots: int, longest_running_s: float) -> int:
        """Jobs that may wait here without having begun: what `slots` work off in 50 ms."""
        each = max(self.average_s, longest_running_s, 1e-5)
        return min(2 * PAGE, int(slots * LOOKAHEAD_S / each))


class Fetcher:
    """The loop that reserves."""

    def __init__(
        self,
        broker: Broker,
        link: AsyncLink,
        uid: str,
        worker: str,
        queues: list[tuple[str, float]],
        room: Callable[[], int],
        deliver: Callable[[Claim], None],
        pace: Pace,
        lost_text: bytes,
    ) -> None:
        """Use `link` alone; `room` says how many jobs are wanted, `deliver` takes them."""
        self._broker = broker
        self._link = link
        self._uid = uid
        self._worker = worker
        self._queues = queues
        self._names = [name for name, _weight in queues]
        self._weighted = any(weight > 0 for _name, weight in queues)
        self._room = room
        self._deliver = deliver
        self._pace = pace
        self._lost_text = lost_text
        self._seq = 0
        self._wake = asyncio.Event()
        self._watchers: list[Watcher] = []
        self._stopping = False
        self.paused: frozenset[int] = frozenset()
        self._claimed = False
        self.empty = False
        self.backlog = False
        self.fetched = 0
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
            except BrokerError as err:  # refused (disk full, an ACL, a script that hangs): until mended
                log.error("%s Trying again", err)
                await self._give_up_call()
                await asyncio.sleep(random.uniform(0.5, 1.0))  # noqa: S311

    async def stop(self) -> None:
        """Reserve nothing more; ids claimed meanwhile are given back by `release`."""
        self._stopping = True
        self.nudge()
        for watcher in self._watchers:
            await watcher.close()

    async def _step(self) -> None:
        self._wake.clear()
        room = self._room()
        if room <= 0:
            if self._claimed or any(w.armed for w in self._watchers):
                await self._disarm()
            elif not self._stopping:
                await self._wake.wait()
            return
        want = min(room, self._pace.next_batch())
        got = await self._reserve(want)
        self.backlog = got == want
        if got < want and not self._stopping:
            self.empty = got == 0
            await self._idle()

    async def _idle(self) -> None:
        for position, watcher in enumerate(self._watchers):
            if position not in self.paused and not watcher.armed:
                watcher.arm()
        limit = PAUSE_CHECK_S if self.paused else IDLE_CHECK_S
        # a timer, not wait_for: that one costs a task and a turn of the loop on each wake-up
        timer = asyncio.get_running_loop().call_later(
            limit * random.uniform(0.9, 1.1), self._wake.set  # noqa: S311 (not a secret)
        )
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
            (random.random() ** (1.0 / weight) if weight > 0 else 0.0, position)  # noqa: S311
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
        self.paused = frozenset(order[int(p)] for p in paused)
        if state == b"fenced":
            self.fenced = True
            self._stopping = True
            log.error("This worker was taken for dead and its jobs were given away: it stops")
            return 0
        now = time.monotonic()
        for position, raw_id, flat in jobs:
            place = order[int(position)]
            self._deliver(Claim(place + 1, self._names[place], _text(raw_id), exec_id, flat, now))
        self.fetched += len(jobs)
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
