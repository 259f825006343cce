"""From the raw end of a job to what the caller gets: a value, or an error.

Nothing named in Redis is ever imported: a failure is a `JobFailed` with text.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any

from taskq.broker.outcomes import Fields, Kind, Outcome
from taskq.errors import (
    JobCanceled,
    JobFailed,
    JobNotFound,
    PayloadError,
    ResultExpired,
    ResultTimeout,
    TaskQError,
    TaskTimeout,
)

_TIMEOUTS = frozenset({"taskq.errors.TaskTimeout", "rq.timeouts.JobTimeoutException"})
_TRACEBACK_BYTES = 1_000_000
"""A longer traceback is cut: a few bytes of zlib can be gigabytes of text."""
_LAST_BLOCK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*", re.MULTILINE)
_EXCEPTION_LINE = re.compile(r"([A-Za-z_][\w.<>]*)(?:: ?(.*))?\Z", re.DOTALL)

FINAL = frozenset(Kind) - {Kind.UNKNOWN, Kind.BROKEN, Kind.CLOSED, Kind.LATE}
"""Ends that a handle remembers; after the others it asks again."""


def value_of(outcome: Outcome, job_id: str, codec: Any, rebuild: Any = None) -> Any:
    """Decode the result of a finished job.

    Args:
        outcome: of kind FINISHED.
        job_id: for the codec's signature and messages.
        codec: `load_value` decodes.
        rebuild: makes a model of the decoded value, or None.

    Raises:
        PayloadError: the bytes are no result that this app accepts.
    """
    text = outcome.fields.get(b"return_value")
    if text is None:
        return None
    try:
        raw = b64decode(text, validate=True)
    except (Base64Error, ValueError) as err:
        raise PayloadError(f"The result of {job_id} is not base64: {err}.") from err
    value = codec.load_value(raw, job_id=job_id, kind="result")
    return value if rebuild is None else rebuild(value)


def error_of(outcome: Outcome, job_id: str, result_ttl: float | None = None) -> TaskQError | None:
    """The error that stands for an outcome; None for a finished job.

    Args:
        outcome: how the job ended.
        job_id: for the message.
        result_ttl: seconds the task keeps results, where that is known.
    """
    kind = outcome.kind
    if kind is Kind.FINISHED:
        return None
    if kind is Kind.FAILED:
        return _failure(outcome, job_id)
    if kind is Kind.CANCELED:
        return JobCanceled(f"Job {job_id} was canceled before it ran to its end.")
    if kind is Kind.STOPPED:
        return JobCanceled(f"Job {job_id} was stopped while it ran.")
    if kind is Kind.UNKEPT:
        return ResultExpired(
            f"Job {job_id} has finished, and its result was not stored (result_ttl=0). "
            "Give the task a result_ttl if you want to wait for its result."
        )
    if kind is Kind.EXPIRED:
        return ResultExpired(_expired(outcome, job_id, result_ttl))
    if kind is Kind.UNKNOWN:
        return JobNotFound(
            f"No job {job_id} in Redis: never enqueued there, or ended and forgotten."
        )
    if kind is Kind.LATE:
        return ResultTimeout(outcome.note or f"No result of job {job_id} in time. The job goes on.")
    if kind is Kind.CLOSED:
        return TaskQError(f"The app was closed while waiting for {job_id}. The job goes on.")
    return PayloadError(f"What Redis holds for job {job_id} cannot be read: {outcome.note}.")


def _expired(outcome: Outcome, job_id: str, result_ttl: float | None) -> str:
    ttl = outcome.note or (f"{result_ttl:g}" if result_ttl is not None else "")
    if outcome.status == "failed":
        return f"Job {job_id} failed, and the details of its failure are no longer kept."
    return f"The result of {job_id} has expired{f' (result_ttl={ttl} s)' if ttl else ''}."


def _failure(outcome: Outcome, job_id: str) -> JobFailed:
    fields = outcome.fields
    trace = traceback_of(fields)
    kind, message, attempts = _own_error(fields)
    if not kind and not message:
        kind, message = last_error(trace)
        attempts = max(outcome.attempts, 1)
    if fields.get(b"type") == b"5" and not message:
        message = "it asked for another retry (rq.Retry) after the last one"
    made = TaskTimeout if kind in _TIMEOUTS else JobFailed
    return made(job_id, kind, message or "no reason is recorded", trace, attempts)


def _own_error(fields: Fields) -> tuple[str, str, int]:
    try:
        kind, message, attempts = json.loads(fields[b"tq_error"])
        return str(kind), str(message), max(int(attempts), 1)
    except (KeyError, ValueError, TypeError):
        return "", "", 1


def traceback_of(fields: Fields) -> str:
    """The worker's traceback, as RQ stores it (zlib in base64), cut at a megabyte."""
    packed = fields.get(b"exc_string", b"")
    if not packed:
        return ""
    try:
        text = zlib.decompressobj().decompress(b64decode(packed), _TRACEBACK_BYTES)
    except (Base64Error, ValueError, zlib.error):
        return ""
    return text.decode("utf-8", "replace")


def last_error(trace: str) -> tuple[str, str]:
    """Type and message of the exception a formatted traceback ends with.

    Returns:
        Dotted name of the class as text ("" where there is none), and its message, which
        may have several lines.
    """
    start = 0
    for block in _LAST_BLOCK.finditer(trace):
        start = block.end()
    tail = trace[start:].strip()
    if start and (found := _EXCEPTION_LINE.match(tail)) is not None:
        return found[1], (found[2] or "").strip()
    return "", tail.rpartition("\n")[2]
