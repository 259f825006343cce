"""What a worker process and its job processes say to each other, as bytes.

To a job process go orders: a length, a number (see `process_ahead`) and a marshalled tuple. What
comes back are reports: a length, a kind, a flag and a body. The parent believes nothing of them but
these few bytes: a job process may have been overwritten by the code that it runs, so
nothing is unmarshalled or unpickled here.
"""

from __future__ import annotations

import json
import marshal
import signal
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.errors import PayloadError
from taskq.worker.claim import AS_RQ_WROTE, PLAIN, Claim

if TYPE_CHECKING:
    from collections.abc import Mapping

READY = ord("r")
"""The app is loaded."""
FINISHED = ord("f")
"""The job returned; the body is its result as it stands in Redis (base64), empty for None."""
AGAIN = ord("a")
"""The job returned a `Retry` of RQ; the body is JSON: max, intervals, at_front."""
RAISED = ord("x")
"""The job raised; the body is the JSON of `Reported.pack`."""
UNKNOWN = ord("u")
"""Nothing of that name can be called here; the body says so."""
PROGRESS = ord("p")
"""The job goes on; the body is JSON: done, total, note."""

CANCEL = b"cancel "
"""On the control socket: this, the job's id and a newline."""

STRIKE = signal.SIGXCPU
"""Sent at a job's time limit: raises `Overrun` in its code, even in a sleep."""

_ORDER = struct.Struct(">IB")
_HEAD = struct.Struct(">IBB")
_RECEIVE_BYTES = 262_144
MOST_BYTES = 512_000_000
"""A longer report is none: the process is broken."""


class Report(NamedTuple):
    """One message of a job process; `last`: it wants to be replaced after this one."""

    kind: int
    last: bool
    body: bytes

    def json(self) -> Any:
        """The body, decoded.

        Raises:
            PayloadError: it is not what a whole process would send.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise PayloadError("A job process sent what cannot be read.") from None


def pack_order(claim: Claim) -> bytes:
    """A job as its process wants it: the record as it came from Redis."""
    return marshal.dumps((claim.id, claim.queue, claim.exec_id, claim.is_plain, claim.fields))


def read_order(raw: bytes, now: float) -> Claim:
    """The other end of `pack_order`. Only ever for bytes of our own parent."""
    job_id, queue, exec_id, is_plain, fields = marshal.loads(raw)  # noqa: S302 (our parent's)
    return Claim(1, queue, job_id, exec_id, _flat(fields, is_plain=is_plain), now)


def _flat(fields: Mapping[bytes, bytes], *, is_plain: bool) -> list[bytes]:
    if is_plain and b"created_at" in fields:
        return [*(fields[name] for name in AS_RQ_WROTE), b""]
    if is_plain:
        names = (b"data", b"enqueued_at", b"result_ttl")
        flat = [fields.get(name, b"") for name in names]
        assert len(flat) == PLAIN
        return flat
    return [part for pair in fields.items() for part in pair]


def pack_text(text: bytes, number: int = 0) -> bytes:
    """An order with its number; or settings, the first thing that a job process is sent."""
    return _ORDER.pack(len(text), number) + text


def pack_report(kind: int, body: bytes, *, last: bool = False) -> bytes:
    """One report."""
    return _HEAD.pack(len(body), kind, last) + body


class Orders:
    """Reads orders from the socket of a job process, one after the other."""

    def __init__(self, source: socket.socket) -> None:
        """Nothing has been read."""
        self._source = source
        self._data = b""

    def next(self) -> tuple[int, bytes] | None:
        """Block for one order: its number and what it says. None: there are no more."""
        if not self._more(_ORDER.size):
            return None
        length, number = _ORDER.unpack_from(self._data)
        end = _ORDER.size + int(length)
        if not self._more(end):
            return None
        text, self._data = self._data[_ORDER.size : end], self._data[end:]
        return number, text

    def _more(self, size: int) -> bool:
        """Read until there are so many bytes; False where the other end was closed before."""
        have = len(self._data)
        if have >= size:
            return True
        parts = [self._data]
        while have < size:
            part = self._source.recv(_RECEIVE_BYTES)
            if not part:
                return False
            parts.append(part)
            have += len(part)
        self._data = b"".join(parts)
        return True


class Reports:
    """Takes bytes as they come, gives whole reports."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._data = b""

    def feed(self, data: bytes) -> Iterator[Report]:
        """Reports that are complete now.

        Raises:
            PayloadError: the other end sends garbage.
        """
        if self._data:
            data = self._data + data
        at = 0
        size = _HEAD.size
        while len(data) - at >= size:
            length, kind, last = _HEAD.unpack_from(data, at)
            if length > MOST_BYTES or last > 1:
                raise PayloadError("A job process sent what cannot be read.")
            end = at + size + length
            if end > len(data):
                break
            self._data = data[end:]  # before the report is taken: its taker may raise
            yield Report(kind, bool(last), data[at + size : end])
            at = end
        self._data = data[at:]
