"""Which source files have changed: by watchfiles where it is installed, else by looking."""

from __future__ import annotations

import importlib
import importlib.util
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

LOOK_S = 0.5
MOST_FILES = 20_000
"""Looking at more of them twice a second would be felt."""
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "build", "dist"})


class Reloads:
    """Tells of changed Python files below a folder."""

    def __init__(self, folder: Path, *, polls: bool | None = None) -> None:
        """Begin to watch, in a thread.

        Args:
            folder: with all below it, but for hidden folders and virtual environments.
            polls: look by ourselves; None: where watchfiles is not installed.
        """
        self._folder = folder
        self._changed: queue.Queue[set[Path]] = queue.Queue()
        self._stop = threading.Event()
        self.polls = importlib.util.find_spec("watchfiles") is None if polls is None else polls
        self._seen = times(folder) if self.polls else {}
        if not self.polls:
            importlib.import_module("watchfiles")  # here: no import may meet a fork (logging)
        work = self._poll if self.polls else self._watch
        threading.Thread(target=work, name="taskq-dev-reload", daemon=True).start()

    def wait(self, timeout_s: float) -> set[Path]:
        """Files that were changed, added or removed; empty after `timeout_s` without any."""
        try:
            changed = self._changed.get(timeout=timeout_s)
        except queue.Empty:
            return set()
        while not self._changed.empty():
            changed |= self._changed.get()
        return changed

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()

    def _poll(self) -> None:
        while not self._stop.wait(LOOK_S):
            now = times(self._folder)
            changed = {path for path, at in now.items() if self._seen.get(path) != at}
            changed |= self._seen.keys() - now.keys()
            self._seen = now
            if changed:
                self._changed.put(changed)

    def _watch(self) -> None:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 (an extra)

        # a small debounce: an editor writes a file more than once
        for changes in watch(
            self._folder, watch_filter=PythonFilter(), stop_event=self._stop, debounce=300,
            raise_interrupt=False,
        ):  # fmt: skip
            found = {Path(path) for _kind, path in changes}
            ours = {path for path in found if _is_ours(self._folder, path)}
            if ours:
                self._changed.put(ours)


def times(folder: Path) -> dict[Path, tuple[int, int]]:
    """Time of change and size of each Python file, at most `MOST_FILES`."""
    found: dict[Path, tuple[int, int]] = {}
    for path in _sources(folder):
        if len(found) >= MOST_FILES:
            break
        try:
            stat = path.stat()
        except OSError:
            continue  # it has just gone
        found[path] = (stat.st_mtime_ns, stat.st_size)
    return found


def _is_looked_into(folder: Path) -> bool:
    name = folder.name
    if name.startswith(".") or name in _LEFT_OUT:
        return False
    return not (folder / "pyvenv.cfg").exists()


def _is_ours(folder: Path, path: Path) -> bool:
    """Whether a changed file is one that looking would find."""
    between = [folder / part for part in path.relative_to(folder).parents if part.name]
    return path.suffix == ".py" and all(map(_is_looked_into, between))


def _sources(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _is_looked_into(Path(place, name))]
        for name in names:
            if name.endswith(".py"):
                yield Path(place, name)
