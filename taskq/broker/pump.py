"""The endless conversation about all jobs somebody waits for. No I/O.

`Pump.steps()` yields what to do next; a thread (`wait_thread`) or a task of an event loop
(`wait_loop`) does it on one connection: one blocking XREAD over all result streams (and the
streams of generator tasks that somebody reads), and once a second a look at the statuses, for
jobs that end without an entry in their stream.

Invariant: a watch stays until its end has been delivered or its last caller has left; a
lost connection or reply only means that the next XREAD begins at the same cursor.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.tap import PAGE, Entries, Tap, Taps
from taskq.broker.watch import (
    Command,
    Conversation,
    Ended,
    Sink,
    T,
    Target,
    Watch,
    explain_failures,
    look,
)
from taskq.keys import Keys

logger = logging.getLogger("taskq.handle")

LOOK_EVERY_S = 1.0
"""Interval of the status checks."""
LOOK_AT_MOST = 1_000
"""Handles in one status check; more take turns (1,000 HMGETs cost Redis 1 to 2 ms)."""
PATIENCE_S = 5.0
"""After this long an untimed wait says what it waits for."""
_KEY_COST_S = 1.4e-6
"""What one key of a blocking XREAD costs Redis, blocking and waking (0.6 to 1.4 us measured)."""
_SHARE = 10
"""At most a tenth of Redis's time goes into repeated XREADs: with 10,000 streams one costs
14 ms, so while results pour in, the next is sent 140 ms later and brings all of them."""
_PAUSE_AT_LEAST_S = 0.001


class Ask(NamedTuple):
    """Send the commands as a pipeline; reply: their replies."""

    commands: list[Command]


class Pause(NamedTuple):
    """Let time pass; more results arrive meanwhile."""

    seconds: float


class Block(NamedTuple):
    """Send the one command and wait for its reply, at most `seconds` and some grace."""

    command: Command
    seconds: float


Step = Ask | Pause | Block


class Pump:
    """All watches of one connection. `add` and `remove` may be called from any thread.

    Attributes:
        lock: guards the watches.
        round: number of the XREAD under way; changes when it has returned.
        can_interrupt: CLIENT UNBLOCK is allowed; else XREAD blocks only for short times.
        on_slow: called with the tag of a patient caller and the number of others like it.
    """

    def __init__(
        self,
        keys: Keys,
        on_slow: Callable[[Any, int], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without watches."""
        self.keys = keys
        self.lock = threading.Lock()
        self.round = 0
        self.can_interrupt = True
        self.on_slow = on_slow
        self._now = monotonic
        self._watches: dict[bytes, Watch] = {}
        self._taps = Taps()
        self._newcomers: list[Watch] = []
        self._is_blocked = False
        self._is_interrupted = False
        self._next_look = 0.0
        self._sent_at = 0.0
        self._sent_keys = 0

    def __len__(self) -> int:
        return len(self._watches) + len(self._taps)

    def add(
        self, requests: Iterable[tuple[Target, Any]], sink: Sink, *, is_patient: bool = False
    ) -> int | None:
        """Watch jobs; `sink(tag, outcome)` is called once for each.

        Returns:
            The number of the XREAD under way that must be interrupted so that the next one
            has these streams, too; None where that is not needed.
        """
        now = self._now()
        with self.lock:
            for target, tag in requests:
                key = self.keys.results(target.job_id).encode()
                watch = self._watches.get(key)
                if watch is None:
                    watch = self._watches[key] = Watch(self.keys, target, now)
                    if not watch.is_looked_up:
                        self._newcomers.append(watch)
                watch.is_known = watch.is_known or target.is_known
                watch.is_patient = watch.is_patient or is_patient
                watch.sinks.append((sink, tag))
            return self._interrupt()

    def tap(self, tap: Tap) -> int | None:
        """Read a stream for somebody, until `untap` or until it is full; returns as `add`."""
        with self.lock:
            return self._interrupt() if self._taps.add(tap) else None

    def untap(self, tap: Tap) -> None:
        """Forget a reader."""
        with self.lock:
            self._taps.remove(tap)

    def _interrupt(self) -> int | None:
        if not self._is_blocked or self._is_interrupted or not self.can_interrupt:
            return None
        self._is_interrupted = True
        return self.round

    def is_blocked_in(self, number: int) -> bool:
        """Whether that XREAD is still under way."""
        return self._is_blocked and self.round == number

    def remove(self, job_ids: Iterable[str], sink: Sink) -> None:
        """Forget a caller that stopped waiting; the jobs go on."""
        with self.lock:
            for job_id in job_ids:
                key = self.keys.results(job_id).encode()
                watch = self._watches.get(key)
                if watch is None:
                    continue
                watch.sinks = [pair for pair in watch.sinks if pair[0] != sink]
                if not watch.sinks:
                    del self._watches[key]

    def end_all(self, outcome: Outcome) -> None:
        """Tell all callers the same: nobody can wait any longer."""
        with self.lock:
            watches = list(self._watches.values())
        self._deliver([(watch, outcome) for watch in watches])

    def reset(self) -> None:
        """Begin anew on a new connection: what happened meanwhile is looked up."""
        with self.lock:
            self.round += 1
            self._is_blocked = self._is_interrupted = False
            for watch in self._watches.values():
                watch.is_looked_up = False
            self._newcomers = list(self._watches.values())

    def steps(self) -> Generator[Step, Any, None]:
        """What to do on the connection, until nobody waits any more."""
        while True:
            yield from self._look_at_newcomers()
            if self._now() >= self._next_look:
                yield from self._look_at_some()
            pause_s = self._pause_s()
            if pause_s:
                yield Pause(pause_s)
            block = self._begin()
            if block is None:
                return
            reply = yield block
            self._end()
            if isinstance(reply, Exception):
                yield from self._after_error(reply)
            elif reply:
                ended = self._take(reply)
                self._deliver((yield from _asking(explain_failures(self.keys, ended))))

    # -- looking at statuses -------------------------------------------------------------

    def _look_at_newcomers(self) -> Generator[Step, Any, int]:
        """Look up those who came since; returns how many of their jobs had ended."""
        ended_count = 0
        while self._newcomers:
            with self.lock:
                chosen, self._newcomers = (
                    self._newcomers[:LOOK_AT_MOST],
                    self._newcomers[LOOK_AT_MOST:],
                )
                chosen = [watch for watch in chosen if watch.sinks]
            if chosen:
                ended = yield from _asking(look(self.keys, chosen))
                ended_count += len(ended)
                self._deliver(ended)
        return ended_count

    def _look_at_some(self) -> Generator[Step, Any, None]:
        now = self._now()
        self._next_look = now + LOOK_EVERY_S
        with self.lock:
            chosen = []
            for key, watch in self._watches.items():
                chosen.append((key, watch))
                if len(chosen) == LOOK_AT_MOST:
                    break
            if len(chosen) < len(self._watches):  # the next ones come next time
                for key, watch in chosen:
                    del self._watches[key]
                    self._watches[key] = watch
        if chosen:
            watches = [watch for _key, watch in chosen]
            self._deliver((yield from _asking(look(self.keys, watches))))
            self._tell_the_patient(now)

    def _tell_the_patient(self, now: float) -> None:
        """Tell one of those who have waited long without a limit, for all of them."""
        if self.on_slow is None:
            return
        with self.lock:
            slow = [
                watch
                for watch in self._watches.values()
                if watch.is_patient and now - watch.since >= PATIENCE_S
            ]
            for watch in slow:
                watch.is_patient = False
        if slow and slow[0].sinks:
            self.on_slow(slow[0].sinks[0][1], len(slow) - 1)

    # -- the blocking read ---------------------------------------------------------------

    def _pause_s(self) -> float:
        """How long to let results gather, so that repeating a large XREAD stays cheap."""
        cost_s = max(len(self), self._sent_keys) * _KEY_COST_S
        pause_s = self._sent_at + cost_s * _SHARE - self._now()
        return pause_s if pause_s >= _PAUSE_AT_LEAST_S else 0.0

    def _begin(self) -> Block | None:
        with self.lock:
            if not len(self):
                return None
            now = self._now()
            seconds = max(self._next_look - now, 0.001)
            if not self.can_interrupt:
                # newcomers must wait until it returns by itself
                seconds = min(seconds, max(0.05, len(self) * _KEY_COST_S * _SHARE))
            watches = self._watches.values()
            keys, cursors = self._taps.places()
            command = (
                "XREAD", *(("COUNT", PAGE) if keys else ()),
                "BLOCK", int(seconds * 1000) + 1, "STREAMS",
                *self._watches, *keys, *[watch.cursor for watch in watches], *cursors,
            )  # fmt: skip
            self._sent_at, self._sent_keys = now, len(self)
            self.round += 1
            self._is_blocked, self._is_interrupted = True, False
            return Block(command, seconds)

    def _end(self) -> None:
        with self.lock:
            self._is_blocked = False

    def _take(self, reply: Any) -> list[Ended]:
        streams = reply.items() if isinstance(reply, dict) else reply  # RESP3 gives a map
        ended: list[Ended] = []
        read: list[tuple[Tap, Entries]] = []
        with self.lock:
            for key, entries in streams:
                watch = self._watches.get(key)
                if watch is None:
                    read += [(tap, entries) for tap in self._taps.of(key)]
                elif (outcome := watch.take(entries)) is not None:
                    ended.append((watch, outcome))
        for tap, entries in read:
            tap.take(entries)
            if tap.is_full():
                self.untap(tap)  # it comes again when it has taken what it has
        return ended

    def _after_error(self, error: Exception) -> Generator[Step, Any, None]:
        """One key that is no stream fails the whole XREAD: find it and give it its error."""
        self.reset()
        if (yield from self._drop_broken_taps()):
            return
        if not (yield from self._look_at_newcomers()):
            self.end_all(Outcome(Kind.BROKEN, note=str(error)))

    def _drop_broken_taps(self) -> Generator[Step, Any, int]:
        """Streams whose key holds something else are as good as empty; returns how many."""
        with self.lock:
            keys, _cursors = self._taps.places()
        if not keys:
            return 0
        kinds = yield Ask([("TYPE", key) for key in keys])
        broken = [
            k for k, kind in zip(keys, kinds, strict=True) if kind not in (b"stream", b"none")
        ]
        with self.lock:
            for tap in [tap for key in broken for tap in self._taps.of(key)]:
                self._taps.remove(tap)
        return len(broken)

    def _deliver(self, ended: list[Ended]) -> None:
        if not ended:
            return
        calls: list[tuple[Sink, Any, Outcome]] = []
        with self.lock:
            for watch, outcome in ended:
                if self._watches.get(watch.key) is watch:
                    del self._watches[watch.key]
                calls += [(sink, tag, outcome) for sink, tag in watch.sinks]
                watch.sinks = []
        for sink, tag, outcome in calls:
            try:
                sink(tag, outcome)
            except Exception:  # one caller's fault must not reach the others
                logger.exception("A caller could not take its job's outcome")


def _asking(conversation: Conversation[T]) -> Generator[Step, Any, T]:
    """Run a conversation with steps of `Ask`."""
    try:
        commands = next(conversation)
        while True:
            commands = conversation.send((yield Ask(list(commands))))
    except StopIteration as stop:
        result: T = stop.value
        return result
