"""What the end of an execution means: an item of the settle script.

A job that returned has finished; one that raised runs again, or has failed with a
traceback as RQ stores it and our own short error beside it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import random
import time
from typing import TYPE_CHECKING, Any

from taskq.errors import StepFailed, StepMismatch, TaskQError, TaskTimeout
from taskq.exc_names import class_names
from taskq.retry import Retry, RetryLater
from taskq.worker import items
from taskq.worker.claim import YEAR_S
from taskq.worker.items import Item
from taskq.worker.reported import Reported
from taskq.worker.runs import run
from taskq.worker.settings import MAX_CRASHES
from taskq.worker.traces import NO_TRACEBACK, packed, text_of, user_part

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.claim import Claim

MESSAGE_CHARS = 2_000
UNKNOWN_TRIES = 6
UNKNOWN_DELAY_S = 10.0
"""A task this worker does not know may be one of the next release: six times ten seconds."""


class Overrun(BaseException):
    """Raised inside a task's thread at its time limit.

    Not an `Exception`, so that `except Exception` in the task does not swallow it.
    """


class TimeLimit(Exception):
    """The execution was over its time limit (what the caller sees as `TaskTimeout`)."""


class Interrupted(Exception):
    """The execution was cancelled: asked for (`cancel`, `stop`, `kill`) or at a shutdown."""


class Killed(Exception):
    """RQ's command `kill-horse` ended the execution: the job has failed."""


class Stopped(Exception):
    """RQ's commands `stop-job` or `stop-execution` ended it: the job is stopped."""


ENDED_NOW = ("stop", "kill")
"""Why a job is ended at once; what does not stop is left behind."""


def overran(claim: Claim, err: BaseException | None) -> BaseException:
    """What a job failed with that was told to stop at its time limit, and then ended.

    It counts as timed out even where it made something else of that, or nothing at all; what it
    raised shows in the traceback. Only a retry that it asks for is its own decision.
    """
    if claim.why in ENDED_NOW:
        return Interrupted(claim.why)
    if isinstance(err, RetryLater):
        return err
    limit = TimeLimit(over_limit(claim))
    if isinstance(err, (Overrun, asyncio.CancelledError)):
        return limit.with_traceback(err.__traceback__)
    limit.__cause__ = err
    return limit


def over_limit(claim: Claim) -> str:
    """What happened to an execution that was over its time limit."""
    if claim.called:  # in RQ's words
        return f"Task exceeded maximum timeout value ({claim.callback_s} seconds)"
    return f"{claim.name} ran longer than its time limit of {claim.deadline:g} s"


class Crashed(Interrupted):
    """The job process died while it ran the job.

    Attributes:
        trace: what the dying process could still say of its stack, or "".
    """

    def __init__(self, how: str, trace: str = "") -> None:
        """`how` is a sentence: how it died."""
        super().__init__(how)
        self.trace = trace


class Asleep(Interrupted):
    """A durable job has nothing to wait for but time.

    Attributes:
        due: when it goes on, in seconds since 1970.
        place: of the timer among its steps.
    """

    def __init__(self, due: float, place: str) -> None:
        """Keep both."""
        super().__init__("asleep")
        self.due = due
        self.place = place


class NotHere(Interrupted):
    """A job process can import nothing of the name that the job gives."""


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
    kept = ttl != 0 or (claim.tells and b"tq_on_success" in claim.fields)
    text = claim.ready if kept else b""
    if value is not None and kept:
        text = result_text(claim, value, app)
    return items.finished(
        claim.begun_at, time.time(), text, ttl, marker=young and ttl == 0, unique=claim.unique
    )


def result_text(claim: Claim, value: Any, app: TaskQ) -> bytes:
    """A result as it stands in Redis.

    Raises:
        NotSerializable, PayloadTooLarge: it cannot be stored.
    """
    if claim.pickled:  # its caller is a stock RQ that reads pickles
        raw = _pickled(value)
    else:
        raw = app.codec.dump_value(value, job_id=claim.id, kind="result")
    return base64.b64encode(raw)


def result_value(claim: Claim, app: TaskQ) -> Any:
    """What a job process returned, for those who want the value itself: RQ's own code.

    Raises:
        PayloadError: it cannot be read.
    """
    if not claim.ready:
        return None
    raw = base64.b64decode(claim.ready)
    if claim.pickled:
        return pickle.loads(raw)  # noqa: S301 (only where the app accepts pickles)
    return app.codec.load_value(raw, job_id=claim.id, kind="result")


def _pickled(value: Any) -> bytes:
    """As RQ: a job whose result cannot be pickled has finished all the same, without it."""
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 (objects take part in it and may raise anything)
        return pickle.dumps("Unserializable return value", protocol=pickle.HIGHEST_PROTOCOL)


def failure_item(claim: Claim, err: BaseException) -> Item:
    """The settle item of a job that raised: a retry, or its end. Never raises itself."""
    try:
        return _failure_item(claim, err)
    except BaseException:  # noqa: BLE001 (hostile fields or exceptions: it fails plainly)
        return untold_item(claim, err)


def untold_item(claim: Claim, err: BaseException) -> Item:
    """The settle item of a job that ends with what nobody can look at. Never raises."""
    now = time.time()
    try:
        kind = f"{type(err).__module__}.{type(err).__qualname__}"
    except BaseException:  # noqa: BLE001 (a hostile metaclass)
        kind = "builtins.BaseException"
    error = json.dumps([kind, "What became of this job cannot be told: looking at it failed.", 1])
    return items.failed(claim.begun_at or now, now, NO_TRACEBACK, error, YEAR_S, claim.unique)


def _failure_item(claim: Claim, err: BaseException) -> Item:
    if isinstance(err, RetryLater):
        return items.retried(run(claim, "postponed"), err.seconds)
    left = int(_safe_number(claim, b"retries_left"))
    if left > 0 and not isinstance(err, StepMismatch):  # that takes other code
        policy = _policy(claim)
        if policy is None or policy.matches(names_of(err)):
            delay = _interval(claim, left)
            if policy is not None:
                delay = policy.jittered(delay)
            front = claim.fields.get(b"enqueue_at_front_on_retry") == b"1"
            ended = run(claim, "retried", *kind_and_message(err))
            return items.retried(ended, delay, front=front, left=left - 1)
    text, error = describe(claim, err)
    now = time.time()
    return items.failed(claim.begun_at or now, now, text, error, _safe_ttl(claim), claim.unique)


def error_type(item: Item) -> str:
    """Dotted name of what a job failed with, from its settle item."""
    return str(json.loads(item.rest[3])[0])


def names_of(err: BaseException) -> list[str]:
    """Dotted names of what a policy may match."""
    if isinstance(err, Reported):
        return err.names
    names = class_names(TaskTimeout if isinstance(err, TimeLimit) else type(err))
    return [*names, *err.exc_types] if isinstance(err, StepFailed) else names


def _safe_number(claim: Claim, name: bytes) -> float:
    try:
        return claim.number(name, 0)
    except ValueError:
        return 0.0


def _safe_ttl(claim: Claim) -> int:
    try:
        return claim.failure_ttl_s
    except ValueError:
        return YEAR_S


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
    if isinstance(err, Reported):
        return err.text, err.error
    tb = user_part(err.__traceback__)
    kind, message = kind_and_message(err)
    if isinstance(err, TimeLimit):
        shown = _as_rq(claim, message) if claim.pickled else err
        shown.__cause__ = err.__cause__
        text = text_of(shown, tb)
    else:
        try:
            text = err.trace if isinstance(err, Crashed) else text_of(err, tb)
        except Exception:  # noqa: BLE001 (a hostile __str__ must not cost the record)
            text = f"{kind}: {message}\n"
    return packed(text), json.dumps([kind, message, claim.attempt])


def kind_and_message(err: BaseException) -> tuple[str, str]:
    """Dotted name of what callers see, and its text."""
    if isinstance(err, Reported):
        kind, message, _attempts = json.loads(err.error)
        return kind, message
    if isinstance(err, TimeLimit):
        return "taskq.errors.TaskTimeout", str(err)
    if isinstance(err, Interrupted):
        return "taskq.errors.JobFailed", message_of(err)
    return f"{type(err).__module__}.{type(err).__qualname__}", message_of(err)


def _as_rq(claim: Claim, message: str) -> BaseException:
    """A time limit as stock RQ's programs look for it in the traceback's text."""
    theirs = f"Task exceeded maximum timeout value ({claim.deadline:g} seconds)"
    return _JobTimeoutException(f"{theirs}: {message}")


class _JobTimeoutException(Exception):
    pass


_JobTimeoutException.__module__ = "rq.timeouts"
_JobTimeoutException.__qualname__ = _JobTimeoutException.__name__ = "JobTimeoutException"


def message_of(err: BaseException) -> str:
    """The text of an exception, however hostile, and not all of it where it is long."""
    try:
        text = str(err)
    except Exception as broken:  # noqa: BLE001 (user code: whatever it raises)
        text = f"(its text cannot be read: {type(broken).__name__})"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MESSAGE_CHARS else text[:MESSAGE_CHARS] + " [...]"


def cut_short_item(claim: Claim) -> Item:
    """The settle item of a job that still ran when the grace time of a shutdown was over."""
    if claim.fields.get(b"tq_redeliver") == b"0":  # at most once: it has begun
        return failure_item(
            claim, Interrupted("Its worker was stopped, and the task says redeliver=False.")
        )
    return items.given_back(run(claim, "given_back"))


def crash_verdict(claim: Claim, err: Crashed) -> Crashed | None:
    """What a job fails with after its process died, or None: it runs again."""
    if claim.fields.get(b"tq_redeliver") == b"0":
        told = f"{err} The task says redeliver=False, so it was not run again."
        return Crashed(told, err.trace)
    crashes = crashes_so_far(claim) + 1
    if crashes < MAX_CRASHES:
        return None
    before = claim.fields.get(b"tq_story", b"").decode("utf-8", "replace")[:1000]
    story = f" Before: {before}." if before else ""
    told = (
        f"Crash loop: {crashes} processes died while running this job. The last one: {err}{story}"
    )
    return Crashed(told, err.trace)


def crashed_item(claim: Claim, err: Crashed) -> Item:
    """The settle item of a job that runs again after its process died."""
    return items.crashed(run(claim, "crashed", "", message_of(err)))


def crashes_so_far(claim: Claim) -> int:
    """How many processes have died while they ran this job, before this execution."""
    return int(_safe_number(claim, b"tq_crashes"))


def unknown_item() -> Item:
    """The settle item of a job whose task this worker does not know (yet)."""
    return items.unknown(UNKNOWN_DELAY_S * random.uniform(0.95, 1.05))  # noqa: S311 (not a secret)
