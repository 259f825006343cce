"""The engine inside an RQ worker: one runtime on an event loop in the thread that calls `work`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from taskq.app import TaskQ
from taskq.errors import ConfigError
from taskq.registry import REGISTRY
from taskq.worker.child import GC_OBJECTS
from taskq.worker.loading import SWITCH_S
from taskq.worker.rq_host import Host
from taskq.worker.rq_url import url_of
from taskq.worker.runtime import Runtime
from taskq.worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.client import PubSub
    from rq.worker.base import BaseWorker

log = logging.getLogger("taskq.worker")


_LOOK_S = 0.5
_CONFIRMED_S = 5.0


def number_of(name: str, default: float) -> float:
    """A number from the environment.

    Raises:
        ConfigError: it is none.
    """
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ConfigError(f"{name} is {text!r}: a number of 0 or more is allowed.")
    return value


class Engine:
    """Runs the jobs of one RQ worker until it is told to stop."""

    def __init__(self, worker: BaseWorker, plain: dict[str, Any], settings: WorkerSettings) -> None:
        """Connect nothing yet.

        Args:
            worker: whose queues, connection and classes are used.
            plain: the methods that change nothing.
            settings: without a URL.

        Raises:
            ConfigError: its connection cannot be opened a second time.
        """
        self._app = TaskQ(url_of(worker.connection), accept=("json", "pickle"))
        REGISTRY.withdraw(self._app)
        self._worker = worker
        self._settings = settings
        self._host = Host(worker, plain)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runtime: Runtime | None = None
        self._asked: list[str] = []
        self._early: PubSub | None = None

    @property
    def is_busy(self) -> bool:
        """Whether jobs run."""
        return self._runtime is not None and self._runtime.is_busy

    def listen(self) -> None:
        """Hear commands from now on: before the worker is registered, and others can find it."""
        early: PubSub = self._worker.connection.pubsub()  # type: ignore[no-untyped-call]
        try:
            early.subscribe(self._worker.pubsub_channel_name)
            early.get_message(timeout=_CONFIRMED_S)
        except RedisError as err:  # an ACL that forbids it; an outage the next step will tell
            log.debug("Cannot listen for commands yet: %s", err)
            early.close()
        else:
            self._early = early

    def _hear_early(self, runtime: Runtime) -> None:
        """Carry out what was said before the runtime's own listener was there."""
        early, self._early = self._early, None
        if early is None:
            return
        with contextlib.suppress(RedisError), contextlib.closing(early):
            message: Any
            while (message := early.get_message()) is not None:
                if message["type"] == "message":  # the confirmation may come late
                    runtime.command(message["data"].decode("utf-8", "replace"))

    def run(self) -> tuple[int, str]:
        """Work; returns how many jobs ran, and why it ended."""
        with _tuned():
            loop = self._loop = _new_loop()
            try:
                asyncio.set_event_loop(loop)
                return self._drive(loop)
            finally:
                self._loop = None
                if self._early is not None:
                    self._early.close()
                asyncio.set_event_loop(None)
                loop.close()
                self._app.close()

    def _drive(self, loop: asyncio.AbstractEventLoop) -> tuple[int, str]:
        serving = loop.create_task(self._serve())
        while True:
            try:
                return loop.run_until_complete(serving)
            except (SystemExit, KeyboardInterrupt) as err:
                if serving.done():
                    raise
                # Python lets these two out of the loop when a task that a job has started
                # raises them. They are that job's affair: it gets them where it awaits the task.
                log.warning("%r in a task or callback of a job: the worker goes on", err)

    async def _serve(self) -> tuple[int, str]:
        runtime = Runtime(self._app, self._settings, secrets.token_hex(4), host=self._host)
        self._runtime = runtime
        for name in self._asked:
            getattr(runtime, name)()
        upkeep = asyncio.create_task(self._maintain())
        try:
            why = await runtime.run(ready=lambda: self._hear_early(runtime))
            return runtime.jobs, why
        finally:
            upkeep.cancel()
            self._runtime = None

    async def _maintain(self) -> None:
        """RQ's own upkeep, every `maintenance_interval` seconds: its registries, its scheduler."""
        worker, loop = self._worker, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                if worker.should_run_maintenance_tasks:
                    await loop.run_in_executor(None, worker.run_maintenance_tasks)
            except Exception as err:  # noqa: BLE001 (an outage, a broken record: there is a next time)
                log.warning("RQ's upkeep not possible now: %s", err)

    # -- from signal handlers and other threads ----------------------------------------------

    def stop(self) -> None:
        """Stop warmly: what runs may end."""
        self._tell("stop")

    def hurry(self) -> None:
        """Stop now: what runs is cancelled and given back to its queue."""
        self._tell("hurry")

    def kill(self) -> None:
        """End all running jobs: they have failed."""
        self._tell("kill")

    def _tell(self, name: str) -> None:
        loop, runtime = self._loop, self._runtime
        if loop is None or runtime is None:
            self._asked.append(name)
            return
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            loop.call_soon_threadsafe(getattr(runtime, name))


def settings_of(worker: Any, **given: Any) -> WorkerSettings:
    """What a worker is started with: its attributes, TASKQ_* variables, arguments of `work`."""
    mode = os.environ.get("TASKQ_DEFAULT_MODE") or worker.default_mode
    if mode not in ("thread", "process"):
        raise ConfigError(f"TASKQ_DEFAULT_MODE is {mode!r}: thread and process are allowed.")
    return WorkerSettings(
        queues=tuple((name, 0.0) for name in dict.fromkeys(worker.queue_names())),
        threads=max(1, int(number_of("TASKQ_THREADS", worker.threads))),
        concurrency=max(1, int(number_of("TASKQ_CONCURRENCY", worker.concurrency))),
        pool=max(1, int(number_of("TASKQ_POOL", worker.pool))),
        grace_s=number_of("TASKQ_GRACE", math.inf if worker.grace_s is None else worker.grace_s),
        default_mode=mode,
        rq=True,
        full_name=worker.name,
        result_ttl_s=worker.default_result_ttl,
        directory=str(Path.cwd()),
        url=url_of(worker.connection),
        url_source="connection",
        **given,
    )


def _new_loop() -> asyncio.AbstractEventLoop:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 (extra)

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


@contextlib.contextmanager
def _tuned() -> Iterator[None]:
    """As in our own worker processes: see `SWITCH_S` and `GC_OBJECTS`."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(SWITCH_S)
    if threshold[0] == 700:
        gc.set_threshold(GC_OBJECTS, *threshold[1:])
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
