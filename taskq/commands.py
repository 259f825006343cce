"""What a generator task yields to its worker instead of a value: `yield receive()`.

A `Command` is obeyed by whoever drives the generator and never stands in its stream; the
answer is what the `yield` gives. The drivers are the worker's (`worker/generator_run.py`)
and, where stock RQ calls the task, `drain` and `adrain` here.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from taskq.errors import ConfigError, InvalidArguments, RemoteError, TaskQError

R = TypeVar("R")


class Command:
    """Base of what a generator yields for its driver to do."""

    __slots__ = ()


class Receiver(Protocol):
    """Whoever can bring an async generator what was sent to it."""

    def receive(self, timeout_s: float | None) -> Awaitable[Any]:
        """Wait for the next value."""
        ...


receiver: ContextVar[Receiver | None] = ContextVar("taskq_receiver", default=None)
"""Of the async generator that runs in this context."""


class Receive(Command):
    """Wait for the next value that `handle.send` or `handle.throw` brings.

    Attributes:
        timeout_s: seconds to wait; None: until the job's own time limit.
    """

    __slots__ = ("timeout_s",)

    def __init__(self, timeout_s: float | None) -> None:
        """Made by `receive()`."""
        self.timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"receive(timeout={self.timeout_s!r})"

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait in an async generator."""
        host = receiver.get()
        if host is None:
            raise TaskQError(
                "receive() was awaited outside of a generator task. In an async generator that "
                "a worker runs it waits for what handle.send() brings."
            )
        return host.receive(self.timeout_s).__await__()

    def late(self) -> TimeoutError:
        """The error for a time that is over."""
        return TimeoutError(f"nothing was sent within {self.timeout_s:g} s")


def receive(timeout: float | timedelta | None = None) -> Any:
    """Wait in a generator task for what its caller sends; meanwhile other tasks run on.

    `x = yield receive()`, in an async generator `x = await receive()`. What `handle.throw`
    brings is raised.

    Args:
        timeout: seconds, or a `timedelta`; then `TimeoutError` is raised at the `yield`.
            None: until the job's time limit.

    Raises:
        ConfigError: the timeout is no such thing.
    """
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    elif timeout is not None and type(timeout) not in (int, float):
        raise ConfigError(f"receive(): timeout={timeout!r}: must be seconds or a timedelta.")
    return Receive(timeout)


def pack_error(error: object) -> str:
    """An exception as it travels: JSON of its class's dotted name and its message.

    Raises:
        InvalidArguments: it is none, or one that ends more than a job (SystemExit ...).
    """
    if isinstance(error, type) and issubclass(error, Exception):
        error = error()
    if not isinstance(error, Exception):
        raise InvalidArguments(
            f"throw() takes an exception, like ValueError('stop'), and got {error!r:.100}. "
            "Nothing was sent."
        )
    kind = type(error)
    if isinstance(error, RemoteError):
        return json.dumps([error.exc_type, error.message])
    only = error.args[0] if len(error.args) == 1 else None  # str() of a KeyError quotes it
    text = only if isinstance(only, str) else str(error)
    return json.dumps([f"{kind.__module__}.{kind.__qualname__}", text])


def unpack_error(body: bytes) -> Exception:
    """The exception to raise: a builtin by its name, else a `RemoteError`. Imports nothing."""
    try:
        name, message = (str(part) for part in json.loads(body))
    except (ValueError, TypeError):
        return RemoteError("unknown", "what was thrown cannot be read")
    module, _, short = name.rpartition(".")
    kind = getattr(builtins, short, None) if module == "builtins" else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message) if message else kind()
        except TypeError:  # UnicodeDecodeError and the like want more than a text
            pass
    return RemoteError(name, message)


def _alone() -> TaskQError:
    return TaskQError(
        "receive() waits for what handle.send() brings, and stock RQ runs this task, which brings "
        'nothing. Give receive() a timeout, or run the task with "taskq worker".'
    )


def _answer(item: Any) -> Exception | None:
    """What to raise for a command nobody obeys here; None for a value."""
    if not isinstance(item, Command):
        return None
    if isinstance(item, Receive) and item.timeout_s is not None:
        return item.late()  # nothing can come: the time need not be waited for
    return _alone()


def drain(generator: Generator[Any, Any, R]) -> R:
    """Run a generator to its end and return its result; nothing is streamed or sent."""
    try:
        item = next(generator)
        while True:
            error = _answer(item)
            item = next(generator) if error is None else generator.throw(error)
    except StopIteration as stop:
        result: R = stop.value
        return result


class _Nobody:
    """The receiver where nothing is ever sent."""

    async def receive(self, timeout_s: float | None) -> Any:
        """Raise at once."""
        raise _answer(Receive(timeout_s)) or _alone()


async def adrain(generator: AsyncGenerator[Any, Any]) -> None:
    """`drain` for an async generator."""
    receiver.set(_Nobody())
    try:
        item = await generator.__anext__()
        while True:
            error = _answer(item)
            item = await (generator.__anext__() if error is None else generator.athrow(error))
    except StopAsyncIteration:
        return
