"""A few threads that take one piece of work after the other; each keeps what it works with."""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("taskq.worker")

T = TypeVar("T")


class Crew(Generic[T]):
    """Threads that start when there is work for them."""

    def __init__(
        self, name: str, most: int, tools: Callable[[], T], tidy: Callable[[T], None]
    ) -> None:
        """Start nothing yet.

        Args:
            name: of the threads.
            most: of them.
            tools: makes what a thread works with, at its first work.
            tidy: called in a thread that has nothing to do for the moment.
        """
        self._name = name
        self._most = most
        self._tools = tools
        self._tidy = tidy
        self._todo: SimpleQueue[Callable[[T], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._free = 0

    @property
    def waiting(self) -> int:
        """Pieces of work that nobody has taken yet."""
        return self._todo.qsize()

    def add(self, work: Callable[[T], None]) -> None:
        """Have one of the threads do it. From any thread."""
        self._todo.put(work)
        with self._lock:
            if self._todo.qsize() <= self._free or len(self._threads) >= self._most:
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """End the threads after what they have."""
        for _ in self._threads:
            self._todo.put(None)

    def _run(self) -> None:
        tools: T | None = None
        while True:
            with self._lock:
                self._free += 1
            try:
                work = self._todo.get_nowait()
            except Empty:
                if tools:
                    self._tidy(tools)
                work = self._todo.get()
            with self._lock:
                self._free -= 1
            if work is None:
                return
            tools = tools or self._tools()
            try:
                work(tools)
            except Exception as err:  # noqa: BLE001 (the thread goes on: there is always a next time)
                log.warning("RQ's upkeep not possible now: %s", err)
