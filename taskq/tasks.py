"""Tasks: a function, what it is called, its options, and the ways to call it later.

The decorated name stays a plain callable: a plain call runs the function here and now,
and stock RQ, which imports the name and calls it, runs it too.

Invariant: a job is built completely (signature checked, arguments serialized) before
anything is sent; of several, all are built before the first is sent.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import typing
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from taskq.broker.records import NewJob
from taskq.definition import Mode, body_of, check_function, check_name, mode_of, module_name
from taskq.errors import ConfigError
from taskq.handle import Batch, Handle
from taskq.ids import new_id
from taskq.options import DEFAULTS, CallOptions, Options, check_job_id
from taskq.registry import REGISTRY
from taskq.serializers.models import rebuilder
from taskq.signature import CallCheck
from taskq.unique import unique_key

if TYPE_CHECKING:  # the checkers bring it along; at run time Python 3.10 does not have it
    from typing_extensions import Unpack

P = ParamSpec("P")
Rest = ParamSpec("Rest")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
X = TypeVar("X")
C = TypeVar("C", covariant=True)  # noqa: PLC0105 - named as in INTERFACE.md

Arguments = tuple[Any, ...]
Rebuild = Callable[[Sequence[Any], Mapping[str, Any]], tuple[list[Any], dict[str, Any]]]


class Task(Generic[P, C]):
    """A function that can be called now, or later by a worker.

    P are the parameters and C is what the plain call returns: for an `async def` that
    returns R, C is `Coroutine[Any, Any, R]` and `.delay()` gives a `Handle[R]`.

    Attributes:
        name: import path by which workers find it, or the `name=` of the decorator.
        aliases: older names under which jobs may still wait.
        fn: the function itself.
        mode: "asyncio" or "thread": what a worker runs it on.
        module: module of the function, as a worker imports it.
        opts: options of the decorator, with those of `.options()` over them.
    """

    name: str
    aliases: tuple[str, ...]
    fn: Callable[P, C]
    mode: Mode
    module: str
    opts: Options

    def __init__(
        self,
        fn: Callable[P, C],
        app: Any = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a task of `fn`; `@queue.task` and `@task` call this and register it.

        Args:
            fn: the function.
            app: the `TaskQ` it belongs to; None for an unbound task.
            given: arguments of the decorator: name, aliases, mode and options.

        Raises:
            ConfigError: `fn` cannot be a task, or an argument is wrong.
        """
        if isinstance(fn, Task):
            raise ConfigError(f"{fn.name} is a task already; decorate its function once.")
        checked = check_function(fn)
        functools.update_wrapper(self, checked)
        rest = dict(given or ())
        name, mode = rest.pop("name", None), rest.pop("mode", None)
        aliases = rest.pop("aliases", ())
        if isinstance(aliases, str):
            raise ConfigError(f"{checked.__qualname__}: aliases={aliases!r}: must be a list of names.")
        self.fn = checked
        self.module = module_name(checked.__module__)
        self.name = check_name(name) if name is not None else f"{self.module}.{checked.__qualname__}"
        self.aliases = tuple(check_name(alias, "aliases") for alias in aliases)
        self.mode = mode_of(checked, mode)
        self.opts = DEFAULTS.merge(f"@task of {checked.__qualname__}()", rest)
        self._app = app
        self._found: tuple[int, weakref.ref[Any]] | None = None
        self._origin: Task[P, C] | None = None  # what .options() was called on, for pickle
        self._signature = _signature(checked)
        self._check = self._signature.check
        if self.module == "__main__" and name is None:
            self._check = self._refuse_interactive
        body = body_of(checked)
        self._body = weakref.ref(body) if body is not None else None
        if inspect.iscoroutinefunction(checked):
            _mark_coroutine_function(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Run the function here and now, as if it were not decorated."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name} ({self.mode})>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle by name, as functions are; one of `.options()` as that and its options."""
        if self._origin is None:
            return self.__qualname__  # type: ignore[attr-defined,no-any-return]
        return _with_options, (self._origin, self.opts)

    @property
    def app(self) -> Any:
        """The `TaskQ` of this task; an unbound one looks for it, again when apps come or go.

        Raises:
            AmbiguousApp: it is unbound and several apps could be meant.
        """
        if self._app is not None:
            return self._app
        found = self._found
        if found is not None and found[0] == REGISTRY.changes:
            app = found[1]()
            if app is not None:
                return app
        app = REGISTRY.app_for(self)
        self._found = (REGISTRY.changes, weakref.ref(app))
        return app

    def replaces(self, other: Task[..., Any]) -> bool:
        """Whether this is the same place in the source as `other`, run once more.

        That is a reload or a notebook's cell; two of one name in the same run are not.
        """
        if self.module != other.module or self.__qualname__ != other.__qualname__:  # type: ignore[attr-defined]
            return False
        body = self._body() if self._body is not None else None
        in_the_same_run = body is not None and other._body is not None and other._body() is body
        return self.fn is not other.fn and not in_the_same_run

    @property
    def is_bound(self) -> bool:
        """Whether it was made by an app's decorator."""
        return self._app is not None

    @overload
    def delay(
        self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
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
        job_id, created = app.broker.enqueue((self._build(app, args, kwargs),))[0]
        return Handle(app, job_id, self, created)

    @overload
    async def adelay(
        self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[C]: ...
    async def adelay(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """`delay` for asyncio programs; many at once share few round trips."""
        self._check(args, kwargs)
        app = self._app or self.app
        job_id, created = (await app.broker.aenqueue((self._build(app, args, kwargs),)))[0]
        return Handle(app, job_id, self, created)

    @overload
    def call(
        self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]: ...
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
    def handle(self, job_id: str) -> Handle[C]: ...
    def handle(self, job_id: str) -> Handle[Any]:
        """Return the handle of a job of this task, by its id, without a network call.

        Raises:
            ConfigError: the text cannot be a job id.
        """
        return Handle(self.app, check_job_id(f"{self.name}.handle()", job_id), self)

    def options(self, **options: Unpack[CallOptions]) -> Task[P, C]:
        """Return this task with other options; the task itself stays as it is.

        Raises:
            ConfigError: an unknown option or a wrong value.
        """
        copy: Task[P, C] = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.opts = self.opts.merge(f"{self.fn.__qualname__}.options()", options)
        copy._origin = self._origin or self
        return copy

    @functools.cached_property
    def rebuild_args(self) -> Rebuild | None:
        """What turns decoded arguments into the models the annotations name, or None.

        Worked out at first use: in the worker, when all names can be resolved.
        """
        found = {
            name: rebuild
            for name, hint in _hints(self.fn).items()
            if name != "return" and (rebuild := rebuilder(hint)) is not None
        }
        return functools.partial(_rebuild_args, self._signature, found) if found else None

    @functools.cached_property
    def rebuild_result(self) -> Callable[[Any], Any] | None:
        """What turns a decoded result into the model the return annotation names, or None."""
        hints = _hints(self.fn)
        return rebuilder(hints["return"]) if "return" in hints else None

    def _calls(
        self, items: Iterable[Any], args: Arguments, kwargs: Mapping[str, Any]
    ) -> list[Call[Any]]:
        return [self.call(item, *args, **kwargs) for item in items]  # type: ignore[call-arg,arg-type]

    def _build(
        self, app: Any, args: Arguments, kwargs: dict[str, Any], in_batch: bool = False
    ) -> NewJob:
        """Build a checked call: id, payload, fields. Most calls stop at the first return."""
        opts = self.opts
        fields = opts.batch_fields if in_batch else opts.fields
        if opts.is_plain:
            job_id = new_id()
            data = app.codec.dump_call(self.name, args, kwargs, job_id=job_id, queue=opts.queue)
            return NewJob(job_id, opts.queue, data, fields)
        job_id = opts.job_id or new_id()
        data = app.codec.dump_call(self.name, args, kwargs, job_id=job_id, queue=opts.queue)
        key = ""
        if opts.unique is not None:
            key = unique_key(self.name, opts.unique, self._signature, args, kwargs)
        extra: list[Any] = ["tq_unique", key] if key else []
        if opts.meta is not None:
            extra += ["meta", app.codec.dump_value(dict(opts.meta), job_id=job_id, kind="meta")]
        return NewJob(
            id=job_id,
            queue=opts.queue,
            data=data,
            fields=[*fields, *extra] if extra else fields,
            at_front=opts.at_front,
            delay_s=opts.delay,
            at=opts.at,
            unique=key,
            ttl_s=opts.ttl_s,
            # A chosen id does not tell a resend from a second job with the same id.
            token=new_id()[:12] if opts.job_id else "",
        )

    def _refuse_interactive(self, args: Arguments, kwargs: Mapping[str, Any]) -> None:
        raise ConfigError(
            f"{self.fn.__qualname__}() is defined in an interactive session, where no worker can "
            "import it. Put it into a file, or name what the worker has: "
            '@queue.task(name="shop.images.thumbnail"). Nothing was enqueued.'
        )


class Call(Generic[R_co]):
    """A checked call that is not sent yet; sending it twice makes two jobs.

    Attributes:
        task: the task, with the options of this call.
        args: positional arguments.
        kwargs: arguments by name.
    """

    __slots__ = ("args", "kwargs", "task")

    def __init__(self, task: Task[..., Any], args: Arguments, kwargs: dict[str, Any]) -> None:
        """Keep what `Task.call` has checked."""
        self.task = task
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"<Call {self.task.name}({', '.join(shown)})>"

    def new_job(self, app: Any, *, in_batch: bool = False) -> NewJob:
        """Serialize the call for `app`, with an id of its own.

        Raises:
            NotSerializable: an argument cannot be carried.
            PayloadTooLarge: the arguments are over the limit.
            ConfigError: the task belongs to another app.
        """
        task = self.task
        if task.is_bound and task.app is not app:
            raise ConfigError(
                f"{task.name} belongs to {task.app}, not to {app}: its workers do not know it. "
                "Nothing was enqueued."
            )
        return task._build(app, self.args, self.kwargs, in_batch)  # noqa: SLF001 - same module


def build(app: Any, calls: Sequence[Call[Any]]) -> list[NewJob]:
    """Build the jobs of a batch, all of them, before any is sent.

    Raises:
        NotSerializable: an argument cannot be carried.
        ConfigError: a task of another app, or one `job_id` for several jobs.
    """
    jobs = [call.new_job(app, in_batch=True) for call in calls]
    if any(job.token for job in jobs):
        seen: set[str] = set()
        for job in jobs:
            if job.id in seen:
                raise ConfigError(
                    f"job_id={job.id!r} is given to more than one job of a batch; each needs an "
                    "id of its own. Nothing was enqueued."
                )
            seen.add(job.id)
    return jobs


def to_batch(app: Any, calls: Sequence[Call[Any]], accepted: Sequence[Any]) -> Batch[Any]:
    """Return the handles of the calls that `accepted` answers, as one batch."""
    handles = [
        Handle(app, job_id, call.task, created)
        for call, (job_id, created) in zip(calls, accepted, strict=True)
    ]
    return Batch(app, handles, new_id())


def _with_options(origin: Task[P, C], opts: Options) -> Task[P, C]:
    """Unpickle a task that `.options()` had made."""
    copy = origin.options()
    copy.opts = opts
    return copy


def _signature(fn: Callable[..., Any]) -> CallCheck:
    try:
        return CallCheck(fn, fn.__qualname__)
    except ValueError:
        raise ConfigError(
            f"{fn.__qualname__} cannot be a task: it has no signature that Python can read. "
            "Wrap it in a def."
        ) from None


def _mark_coroutine_function(task: object) -> None:
    """Make inspect and asyncio see an `async def` in a task, as frameworks look for one."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(task)  # type: ignore[type-var]
    else:
        task._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """Resolve the annotations of `fn` one by one: one that cannot be must not cost the rest."""
    hints: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(inspect.unwrap(fn)).items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        namespace = getattr(inspect.unwrap(fn), "__globals__", {})
        try:
            hints |= typing.get_type_hints(alone, globalns=namespace, include_extras=True)
        except Exception:  # noqa: BLE001, S112 - whatever evaluating a user's annotation raises
            continue
    return hints


def _rebuild_args(
    check: CallCheck,
    rebuilders: Mapping[str, Callable[[Any], Any]],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    new_args = list(args)
    new_kwargs = dict(kwargs)
    for name, rebuild in rebuilders.items():
        if name in new_kwargs:
            new_kwargs[name] = rebuild(new_kwargs[name])
        elif (index := check.position(name)) is not None and index < len(new_args):
            new_args[index] = rebuild(new_args[index])
    return new_args, new_kwargs
