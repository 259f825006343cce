"""What the checkers must accept, and the types they must find. Checked, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterator
from typing import Any, TypeVar

from typing_extensions import assert_type

from taskq import Batch, Call, Ending, Handle, Retry, StreamHandle, Task, TaskQ, receive, task

T = TypeVar("T")

queue = TaskQ()


@queue.task
def thumbnail(path: str, size: int = 256) -> str:
    return f"{path}:{size}"


@queue.task(queue="web", retry=Retry(5, on=(OSError,)), timeout=30)
async def fetch(url: str, *, tries: int = 1) -> bytes:
    return url.encode() * tries


@task
def resize(path: str) -> int:
    return len(path)


@queue.task
def told(end: Ending) -> None: ...


@queue.task
async def atold(end: Ending, *, loud: bool = False) -> int:
    return end.attempts


@queue.task(on_success=told, on_failure=atold.options(queue="mail"))
def followed(path: str) -> int:
    return len(path)


assert_type(followed.options(on_success="https://example.com").delay("x"), Handle[int])


@task(aliases=["shop.old"], result_ttl=0)
async def ping() -> None: ...


@queue.task
def untyped_result(name: str) -> Any:
    return name


@queue.task
def same(value: T) -> T:
    return value


@queue.task(stream_keep=100, stream_ahead=10)
def rows(path: str) -> Generator[int, str, bytes]:
    word: str = yield 1
    word = yield receive(timeout=3)
    return word.encode()


@queue.task
async def arows(path: str) -> AsyncGenerator[int, str]:
    word: str = yield 1
    word = await receive()
    yield len(word)


@queue.task
def items(count: int) -> Iterator[float]:
    yield count / 2


@task
async def aitems(count: int) -> AsyncIterator[float]:
    yield count / 2


class Images:
    @staticmethod
    @queue.task
    def crop(path: str, *, left: int = 0) -> float:
        return float(left) + len(path)


def by_host(url: str, *, tries: int = 1) -> str | None:
    return url.partition("/")[0] if tries else None


def tasks_are_typed() -> None:
    assert_type(thumbnail("a.png"), str)
    assert_type(thumbnail.delay("a.png", size=64), Handle[str])
    assert_type(thumbnail.delay("a.png").result(timeout=1), str)
    running: Coroutine[Any, Any, bytes] = fetch("x")
    running.close()
    assert_type(fetch.delay("x"), Handle[bytes])
    assert_type(fetch.delay("x", tries=2).result(), bytes)
    assert_type(resize.delay("a"), Handle[int])
    assert_type(ping.delay(), Handle[None])
    assert_type(untyped_result.delay("a"), Handle[Any])
    assert_type(Images.crop.delay("a", left=3), Handle[float])
    assert_type(same(3), int)


def generators_are_typed() -> None:
    assert_type(rows("a"), Generator[int, str, bytes])
    assert_type(rows.delay("a"), StreamHandle[int, str, bytes])
    assert_type(arows.delay("a"), StreamHandle[int, str, None])
    assert_type(items.delay(3), StreamHandle[float, Any, Any])
    assert_type(aitems.delay(3), StreamHandle[float, Any, None])
    assert_type(rows.options(queue="high").handle("a"), StreamHandle[int, str, bytes])
    assert_type(rows.delay("a").result(), bytes)
    assert_type(rows.delay("a").send("b"), bool)
    assert_type(rows.delay("a").throw(ValueError("b")), bool)
    assert_type([x for x in rows.delay("a").stream(timeout=3)], list[int])  # noqa: C416 (its type)
    assert_type(rows.call("a"), Call[bytes])
    assert_type(rows.map(["a"]), Batch[bytes])
    assert_type(arows.map(["a"]), Batch[None])


def options_keep_the_type() -> None:
    assert_type(thumbnail.options(queue="high", delay=60).delay("a.png"), Handle[str])
    assert_type(fetch.options(at_front=True, unique=True, meta={"a": 1}).delay("x"), Handle[bytes])
    assert_type(fetch.options(unique=by_host).delay("x"), Handle[bytes])


def handles_come_back_from_an_id() -> None:
    assert_type(thumbnail.handle("abc"), Handle[str])
    assert_type(fetch.handle("abc"), Handle[bytes])
    assert_type(queue.handle("abc"), Handle[Any])


def batches_are_typed() -> None:
    assert_type(thumbnail.call("a.png", 64), Call[str])
    assert_type(fetch.call("x"), Call[bytes])
    assert_type(thumbnail.map(["a", "b"], size=64), Batch[str])
    assert_type(fetch.map(["a", "b"], tries=3), Batch[bytes])
    assert_type(resize.map(str(n) for n in range(3)), Batch[int])
    assert_type(queue.enqueue([thumbnail.call("a"), thumbnail.call("b")]), Batch[str])
    mixed: list[Call[str] | Call[bytes]] = [thumbnail.call("a"), fetch.call("b")]
    found: Batch[str | bytes] = queue.enqueue(mixed)  # mypy's own guess is their common base
    assert_type(found.results(), list[str | bytes])


async def asyncio_twins() -> None:
    assert_type(await fetch("x"), bytes)
    assert_type(await fetch.adelay("x"), Handle[bytes])
    assert_type(await (await fetch.adelay("x")), bytes)
    assert_type(await thumbnail.adelay("x"), Handle[str])
    assert_type(await thumbnail.amap(["a"], size=1), Batch[str])
    assert_type(await fetch.amap(["a"]), Batch[bytes])
    assert_type(await rows.adelay("x"), StreamHandle[int, str, bytes])
    assert_type([x async for x in arows.delay("x").stream()], list[int])
    assert_type(await queue.aenqueue([fetch.call("x")]), Batch[bytes])


def tasks_can_be_passed_on(any_task: Task[[str], str]) -> None:
    assert_type(any_task.delay("x"), Handle[str])


def as_a_function(call: Task[..., object]) -> Handle[object]:
    return call.delay(1, 2, x=3)


as_a_function(thumbnail)
