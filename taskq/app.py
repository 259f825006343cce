"""The app: where a program's tasks, its Redis and its serializer meet.

Nothing is connected when a `TaskQ` is made; the broker comes with its first use.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from taskq.calls import Call, build, to_batch
from taskq.definition import module_name
from taskq.errors import ConfigError, InvalidArguments, UnknownTask
from taskq.handle import Batch, Handle
from taskq.option_checks import check_job_id
from taskq.registry import REGISTRY
from taskq.schedules.planner import Planner
from taskq.serializers import Codec
from taskq.settings import load, redact, redis_url
from taskq.tasks import Decorator, Task, TaskOptions, name_taken, task

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from taskq.broker.client import Broker
    from taskq.testing.session import Session

# `task` is exported from here: a library's unbound task may need `REGISTRY.make_app`.
__all__ = ["TaskQ", "task"]

P = ParamSpec("P")
R = TypeVar("R")


class TaskQ(Planner):
    """A program's task queue: `queue = TaskQ()`, then `@queue.task`.

    Attributes:
        include: modules with unbound tasks; imported by `load`.
        tasks: tasks by name and by alias.
        codec: the serializer of arguments, results and meta.
        rq_serializer_path: what `rq worker --serializer` takes.
    """

    rq_serializer_path = "taskq.serializers.rq"

    def __init__(
        self,
        url: str | None = None,
        *,
        include: Iterable[str] = (),
        serializer: str | None = None,
        accept: Iterable[str] | None = None,
        secret: str | bytes | Sequence[str | bytes] | None = None,
    ) -> None:
        """Make an app; nothing is connected yet.

        Args:
            url: Redis's URL; without it TASKQ_REDIS_URL, REDIS_URL, `[tool.taskq]` of
                pyproject.toml, else redis://localhost:6379/0.
            include: modules whose unbound tasks belong to this app.
            serializer: "json" or "pickle": how arguments and results are written.
                Without it TASKQ_SERIALIZER or `[tool.taskq]`, else "json".
            accept: the forms that are read; pickle only where it is named. Without it
                TASKQ_ACCEPT or `[tool.taskq]`, else only "json".
            secret: signs payloads; of several the first signs and all verify. Without
                it TASKQ_SECRET, else nothing is signed.

        Raises:
            ConfigError: a wrong value.
        """
        if isinstance(include, str):
            raise ConfigError(f"include={include!r}: must be a list of modules: [{include!r}].")
        self.include = tuple(include)
        settings = load()
        self.codec = Codec(
            serializer=settings.serializer if serializer is None else serializer,
            accept=settings.accept if accept is None else tuple(accept),
            secret=(settings.secret or None) if secret is None else secret,
            max_bytes=settings.max_bytes,
        )
        self._webhook_secret = settings.webhook_secret
        self._secret = secret if secret is not None else settings.secret
        self.tasks: dict[str, Task[..., Any]] = {}
        self._name = ""
        self._url = url
        self._broker: Broker | None = None
        self._lock = threading.RLock()
        REGISTRY.add_app(self)

    def __repr__(self) -> str:
        return f"<TaskQ {self}>"

    def __str__(self) -> str:
        """The path to the app where it is known, else its Redis."""
        return self.name or f"TaskQ({redact(self.url)!r})"

    @property
    def name(self) -> str:
        """The path to the app, "shop.queue:queue": as it was found, or looked for; else ""."""
        return self._name or self._find_name()

    @name.setter
    def name(self, path: str) -> None:
        self._name = path

    @property
    def url(self) -> str:
        """Redis's URL, with its password if it has one; from the settings where none was given."""
        return self._broker.url if self._broker is not None else redis_url(self._url)[0]

    @property
    def broker(self) -> Broker:
        """The way to Redis. Made at first use, connected at its first command.

        Raises:
            ConfigError: the URL, or the setting it comes from, is wrong.
        """
        broker = self._broker
        return broker if broker is not None else self._open()

    def _open(self) -> Broker:
        from taskq.broker.client import Broker  # noqa: PLC0415 - redis takes 0.4 s to import

        with self._lock:
            if self._broker is None and load().eager:
                from taskq.testing.eager import eager_broker  # noqa: PLC0415 - few programs do

                self._broker = eager_broker(self)
            if self._broker is None:
                self._broker = Broker(*redis_url(self._url))
            return self._broker

    def testing(
        self,
        mode: Literal["inline", "manual"] = "inline",
        *,
        now: datetime | None = None,
        dependencies: Mapping[Callable[..., Any], Any] | None = None,
    ) -> Session:
        """Run this app's jobs in this process, without a server: `with queue.testing() as t`.

        Also `async with`. The whole process uses it until the end of the block.

        Args:
            mode: "inline": each job runs when it is enqueued; "manual": when the test says
                `t.run()`.
            now: an aware datetime at which time stands still until `t.advance(...)`; by
                default the present one.
            dependencies: `{get_client: fake}`: what stands for what, for `Depends`.

        Raises:
            ConfigError: a wrong argument, or fakeredis (`taskq[testing]`) is not installed.
        """
        from taskq.testing.session import Session  # noqa: PLC0415 - tests only

        return Session(self, mode, now=now, dependencies=dependencies)

    @property
    def rq_serializer(self) -> Any:
        """The serializer object for `rq.job.Job.fetch(id, serializer=...)`, with our settings."""
        return self.codec.rq_serializer()

    @functools.cached_property
    def webhook_keys(self) -> tuple[str, ...]:
        """What webhooks are signed with, for their receivers ("whsec_..."); empty: not signed.

        From TASKQ_WEBHOOK_SECRET, else derived from the app's secret, which is not in it.
        """
        from taskq.serializers.envelope import split_secrets  # noqa: PLC0415 (only here)
        from taskq.webhooks import keys_of  # noqa: PLC0415 (ssl and http.client)

        return keys_of(self._webhook_secret, split_secrets(self._secret) if self._secret else ())

    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, **options: Unpack[TaskOptions]) -> Decorator: ...
    def task(self, fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a task of a function: `@queue.task` or `@queue.task(queue="web", ...)`.

        Raises:
            ConfigError: the function cannot be a task, an option is wrong, or the name is
                taken.
        """

        def decorate(fn: Callable[P, R], /) -> Task[P, R]:
            made = Task(fn, self, options)
            self._add(made)
            return made

        return decorate if fn is None else decorate(fn)

    def _add(self, task: Task[..., Any]) -> None:
        with self._lock:
            for name in (task.name, *task.aliases):
                holder = self.tasks.get(name)
                if holder is not None and holder is not task and not task.replaces(holder):
                    raise name_taken(name, holder, task)
            for name in (task.name, *task.aliases):
                self.tasks[name] = task
            task.taken_by(self)

    def load(self) -> None:
        """Import the modules of `include` and take their unbound tasks. Idempotent.

        Raises:
            ConfigError: a module cannot be found, or two tasks have one name. What a
                module raises while it is imported comes through as it is.
        """
        for module in self.include:
            _import_included(module)
        self._adopt()

    def _adopt(self) -> None:
        """Take the unbound tasks of `include`, and of the module in which the app was found."""
        for unbound in REGISTRY.unbound(self.include, self._name.partition(":")[0]):
            self._add(unbound)

    def lookup(self, name: str) -> Task[..., Any]:
        """Return the task of that name or alias.

        Raises:
            UnknownTask: there is none; the message names the nearest.
        """
        task = self.tasks.get(name)
        if task is None:
            self._adopt()  # an included module may have been imported since
            task = self.tasks.get(name)
        if task is None:
            raise self.unknown(name)
        return task

    def unknown(self, name: str) -> UnknownTask:
        """Return the error for a name that is no task here, with the nearest that is."""
        names = [known for known, task in self.tasks.items() if known == task.name]
        near = nearest(name, names)
        count = f"{len(names)} task{'' if len(names) == 1 else 's'}"
        hint = f"; nearest: {near!r}" if near else ""
        return UnknownTask(
            f"no task {name!r} in app {self} ({count}{hint}). "
            "Renamed, or its module missing from include=[...]?"
        )

    def enqueue(self, calls: Iterable[Call[R]]) -> Batch[R]:
        """Enqueue calls of any tasks at once: `queue.enqueue([resize.call(a), fetch.call(b)])`.

        All are serialized before the first is sent.

        Raises:
            NotSerializable: an argument cannot be carried; nothing was enqueued.
            DuplicateJob: a `job_id` belongs to an unfinished job.
            BrokerUnavailable: no answer from Redis within 5 s.
        """
        listed = _calls(calls)
        return to_batch(self, listed, self.broker.enqueue(build(self, listed)))

    async def aenqueue(self, calls: Iterable[Call[R]]) -> Batch[R]:
        """`enqueue` for asyncio programs."""
        listed = _calls(calls)
        return to_batch(self, listed, await self.broker.aenqueue(build(self, listed)))

    def handle(self, job_id: str) -> Handle[Any]:
        """Return the handle of any job by its id, without a network call.

        Raises:
            ConfigError: the text cannot be a job id.
        """
        return Handle(self, check_job_id("handle()", job_id), None)

    def close(self) -> None:
        """Close the connections of this thread and process; a later use opens new ones."""
        if self._broker is not None:
            self._broker.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop, and those of `close`."""
        if self._broker is not None:
            await self._broker.aclose()

    def __enter__(self) -> TaskQ:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> TaskQ:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _find_name(self) -> str:
        """Look where the app is kept: in a module that defines some of its tasks."""
        for module in dict.fromkeys(one.fn.__module__ for one in self.tasks.values()):
            for attribute, value in list(vars(sys.modules.get(module, object)).items()):
                if value is self:
                    return f"{module_name(module)}:{attribute}"
        return ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the most similar of `names`, or "": the same function elsewhere comes first."""
    import difflib  # noqa: PLC0415 - only for messages

    listed = list(names)
    last = name.rpartition(".")[2]
    same = [known for known in listed if known.rpartition(".")[2] == last]
    close = difflib.get_close_matches(name, same, n=1, cutoff=0.0)
    close = close or difflib.get_close_matches(name, listed, n=1)
    return close[0] if close else ""


def _calls(calls: Iterable[Any]) -> list[Call[Any]]:
    listed = list(calls)
    for item in listed:
        if not isinstance(item, Call):
            raise InvalidArguments(
                f"enqueue() takes calls that are not sent yet, like thumbnail.call('a.png'), and "
                f"got a {type(item).__name__}. Nothing was enqueued."
            )
    return listed


def _import_included(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module != missing and not module.startswith(f"{missing}."):
            raise  # the module is there; something that it imports is not
        raise ConfigError(
            f"include names {module!r}, and there is no module {missing!r}."
        ) from error


REGISTRY.make_app = TaskQ
