"""Live pages: one refresh for each page that is watched, however many watch it.

A view is made anew every few seconds while somebody watches; what has changed goes to all
of its watchers as one server-sent event. A watcher that does not take in what it is sent
gets the newest state later, never a queue of old ones.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

MAX_VIEWS = 200
MAX_WATCHERS = 1_000
_SILENCE_S = 15.0
"""A proxy may close a connection on which nothing moves."""

Make = Callable[[], Awaitable[tuple[str, str]]]
"""Gives the kind of event (page, away) and its text."""


class Full(Exception):
    """There are as many watchers as we take."""


class _View:
    """One page that is being watched."""

    def __init__(self) -> None:
        self.watchers = 0
        self.number = 0
        self.event = b""
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None


class Hub:
    """All watched pages of one event loop."""

    def __init__(self, refresh_s: float) -> None:
        """Look again every `refresh_s` seconds at what is watched."""
        self._refresh_s = refresh_s
        self._views: dict[str, _View] = {}

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return sum(view.watchers for view in self._views.values())

    def check_room(self, name: str) -> None:
        """Whether one more may watch.

        Raises:
            Full: there are enough.
        """
        new = name not in self._views
        if self.watchers >= MAX_WATCHERS or (new and len(self._views) >= MAX_VIEWS):
            raise Full

    async def watch(self, name: str, make: Make) -> AsyncIterator[bytes]:
        """Events of a view, as bytes for the wire, until the watcher goes.

        Args:
            name: the same for all who see the same.
            make: makes the view.
        """
        view = self._views.setdefault(name, _View())
        view.watchers += 1
        if view.task is None:
            view.task = asyncio.create_task(self._keep_making(name, view, make))
        seen = 0
        try:
            yield b"retry: 2000\n\n"
            while True:
                try:
                    await asyncio.wait_for(_changed(view, seen), _SILENCE_S)
                except asyncio.TimeoutError:
                    yield b"event: same\ndata: \n\n"
                    continue
                seen = view.number
                yield view.event
        finally:
            view.watchers -= 1
            if view.watchers == 0:
                self._end(name, view)

    def _end(self, name: str, view: _View) -> None:
        if self._views.get(name) is view:
            del self._views[name]
        if view.task is not None:
            view.task.cancel()
            view.task = None

    async def _keep_making(self, name: str, view: _View, make: Make) -> None:
        last = b""
        try:
            while True:
                kind, text = await make()
                digest = hashlib.blake2b(f"{kind}\n{text}".encode()).digest()
                if digest != last:
                    last = digest
                    async with view.changed:
                        view.number += 1
                        view.event = encoded(kind, text)
                        view.changed.notify_all()
                await asyncio.sleep(self._refresh_s)
        finally:
            if view.task is asyncio.current_task():  # it failed: the next watcher begins anew
                view.task = None
                self._views.pop(name, None)

    async def aclose(self) -> None:
        """End all."""
        for name, view in list(self._views.items()):
            self._end(name, view)


async def _changed(view: _View, seen: int) -> None:
    async with view.changed:
        await view.changed.wait_for(lambda: view.number != seen)


def encoded(kind: str, text: str) -> bytes:
    """One event; each line of its text is a line of its own."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return ("event: " + kind + "\n" + "".join(f"data: {line}\n" for line in lines) + "\n").encode()
