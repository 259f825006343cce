"""What a generator task yields to its worker instead of a value: `yield receive()`.

A `Command` is obeyed by whoever drives the generator and never stands in its stream; the
answer is what the `yield` gives. The drivers are the worker's (`worker/generator_run.py`)
and, where stock RQ calls the task, `drain` and `adrain` here. Commands of durable tasks are
in `steps.py`.
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

    def alone(self) -> Any:
        """Do it where stock RQ runs the task; gives what the `yield` gives, or raises."""
        raise _alone(self)

    async def aalone(self) -> Any:
        """`alone` for an async generator."""
        return self.alone()

    def __await__(self) -> Generator[Any, None, Any]:
        """Have it done in an async generator: `await receive()`, `await step(f)`."""
        host = driver.get()
        if host is None:
            raise TaskQError(
                f"{self!r} was awaited outside of a generator task. In an async generator that "
                "a worker runs, the worker answers it."
            )
        return host.obey(self).__await__()


class Driver(Protocol):
    """Whoever runs an async generator, and obeys what it awaits."""

    def obey(self, command: Command, /) -> Awaitable[Any]:
        """Do what a command asks for."""
        ...


driver: ContextVar[Driver | None] = ContextVar("taskq_driver", default=None)
"""Of the async generator that runs in this context."""


def is_group(item: object) -> bool:
    """Whether several commands are yielded at once, as a list or tuple."""
    return (
        isinstance(item, (list, tuple))
        and bool(item)  # pyright: ignore[reportUnknownArgumentType]
        and all(isinstance(one, Command) for one in item)  # pyright: ignore[reportUnknownVariableType]
    )


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

    def alone(self) -> Any:
        """Nothing can come there, so the time need not be waited for.

        Raises:
            TimeoutError: nothing was sent.
            TaskQError: it has no time limit, and would wait for ever.
        """
        raise _alone(self) if self.timeout_s is None else self.late()

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


def _alone(command: Command) -> TaskQError:
    return TaskQError(
        f"{command!r} waits for what handle.send() brings, and stock RQ runs this task, which "
        'brings nothing. Give receive() a timeout, or run the task with "taskq worker".'
    )


def _obey(item: Any) -> tuple[Any, Exception | None]:
    """What a `yield` gives, or raises, where nobody streams or sends anything."""
    try:
        if isinstance(item, Command):
            return item.alone(), None
        if is_group(item):
            return [one.alone() for one in item], None
    except Exception as err:  # noqa: BLE001 (raised at the yield)
        return None, err
    return None, None


async def _aobey(item: Any) -> tuple[Any, Exception | None]:
    """`_obey` for an async generator."""
    try:
        if isinstance(item, Command):
            return await item.aalone(), None
        if is_group(item):
            return [await one.aalone() for one in item], None
    except Exception as err:  # noqa: BLE001 (raised at the yield)
        return None, err
    return None, None


def drain(generator: Generator[Any, Any, R]) -> R:
    """Run a generator to its end and return its result; nothing is streamed, sent or recorded."""
    try:
        item = next(generator)
        while True:
            value, error = _obey(item)
            item = generator.send(value) if error is None else generator.throw(error)
    except StopIteration as stop:
        result: R = stop.value
        return result


class _Nobody:
    """The driver where nothing is ever sent."""

    async def obey(self, command: Command) -> Any:
        """Do it here."""
        return await command.aalone()


async def adrain(generator: AsyncGenerator[Any, Any]) -> None:
    """`drain` for an async generator."""
    driver.set(_Nobody())
    try:
        item = await generator.__anext__()
        while True:
            value, error = await _aobey(item)
            item = await (generator.asend(value) if error is None else generator.athrow(error))
    except StopAsyncIteration:
        return
