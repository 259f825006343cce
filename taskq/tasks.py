"""Tasks as users call them: `.delay()`, `.map()`, `.options()`, typed.

The decorated name stays a plain callable: a plain call runs the function here and now,
and stock RQ, which imports the name and calls it, runs it too.

Types: one class, with overloads on `self`. A task of `async def f() -> R` is a
`Task[P, Coroutine[Any, Any, R]]`, and its `.delay()` gives a `Handle[R]`. Overloads on
the decorator instead would be wrong for functions that return `Any`.
"""

from __future__ import annotations

import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from taskq.calls import Call, build, to_batch
from taskq.errors import ConfigError
from taskq.handle import Batch, Handle, StreamHandle
from taskq.option_checks import check_job_id
from taskq.options import CallOptions, Options
from taskq.registry import REGISTRY
from taskq.spec import Arguments, TaskSpec

if TYPE_CHECKING:  # the checkers bring it along; at run time Python 3.10 does not have it
    from typing_extensions import Unpack

P = ParamSpec("P")
Rest = ParamSpec("Rest")
R = TypeVar("R")
X = TypeVar("X")
Y = TypeVar("Y")
S = TypeVar("S")
C = TypeVar("C", covariant=True)  # noqa: PLC0105 - named as in INTERFACE.md


_RQ = "rq.job"
"""The module in which RQ's workers call a job's function."""


class TaskOptions(CallOptions, total=False):
    """What `@queue.task(...)` and `@task(...)` take: the options, and what only they take."""

    name: str
    aliases: Sequence[str]
    mode: str
    stream_keep: int
    stream_ahead: int | None


class Decorator(Protocol):
    """What `@queue.task(...)` with parentheses gives."""

    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]:
        """Make a task of a function."""
        ...


class Task(TaskSpec, Generic[P, C]):
    """A function that can be called now, or later by a worker.

    P are the parameters and C is what the plain call returns.

    Attributes:
        fn: the function itself.
    """

    fn: Callable[P, C]
    runnable: Callable[P, C]
    _origin: Task[P, C] | None = None  # what .options() was called on, for pickle

    def __init__(
        self, fn: Callable[P, C], app: Any = None, given: Mapping[str, Any] | None = None
    ) -> None:
        """Make a task of `fn`; `@queue.task` and `@task` call this and register it.

        Args:
            fn: the function.
            app: the `TaskQ` it belongs to; None for an unbound task.
            given: arguments of the decorator: name, aliases, mode and options.

        Raises:
            ConfigError: `fn` cannot be a task, or an argument is wrong.
        """
        super().__init__(fn, app, given)
        self._handle: type[Handle[Any]] = StreamHandle if self.mode == "generator" else Handle

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Run the function here and now, as if it were not decorated.

        Dependencies that are not passed are made for the call, and closed after it.
        """
        made = self.runnable(*args, **kwargs)
        # Stock RQ would take the generator for the result, or run it to its first yield.
        if self.mode == "generator" and sys._getframe(1).f_globals.get("__name__") == _RQ:  # noqa: SLF001 (who calls)
            return self.call_of_rq(made)  # type: ignore[no-any-return]
        return made

    def __repr__(self) -> str:
        return f"<Task {self.name} ({self.mode})>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle by name, as functions are; one of `.options()` as that and its options."""
        if self._origin is None:
            return self.qualname
        return _with_options, (self._origin, self.opts)

    @overload
    def delay(
        self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    def delay(
        self: Task[P, Generator[Y, S, R]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, S, R]: ...
    @overload
    def delay(
        self: Task[P, AsyncGenerator[Y, S]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, S, None]: ...
    @overload
    def delay(
        self: Task[P, Iterator[Y]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, Any, Any]: ...
    @overload
    def delay(
        self: Task[P, AsyncIterator[Y]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, Any, None]: ...
    @overload
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[C]: ...
    def delay(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Enqueue a call and return its handle. Blocks for one round trip to Redis.

        Raises:
            InvalidArguments: the call does not fit the signature; nothing was enqueued.
            NotSerializable: an argument cannot be carried; nothing was enqueued.
            PayloadTooLarge: the arguments are over the limit; nothing was enqueued.
            DuplicateJob: `job_id` belongs to an unfinished job; nothing was enqueued.
            BrokerUnavailable: no answer from Redis within 5 s; sending again is harmless.
        """
        self._check(args, kwargs)
        app = self._app or self.app
        job_id, created = app.broker.enqueue((self.build(app, args, kwargs),))[0]
        return self._handle(app, job_id, self, created)

    @overload
    async def adelay(
        self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    async def adelay(
        self: Task[P, Generator[Y, S, R]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, S, R]: ...
    @overload
    async def adelay(
        self: Task[P, AsyncGenerator[Y, S]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, S, None]: ...
    @overload
    async def adelay(
        self: Task[P, Iterator[Y]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, Any, Any]: ...
    @overload
    async def adelay(
        self: Task[P, AsyncIterator[Y]], *args: P.args, **kwargs: P.kwargs
    ) -> StreamHandle[Y, Any, None]: ...
    @overload
    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[C]: ...
    async def adelay(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """`delay` for asyncio programs; many at once share few round trips."""
        self._check(args, kwargs)
        app = self._app or self.app
        job_id, created = (await app.broker.aenqueue((self.build(app, args, kwargs),)))[0]
        return self._handle(app, job_id, self, created)

    @overload
    def call(
        self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]: ...
    @overload
    def call(
        self: Task[P, Generator[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]: ...
    @overload
    def call(
        self: Task[P, AsyncGenerator[Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> Call[None]: ...
    @overload
    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[C]: ...
    def call(self, *args: Any, **kwargs: Any) -> Call[Any]:
        """Return a checked call that is not sent yet, for `queue.enqueue([...])`.

        Raises:
            InvalidArguments: the call does not fit the signature.
        """
        self._check(args, kwargs)
        return Call(self, args, kwargs)

    @overload
    def map(
        self: Task[Concatenate[X, Rest], Coroutine[Any, Any, R]],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[R]: ...
    @overload
    def map(
        self: Task[Concatenate[X, Rest], Generator[Any, Any, R]],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[R]: ...
    @overload
    def map(
        self: Task[Concatenate[X, Rest], AsyncGenerator[Any, Any]],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[None]: ...
    @overload
    def map(
        self: Task[Concatenate[X, Rest], R],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[R]: ...
    def map(self, items: Iterable[Any], /, *args: Any, **kwargs: Any) -> Batch[Any]:
        """Enqueue one job for each item, as first argument; the other arguments are fixed.

        All jobs are built before the first is sent. They keep their results until the
        batch has been read, a day at most unless the task sets `result_ttl`.

        Raises:
            InvalidArguments: a call does not fit the signature; nothing was enqueued.
            NotSerializable: an item cannot be carried; nothing was enqueued.
        """
        app = self.app
        calls = self._calls(items, args, kwargs)
        return to_batch(app, calls, app.broker.enqueue(build(app, calls)))

    @overload
    async def amap(
        self: Task[Concatenate[X, Rest], Coroutine[Any, Any, R]],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[R]: ...
    @overload
    async def amap(
        self: Task[Concatenate[X, Rest], Generator[Any, Any, R]],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[R]: ...
    @overload
    async def amap(
        self: Task[Concatenate[X, Rest], AsyncGenerator[Any, Any]],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[None]: ...
    @overload
    async def amap(
        self: Task[Concatenate[X, Rest], R],
        items: Iterable[X],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Batch[R]: ...
    async def amap(self, items: Iterable[Any], /, *args: Any, **kwargs: Any) -> Batch[Any]:
        """`map` for asyncio programs."""
        app = self.app
        calls = self._calls(items, args, kwargs)
        return to_batch(app, calls, await app.broker.aenqueue(build(app, calls)))

    @overload
    def handle(self: Task[P, Coroutine[Any, Any, R]], job_id: str) -> Handle[R]: ...
    @overload
    def handle(self: Task[P, Generator[Y, S, R]], job_id: str) -> StreamHandle[Y, S, R]: ...
    @overload
    def handle(self: Task[P, AsyncGenerator[Y, S]], job_id: str) -> StreamHandle[Y, S, None]: ...
    @overload
    def handle(self: Task[P, Iterator[Y]], job_id: str) -> StreamHandle[Y, Any, Any]: ...
    @overload
    def handle(self: Task[P, AsyncIterator[Y]], job_id: str) -> StreamHandle[Y, Any, None]: ...
    @overload
    def handle(self, job_id: str) -> Handle[C]: ...
    def handle(self, job_id: str) -> Handle[Any]:
        """Return the handle of a job of this task, by its id, without a network call.

        Raises:
            ConfigError: the text cannot be a job id.
        """
        return self._handle(self.app, check_job_id(f"{self.name}.handle()", job_id), self)

    def options(self, **options: Unpack[CallOptions]) -> Task[P, C]:
        """Return this task with other options; the task itself stays as it is.

        Raises:
            ConfigError: an unknown option or a wrong value.
        """
        copy: Task[P, C] = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.opts = self.opts.merge(f"{self.qualname}.options()", options)
        if copy.opts.durable:
            self.check_durable(copy.opts)
        copy._origin = self._origin or self
        return copy

    def _calls(
        self, items: Iterable[Any], args: Arguments, kwargs: dict[str, Any]
    ) -> list[Call[Any]]:
        calls: list[Call[Any]] = []
        for item in items:
            all_args = (item, *args)
            self._check(all_args, kwargs)
            calls.append(Call(self, all_args, kwargs))
        return calls


def _with_options(origin: Task[P, C], opts: Options) -> Task[P, C]:
    """Unpickle a task that `.options()` had made."""
    copy = origin.options()
    copy.opts = opts
    return copy


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Decorator: ...
def task(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make an unbound task, for libraries: it belongs to the app that includes its module.

    In a process that only enqueues it goes to the app that includes its module, else to
    the only app, else to one made from the environment.

    Raises:
        ConfigError: the function cannot be a task, an option is wrong, or the name is
            taken.
    """

    def decorate(fn: Callable[P, R], /) -> Task[P, R]:
        made = Task(fn, None, options)
        before = REGISTRY.add_unbound(made.fn.__module__, made.fn.__qualname__, made)
        if before is not None and not made.replaces(before):
            raise name_taken(made.name, before, made)
        return made

    return decorate if fn is None else decorate(fn)


def name_taken(name: str, holder: Task[..., Any], task: Task[..., Any]) -> ConfigError:
    """Return the error for two tasks of one name."""

    def place(of: Task[..., Any]) -> str:
        return f"{of.fn.__module__}.{of.fn.__qualname__}"

    return ConfigError(
        f"The task name {name!r} is taken twice: by {place(holder)} and by {place(task)}. "
        "Rename one, or give it a name=... of its own."
    )
