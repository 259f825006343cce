"""How a job ended, as read from Redis: raw, before any payload is decoded.

RQ keeps results in a stream for each job (`rq:results:ID`). Types of entries (rq.results):
1 finished, 2 failed, 3 stopped, 4 retried (the job goes on), 5 failed after RQ's last retry.
A failure written by taskq carries `tq_error`, a JSON list [exc_type, message, attempts].
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

Fields = Mapping[bytes, bytes]

_NO_FIELDS: Fields = MappingProxyType({})


class Kind(Enum):
    """What a waiting caller is told."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELED = "canceled"
    UNKEPT = "unkept"
    """It finished moments ago and was deleted with its result (`result_ttl=0`)."""
    EXPIRED = "expired"
    """There was a job; its result is no longer kept."""
    UNKNOWN = "unknown"
    """Redis knows no such job."""
    BROKEN = "broken"
    """Its keys hold something that is no job; `note` says what."""
    CLOSED = "closed"
    """Nothing about the job: the app was closed while somebody waited."""
    LATE = "late"
    """Nothing about the job: the caller's time is over; `note` says if Redis does not answer."""


class Outcome(NamedTuple):
    """The end of a job.

    Attributes:
        kind: how it ended.
        fields: the entry of the result stream; empty where there is none.
        status: the hash's status where there is no entry.
        note: `result_ttl` of an expired job, or what is broken.
        attempts: executions, where the hash says it (0: look into `tq_error`).
    """

    kind: Kind
    fields: Fields = _NO_FIELDS
    status: str = ""
    note: str = ""
    attempts: int = 0


_KINDS = {
    b"1": Kind.FINISHED,
    b"2": Kind.FAILED,
    b"3": Kind.STOPPED,
    b"5": Kind.FAILED,
}
_RETRIED = b"4"


def from_entry(flat: Any) -> Outcome | None:
    """Read one entry of a result stream.

    Args:
        flat: field names and values in turn, as XREAD gives them.

    Returns:
        None for an entry that says the job goes on (a retry).
    """
    fields: dict[bytes, bytes]
    fields = dict(zip(flat[::2], flat[1::2], strict=False)) if isinstance(flat, list) else {}
    kind = _KINDS.get(fields.get(b"type", b""))
    if kind is not None:
        return Outcome(kind, fields)
    if fields.get(b"type") == _RETRIED:
        return None
    return Outcome(
        Kind.BROKEN, fields, note=f"a result entry of type {fields.get(b'type', b'')!r:.40}"
    )
