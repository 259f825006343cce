"""Imported by every Python process of the run: where Redis is, and which class is a worker.

RQ's tests expect Redis on its default port. A private server is put in its place at the moment
of connecting, so that what they check (URLs, settings of connections) stays as it is.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from multiprocessing import util
from typing import Any

PORT = 6379


def _lead_to(port: int) -> None:
    import redis.asyncio.connection as theirs_async
    import redis.connection as theirs

    def patch(kind: Any, name: str) -> None:
        before = getattr(kind, name)

        def connect(self: Any, *args: Any, **more: Any) -> Any:
            if int(self.port) != PORT:
                return before(self, *args, **more)
            self.port = port
            try:
                return before(self, *args, **more)
            finally:
                self.port = PORT

        setattr(kind, name, connect)

    patch(theirs.Connection, "_connect")
    patch(theirs_async.Connection, "_connection_arguments")


def _in_place_of_rqs(worker: Any, simple: Any) -> None:
    import rq
    import rq.worker
    import rq.worker_pool

    rq.Worker = rq.worker.Worker = rq.worker_pool.Worker = worker  # type: ignore[assignment]
    rq.SimpleWorker = rq.worker.SimpleWorker = simple  # type: ignore[assignment]


def _by_turns(ours: Any, theirs: Any) -> Any:
    """A class whose instances are ours and theirs in turn, so that both share each test's Redis."""
    from rq.worker.base import BaseWorker

    def equals(self: Any, other: Any) -> bool:
        """As RQ's, for whom another class is no worker."""
        if not isinstance(other, BaseWorker):
            raise TypeError("Cannot compare workers to other types (of workers)")
        return bool(self.name == other.name)

    BaseWorker.__eq__ = equals  # type: ignore[method-assign]
    turns = itertools.cycle((ours, theirs))
    missing = object()
    before: dict[tuple[Any, str], Any] = {}

    class Turns(type):
        def __call__(cls, *args: Any, **more: Any) -> Any:
            if cls is not Worker:
                return super().__call__(*args, **more)
            return next(turns)(*args, **more)

        def __setattr__(cls, name: str, value: Any) -> None:
            """What a test puts on the class holds for instances of both."""
            for kind in (ours, theirs):
                before.setdefault((kind, name), vars(kind).get(name, missing))
                setattr(kind, name, value)

        def __delattr__(cls, name: str) -> None:
            for kind in (ours, theirs):
                value = before.pop((kind, name))
                if value is missing:
                    delattr(kind, name)
                else:
                    setattr(kind, name, value)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, (ours, theirs))

    class Worker(ours, metaclass=Turns):
        pass

    return Worker


def _leave_nobody() -> None:
    """A failed test of worker pools leaves its workers running, and Python would wait for them."""
    for child in multiprocessing.active_children():
        child.kill()


if os.environ.get("RQ_SUITE_PORT"):
    util.Finalize(None, _leave_nobody, exitpriority=10)
    _lead_to(int(os.environ["RQ_SUITE_PORT"]))
    if os.environ["RQ_SUITE_WORKERS"] != "theirs":
        from rq.worker import SimpleWorker, Worker

        from taskq.worker import Worker as Ours

        if os.environ["RQ_SUITE_WORKERS"] == "both":
            _in_place_of_rqs(_by_turns(Ours, Worker), _by_turns(Ours, SimpleWorker))
        else:
            _in_place_of_rqs(Ours, Ours)
