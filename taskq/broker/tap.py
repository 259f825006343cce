"""Reading the stream of a generator task: where a reader is, and what comes next. No I/O.

Ids of entries are `GENERATION-NUMBER`: the generation is that of the execution (a later one
has a higher), the number counts its values from 1. So a reader sees by the ids alone that an
execution began anew, and what was trimmed before it came.

Key read: `taskq:stream:ID`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Entries = list[Any]
"""Pairs of id and [b"v", value], as XREAD and XRANGE give them."""

PAGE = 1_000
"""Entries of one stream in one reply."""
FULL = 2_000
"""Entries that a reader holds unread; then it is not given more until it has taken them."""

START = b"0-0"


class Tap:
    """One reader of one stream, as the pump sees it.

    Attributes:
        key: of the stream.
        cursor: id of the last entry that was handed over.
        sink: called with entries; must neither block nor raise.
        is_full: asks the reader whether it can take no more for now.
    """

    __slots__ = ("cursor", "is_full", "key", "sink")

    def __init__(
        self, key: bytes, cursor: bytes, sink: Callable[[Entries], Any], is_full: Callable[[], bool]
    ) -> None:
        """Begin after `cursor`."""
        self.key = key
        self.cursor = cursor
        self.sink = sink
        self.is_full = is_full

    def take(self, entries: Entries) -> None:
        """Hand over those that are new; others read the same stream from other places."""
        if entries and position(entries[0][0]) <= (here := position(self.cursor)):
            entries = [entry for entry in entries if position(entry[0]) > here]
        if entries:
            self.cursor = entries[-1][0]
            self.sink(entries)


class Taps:
    """All readers of one connection, by stream. The pump's lock guards it."""

    def __init__(self) -> None:
        """Nobody reads."""
        self._by_key: dict[bytes, list[Tap]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, tap: Tap) -> bool:
        """Read for one more; False if it was here already."""
        taps = self._by_key.setdefault(tap.key, [])
        if tap in taps:
            return False
        taps.append(tap)
        return True

    def remove(self, tap: Tap) -> None:
        """Forget a reader. Idempotent."""
        taps = self._by_key.get(tap.key, [])
        if tap in taps:
            taps.remove(tap)
        if not taps:
            self._by_key.pop(tap.key, None)

    def places(self) -> tuple[list[bytes], list[bytes]]:
        """Keys, and for each the lowest cursor."""
        cursors = [
            taps[0].cursor if len(taps) == 1 else min((tap.cursor for tap in taps), key=position)
            for taps in self._by_key.values()
        ]
        return list(self._by_key), cursors

    def of(self, key: bytes) -> list[Tap]:
        """Who reads this stream."""
        return list(self._by_key.get(key, ()))


class Place:
    """Where a reader is in a stream, and what it has seen on the way.

    Attributes:
        id: of the last value that was taken.
        restarts: how often a new execution began the stream anew while it was read.
        missed: values that had been trimmed before they were read.
    """

    __slots__ = ("_generation", "_number", "id", "missed", "restarts")

    def __init__(self, start: bytes = START) -> None:
        """Begin after the value with this id."""
        self.id = start
        self._generation, self._number = position(start)
        self.restarts = 0
        self.missed = 0

    def walk(self, entries: Entries) -> Iterator[tuple[bytes, bool]]:
        """Step through entries; gives each value, and whether it is the first of a new start."""
        for entry_id, flat in entries:
            generation, number = position(entry_id)
            if (generation, number) <= (self._generation, self._number):
                continue
            is_restart = False
            if generation != self._generation:
                is_restart = self._generation > 0
                self.restarts += is_restart
                self._generation, self._number = generation, 0
            self.missed += number - self._number - 1
            self._number = number
            self.id = entry_id
            yield flat[1], is_restart


def position(entry_id: bytes) -> tuple[int, int]:
    """Generation and number of an id."""
    generation, _, number = entry_id.partition(b"-")
    return int(generation), int(number or 0)
