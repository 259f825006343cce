"""One execution, apart from where it runs: what to call, and what its end means.

`prepare` turns a claim's bytes into a call; `Outcome` says how it ended; `finished`
and `failed` turn that into an item of the settle script.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import inspect
import json
import pickle
import random
import time
import traceback
import zlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

from taskq.context import JobContext
from taskq.errors import PayloadError, TaskQError, TaskTimeout, UnknownTask
from taskq.retry import Retry, RetryLater
from taskq.worker import items
from taskq.worker.claim import DEFAULT_TIMEOUT_S, YEAR_S
from taskq.worker.items import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.tasks import Task
    from taskq.worker.claim import Claim

TRACEBACK_BYTES = 100_000
MESSAGE_CHARS = 2_000
UNKNOWN_TRIES = 6
UNKNOWN_DELAY_S = 10.0
"""A task this worker does not know may be one of the next release: six times ten seconds."""


class Overrun(BaseException):
    """Raised inside a task's thread at its time limit; not an `Exception`, so that
    `except Exception` in the task does not swallow it."""


class TimeLimit(Exception):
    """The execution was over its time limit (what the caller sees as `TaskTimeout`)."""


class Interrupted(Exception):
    """The execution was cancelled: asked for (`cancel`) or at a shutdown."""


def short_worker_name(text: str) -> str:
    """A name that is safe in keys and lists: letters, digits, `-`, `_` and `.`."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)[:60]


class Resolver:
    """Finds out what a claim calls: the app's tasks only, or with `rq` any function."""

    def __init__(self, app: TaskQ, *, rq: bool, report: Callable[..., None]) -> None:
        """Remember the app; `report` takes progress from running jobs."""
        self.app = app
        self.rq = rq
        self.report = report
        self._pickles = "pickle" in app.codec.accept and app.codec.serializer != "pickle"

    def prepare(self, claim: Claim) -> None:
        """Fill in name, function, arguments, context and time limit.

        Raises:
            UnknownTask: the app has no such task.
            PayloadError: the payload or a field cannot be read, or is not accepted.
        """
        data = claim.fields.get(b"data")
        if data is None:
            raise PayloadError("The job's record has no payload (field 'data').")
        codec = self.app.codec
        name, instance, args, kwargs = codec.load_call(data, job_id=claim.id, queue=claim.queue)
        claim.name = name
        if self._pickles and _is_pickle(data):
            claim.pickled = True
        task = self.app.tasks.get(name) if instance is None else self._as_task(name, instance)
        if task is not None:
            claim.fn = task.fn
            claim.is_async = task.mode == "asyncio"
            if task.rebuild_args is not None:
                args, kwargs = task.rebuild_args(args, kwargs)
        elif self.rq:
            claim.fn = _import(name, instance)
            claim.is_async = inspect.iscoroutinefunction(claim.fn)
            if not claim.is_async:
                claim.fn = _awaiting(claim.fn)
        else:
            self.app.lookup(name)  # raises, naming the nearest
            raise UnknownTask(f"{name!r} is a method of an object, no task of this app")
        claim.args, claim.kwargs = args, kwargs
        meta = None
        if claim.is_plain:
            claim.deadline = DEFAULT_TIMEOUT_S
        else:
            try:
                self._read_fields(claim)
            except ValueError as err:
                raise PayloadError(f"The job's record is broken: {err}.") from err
            raw = claim.fields.get(b"meta")
            meta = codec.load_value(raw, job_id=claim.id, kind="meta") if raw else None
        claim.context = JobContext(
            claim.id, name, claim.queue, claim.attempt, claim.fields.get(b"enqueued_at"), meta,
            self.report,
        )  # fmt: skip

    @staticmethod
    def _read_fields(claim: Claim) -> None:
        """What a record may say beyond the five plain fields, checked before any code runs.

        Raises:
            ValueError: a field holds what it must not; the text names it.
        """
        claim.deadline = claim.timeout_s
        claim.attempt = 1 + int(claim.number(b"tq_attempts", 0) + claim.number(b"tq_crashes", 0))
        claim.special = claim.is_special()
        claim.result_ttl_s, claim.failure_ttl_s  # noqa: B018 (read to see that they can be)

    def _as_task(self, name: str, instance: Any) -> Task[..., Any] | None:
        """The task of this app that stock RQ pickled as the object to call."""
        known = self.app.tasks.get(getattr(instance, "name", "")) if name == "__call__" else None
        return known if known is not None and hasattr(instance, "fn") else None


def _is_pickle(data: bytes) -> bool:
    """Whether a payload is a pickle, compressed or not."""
    if data[:1] == b"x":
        try:
            data = zlib.decompressobj().decompress(data, 1)
        except zlib.error:
            return False
    return data[:1] == b"\x80"


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
            return instance.fn if name == "__call__" and hasattr(instance, "mode") else found
        module, _, attribute = name.rpartition(".")
        rest: list[str] = [attribute]
        while module:
            try:
                target: Any = importlib.import_module(module)
                break
            except ModuleNotFoundError as err:
                if err.name is None or not (module == err.name or module.startswith(err.name + ".")):
                    raise
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
    fn = getattr(target, "fn", target) if hasattr(target, "mode") else target
    return fn  # type: ignore[no-any-return]


def success_item(claim: Claim, value: Any, app: TaskQ, *, young: bool) -> Item:
    """The settle item of a job that returned.

    Args:
        claim: the job.
        value: what it returned.
        app: writes it.
        young: its caller may still be sending it again: leave a marker if it is deleted.

    Raises:
        NotSerializable, PayloadTooLarge: the result cannot be stored.
    """
    ttl = claim.result_ttl_s
    text = b""
    if value is not None and ttl != 0:
        if claim.pickled:  # its caller is a stock RQ that reads pickles
            raw = _pickled(value)
        else:
            raw = app.codec.dump_value(value, job_id=claim.id, kind="result")
        text = base64.b64encode(raw)
    return items.finished(
        claim.begun_at, time.time(), text, ttl, marker=young and ttl == 0, unique=claim.unique
    )


def _pickled(value: Any) -> bytes:
    """As RQ: a job whose result cannot be pickled has finished all the same, without it."""
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 (objects take part in it and may raise anything)
        return pickle.dumps("Unserializable return value", protocol=pickle.HIGHEST_PROTOCOL)


def names_of(kind: type[BaseException]) -> list[str]:
    """Dotted names of an exception class and its bases, nearest first."""
    return [f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__ if c is not object]


def failure_item(claim: Claim, err: BaseException) -> Item:
    """The settle item of a job that raised: a retry, or its end. Never raises itself."""
    try:
        return _failure_item(claim, err)
    except Exception as broken:  # noqa: BLE001 (hostile fields or exceptions: the job fails plainly)
        now = time.time()
        message = f"{type(err).__name__} (what became of it cannot be told: {type(broken).__name__})"
        error = json.dumps([f"{type(err).__module__}.{type(err).__qualname__}", message, 1])
        return items.failed(claim.begun_at or now, now, lost_text(), error, 31_536_000, claim.unique)


def _failure_item(claim: Claim, err: BaseException) -> Item:
    if isinstance(err, RetryLater):
        return items.retried(err.seconds)
    left = int(_safe_number(claim, b"retries_left"))
    if left > 0:
        policy = _policy(claim)
        if policy is None or policy.matches(names_of(_kind(err))):
            delay = _interval(claim, left)
            if policy is not None:
                delay = policy.jittered(delay)
            front = claim.fields.get(b"enqueue_at_front_on_retry") == b"1"
            return items.retried(delay, front=front, left=left - 1)
    text, error = describe(claim, err)
    now = time.time()
    return items.failed(
        claim.begun_at or now, now, text, error, _safe_ttl(claim), claim.unique
    )


def _kind(err: BaseException) -> type[BaseException]:
    return TaskTimeout if isinstance(err, TimeLimit) else type(err)


def _safe_number(claim: Claim, name: bytes) -> float:
    try:
        return claim.number(name, 0)
    except ValueError:
        return 0.0


def _safe_ttl(claim: Claim) -> int:
    try:
        return claim.failure_ttl_s
    except ValueError:
        return 31_536_000


def _policy(claim: Claim) -> Retry | None:
    """What the retry says beyond RQ's fields, or None."""
    raw = claim.fields.get(b"tq_retry")
    if raw:
        try:
            return Retry.from_field(raw.decode())
        except (ValueError, TaskQError):
            return None
    return None


def _interval(claim: Claim, left: int) -> float:
    """Pause before the next execution, by RQ's rule on `retry_intervals`."""
    raw = claim.fields.get(b"retry_intervals")
    if not raw:
        return 0.0
    try:
        intervals = [float(x) for x in json.loads(raw)]
    except (ValueError, TypeError, RecursionError, OverflowError):
        return 0.0
    if not intervals:
        return 0.0
    return min(max(intervals[max(len(intervals) - left, 0)], 0.0), YEAR_S)


def describe(claim: Claim, err: BaseException) -> tuple[bytes, str]:
    """Traceback as RQ stores it (zlib, base64), and our JSON [type, message, attempts]."""
    tb = user_part(err.__traceback__)
    if isinstance(err, TimeLimit):
        kind, message = "taskq.errors.TaskTimeout", str(err)
        lines = traceback.format_exception(type(err), err, tb)
    else:
        kind = f"{type(err).__module__}.{type(err).__qualname__}"
        if isinstance(err, Interrupted):
            kind = "taskq.errors.JobFailed"
        message = _text(err)
        try:
            lines = traceback.format_exception(type(err), err, tb)
        except Exception:  # noqa: BLE001 (a hostile __str__ must not cost the record)
            lines = [f"{kind}: {message}\n"]
    text = "".join(lines).encode("utf-8", "replace")
    if len(text) > TRACEBACK_BYTES:
        half = TRACEBACK_BYTES // 2
        text = text[:half] + b"\n  [... traceback shortened ...]\n" + text[-half:]
    error = json.dumps([kind, message, claim.attempt])
    return base64.b64encode(zlib.compress(text)), error


def _text(err: BaseException) -> str:
    try:
        text = str(err)
    except Exception as broken:  # noqa: BLE001 (user code: whatever it raises)
        text = f"(its text cannot be read: {type(broken).__name__})"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MESSAGE_CHARS else text[:MESSAGE_CHARS] + " [...]"


def user_part(tb: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this package."""
    here = __name__.rpartition(".")[0]
    start = tb
    while tb is not None and str(tb.tb_frame.f_globals.get("__name__", "")).startswith(here):
        tb = tb.tb_next
    return tb or start


def unknown_item() -> Item:
    """The settle item of a job whose task this worker does not know (yet)."""
    return items.unknown(UNKNOWN_DELAY_S * random.uniform(0.95, 1.05))  # noqa: S311 (not a secret)


def lost_text() -> bytes:
    """The traceback field of a job that has no traceback: empty, in RQ's coding."""
    return base64.b64encode(zlib.compress(b""))


def progress_text(done: float, total: float | None, note: str) -> str:
    """A progress report as it is stored: JSON [done, total, note]."""
    return json.dumps([done, total, str(note)[:200]])
