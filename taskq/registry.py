"""Which tasks and apps this process has, and which app an unbound task belongs to.

Process-wide, never thread-local: a task enqueued from a thread pool goes where the
main thread's go. Apps and unbound tasks are held weakly, so a program or a test that
drops them leaves nothing behind to reset.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from taskq.errors import AmbiguousApp


class App(Protocol):
    """What the registry has to know of a `TaskQ`."""

    @property
    def include(self) -> tuple[str, ...]:
        """Modules whose unbound tasks the app takes."""
        ...


class Definition(Protocol):
    """What the registry has to know of an unbound task."""

    @property
    def module(self) -> str:
        """Module of the function, as a worker imports it."""
        ...

    @property
    def name(self) -> str:
        """Name of the task."""
        ...


class Registry:
    """Weak record of apps and unbound tasks, with a count of changes.

    Attributes:
        changes: grows when an app comes or goes; what was concluded from the apps holds
            as long as it stays the same.
    """

    def __init__(self) -> None:
        """Start empty; `make_app` is set by whoever can make one from the environment."""
        self.changes = 0
        self.make_app: Callable[[], Any] | None = None
        self._lock = threading.RLock()
        self._apps: list[weakref.ref[Any]] = []
        self._unbound: weakref.WeakValueDictionary[tuple[str, str], Any] = (
            weakref.WeakValueDictionary()
        )
        self._from_environment: Any = None

    def add_app(self, app: App) -> None:
        """Count `app` among those an unbound task may belong to."""
        with self._lock:
            self._apps.append(weakref.ref(app, self._forget))
            self.changes += 1

    def withdraw(self, app: App) -> None:
        """Count it no more: a worker's own app, made to run other programs' jobs."""
        with self._lock:
            self._apps = [ref for ref in self._apps if ref() is not app]
            self.changes += 1

    def _forget(self, gone: weakref.ref[Any]) -> None:
        with self._lock:
            self._apps = [ref for ref in self._apps if ref is not gone]
            self.changes += 1

    def add_unbound(self, module: str, qualname: str, task: Definition) -> Any:
        """Record an unbound task; returns the one of that place before it, or None."""
        with self._lock:
            before = self._unbound.get((module, qualname))
            self._unbound[module, qualname] = task
            return before

    def unbound(self, modules: tuple[str, ...], own: str = "") -> Iterator[Any]:
        """Give the unbound tasks defined so far in or below `modules`, and in `own` itself."""
        with self._lock:
            known = list(self._unbound.values())
        for task in known:
            if task.module == own or _covers(modules, task.module):
                yield task

    def app_for(self, task: Definition) -> Any:
        """Return the app of an unbound task.

        The app that includes its module; else the only app; else one made from the
        environment, once for the process.

        Raises:
            AmbiguousApp: several could be meant.
        """
        with self._lock:
            found, including = self._candidates(task.module)
            if len(found) > 1:
                # An app and its tasks refer to each other: one may have been dropped long ago.
                del found
                gc.collect()
                found, including = self._candidates(task.module)
            if len(found) > 1:
                raise _ambiguous(task, found, including)
            if found:
                return found[0]
            if self._from_environment is None:
                assert self.make_app is not None, "taskq.app sets it when it is imported"
                self._from_environment = self.make_app()
            return self._from_environment

    def known_app(self, task: Definition) -> Any:
        """Return what `app_for` would, where it is one and there; else None. Makes nothing."""
        with self._lock:
            found, _including = self._candidates(task.module)
            if found:
                return found[0] if len(found) == 1 else None
            return self._from_environment

    def _candidates(self, module: str) -> tuple[list[Any], bool]:
        """Return the apps that may be meant, and whether they include the module."""
        apps = self._living()
        including = _closest(apps, module)
        return including or apps, bool(including)

    def _living(self) -> list[Any]:
        apps = (ref() for ref in self._apps)
        return [app for app in apps if app is not None and app is not self._from_environment]


def _covers(modules: tuple[str, ...], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in modules)


def _closest(apps: list[Any], module: str) -> list[Any]:
    """The apps that include `module` by the longest name: "shop.images" before "shop"."""
    best = 0
    found: list[Any] = []
    for app in apps:
        length = max((len(name) for name in app.include if _covers((name,), module)), default=0)
        if length > best:
            best, found = length, [app]
        elif length and length == best:
            found.append(app)
    return found


def _ambiguous(task: Definition, apps: list[Any], including: bool) -> AmbiguousApp:
    names = ", ".join(sorted(str(app) for app in apps))
    if including:
        why = f"{len(apps)} apps include its module {task.module!r}"
        advice = "Leave it in the include=[...] of one of them"
    else:
        why = f"there are {len(apps)} apps and none includes its module {task.module!r}"
        advice = f"Add {task.module!r} to the include=[...] of one"
    return AmbiguousApp(
        f"Which app does the task {task.name!r} belong to? It is unbound, and {why}: {names}. "
        f"{advice}, or enqueue with that app: app.enqueue([task.call(...)]). Nothing was enqueued."
    )


REGISTRY = Registry()
"""The one of this process."""
