"""What a task is underneath its typed surface: function, name, options, app.

`taskq.tasks.Task` adds to this the calls that users make and their types. Here is how
a checked call becomes a job.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from asyncio import coroutines
from collections.abc import Callable, Mapping
from typing import Any

from taskq.annotations import (
    Rebuild,
    args_rebuilder,
    item_rebuilder,
    result_rebuilder,
    sent_rebuilder,
)
from taskq.broker.records import NewJob
from taskq.commands import adrain, drain
from taskq.definition import Mode, body_of, check_function, check_name, mode_of, module_name
from taskq.depends import needs_of
from taskq.errors import ConfigError
from taskq.ids import new_id
from taskq.injection import Injection
from taskq.notify import callback_fields
from taskq.options import DEFAULTS, Options, whole_s
from taskq.registry import REGISTRY
from taskq.signature import CallCheck
from taskq.unique import unique_key

Arguments = tuple[Any, ...]
Check = Callable[[Arguments, Mapping[str, Any]], None]


class TaskSpec:
    """A function as a task.

    Attributes:
        name: import path by which workers find it, or the `name=` of the decorator.
        aliases: older names under which jobs may still wait.
        fn: the function itself.
        runnable: what runs it, here and in workers: the function, or it with its dependencies.
        injection: its dependencies; None without.
        mode: "asyncio", "thread", "generator" or "process": what a worker runs it on.
        has_own_mode: whether the decorator said so.
        stream_keep: how many of the values it yields Redis keeps, at most.
        stream_ahead: how many values it may be ahead of its reader; None: any number.
        module: module of the function, as a worker imports it.
        qualname: name of the function within its module.
        opts: options of the decorator, with those of `.options()` over them.
        signature: what calls are checked against.
    """

    name: str
    aliases: tuple[str, ...]
    mode: Mode
    has_own_mode: bool
    stream_keep: int = 10_000
    stream_ahead: int | None = None
    module: str
    qualname: str
    opts: Options
    signature: CallCheck
    runnable: Callable[..., Any]
    injection: Injection | None
    __wrapped__: Callable[..., Any]

    def __init__(
        self, fn: Callable[..., Any], app: Any = None, given: Mapping[str, Any] | None = None
    ) -> None:
        """Check the function and the decorator's arguments.

        Args:
            fn: the function.
            app: the `TaskQ` it belongs to; None for an unbound task.
            given: arguments of the decorator: name, aliases, mode and options.

        Raises:
            ConfigError: `fn` cannot be a task, or an argument is wrong.
        """
        if isinstance(fn, TaskSpec):
            raise ConfigError(f"{fn.name} is a task already; decorate its function once.")
        checked = check_function(fn)
        # Without the function's own attributes: one called `delay` would hide the method.
        functools.update_wrapper(self, checked, updated=())  # type: ignore[arg-type] # Task can be called
        rest: dict[str, Any] = dict(given or {})
        name, mode = rest.pop("name", None), rest.pop("mode", None)
        aliases = rest.pop("aliases", ())
        self.qualname = checked.__qualname__
        if isinstance(aliases, str):
            raise ConfigError(f"{self.qualname}: aliases={aliases!r}: must be a list of names.")
        self.fn = checked
        self.module = module_name(checked.__module__)
        self.name = f"{self.module}.{self.qualname}" if name is None else check_name(name)
        self.aliases = tuple(check_name(alias, "aliases") for alias in aliases)
        self.mode = mode_of(checked, mode)
        self.has_own_mode = mode is not None
        if "stream_keep" in rest or "stream_ahead" in rest:
            self._limit_stream(rest.pop("stream_keep", None), rest.pop("stream_ahead", None))
        self.opts = DEFAULTS.merge(f"@task of {self.qualname}()", rest)
        self.check_durable(self.opts)
        self.signature = _signature(checked)
        self._app = app
        self._taken_by: Callable[[], Any] = _nobody
        self.runnable = checked
        self.injection = self._injection()
        if self.injection is not None:
            self.runnable = self.injection.runnable
        self._found: tuple[int, weakref.ref[Any]] | None = None
        self._names = self.signature.positional_names
        self._check: Check = self.signature.check
        if self.module == "__main__" and name is None:
            self._check = self._refuse_interactive
        body = body_of(checked)
        self._body = None if body is None else weakref.ref(body)
        if inspect.iscoroutinefunction(checked):
            _mark_coroutine_function(self)

    @property
    def app(self) -> Any:
        """The `TaskQ` of this task; an unbound one looks for it, again when apps come or go.

        Raises:
            AmbiguousApp: it is unbound and several apps could be meant.
        """
        if self._app is not None:
            return self._app
        changes, found = REGISTRY.changes, self._found
        if found is not None and found[0] == changes:
            app = found[1]()
            if app is not None:
                return app
        app = REGISTRY.app_for(self)
        self._found = (changes, weakref.ref(app))
        return app

    def _injection(self) -> Injection | None:
        needs = needs_of(self.fn, self.qualname)
        if not needs:
            return None
        awaited = self.mode == "asyncio"
        return Injection(self.fn, self.qualname, needs, self._known_app, awaited=awaited)

    def _known_app(self) -> Any:
        """The app, or None: a plain call of an unbound task makes none."""
        return self._app or self._taken_by() or REGISTRY.known_app(self)

    def taken_by(self, app: Any) -> None:
        """An app includes this task: its dependencies are at home there. Held weakly."""
        self._taken_by = weakref.ref(app)

    @property
    def is_bound(self) -> bool:
        """Whether it was made by an app's decorator."""
        return self._app is not None

    def replaces(self, other: TaskSpec) -> bool:
        """Whether this is the same place in the source as `other`, run once more.

        That is a reload or a notebook's cell; two of one name in the same run are not.
        """
        if self.module != other.module or self.qualname != other.qualname:
            return False
        body = self._body() if self._body is not None else None
        in_the_same_run = body is not None and other._body is not None and other._body() is body
        return self.fn is not other.fn and not in_the_same_run

    @functools.cached_property
    def rebuild_args(self) -> Rebuild | None:
        """What turns decoded arguments into the models the annotations name, or None."""
        rebuild = args_rebuilder(self.fn, self.signature)
        return rebuild if self.injection is None else self.injection.guarded(rebuild)

    @functools.cached_property
    def rebuild_result(self) -> Callable[[Any], Any] | None:
        """What turns a decoded result into the model the return annotation names, or None."""
        return result_rebuilder(self.fn)

    @functools.cached_property
    def rebuild_item(self) -> Callable[[Any], Any] | None:
        """The same for what a generator task yields."""
        return item_rebuilder(self.fn)

    @functools.cached_property
    def rebuild_sent(self) -> Callable[[Any], Any] | None:
        """The same for what it is sent."""
        return sent_rebuilder(self.fn)

    def _limit_stream(self, keep: Any, ahead: Any) -> None:
        for name, value in (("stream_keep", keep), ("stream_ahead", ahead)):
            if self.mode != "generator":
                raise ConfigError(
                    f"{self.qualname}: {name} is for functions with a yield, and this has none."
                )
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{self.qualname}: {name}={value!r}: must be a number above 0.")
        self.stream_keep = self.stream_keep if keep is None else keep
        if ahead is not None and ahead > self.stream_keep:
            raise ConfigError(
                f"{self.qualname}: stream_ahead={ahead}: must not be above stream_keep="
                f"{self.stream_keep}, or values would be dropped before they were read."
            )
        self.stream_ahead = ahead

    def check_durable(self, opts: Options) -> None:
        """Only what yields can have steps.

        Raises:
            ConfigError: it is to be durable, and is a function without a yield.
        """
        if opts.durable and self.mode != "generator":
            raise ConfigError(
                f"{self.qualname}: durable=True is for functions that yield their steps, and this "
                "has no yield. Its job runs again after a crash anyway."
            )

    def call_of_rq(self, made: Any) -> Any:
        """What stock RQ gets that has called a generator task: the result of running it all.

        Nothing is streamed there, and nothing can be sent; steps are run and not recorded.
        """
        return adrain(made) if inspect.isasyncgen(made) else drain(made)

    def build(
        self,
        app: Any,
        args: Arguments,
        kwargs: dict[str, Any],
        in_batch: bool = False,
        job_id: str = "",
    ) -> NewJob:
        """Make a job of a checked call: id, payload, fields. Nothing is sent.

        Args:
            app: the `TaskQ` whose serializer writes it.
            args: positional arguments, checked.
            kwargs: arguments by name, checked.
            in_batch: whether it is one of several whose results are read together.
            job_id: of a callback, whose id follows from its job's.

        Raises:
            NotSerializable: an argument cannot be carried.
            PayloadTooLarge: the arguments are over the limit.
            ConfigError: a callback belongs to another app.
        """
        opts = self.opts
        job_id = job_id or opts.job_id or new_id()
        data = app.codec.dump_call(
            self.name, args, kwargs, job_id=job_id, queue=opts.queue, names=self._names
        )
        fields = opts.batch_fields if in_batch else opts.fields
        if opts.is_plain:
            return NewJob(job_id, opts.queue, data, fields, options=opts)
        extra: list[Any] = []
        key = ""
        if opts.unique is not None:
            key = unique_key(self.name, opts.unique, self.signature, args, kwargs)
            extra = ["tq_unique", key] if key else []
        if opts.meta is not None:
            meta = app.codec.dump_value(dict(opts.meta), job_id=job_id, kind="meta", name=self.name)
            extra += ["meta", meta]
        if opts.on_success is not None or opts.on_failure is not None:
            extra += callback_fields(app, self.name, job_id, opts)
        return NewJob(
            id=job_id,
            queue=opts.queue,
            data=data,
            fields=[*fields, *extra],
            at_front=opts.at_front,
            delay_s=opts.delay,
            at=opts.at,
            unique=key,
            ttl_s=_waiting_s(opts, app),
            # A chosen id does not tell a resend from a second job with the same id.
            token=new_id()[:12] if opts.job_id else "",
            options=opts,
            replicas=opts.replicas,
        )

    def _refuse_interactive(self, _args: Arguments, _kwargs: Mapping[str, Any]) -> None:
        raise ConfigError(
            f"{self.qualname}() is defined where no worker can import it: in an interactive "
            "session, or in a file that is no module. Put it into a .py file, or name what the "
            'worker has: @queue.task(name="shop.images.thumbnail"). Nothing was enqueued.'
        )


def _nobody() -> None:
    return None


def _waiting_s(opts: Options, app: Any) -> int | None:
    """How long the job may exist unstarted: its `ttl` counts from when it may run, as RQ's."""
    if opts.ttl is None:
        return None
    before = opts.delay or 0.0
    if opts.at is not None:
        before = max(0.0, opts.at - app.broker.clock.time())
    return whole_s(before + opts.ttl)


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
        task._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001 (what asyncio marks its own with)
