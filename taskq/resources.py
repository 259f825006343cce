"""What lives as long as a worker process: its lifespan and process-scoped dependencies.

Everything here is kept by the event loop's thread alone, so there is nothing to lock.
Plain functions are called in a thread, as they may take long; asynchronous ones on the
loop. The last that was opened is closed first, and the lifespan after all of them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol, TypeVar

from taskq.depends import Maker, Need, Replaced
from taskq.errors import TaskQError
from taskq.held import Held, Kept, Plain, finish, manager_of

T = TypeVar("T")

log = logging.getLogger("taskq.worker")

CLOSE_S = 10.0
"""All that a worker process has open is closed within this time, or left as it is."""
SLOW_S = 10.0
"""A lifespan that has not started after this time is spoken of."""
_SLICE_S = 0.05
"""A thread that waits for the event loop looks up so often: a time limit has to reach it."""
_MISSING = object()


class Home(Protocol):
    """What is asked of an app."""

    resources: Resources | None
    overrides: Replaced
    lifespan_function: Callable[[], Any] | None


class Resources:
    """The open resources of one worker process. Make it on its event loop.

    Attributes:
        app: whose lifespan it is; while it lives, `app.resources` is this.
        state: what the lifespan yielded.
        started: whether it has come to its `yield`, or there is none.
        keeps: whether process-scoped values stay; in tests they last for one execution.
    """

    def __init__(self, app: Home, *, keeps: bool = True) -> None:
        """Nothing is open yet."""
        self.app = app
        self.keeps = keeps
        self.state: Any = None
        self.started = False
        self._loop = asyncio.get_running_loop()
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._ready: dict[Hashable, Any] = {}
        self._coming: dict[Hashable, asyncio.Future[tuple[Any, BaseException | None]]] = {}
        self._makers: set[asyncio.Task[None]] = set()
        self._open: list[tuple[str, Held]] = []
        self._ended = False

    @property
    def is_here(self) -> bool:
        """Whether this is their process: one that a job forks has no event loop to ask."""
        return os.getpid() == self._process

    @property
    def on_loop(self) -> bool:
        """Whether the calling thread is the event loop's: it cannot wait for the loop."""
        return threading.get_ident() == self._thread

    # -- start and stop ------------------------------------------------------------------

    async def start(self) -> None:
        """Enter the app's lifespan, if it has one. Raises what that raises."""
        self.app.resources = self
        lifespan = self.app.lifespan_function
        if lifespan is not None:
            self.state = await self._enter(lifespan)
        self.started = True

    async def _enter(self, lifespan: Callable[[], Any]) -> Any:
        made: Any = lifespan()
        manager: Any = manager_of(made) or made
        kept = Kept(manager)
        self._open.append(("The lifespan", kept))
        reminder = self._loop.call_later(
            SLOW_S, log.warning, "The lifespan has not come to its yield in %g s; "
            "no job is taken before it does", SLOW_S,
        )  # fmt: skip
        try:
            return await kept.open()
        except (SystemExit, KeyboardInterrupt) as err:  # they would end the loop with a traceback
            raise TaskQError(f"It asks to exit: {err!r}") from err
        finally:
            reminder.cancel()

    async def stop(self, limit_s: float = CLOSE_S) -> None:
        """Close everything, the last first; what does not close in time is left, and logged."""
        self._ended = True
        self._ready.clear()
        end = self._loop.time() + limit_s
        for task in list(self._makers):
            task.cancel()
        while self._open:
            name, held = self._open.pop()
            await self._close(name, held, end)
        if self.app.resources is self:
            self.app.resources = None

    async def _close(self, name: str, held: Held, end: float) -> None:
        if isinstance(held, Plain):  # made in a thread, as it may take long
            closing = _in_thread(lambda: finish(held.close(None)))
        else:
            closing = held.close(None)
        task = self._loop.create_task(closing)
        await asyncio.wait([task], timeout=max(end - self._loop.time(), 0.1))
        if not task.done():
            log.warning("%s does not close: the worker ends without waiting for it", name)
            task.cancel()
            if not isinstance(held, Plain):
                await asyncio.wait([task])
        elif (error := task.result()) is not None:
            log.error("%s failed to close: %r", name, error, exc_info=error)

    # -- values --------------------------------------------------------------------------

    def obtain(self, need: Need) -> Any:
        """Return a process-scoped value, made at first use. Blocks; not on the event loop.

        Raises:
            KeyError: it is not there yet, and this is the event loop's thread.
        """
        value = self._ready.get(need.key, _MISSING)
        if value is not _MISSING:
            return value
        if self.on_loop:
            raise KeyError(need.name)
        return self.run(self.aobtain(need))

    async def aobtain(self, need: Need) -> Any:
        """`obtain` on the event loop. Raises what making it raised."""
        if need.key in self._ready:
            return self._ready[need.key]
        coming = self._coming.get(need.key)
        if coming is None:
            if self._ended:
                raise TaskQError(f"{need.name} is asked for while its worker process ends.")
            coming = self._coming[need.key] = self._loop.create_future()
            # A task of its own: others may wait for it when who asked first is cancelled.
            task = self._loop.create_task(self._make(need, coming))
            self._makers.add(task)
            task.add_done_callback(self._makers.discard)
        value, error = await asyncio.shield(coming)
        if error is not None:
            raise error.with_traceback(error.__traceback__)
        return value

    async def _make(
        self, need: Need, coming: asyncio.Future[tuple[Any, BaseException | None]]
    ) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            needs = {name: await self.aobtain(one) for name, one in need.needs.items()}
            value = await self._opened(need, needs)
            self._ready[need.key] = value
        except BaseException as err:  # noqa: BLE001 (it fails those who wait for it)
            error = err
        del self._coming[need.key]  # the next one to ask tries again, if it failed
        coming.set_result((value, error))

    async def _opened(self, need: Need, needs: Mapping[str, Any]) -> Any:
        if _is_asynchronous(need.make):
            made = need.make(**needs)
        else:
            made = await _in_thread(lambda: need.make(**needs))
        if inspect.isawaitable(made):
            return await made
        manager = manager_of(made)
        if manager is None:
            return made
        if isinstance(manager, AbstractAsyncContextManager):
            kept = Kept(manager)
            value = await kept.open()
            self._open.append((need.name, kept))
            return value
        plain = Plain(manager)
        value = await _in_thread(lambda: finish(plain.open()))
        self._open.append((need.name, plain))
        return value

    # -- from threads --------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop and wait for it, in another thread.

        What stops the thread meanwhile (a time limit) cancels the coroutine.
        """
        future = asyncio.run_coroutine_threadsafe(_contained(coroutine), self._loop)
        try:
            while not future.done():
                wait([future], _SLICE_S)
        except BaseException:
            future.cancel()
            raise
        return _unpacked(*future.result())


async def _contained(
    coroutine: Coroutine[Any, Any, T],
) -> tuple[tuple[T] | None, BaseException | None]:
    """Keep what a coroutine raises out of the event loop, which SystemExit would end."""
    try:
        return (await coroutine,), None
    except BaseException as err:  # noqa: BLE001 (raised in the thread that waits)
        return None, err


async def _in_thread(fn: Callable[[], T]) -> T:
    """`asyncio.to_thread`, also for what raises StopIteration, which no future takes."""

    def call() -> tuple[tuple[T] | None, BaseException | None]:
        try:
            return (fn(),), None
        except BaseException as err:  # noqa: BLE001 (raised below)
            return None, err

    return _unpacked(*await asyncio.to_thread(call))


def _unpacked(value: tuple[T] | None, error: BaseException | None) -> T:
    if error is not None:
        raise error
    assert value is not None
    return value[0]


def _is_asynchronous(make: Maker) -> bool:
    """Whether calling it only makes an object that the event loop has to run."""
    inner = inspect.unwrap(make) if not isinstance(make, type) else make
    return inspect.iscoroutinefunction(make) or inspect.isasyncgenfunction(inner)


@contextmanager
def standing_alone(app: Home, *, for_tests: bool = False) -> Iterator[Resources]:
    """Resources with an event loop in a thread of its own, for a process that has none.

    Blocks at the end until everything is closed. Raises what the lifespan raises.

    Args:
        app: whose they are.
        for_tests: without the lifespan, and with nothing that stays.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="taskq-resources", daemon=True)
    thread.start()

    def on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    async def made() -> Resources:
        return Resources(app, keeps=not for_tests)

    resources = on_loop(made())
    before = app.resources
    try:
        if for_tests:
            app.resources = resources
        else:
            on_loop(resources.start())
        yield resources
    finally:
        app.resources = before
        try:
            on_loop(resources.stop())
        finally:
            on_loop(_tidy())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _tidy() -> None:
    """Cancel what is left on the loop, for a moment, and let its own threads end."""
    loop = asyncio.get_running_loop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=1.0)
    await loop.shutdown_asyncgens()
