"""The shape of what was read: RQ's four parts of a call, and what an envelope was made for."""

from __future__ import annotations

from typing import Any

from taskq.errors import PayloadError
from taskq.serializers import envelope

Call = tuple[str, Any, list[Any] | tuple[Any, ...], dict[str, Any]]
"""What a job's `data` holds: function's name, instance, arguments, keyword arguments."""


def is_rq_call(value: Any) -> bool:
    """Tell whether RQ's tuple of a call is being written, from its shape alone."""
    return (
        type(value) is tuple
        and len(value) == 4
        and type(value[0]) is str
        and type(value[2]) in (tuple, list)
        and type(value[3]) is dict
        and all(type(key) is str for key in value[3])
    )


def checked_call(call: Any) -> Call:
    """RQ's four parts, each of the type that it must have."""
    if not isinstance(call, (list, tuple)) or len(call) != 4:
        raise PayloadError("it is no list of a function's name, instance, arguments and kwargs.")
    name, instance, args, kwargs = call
    if type(name) is not str or not name:
        raise PayloadError("its function's name is empty or no text.")
    if not isinstance(args, (list, tuple)):
        raise PayloadError(f"its arguments are a {type(args).__name__}, not a list.")
    if not isinstance(kwargs, dict):
        raise PayloadError(f"its keyword arguments are a {type(kwargs).__name__}, not a dict.")
    if kwargs and not all(type(key) is str for key in kwargs):
        raise PayloadError("one of its keyword arguments has a name that is no text.")
    return name, instance, args, kwargs


def check_binding(opened: envelope.Opened, purpose: bytes, job_id: str, queue: str) -> None:
    """Refuse a genuine envelope that was made for something else.

    What a stock RQ sealed with our serializer is bound to no job and no queue, but it
    is still either a call or a value.
    """
    if opened.purpose == purpose:
        if opened.job_id != job_id:
            raise PayloadError("it was signed for another job, and copied here.")
        if opened.queue != queue:
            raise PayloadError(
                f"it was signed for the queue {opened.queue!r}, and moved to {queue!r}."
            )
        return
    is_call = purpose == envelope.CALL
    if opened.purpose != (envelope.UNBOUND_CALL if is_call else envelope.UNBOUND_VALUE):
        raise PayloadError("it was signed for another purpose (call, result or meta).")
