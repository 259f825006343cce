"""`Depends` as the checkers see it: typed as what the function gives. Checked, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TextIO, TypeVar

from typing_extensions import assert_type

from taskq import Depends, Handle, TaskQ

T = TypeVar("T")

queue = TaskQ()


class Client:
    def get(self, url: str) -> bytes:
        return url.encode()


def returned() -> Client:
    return Client()


def yielded() -> Iterator[Client]:
    yield Client()


def generated() -> Generator[Client, None, None]:
    yield Client()


async def awaited() -> Client:
    return Client()


def awaitable() -> Awaitable[Client]:
    return awaited()


async def yielded_async(*, below: Client = Depends(yielded)) -> AsyncIterator[Client]:
    yield below


async def generated_async() -> AsyncGenerator[Client, None]:
    yield Client()


@contextmanager
def managed() -> Generator[Client, None, None]:
    yield Client()


@asynccontextmanager
async def managed_async() -> AsyncGenerator[Client, None]:
    yield Client()


def a_file() -> TextIO:
    raise OSError


def nothing() -> Iterator[None]:
    yield


def a_list() -> list[int]:
    return [1]


def anything() -> Any:
    return 1


@queue.task
async def fetch(
    url: str,
    *,
    a: Client = Depends(returned),
    b: Client = Depends(yielded, scope="process"),
    c: Client = Depends(generated),
    d: Client = Depends(awaited, scope="job"),
    e: Client = Depends(yielded_async),
    f: Client = Depends(Client),
) -> bytes:
    return a.get(url)


@queue.lifespan
async def lifespan() -> AsyncIterator[dict[str, Client]]:
    yield {"client": Client()}


@asynccontextmanager
async def other() -> AsyncGenerator[None, None]:
    yield


queue.lifespan(other)


def dependencies_are_what_they_give() -> None:
    assert_type(Depends(returned), Client)
    assert_type(Depends(yielded), Client)
    assert_type(Depends(generated), Client)
    assert_type(Depends(awaited), Client)
    assert_type(Depends(awaitable), Client)
    assert_type(Depends(yielded_async), Client)
    assert_type(Depends(generated_async, scope="process"), Client)
    assert_type(Depends(managed), Client)
    assert_type(Depends(managed_async), Client)
    assert_type(Depends(Client), Client)
    assert_type(Depends(a_file), TextIO)
    assert_type(Depends(nothing), None)
    assert_type(Depends(a_list), list[int])
    assert_type(Depends(lambda: 3), int)
    assert_type(Depends(anything), Any)


async def tasks_keep_their_types() -> None:
    assert_type(fetch.delay("x"), Handle[bytes])
    assert_type(await fetch("x", a=Client()), bytes)


def fakes() -> None:
    with queue.override_dependencies({returned: Client, awaited: returned}):
        assert_type(queue.state, Any)
