"""What generator tasks yield goes to Redis in batches.

One call is in flight at a time, and what is yielded meanwhile goes with the next (group
commit: no timer, no added delay): however many generators run, each value costs no round
trip of its own. While Redis is away values wait here, and generators that are too far ahead
of it stand still; sending again is harmless, for each value has its number.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker.outcome import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.generator_run import Run

log = logging.getLogger("taskq.worker")

PATIENCE_S = 15.0
BATCH = 1_000
"""Values in one call: it takes Redis about 2 ms."""
BATCH_BYTES = 2_000_000
KEEP_BYTES = 16_000_000
"""What one stream holds at most, however many values that are."""
_CHUNK_BYTES = 65_536
LEAST_TTL_S = 60
"""Readers that are behind have so long to read the rest, though no result is kept."""


class Kept:
    """Which values of one stream are to be kept: the last so many, and so many bytes."""

    __slots__ = ("_bytes", "_chunks", "_low", "_most", "_open")

    def __init__(self, most: int) -> None:
        """Nothing was yielded; `most` values are kept."""
        self._most = most
        self._chunks: deque[tuple[int, int]] = deque()
        self._bytes = self._open = 0
        self._low = 1

    def lowest(self, last: int, size: int) -> int:
        """The lowest number to keep, now that `size` more bytes reach up to number `last`."""
        self._open += size
        if self._open >= _CHUNK_BYTES:
            self._chunks.append((last, self._open))
            self._bytes += self._open
            self._open = 0
            while self._bytes > KEEP_BYTES:
                number, count = self._chunks.popleft()
                self._bytes -= count
                self._low = number + 1
        return max(last - self._most + 1, self._low)


class _Group:
    """Values of one run in one call."""

    __slots__ = ("first", "is_last", "keep", "run", "size", "values")

    def __init__(self, run: Run, values: list[bytes], keep: str, is_last: bool) -> None:
        self.run = run
        self.first = run.sent + 1
        self.values = values
        self.size = sum(map(len, values))
        self.keep = keep
        self.is_last = is_last


class Yields:
    """Collects and writes them."""

    def __init__(
        self, broker: Broker, link: AsyncLink, wake: Callable[[Callable[[], None]], None]
    ) -> None:
        """Write nothing yet.

        Args:
            broker: for key names.
            link: carries the calls.
            wake: runs a function on the event loop, from any thread.
        """
        self._keys = [broker.keys.prefix, broker.keys.own]
        self._link = link
        self._wake = wake
        self._dirty: deque[Run] = deque()
        self._unsent: list[_Group] = []
        self._kept: dict[Run, tuple[Kept, int]] = {}
        self._is_woken = False
        self._task: asyncio.Task[None] | None = None

    def mark(self, run: Run) -> None:
        """A run has put something out. From any thread."""
        if not run.is_dirty:
            run.is_dirty = True
            self._dirty.append(run)
            if not self._is_woken:
                self._is_woken = True
                self._wake(self._kick)

    def end(self, run: Run, again: bool, then: Callable[[], None]) -> None:
        """A run has ended: call `then` when all of it is in Redis. On the event loop.

        Args:
            run: it has ended.
            again: it may be executed again: its stream and what was sent to it stay.
            then: called once, also where its lease was lost.
        """
        ttl = run.claim.result_ttl_s
        run.ttl = "" if again else "-1" if ttl < 0 else str(max(ttl, LEAST_TTL_S))
        run.ended = then
        self.mark(run)

    def forget(self, run: Run) -> None:
        """Nothing more of a run is to be written."""
        run.lost = True
        run.out.clear()
        self._kept.pop(run, None)

    def _kick(self) -> None:
        self._is_woken = False
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                groups = self._unsent = self._unsent or self._take()
                if not groups:
                    return
                await self._send(groups)
                self._unsent = []
        except BrokerUnavailable as err:  # the link has its own patience
            log.warning("%s What %d generators yielded waits", err, len(self._unsent))
            await asyncio.sleep(random.uniform(0.2, 0.5))  # noqa: S311 (not a secret)
        except BrokerError as err:
            log.error("Redis refuses what generators yielded: %s Trying again", err)
            await asyncio.sleep(0.5)
        except Exception:
            log.exception("What %d generators yielded could not be sent; their jobs are cut short",
                          len(self._unsent))  # fmt: skip
            for group in self._unsent:
                self._lose(group.run)
            self._unsent = []
        finally:
            self._task = None
            if self._unsent or self._dirty:
                self._kick()

    def _take(self) -> list[_Group]:
        groups: list[_Group] = []
        count = size = 0
        dirty = self._dirty
        while dirty and count < BATCH and size < BATCH_BYTES:
            run = dirty.popleft()
            run.is_dirty = False  # before `out` is looked at: what comes later marks it again
            if run.lost:
                self._lose(run)
                continue
            values: list[bytes] = []
            out = run.out
            while out and count < BATCH and size < BATCH_BYTES:
                values.append(out.popleft())
                count += 1
                size += len(values[-1])
            is_last = run.ended is not None and not out
            if out:
                self.mark(run)
            if values or is_last:
                groups.append(_Group(run, values, self._lowest(run, values), is_last))
                run.sent += len(values)
        return groups

    def _lowest(self, run: Run, values: list[bytes]) -> str:
        """The lowest number to keep, where that is worth a command."""
        kept, trimmed = self._kept.get(run) or (Kept(run.keep), 1)
        low = kept.lowest(run.sent + len(values), sum(map(len, values)))
        if run.most_ahead is not None:
            low = min(low, run.read + 1)
        is_due = low - trimmed >= min(100, max(run.keep // 2, 1))
        self._kept[run] = (kept, low if is_due else trimmed)
        return str(low) if is_due else ""

    async def _send(self, groups: list[_Group]) -> None:
        chosen = script("yield")

        def make(_resend: bool) -> bytes:
            args: list[Any] = []
            for group in groups:
                run, claim = group.run, group.run.claim
                args += (
                    claim.queue, claim.id, claim.exec_id, run.generation, group.first, group.keep,
                    run.ttl if group.is_last else "", len(group.values),
                )  # fmt: skip
                args += group.values
            return pack_script(chosen, self._keys, args)

        answers = await run_script(self._link, chosen, make, PATIENCE_S)
        for group, generation in zip(groups, answers, strict=True):
            run = group.run
            if not generation:
                self._lose(run)
                continue
            if run.generation != generation:
                run.learn_generation(generation)
            run.confirmed += len(group.values)
            run.bytes_confirmed += group.size
            if group.is_last:
                self._end(run)
            elif run.is_parked:
                run.nudge()

    def _end(self, run: Run) -> None:
        self._kept.pop(run, None)
        ended, run.ended = run.ended, None
        if ended is not None:
            ended()

    def _lose(self, run: Run) -> None:
        """Its job is no longer this worker's: it may end, unheard."""
        self.forget(run)
        if run.ended is not None:
            self._end(run)
        elif not run.is_over:
            run.condemn(Interrupted("lost"))
