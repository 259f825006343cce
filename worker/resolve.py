"""Finding out what a reserved job calls: from its bytes to a function and its arguments.

Only the app's own tasks are found; with `--rq` any importable function, as RQ does.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskq.errors import PayloadError, UnknownTask
from taskq.notify import DELIVER
from taskq.worker import callbacks
from taskq.worker.claim import DEFAULT_RESULT_TTL_S, DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.tasks import Task
    from taskq.worker.claim import Claim
    from taskq.worker.process_route import Route
    from taskq.worker.rq_host import Host

log = logging.getLogger("taskq.worker")


class Resolver:
    """Finds out what a claim calls: the app's tasks only, or with `rq` any function."""

    def __init__(
        self,
        app: TaskQ,
        *,
        rq: bool,
        report: Callable[..., None],
        route: Route | None = None,
        host: Host | None = None,
        result_ttl_s: int = DEFAULT_RESULT_TTL_S,
    ) -> None:
        """Remember the app.

        Args:
            app: its tasks are known.
            rq: whether any function may be called.
            report: takes progress from running jobs.
            route: jobs that take it are read where they run, in a job process.
            host: the RQ worker that the engine works for: its code reads what ours cannot.
            result_ttl_s: for jobs that do not say how long their result is kept.
        """
        self.app = app
        self.rq = rq
        self._result_ttl_s = result_ttl_s
        self._host = host
        self.report = report
        self._found: dict[str, tuple[Any, Callable[..., Any], str]] = {}
        self._route = route
        self._pickles = "pickle" in app.codec.accept and app.codec.serializer != "pickle"

    def prepare(self, claim: Claim) -> None:
        """Fill in name, function, arguments, context and time limit.

        Raises:
            UnknownTask: the app has no such task.
            PayloadError: the payload or a field cannot be read, or is not accepted.
        """
        if self._result_ttl_s != DEFAULT_RESULT_TTL_S:
            claim.result_ttl_s = self._result_ttl_s
        host = self._host
        if host is None:
            self._prepare(claim)
            return
        claim.dependents_by_rq = host.own_queues
        if not host.by_rq:
            try:
                self._prepare(claim)
                return
            except Exception as err:  # noqa: BLE001 (RQ's own code finds out, and says it in its words)
                log.debug("Job %s is left to RQ's own code: %s", claim.id, err)
        claim.overwrites = True
        host.take(claim)
        self._read_leniently(claim)

    def _read_leniently(self, claim: Claim) -> None:
        claim.deadline = DEFAULT_TIMEOUT_S
        try:
            claim.read_result_ttl()
            claim.deadline = claim.timeout_s
            claim.attempt = claim.attempt_by_record
        except ValueError as err:
            log.debug("The record of job %s is broken: %s", claim.id, err)

    def _prepare(self, claim: Claim) -> None:
        data = claim.fields.get(b"data")
        if data is None:
            raise PayloadError("The job's record has no payload (field 'data').")
        if self._pickles:
            data = self.app.codec.inflate(data)  # once: it costs more than all else here
            claim.pickled = data[:1] == b"\x80"
        claim.report = self.report
        if self._route is not None and self._route.takes(claim, data):
            self._read_fields(claim, arguments=False)
            return
        codec = self.app.codec
        signed_as = claim.id if claim.is_plain else callbacks.signed_as(claim)
        name, instance, args, kwargs = codec.load_call(data, job_id=signed_as, queue=claim.queue)
        claim.name = name
        task = self.app.tasks.get(name) if instance is None else self._as_task(name, instance)
        if task is not None:
            claim.fn = task.runnable
            claim.mode = task.mode
            claim.spec = task
            if task.rebuild_args is not None:
                args, kwargs = task.rebuild_args(args, kwargs)
        elif name == DELIVER:
            claim.fn = callbacks.deliver()
        elif self.rq:
            claim.fn, claim.mode = self._any(name, instance)
            claim.overwrites = True
        else:
            self.app.lookup(name)  # raises, naming the nearest
            raise UnknownTask(f"{name!r} is a method of an object, no task of this app")
        claim.args, claim.kwargs = args, kwargs
        self._read_fields(claim)

    def _any(self, name: str, instance: Any) -> tuple[Callable[..., Any], str]:
        """Any function, and how it runs; what was found before is looked at in no time."""
        module, _, attribute = name.rpartition(".")
        target = getattr(sys.modules.get(module), attribute, None) if instance is None else None
        known = self._found.get(name)
        if known is not None and known[0] is target:
            return known[1], known[2]
        fn = _import(name, instance)
        if inspect.iscoroutinefunction(fn):
            call, mode = fn, "asyncio"
        else:
            call, mode = _awaiting(fn), "thread"
        if target is not None:
            self._found[name] = (target, call, mode)
        return call, mode

    def _read_fields(self, claim: Claim, *, arguments: bool = True) -> None:
        """How long it may run, how long its result is kept, and what else its record says.

        Without `arguments`: not what is for the code itself, which runs elsewhere.

        Raises:
            PayloadError: a field cannot be read.
        """
        try:
            claim.read_result_ttl()
            if claim.is_plain:
                claim.deadline = (
                    claim.timeout_s if b"timeout" in claim.fields else DEFAULT_TIMEOUT_S
                )
            else:
                self._read_record(claim, arguments=arguments)
        except ValueError as err:
            raise PayloadError(f"The job's record is broken: {err}.") from err

    def _read_record(self, claim: Claim, *, arguments: bool) -> None:
        """What a record may say beyond the plain fields, checked before any code runs.

        Raises:
            ValueError: a field holds what it must not; the text names it.
            PayloadError: the metadata cannot be read, or what a callback is to be told.
        """
        claim.deadline = claim.timeout_s
        claim.attempt = claim.attempt_by_record
        claim.special = claim.is_special()
        _ = claim.failure_ttl_s  # read to see that it can be
        raw = claim.fields.get(b"meta")
        if raw and arguments:
            claim.meta = self.app.codec.load_value(raw, job_id=claim.id, kind="meta")
        if arguments and b"tq_of_at" in claim.fields:
            callbacks.tell(claim, self.app)

    def _as_task(self, name: str, instance: Any) -> Task[..., Any] | None:
        """The task of this app that stock RQ pickled as the object to call."""
        known = self.app.tasks.get(getattr(instance, "name", "")) if name == "__call__" else None
        return known if known is not None and hasattr(instance, "fn") else None


def _awaiting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """As RQ: what a plain function returns is awaited if it is a coroutine."""

    def call(*args: Any, **kwargs: Any) -> Any:
        value = fn(*args, **kwargs)
        return asyncio.run(value) if asyncio.iscoroutine(value) else value

    return call


def _import(name: str, instance: Any) -> Callable[..., Any]:
    """What RQ would call: a dotted path, a builtin, or a method of a pickled instance.

    Raises:
        UnknownTask: there is nothing of that name.
    """
    try:
        if instance is not None:
            found: Callable[..., Any] = getattr(instance, name)
            if name == "__call__" and hasattr(instance, "mode"):  # a task's own object
                found = instance.runnable
            return found
        module, _, attribute = name.rpartition(".")
        rest: list[str] = [attribute]
        while module:
            try:
                target: Any = importlib.import_module(module)
                break
            except ModuleNotFoundError as err:
                if err.name is None or not f"{module}.".startswith(f"{err.name}."):
                    raise  # the module is there; something that it imports is not
                module, _, part = module.rpartition(".")
                rest.insert(0, part)
        else:
            target = importlib.import_module("builtins")
        for part in rest:
            target = getattr(target, part)
    except Exception as err:
        raise UnknownTask(f"no function {name!r} can be imported here: {err}") from err
    if not callable(target):
        raise UnknownTask(f"{name!r} is a {type(target).__name__}, not a function")
    called: Callable[..., Any] = (
        getattr(target, "runnable", target) if hasattr(target, "mode") else target
    )
    return called
