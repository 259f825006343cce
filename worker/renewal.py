"""Replacing the children of a server one by one (HUP): a new release without a gap."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskq.worker.children import Child

log = logging.getLogger("taskq.supervisor")


class Renewal:
    """Drains a child, and the next one only when the replacement of the first is ready."""

    def __init__(self, children: Sequence[Child]) -> None:
        """Watch this list, which the supervisor keeps up to date."""
        self._children = children
        self._left: list[Child] = []
        self._awaited: int | None = None

    def begin(self) -> None:
        """Replace all that run now. Once more while it goes on: those started since, too."""
        self._left = [child for child in self._children if not child.stopping]
        log.info("Replacing %d worker processes one by one", len(self._left))
        if self._awaited is None:
            self._next()

    def ready(self, child: Child) -> None:
        """A child is ready; perhaps the one that the next is waiting for."""
        if child.index == self._awaited and not child.stopping:
            self._next()

    def end(self) -> None:
        """Drain no more: the server stops, or no replacement will come."""
        self._left.clear()
        self._awaited = None

    def _next(self) -> None:
        self._awaited = None
        while self._left:
            child = self._left.pop(0)
            if child in self._children:  # else it died meanwhile, and its replacement is new
                self._awaited = child.index
                child.drain()
                return
