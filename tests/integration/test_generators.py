"""Generator tasks on a real worker: streams, send, receive, throw, and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
from types import ModuleType

import pytest
import redis

from taskq import JobCanceled, JobFailed, JobNotFound, ResultTimeout, TaskTimeout
from taskq.embedded import EmbeddedRedis
from tests.engine import Proxy, descendants
from tests.support import LEDGER, Ledger, WorkerStarter, until, wait_until

APP = (
    LEDGER
    + """
import asyncio
import contextvars
import os
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass

from taskq import Retry, TaskQ, current_job, receive

queue = TaskQ()
number = contextvars.ContextVar("number", default=None)

@dataclass
class Point:
    x: int

@queue.task
def count(n: int) -> Generator[int, None, str]:
    for i in range(n):
        yield i
    return "counted"

@queue.task
async def acount(n: int) -> AsyncGenerator[int, None]:
    for i in range(n):
        yield i

@queue.task
def points() -> Generator[Point, Point, Point]:
    sent = yield Point(1)
    while sent is None:
        sent = yield receive(timeout=5)
    assert type(sent) is Point
    yield sent
    return Point(3)

@queue.task
def talk() -> Generator[str, str, list[str]]:
    heard = []
    yield "ready"
    while True:
        try:
            heard.append((yield receive()))
        except ValueError as err:
            heard.append(f"ValueError {err}")
        except Exception as err:
            return [*heard, f"{type(err).__name__} {err}"]

@queue.task
async def atalk() -> AsyncGenerator[str, str]:
    yield "ready"
    while True:
        try:
            word = await receive()
        except ValueError as err:
            word = f"ValueError {err}"
        except Exception as err:
            yield f"{type(err).__name__} {err}"
            return
        yield word

@queue.task
def impatient() -> Iterator[str]:
    try:
        yield receive(timeout=0.1)
    except TimeoutError as err:
        yield str(err)

@queue.task
async def aimpatient() -> AsyncGenerator[str, None]:
    try:
        await receive(timeout=0.1)
    except TimeoutError as err:
        yield str(err)

@queue.task
def whoami(n: int) -> Iterator[bool]:
    number.set(n)
    mine = current_job().id
    for _ in range(20):
        yield number.get() == n and current_job().id == mine

@queue.task
async def awhoami(n: int) -> AsyncGenerator[bool, None]:
    number.set(n)
    mine = current_job().id
    for _ in range(20):
        yield number.get() == n and current_job().id == mine

@queue.task
def unfit() -> Iterator[object]:
    yield 1
    yield object()

@queue.task
def fails_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise LookupError("no more")

@queue.task(retry=2)
def second_time(n: int) -> Generator[str, None, int]:
    attempt = current_job().attempt
    for i in range(n):
        yield f"{attempt}.{i}"
    if attempt == 1:
        note("waits")
        while not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
            yield receive(timeout=0.01) if False else f"{attempt}.more"
            time.sleep(0.01)
        raise OSError("once more")
    return attempt

@queue.task(timeout=0.5)
def endless(how: str) -> Iterator[int]:
    try:
        if how == "yields":
            while True:
                yield 1
                time.sleep(0.001)
        if how == "waits":
            yield receive()
        if how == "spins":
            while True:
                try:
                    while True:
                        pass
                except Exception:
                    pass
        if how == "sleeps":
            yield 1
            time.sleep(3)
    finally:
        note("finally", how)

@queue.task(timeout=0.5)
async def aendless(how: str) -> AsyncGenerator[int, None]:
    try:
        while how == "yields":
            yield 1
        await receive()
    finally:
        note("finally", how)

@queue.task
def slow(n: int, pause: float = 0.05) -> Iterator[int]:
    try:
        for i in range(n):
            note("yields", i)
            yield i
            time.sleep(pause)
    finally:
        note("closed")

@queue.task(stream_keep=50)
def long(n: int) -> Iterator[int]:
    yield from range(n)

@queue.task(stream_keep=100, stream_ahead=10)
def careful(n: int) -> Iterator[int]:
    for i in range(n):
        note("number", i)
        yield i

@queue.task
def big(n: int) -> Iterator[str]:
    for i in range(n):
        yield "x" * 100_000
"""
)


@pytest.fixture
def ready(app: ModuleType, target: str, worker: WorkerStarter) -> ModuleType:
    worker(target, "--grace", "0")
    return app


class TestStream:
    @pytest.mark.standing
    def test_what_is_yielded_and_the_result(self, ready: ModuleType) -> None:
        handle = ready.count.delay(2_500)
        assert list(handle.stream(timeout=10)) == list(range(2_500))
        assert handle.result(timeout=5) == "counted"
        assert list(handle.stream()) == list(range(2_500)), "again, from the start, after its end"
        assert list(ready.count.handle(handle.id).stream()) == list(range(2_500))

    @pytest.mark.standing
    def test_an_async_generator(self, ready: ModuleType) -> None:
        handle = ready.acount.delay(300)
        assert list(handle.stream(timeout=10)) == list(range(300))
        assert handle.result(timeout=5) is None

    @pytest.mark.standing
    def test_models_go_through_the_serializer(self, ready: ModuleType) -> None:
        handle = ready.points.delay()
        stream = iter(handle.stream(timeout=10))
        assert next(stream) == ready.Point(1)
        assert handle.send(ready.Point(2))
        assert next(stream) == ready.Point(2)
        assert handle.result(timeout=5) == ready.Point(3)

    @pytest.mark.standing
    async def test_many_are_read_in_one_event_loop(self, ready: ModuleType) -> None:
        handles = [await ready.count.adelay(n) for n in range(100)]

        async def read(n: int) -> bool:
            return [x async for x in handles[n].stream(timeout=15)] == list(range(n))

        assert all(await asyncio.gather(*(read(n) for n in range(100))))
        await ready.queue.aclose()

    @pytest.mark.standing
    def test_iterating_on_and_in_another_process(self, ready: ModuleType) -> None:
        handle = ready.count.delay(10)
        stream = handle.stream(timeout=10)
        for x in stream:
            if x == 3:
                break
        assert next(iter(handle.stream(after=stream.position))) == 4
        assert list(stream) == [4, 5, 6, 7, 8, 9]

    @pytest.mark.standing
    def test_nothing_comes(self, ready: ModuleType) -> None:
        handle = ready.talk.delay()
        stream = handle.stream(timeout=0.3)
        with pytest.raises(ResultTimeout, match="Nothing was yielded by talk"):
            list(stream)
        assert handle.cancel()
        with pytest.raises(JobCanceled):
            list(handle.stream(timeout=10))

    @pytest.mark.standing
    def test_no_such_job(self, ready: ModuleType) -> None:
        with pytest.raises(JobNotFound):
            list(ready.count.handle("nobody").stream())
        with pytest.raises(JobNotFound, match="Nothing was sent"):
            ready.talk.handle("nobody").send("x")

    @pytest.mark.standing
    def test_what_is_kept_is_bounded(self, ready: ModuleType, redis_client: redis.Redis) -> None:
        handle = ready.long.delay(3_000)
        assert handle.result(timeout=10) is None
        assert 50 <= redis_client.xlen(f"taskq:stream:{handle.id}") <= 350
        stream = handle.stream()
        values = list(stream)
        assert values[-50:] == list(range(2_950, 3_000))
        assert stream.missed == 3_000 - len(values)

    @pytest.mark.standing
    def test_bytes_are_bounded(self, ready: ModuleType, redis_client: redis.Redis) -> None:
        handle = ready.big.delay(400)
        assert handle.result(timeout=15) is None
        assert redis_client.memory_usage(f"taskq:stream:{handle.id}") < 30_000_000

    @pytest.mark.standing
    def test_the_stream_lives_as_long_as_the_result(
        self, ready: ModuleType, redis_client: redis.Redis
    ) -> None:
        handle = ready.count.options(result_ttl=200).delay(3)
        handle.result(timeout=10)
        assert 190 < redis_client.ttl(f"taskq:stream:{handle.id}") <= 200
        handle = ready.count.options(result_ttl=0).delay(3)
        assert list(handle.stream(timeout=10)) == [0, 1, 2]
        assert 50 < redis_client.ttl(f"taskq:stream:{handle.id}") <= 60


class TestConversation:
    @pytest.mark.standing
    @pytest.mark.parametrize("name", ["talk", "atalk"])
    def test_send_and_throw(self, ready: ModuleType, name: str) -> None:
        handle = getattr(ready, name).delay()
        stream = iter(handle.stream(timeout=10))
        assert next(stream) == "ready"
        words = []
        for act in (
            lambda: handle.send("a"),
            lambda: handle.throw(ValueError("b")),
            lambda: handle.throw(KeyError),
        ):
            assert act()
            words += [next(stream)] if name == "atalk" else []
        assert list(stream) == []
        result = words or handle.result(timeout=5)
        assert result == ["a", "ValueError b", "KeyError "]
        assert handle.send("too late") is False

    @pytest.mark.standing
    def test_an_exception_of_another_class(self, ready: ModuleType) -> None:
        handle = ready.talk.delay()
        handle.send("a")  # before that it may be at a yield where it expects no exception
        handle.throw(JobCanceled("why not"))
        last = "RemoteError taskq.errors.JobCanceled: why not"
        assert handle.result(timeout=10)[-1] == last

    def test_sent_before_it_begins(
        self, app: ModuleType, target: str, worker: WorkerStarter
    ) -> None:
        handle = app.talk.delay()
        for n in range(5):
            handle.send(str(n))
        handle.throw(KeyError("end"))
        worker(target)
        assert handle.result(timeout=10)[-1] == "KeyError 'end'"

    @pytest.mark.standing
    @pytest.mark.parametrize("name", ["impatient", "aimpatient"])
    def test_receive_has_a_time_limit(self, ready: ModuleType, name: str) -> None:
        handle = getattr(ready, name).delay()
        assert list(handle.stream(timeout=10)) == ["nothing was sent within 0.1 s"]

    @pytest.mark.standing
    @pytest.mark.parametrize("name", ["whoami", "awhoami"])
    def test_each_has_its_own_context(self, ready: ModuleType, name: str) -> None:
        handles = [getattr(ready, name).delay(n) for n in range(50)]
        for handle in handles:
            assert list(handle.stream(timeout=10)) == [True] * 20

    @pytest.mark.standing
    async def test_in_asyncio(self, ready: ModuleType) -> None:
        handle = await ready.atalk.adelay()
        words = []
        async for word in handle.stream(timeout=10):
            words.append(word)
            if word == "ready":
                await handle.asend("a")
            else:
                await handle.athrow(KeyError("end"))
        assert words == ["ready", "a", "KeyError 'end'"]
        await ready.queue.aclose()


class TestEnds:
    @pytest.mark.standing
    def test_a_value_that_cannot_be_carried(self, ready: ModuleType) -> None:
        handle = ready.unfit.delay()
        values: list[object] = []
        with pytest.raises(JobFailed, match=r"unfit\(\): the yielded value is an object") as failed:
            values.extend(handle.stream(timeout=10))
        assert values == [1]
        assert "yield object()" in failed.value.traceback

    @pytest.mark.standing
    def test_a_failure_comes_after_what_was_yielded(self, ready: ModuleType) -> None:
        values: list[int] = []
        with pytest.raises(JobFailed, match="no more"):
            values.extend(ready.fails_after.delay(3).stream(timeout=10))
        assert values == [0, 1, 2]

    @pytest.mark.standing
    def test_a_retry_begins_the_stream_anew(self, ready: ModuleType, ledger: Ledger) -> None:
        handle = ready.second_time.delay(3)
        seen: list[str] = []
        restarts: list[int] = []
        stream = handle.stream(timeout=10, on_restart=lambda: restarts.append(len(seen)))
        for value in stream:
            seen.append(value)
            if len(seen) == 3:
                ledger.path.with_name("go").touch()
        assert restarts
        assert stream.restarts == 1
        assert seen[restarts[0] :] == ["2.0", "2.1", "2.2"]
        assert set(seen[: restarts[0]]) <= {"1.0", "1.1", "1.2", "1.more"}
        assert list(handle.stream()) == ["2.0", "2.1", "2.2"], "a late reader sees what counts"
        assert handle.result() == 2

    @pytest.mark.standing
    @pytest.mark.parametrize("how", ["yields", "waits", "spins", "sleeps"])
    def test_the_time_limit(self, ready: ModuleType, ledger: Ledger, how: str) -> None:
        beside = ready.slow.delay(30, 0.02)
        handle = ready.endless.delay(how)
        with pytest.raises(TaskTimeout, match=r"time limit of 0\.5 s"):
            handle.result(timeout=5)
        wait_until(lambda: ledger.count(f"finally {how}"))
        assert list(beside.stream(timeout=10)) == list(range(30))

    @pytest.mark.standing
    @pytest.mark.parametrize("how", ["yields", "waits"])
    def test_the_time_limit_of_an_async_one(
        self, ready: ModuleType, ledger: Ledger, how: str
    ) -> None:
        with pytest.raises(TaskTimeout, match=r"time limit of 0\.5 s"):
            ready.aendless.delay(how).result(timeout=5)
        assert ledger.count(f"finally {how}") == 1

    @pytest.mark.standing
    def test_cancel_closes_it(self, ready: ModuleType, ledger: Ledger) -> None:
        handle = ready.slow.delay(10_000)
        stream = iter(handle.stream(timeout=10))
        next(stream)
        assert handle.cancel()
        with pytest.raises(JobCanceled):
            list(stream)
        assert ledger.count("closed") == 1

    @pytest.mark.timeout(40)  # two workers are started
    def test_a_shutdown_gives_it_back(
        self, app: ModuleType, target: str, worker: WorkerStarter, ledger: Ledger
    ) -> None:
        first = worker(target, "--grace", "0.1")
        handle = app.slow.delay(15)
        stream = handle.stream(timeout=15)
        values = iter(stream)
        assert next(values) == 0
        assert first.stop() == 0
        assert ledger.count("closed") == 1
        worker(target)
        seen = list(values)
        assert seen[-15:] == list(range(15))
        assert stream.restarts == 1

    def test_a_killed_worker(self, app: ModuleType, target: str, worker: WorkerStarter) -> None:
        server = worker(target)
        handle = app.slow.delay(60, 0.02)
        stream = handle.stream(timeout=15)
        seen = []
        for value in stream:
            seen.append(value)
            if len(seen) == 5:
                os.kill(descendants(server.pid)[0], signal.SIGKILL)
        assert stream.restarts == 1
        again = seen.index(0, 1)
        assert seen[:again] == list(range(again))
        assert seen[again:] == list(range(60))
        assert list(handle.stream()) == list(range(60))


class TestReaders:
    def test_a_lost_connection_loses_nothing(
        self, app: ModuleType, target: str, worker: WorkerStarter, redis_server: EmbeddedRedis
    ) -> None:
        worker(target)
        fates = iter(["", "", "drop reply", "", "drop request", "", "drop reply"])

        def watch(request: bytes) -> str | None:
            return next(fates, None) if b"XREAD" in request else None

        proxy = Proxy(redis_server.port, watch)
        try:
            reader = app.TaskQ(proxy.url)
            handle = app.slow.delay(60, 0.02)
            stream = type(handle)(reader, handle.id, app.slow).stream(timeout=10)
            assert list(stream) == list(range(60))
            assert next(fates, None) is None, "every cut was made"
            assert stream.restarts == stream.missed == 0
            reader.close()
        finally:
            proxy.close()

    @pytest.mark.standing
    def test_a_task_that_waits_for_its_reader(self, ready: ModuleType, ledger: Ledger) -> None:
        handle = ready.careful.delay(100)
        wait_until(lambda: len(ledger.numbers()) == 10)
        seen = []
        for value in handle.stream(timeout=10):
            seen.append(value)
            assert len(ledger.numbers()) <= value + 1 + 10 + 1
        assert seen == list(range(100))

    @pytest.mark.standing
    async def test_a_slow_reader_is_not_flooded(self, ready: ModuleType) -> None:
        handle = await ready.count.adelay(9_000)
        got = 0
        async for value in handle.stream(timeout=10):
            if value == 0:
                await until(lambda: handle is not None)
            assert value == got
            got += 1
        assert got == 9_000
        await ready.queue.aclose()
