"""What a task with `durable=True` yields: steps, several at once, and timers.

A step is a call that its worker makes and records (`worker/steps.py`). It is known again
by its place in the task, its name, and a hash of its arguments; the hash is made of what
the serializer writes, so it is the same in every process.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, TypeVar, cast, overload

from taskq.annotations import result_rebuilder
from taskq.commands import Command
from taskq.definition import module_name, yields
from taskq.errors import ConfigError, StepFailed
from taskq.exc_names import class_names
from taskq.fingerprint import fingerprint
from taskq.option_checks import check_option
from taskq.retry import Retry, RetryLater
from taskq.spec import Arguments, TaskSpec

if TYPE_CHECKING:  # the checkers bring it along; at run time Python 3.10 does not have it
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_OPTIONS = ("name", "timeout", "retry", "redeliver")


class StepOptions(TypedDict, total=False):
    """The options of `step(...).options(...)`."""

    name: str
    timeout: float | timedelta | None
    retry: Retry | int | None
    redeliver: bool


class Step(Command, Generic[R_co]):
    """A call that is made once and recorded. Made by `step()`.

    Attributes:
        name: what it is known by.
        fn: what is called.
        args: positional arguments.
        kwargs: arguments by name.
        task: the task, where it is one; else None.
        mode: "thread", "asyncio" or "process": what it runs on.
        timeout: seconds that one try may take; None: only the job's own limit.
        retry: what to do after a failure; None: nothing.
        redeliver: whether it runs again when its worker died while it ran.
    """

    __slots__ = (
        "args", "fn", "kwargs", "mode", "name", "redeliver", "retry", "task", "timeout",
    )  # fmt: skip

    def __init__(self, fn: Any, args: Arguments, kwargs: dict[str, Any]) -> None:
        """Take what is to be called: a function or a task.

        Raises:
            ConfigError: it cannot be a step.
            InvalidArguments: it is a task, and the call does not fit its signature.
        """
        self.args = args
        self.kwargs = kwargs
        self.task: TaskSpec | None = None
        self.fn: Callable[..., Any] = fn
        self.timeout: float | None = None
        self.retry: Retry | None = None
        self.redeliver = True
        inner: Any = fn
        if isinstance(fn, TaskSpec):
            opts = fn.opts
            fn.signature.check(args, kwargs)
            self.task, self.fn, inner = fn, fn.runnable, fn.fn
            self.name: str = fn.name
            self.mode: str = fn.mode
            self.retry, self.redeliver = opts.retry, opts.redeliver
            self.timeout = opts.timeout if "timeout" in opts.given else None
        else:
            self.name = _name_of(fn)
            self.mode = "asyncio" if inspect.iscoroutinefunction(fn) else "thread"
        if yields(inner):
            raise ConfigError(
                f"step({self.name}): it yields, and a step is one call. Enqueue it as a job of "
                "its own, in a step: step(start), where start() calls .delay()."
            )

    def options(self, **options: Unpack[StepOptions]) -> Step[R_co]:
        """Return this step with other options: timeout, retry, redeliver, name.

        Raises:
            ConfigError: an unknown option or a wrong value.
        """
        copy: Step[R_co] = object.__new__(type(self))
        for slot in Step.__slots__:
            setattr(copy, slot, getattr(self, slot))
        given: Mapping[str, Any] = options
        for name, value in given.items():
            where = f"step({self.name}).options()"
            if name not in _OPTIONS:
                raise ConfigError(
                    f"{where}: there is no option {name!r}. Options: {', '.join(_OPTIONS)}."
                )
            if name == "name" and not (isinstance(value, str) and value):
                raise ConfigError(f"{where}: name={value!r}: must be a text.")
            setattr(copy, name, value if name == "name" else check_option(where, name, value))
        return copy

    def __iter__(self) -> Generator[Any, Any, R_co]:
        """`x = yield from step(f)` is `x = yield step(f)`, and typed."""
        return cast("R_co", (yield self))

    def __await__(self) -> Generator[Any, None, R_co]:
        """`x = await step(f)` in an async generator, typed."""
        return super().__await__()

    def __repr__(self) -> str:
        return f"step({self.name})"

    @property
    def hash(self) -> str:
        """Of the arguments: 16 hexadecimal digits."""
        return fingerprint(self.args, self.kwargs)

    def rebuild(self, value: Any) -> Any:
        """A recorded value as the model that the function's annotation names."""
        known = self.task.rebuild_result if self.task is not None else result_rebuilder(self.fn)
        return value if known is None else known(value)

    def again_after(self, error: BaseException, names: list[str], tries: int) -> float | None:
        """Seconds until the next try, or None where that was the last.

        Args:
            error: what it raised.
            names: dotted names of its class and of all that it inherits from.
            tries: how often it was run.
        """
        if isinstance(error, RetryLater):
            return error.seconds
        if self.retry is None or tries > self.retry.max or not self.retry.matches(names):
            return None
        return self.retry.jittered(self.retry.delay_s(tries), random.random)

    # -- where stock RQ runs the task: nothing is recorded --------------------------------

    def alone(self) -> R_co:
        """Run it here and now, with its retries.

        Raises:
            StepFailed: it failed for good.
        """
        tries = 0
        while True:
            tries += 1
            try:
                value = self.fn(*self.args, **self.kwargs)
                if inspect.isawaitable(value):
                    value = asyncio.run(_awaited(value))
                return cast("R_co", value)
            except Exception as err:  # noqa: BLE001 (whatever it raises: a retry, or a StepFailed)
                time.sleep(self._pause_or_raise(err, tries))

    async def aalone(self) -> R_co:
        """`alone` for an async generator."""
        tries = 0
        while True:
            tries += 1
            try:
                value = self.fn(*self.args, **self.kwargs)
                if inspect.isawaitable(value):
                    value = await value
                return cast("R_co", value)
            except Exception as err:  # noqa: BLE001 (the same)
                await asyncio.sleep(self._pause_or_raise(err, tries))

    def _pause_or_raise(self, err: Exception, tries: int) -> float:
        names = class_names(type(err))
        pause = self.again_after(err, names, tries)
        if pause is None:
            raise StepFailed(self.name, names[0], str(err), tries, tuple(names)) from err
        return pause


class Sleep(Command):
    """Wait, also for weeks; the worker is free meanwhile. Made by `sleep()`, `sleep_until()`.

    Attributes:
        seconds: how long, from the first time that it is reached; or
        until: till when, in seconds since 1970.
    """

    __slots__ = ("seconds", "until")

    def __init__(self, seconds: float = 0.0, until: float | None = None) -> None:
        """One of the two."""
        self.seconds = seconds
        self.until = until

    def __repr__(self) -> str:
        return f"{self.name}()"

    @property
    def name(self) -> str:
        """What it is known by."""
        return "sleep" if self.until is None else "sleep_until"

    def due(self, now: float) -> float:
        """When it is over, where it is reached at `now`."""
        return now + self.seconds if self.until is None else self.until

    def alone(self) -> None:
        """Wait here: stock RQ has no timers."""
        time.sleep(max(self.due(time.time()) - time.time(), 0.0))

    async def aalone(self) -> None:
        """`alone` for an async generator."""
        await asyncio.sleep(max(self.due(time.time()) - time.time(), 0.0))


@overload
def step(
    fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Step[R]: ...
@overload
def step(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Step[R]: ...
def step(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Step[Any]:
    """A call that the worker makes and whose outcome it records.

    `x = yield step(charge, order, 50)`: after a crash the task runs again from its
    beginning, and each `yield` of a step that was recorded gives what was recorded.
    `x = yield from step(...)`, and `x = await step(...)` in an async generator, mean the
    same, and the checkers know the type.

    Args:
        fn: a function (runs in a thread), an `async def` (on the event loop) or a task
            (as it would as a job, with its own `timeout`, `retry` and `redeliver`).
        args: its arguments.
        kwargs: its arguments by name.

    Raises:
        ConfigError: `fn` cannot be a step.
        InvalidArguments: it is a task, and the call does not fit its signature.
    """
    return Step(fn, args, kwargs)


def sleep(seconds: float | timedelta) -> Sleep:
    """A timer: the job leaves its worker, and comes back after so many seconds.

    Raises:
        ConfigError: no number of seconds, or a negative one.
    """
    return Sleep(seconds=check_option("sleep()", "delay", seconds) or 0.0)


def sleep_until(when: datetime) -> Sleep:
    """A timer: the job leaves its worker, and comes back at an aware datetime.

    Raises:
        ConfigError: no datetime, or one without a time zone.
    """
    at = check_option("sleep_until()", "at", when)
    if at is None:
        raise ConfigError("sleep_until(): when=None: must be an aware datetime.")
    return Sleep(until=at)


def _name_of(fn: Any) -> str:
    """The dotted name of a function.

    Raises:
        ConfigError: it cannot be called.
    """
    if not callable(fn):
        raise ConfigError(f"step({fn!r}): a function or a task is called, and this is neither.")
    inner = getattr(fn, "func", fn)  # functools.partial
    qualname = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    module = getattr(inner, "__module__", None) or type(inner).__module__
    return f"{module_name(module)}.{qualname}"


async def _awaited(value: Any) -> Any:
    return await value
