"""A worker that stays: for the tests of a module that are about tasks, not about processes.

Such a test is marked `standing`. It is written like all others, and gets from the fixtures
`app_module`, `ledger`, `worker` and `redis_url` what its module has for all of them, on a database
of its own: 1. To start a worker takes half a second of processor time, to run a job a millisecond.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import redis

from tests.support import Ledger, WorkerProcess, WorkerStarter, wait_until

MARK = "standing"


class Standing:
    """What the marked tests of a module share.

    Attributes:
        url: its Redis, empty when a test begins.
        ledger: what tasks note; emptied, too.
    """

    def __init__(self, server_url: str, folder: Path) -> None:
        self.url = f"{server_url}?db=1"
        self._folder = folder
        self._modules: dict[str, ModuleType] = {}
        self._client = redis.Redis.from_url(self.url)
        self._starter = WorkerStarter(self.url, folder, self._registered)
        self._worker: WorkerProcess | None = None
        self._started_with: tuple[object, ...] = ()
        self.ledger = Ledger(folder / "ledger.txt")
        sys.path.insert(0, str(folder))

    def _registered(self) -> int:
        return int(self._client.scard("rq:workers"))

    def module(self, source: str, name: str | None = None) -> ModuleType:
        """The module of this source, imported once."""
        if source not in self._modules:
            chosen = name or f"{self._folder.name}_{len(self._modules)}"
            (self._folder / f"{chosen}.py").write_text(textwrap.dedent(source))
            importlib.invalidate_caches()
            self._modules[source] = importlib.import_module(chosen)
        return self._modules[source]

    @property
    def started(self) -> list[WorkerProcess]:
        """Those that it has started, the standing one last."""
        return self._starter.started

    def __call__(
        self, app: str | None, *arguments: str, env: Mapping[str, str] | None = None
    ) -> WorkerProcess:
        """The worker of this app with these options: that which stands, or one from now on."""
        wanted = (app, *arguments, *sorted((env or {}).items()))
        if self._worker is None or not self._worker.running or wanted != self._started_with:
            if self._worker is not None:
                self._worker.stop()
            self._worker = self._starter(app, *arguments, env=env)
            self._started_with = wanted
        return self._worker

    def begin(self) -> None:
        """Before a test: nothing is noted, nothing is said. Redis is empty already."""
        for path in self._folder.iterdir():
            if path.is_file() and path.suffix not in (".py", ".log", ".txt"):
                path.unlink()  # what tests made
        self.ledger.path.write_text("")  # the same file: the worker has it open
        if self._worker is not None:
            self._worker.forget_log()

    def tidy(self) -> None:
        """After it: a worker in which something still runs is of no use to the next one."""
        try:
            wait_until(lambda: not self._client.keys("rq:wip:*"), 0.5)
        except AssertionError:
            if self._worker is not None:
                self._worker.kill()

    def close(self) -> None:
        self._starter.close()
        self._client.close()
        sys.path.remove(str(self._folder))
        for module in self._modules.values():
            sys.modules.pop(module.__name__, None)
