"""What a worker process has: made once, whoever asks, and closed in bounded time."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from taskq import ConfigError, Depends, TaskQ, TaskQError
from taskq.depends import Need, needs_of
from taskq.resources import Resources, standing_alone
from tests.fake_broker import FakeBroker, app_with
from tests.support import until, wait_until


def made_app() -> TaskQ:
    return app_with(FakeBroker())


def need_of(make: Callable[..., Any]) -> Need:
    def asks(*, it: Any = Depends(make, scope="process")) -> None: ...

    return needs_of(asks, "asks")["it"]


class Maker:
    """Makes numbers, each when `ready` says so, and notes what happens to them."""

    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        self._ready = ready
        self.events: list[str] = []
        self.threads: list[threading.Thread] = []
        self._numbers = itertools.count()

    def plain(self) -> Iterator[int]:
        self.threads.append(threading.current_thread())
        wait_until(self._ready)
        number = next(self._numbers)
        yield number
        self.events.append(f"close plain {number}")

    async def coroutine(self) -> AsyncIterator[int]:
        self.threads.append(threading.current_thread())
        await until(self._ready)
        number = next(self._numbers)
        yield number
        self.events.append(f"close coroutine {number}")


class Asking:
    """Who asks for a value, counted, so that it is made when all of them are there."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._there: list[int] = []

    def all_there(self) -> bool:
        return len(self._there) >= self._count

    async def on_loop(self, resources: Resources, need: Need) -> Any:
        self._there.append(1)
        return await resources.aobtain(need)

    def in_thread(self, resources: Resources, need: Need) -> Any:
        self._there.append(1)
        return resources.obtain(need)


@pytest.mark.parametrize("name", ["plain", "coroutine"])
async def test_one_value_for_all_threads_and_coroutines_that_ask_at_the_same_time(name):
    asking = Asking(25)
    maker, resources = Maker(asking.all_there), Resources(made_app())
    await resources.start()
    need = need_of(getattr(maker, name))
    asks = [asking.on_loop(resources, need) for _ in range(20)]
    asks += [asyncio.to_thread(asking.in_thread, resources, need) for _ in range(5)]
    assert await asyncio.gather(*asks) == [0] * 25
    assert len(maker.threads) == 1
    assert (maker.threads[0] is threading.current_thread()) == (name == "coroutine")
    assert maker.events == []
    await resources.stop()
    assert maker.events == [f"close {name} 0"]


async def test_what_fails_fails_those_who_wait_and_is_tried_again():
    resources = Resources(made_app())
    asking = Asking(3)
    tries = itertools.count(1)

    def flaky() -> int:
        number = next(tries)
        wait_until(asking.all_there)
        if number == 1:
            raise OSError("not yet")
        return number

    need = need_of(flaky)
    found = await asyncio.gather(
        *(asking.on_loop(resources, need) for _ in range(3)), return_exceptions=True
    )
    assert [str(one) for one in found] == ["not yet"] * 3
    assert await resources.aobtain(need) == 2
    await resources.stop()


@pytest.mark.parametrize("error", [StopIteration(1), SystemExit(1), KeyboardInterrupt()])
async def test_no_error_ends_the_loop_or_leaves_anyone_waiting(error):
    resources = Resources(made_app())

    def fails() -> int:
        raise error

    async def fails_on_loop() -> int:
        raise error

    for make in (fails, fails_on_loop):
        asked = asyncio.to_thread(_caught, lambda make=make: resources.obtain(need_of(make)))
        found = await asyncio.wait_for(asked, 5)
        assert isinstance(
            found, (type(error), RuntimeError)
        )  # a coroutine cannot raise StopIteration
    await resources.stop()


def _caught(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except BaseException as err:  # noqa: BLE001 (looked at)
        return err


async def test_who_asked_first_may_be_cancelled_and_the_others_get_the_value():
    cancelled = asyncio.Event()
    maker, resources = Maker(cancelled.is_set), Resources(made_app())
    need = need_of(maker.coroutine)
    first = asyncio.ensure_future(resources.aobtain(need))
    other = asyncio.ensure_future(resources.aobtain(need))
    await until(lambda: bool(maker.threads))
    first.cancel()
    cancelled.set()
    assert await other == 0
    assert first.cancelled()
    await resources.stop()
    assert maker.events == ["close coroutine 0"]


async def test_it_closes_in_reverse_though_one_fails_and_one_hangs(caplog):
    app, events = made_app(), []

    @app.lifespan
    async def lifespan() -> AsyncIterator[str]:
        yield "state"
        events.append("lifespan")

    def below() -> Iterator[str]:
        yield "below"
        events.append("below")

    async def hangs(*, on: str = Depends(below, scope="process")) -> AsyncIterator[str]:
        try:
            yield f"hangs on {on}"
            await asyncio.sleep(60)
        finally:
            events.append("hangs")

    async def fails(*, on: str = Depends(hangs, scope="process")) -> AsyncIterator[str]:
        yield f"fails on {on}"
        raise OSError("broken pipe")

    with pytest.raises(TaskQError, match="none runs here"):
        _ = app.state
    resources = Resources(app)
    await resources.start()
    assert app.state == "state"
    assert await resources.aobtain(need_of(fails)) == "fails on hangs on below"
    begun = time.monotonic()
    await resources.stop(0.2)
    assert time.monotonic() - begun < 2
    assert events == ["hangs", "below", "lifespan"]
    assert "fails failed to close: OSError('broken pipe')" in caplog.text
    assert "hangs does not close: the worker ends without waiting for it" in caplog.text
    assert app.resources is None
    with pytest.raises(TaskQError, match="below is asked for while its worker process ends"):
        await resources.aobtain(need_of(below))


async def test_a_plain_one_that_hangs_is_left(caplog):
    resources, gate = Resources(made_app()), threading.Event()

    def stuck() -> Iterator[None]:
        yield
        gate.wait(5)

    await resources.aobtain(need_of(stuck))
    await resources.stop(0.1)
    assert "stuck does not close" in caplog.text
    gate.set()


async def test_a_def_called_on_the_workers_loop_cannot_wait_for_it():
    app = made_app()
    resources = Resources(app)
    await resources.start()

    async def client() -> str:
        return "client"

    def deep(*, it: str = Depends(client, scope="process")) -> str:
        return it

    def shallow(*, it: str = Depends(client)) -> str:
        return it

    for fn in (deep, shallow):
        fn.__qualname__ = fn.__name__
        task = app.task(fn)
        with pytest.raises(TaskQError, match=f"called on that loop.*to_thread.{fn.__name__}"):
            task()
        assert await asyncio.to_thread(task) == "client"
    assert app.tasks[f"{__name__}.deep"]() == "client"  # it is there now
    await resources.stop()


def test_a_process_without_a_loop_gets_one():
    app, events = made_app(), []

    @app.lifespan
    async def lifespan() -> AsyncIterator[int]:
        yield 5
        events.append("lifespan")

    async def client() -> AsyncIterator[int]:
        yield app.state + 1
        events.append("client")

    def uses(*, a: int = Depends(client, scope="process"), b: int = Depends(client)) -> list[int]:
        return [a, b]

    uses.__qualname__ = "uses"
    task = app.task(uses)
    with standing_alone(app):
        assert task() == [6, 6]
        assert events == ["client"]
        assert task() == [6, 6]
    assert events == ["client", "client", "client", "lifespan"]
    with pytest.raises(TaskQError):
        task()
    events.clear()
    app.lifespan_function = None
    with standing_alone(app, for_tests=True), app.override_dependencies({client: _async_nine}):
        assert task() == [9, 9]
    assert app.resources is None


async def _async_nine() -> int:
    return 9


def test_a_process_that_a_job_forks_has_no_loop_to_ask():
    app = made_app()

    def base() -> str:
        return str(os.getpid())

    def uses(*, a: str = Depends(base, scope="process")) -> str:
        return a

    uses.__qualname__ = "uses"
    task = app.task(uses)
    with standing_alone(app) as resources:
        here = task()
        resources._process = -1  # as in a child
        assert task() == here
        assert len(resources._ready) == 1


def test_a_lifespan_that_fails_comes_through():
    app = made_app()

    @app.lifespan
    async def lifespan() -> AsyncIterator[None]:
        raise SystemExit(3)
        yield

    with pytest.raises(TaskQError, match=r"SystemExit\(3\)"), standing_alone(app):
        pass
    assert app.resources is None


def sync_lifespan() -> Iterator[None]:
    yield


async def no_yield() -> None: ...


async def with_argument(app: TaskQ) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("fn", [sync_lifespan, no_yield, with_argument, 3])
def test_what_is_no_lifespan_is_refused(fn):
    with pytest.raises(ConfigError, match="@queue.lifespan takes an async def without arguments"):
        made_app().lifespan(fn)


def test_an_app_has_one_lifespan():
    app = made_app()

    async def one() -> AsyncIterator[None]:
        yield

    async def other() -> AsyncIterator[None]:
        yield

    assert app.lifespan(one) is one
    app.lifespan(one)  # a reload
    with pytest.raises(
        ConfigError, match="has a lifespan already, .*one; .*other would be its sec"
    ):
        app.lifespan(other)


async def test_a_lifespan_that_takes_long_is_spoken_of(monkeypatch, caplog):
    monkeypatch.setattr("taskq.resources.SLOW_S", 0.01)
    app, gate = made_app(), asyncio.Event()

    @app.lifespan
    async def lifespan() -> AsyncIterator[None]:
        await gate.wait()
        yield

    resources = Resources(app)
    starting = asyncio.ensure_future(resources.start())
    await until(lambda: "The lifespan has not come to its yield in 0.01 s" in caplog.text)
    gate.set()
    await starting
    await resources.stop()
