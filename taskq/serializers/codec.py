"""The codec of one app: calls, results and meta to bytes and back.

The first byte of what stands in Redis tells its form::

    0x01  signed envelope, around one of the others     (envelope.py)
    'x'   zlib stream, around one of the others
    0x80  pickle, read only where `accept` allows it
    else  JSON

taskq writes JSON, deflated above 1 kB, in an envelope where there is a secret. Stock RQ
deflates all `data` itself, also an envelope. Results and meta are never deflated.

Reading never raises anything but `PayloadError`, and never executes anything unless
pickle is accepted. What it may cost is limited: bytes, inflated bytes, nesting.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskq.errors import ConfigError, NotSerializable, PayloadError
from taskq.serializers import envelope, json, pickled, wording
from taskq.serializers.shape import Call, check_binding, checked_call, is_rq_call
from taskq.serializers.unfit import Unfit

DEFLATE_OVER_BYTES = 1_000
_DEFLATE_LEVEL = 1  # 4.6 kB of JSON: 838 bytes in 11 µs; level 6: 747 bytes in 40 µs
_READ_FACTOR = 4  # a neighbour may have a higher limit than we
_MOST_READ_BYTES = 256_000_000

FORMATS = ("json", "pickle")

_VALUE_PURPOSES = {
    "result": envelope.RESULT,
    "meta": envelope.META,
    "yield": envelope.YIELD,
    "send": envelope.SEND,
    "step": envelope.STEP,
}


class Codec:
    """Reads and writes payloads with one app's settings. Immutable, safe in threads.

    Args:
        serializer: what to write, "json" or "pickle".
        accept: what to read; what is written is always read, too.
        secret: signs everything, and refuses what is not signed. One text or bytes, or
            several (the first signs, all verify); a text may hold several, separated
            by commas.
        max_bytes: limit for a payload before compression. Reading allows four times
            that, for what others wrote.

    Raises:
        ConfigError: a value that is not allowed.
    """

    def __init__(
        self,
        serializer: str = "json",
        accept: str | Iterable[str] = ("json",),
        secret: str | bytes | Iterable[str | bytes] | None = None,
        max_bytes: int = 1_000_000,
    ) -> None:
        """Check the settings."""
        self.serializer = _format("serializer", serializer)
        names = accept.split(",") if isinstance(accept, str) else accept
        self.accept = frozenset(_format("accept", name) for name in names) | {self.serializer}
        if type(max_bytes) is not int or max_bytes < 1:
            raise ConfigError(f"max_bytes is {max_bytes!r}: a number of bytes above 0 is allowed.")
        self.max_bytes = max_bytes
        self._seal = None if secret is None else envelope.Seal(envelope.split_secrets(secret))
        self._read_limit = max(max_bytes, min(max_bytes * _READ_FACTOR, _MOST_READ_BYTES))
        self._most_items = max_bytes // 2 + 1  # each is a character and a comma, or more
        self._writes_json = self.serializer == "json"
        self._reads_bare_json = self._seal is None and "json" in self.accept

    def __repr__(self) -> str:
        """The settings, without the secret."""
        signed = ", signed" if self._seal else ""
        accept = tuple(sorted(self.accept))
        return f"Codec({self.serializer!r}, accept={accept!r}, max_bytes={self.max_bytes}{signed})"

    def accepting(self, form: str) -> Codec:
        """The same settings, and `form` accepted too (for `taskq worker --rq`)."""
        other = copy.copy(self)
        other.accept = self.accept | {_format("accept", form)}
        return other

    def dump_call(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        job_id: str,
        queue: str,
        names: Sequence[str] | None = None,
    ) -> bytes:
        """Write a call as the field `data` of its job.

        Args:
            name: the task's name.
            args: positional arguments.
            kwargs: keyword arguments.
            job_id: bound by the signature, as is `queue`.
            queue: where the job will wait.
            names: names of the task's positional parameters, for messages.

        Raises:
            NotSerializable: names the argument, and where in it.
            PayloadTooLarge: over `max_bytes`.
        """
        data = self._encode_call(name, args, kwargs, names)
        if len(data) > DEFLATE_OVER_BYTES:
            data = min(zlib.compress(data, _DEFLATE_LEVEL), data, key=len)
        if self._seal is not None:
            return self._seal.close(data, envelope.CALL, job_id, queue)
        return data

    def load_call(self, data: bytes, *, job_id: str, queue: str) -> Call:
        """Read the field `data` of a job, written by us or by a stock RQ.

        Returns:
            The function's name, an instance (None but for RQ's method calls), the
            arguments and the keyword arguments.

        Raises:
            PayloadError: says what is wrong with it.
        """
        try:
            # The usual case first: JSON as it is, nothing to verify or inflate.
            if (
                self._reads_bare_json
                and type(data) is bytes
                and data[:1] == b"["
                and len(data) <= self._read_limit
            ):
                return checked_call(json.decode(data))
            opened, data = self._open(data)
            if opened is not None:
                check_binding(opened, envelope.CALL, job_id, queue)
            return checked_call(self._decode(data))
        except PayloadError as error:
            raise PayloadError(f"Unreadable payload: {error}") from error.__cause__

    def inflate(self, data: bytes) -> bytes:
        """Give what is in a zlib stream, or the data as it is; for who looks before `load_call`.

        Raises:
            PayloadError: the stream is broken, or holds too much.
        """
        return self._inflate(data) if data[:1] == b"x" else data

    @property
    def is_signing(self) -> bool:
        """Whether there is a secret."""
        return self._seal is not None

    def readdress_call(self, data: bytes, *, job_id: str, to: str, queue: str) -> bytes:
        """Give a call that `dump_call` wrote for one job to another one; nothing is decoded.

        Args:
            data: as it stands in Redis.
            job_id: the job that it was written for.
            to: the other one.
            queue: of both.

        Raises:
            PayloadError: it was not signed by this app, or for something else.
        """
        if self._seal is None:
            if data[:1] == b"\x01":
                raise PayloadError("it is signed, but this app has no secret (TASKQ_SECRET).")
            return data
        opened = self._seal.open(data)
        check_binding(opened, envelope.CALL, job_id, queue)
        return self._seal.close(opened.body, envelope.CALL, to, queue)

    def dump_value(self, value: Any, *, job_id: str, kind: str, name: str = "") -> bytes:
        """Write a result or a meta dict, a value that a generator yields or is sent, a step.

        Args:
            value: what to write.
            job_id: bound by the signature.
            kind: "result", "meta", "yield", "send" or "step".
            name: the task's name, for messages.

        Raises:
            NotSerializable: says what in it.
            PayloadTooLarge: over `max_bytes`.
        """
        purpose = _VALUE_PURPOSES[kind]
        data = self._encode_value(value, kind, name)
        return data if self._seal is None else self._seal.close(data, purpose, job_id)

    def load_value(self, raw: bytes, *, job_id: str, kind: str) -> Any:
        """Read what `dump_value` wrote, or a stock RQ.

        Raises:
            PayloadError: says what is wrong with it.
        """
        purpose = _VALUE_PURPOSES[kind]
        try:
            opened, data = self._open(raw)
            if opened is not None:
                check_binding(opened, purpose, job_id, "")
            value = self._decode(data)
            if kind == "meta" and not isinstance(value, dict):
                raise PayloadError(f"it is a {type(value).__name__}, not a dict.")
        except PayloadError as error:
            raise PayloadError(f"Unreadable {kind}: {error}") from error.__cause__
        return value

    def dump_unbound(self, value: Any) -> bytes:
        """Write what RQ hands to a serializer: its tuple of a call, a result, or meta.

        RQ does not say which it is, nor of which job: the signature binds neither, and
        is marked so. Never deflated, for RQ does that where it may.

        Raises:
            NotSerializable: says what cannot be carried.
            PayloadTooLarge: over `max_bytes`.
        """
        if is_rq_call(value):
            purpose = envelope.UNBOUND_CALL
            name, instance, args, kwargs = value
            if instance is None:
                data = self._encode_call(name, args, kwargs, None)
            elif self._writes_json:
                raise NotSerializable(
                    f"{name}(): a method of an object, which JSON cannot carry. "
                    "Enqueue a function instead. Nothing was enqueued."
                )
            else:
                data = self._encode_value(value, "call", name)
        else:
            purpose = envelope.UNBOUND_VALUE
            data = self._encode_value(value, "value", "")
        return data if self._seal is None else self._seal.close(data, purpose)

    def load_unbound(self, data: bytes) -> Any:
        """Read for RQ whatever is readable: signed for any job and purpose, or not signed.

        Raises:
            PayloadError: says what is wrong with it.
        """
        try:
            _, data = self._open(data)
            return self._decode(data)
        except PayloadError as error:
            raise PayloadError(f"Unreadable payload: {error}") from error.__cause__

    def rq_serializer(self) -> RqSerializer:
        """An object for RQ's `serializer=` with the settings of this codec."""
        return RqSerializer(self)

    def _encode_call(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        names: Sequence[str] | None,
    ) -> bytes:
        """Write a call, neither deflated nor signed."""
        try:
            if self._writes_json:
                data = json.encode_call(name, args, kwargs, self._most_items)
            else:
                data = pickled.encode_call(name, args, kwargs)
        except Unfit as error:
            raise wording.unfit_call(error, name, names, self.max_bytes) from error.__cause__
        if len(data) > self.max_bytes:
            raise wording.large_call(name, len(data), self.max_bytes)
        return data

    def _encode_value(self, value: Any, kind: str, name: str) -> bytes:
        """Write a value, not signed."""
        try:
            if self._writes_json:
                data = json.encode(value, self._most_items)
            else:
                data = pickled.encode(value)
        except Unfit as error:
            raise wording.unfit_value(error, kind, name, self.max_bytes) from error.__cause__
        if len(data) > self.max_bytes:
            raise wording.large_value(kind, name, len(data), self.max_bytes)
        return data

    def _open(self, data: bytes) -> tuple[envelope.Opened | None, bytes]:
        """Verify and inflate; without a secret there is no envelope to give."""
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PayloadError("there is none.")
        if len(data) > self._read_limit:
            raise PayloadError(f"{len(data):,} bytes are over the limit of {self._read_limit:,}.")
        if data[:1] == b"x":
            # Before the signature is known: RQ deflates what our serializer has signed.
            data = self._inflate(data)
        if self._seal is not None:
            opened = self._seal.open(data)
            body = opened.body
            return opened, self._inflate(body) if body[:1] == b"x" else body
        if data[:1] == b"\x01":
            raise PayloadError("it is signed, but this app has no secret (TASKQ_SECRET).")
        return None, data

    def _inflate(self, data: bytes) -> bytes:
        """Inflate, at most up to the limit for reading."""
        stream = zlib.decompressobj()
        try:
            inflated = stream.decompress(data, self._read_limit + 1)
        except zlib.error as error:
            raise PayloadError(f"a broken zlib stream: {error}.") from None
        if len(inflated) > self._read_limit:
            raise PayloadError(f"it inflates to more than {self._read_limit:,} bytes.")
        if not stream.eof or stream.unused_data:
            raise PayloadError("a zlib stream that is cut short, or has something behind it.")
        return inflated

    def _decode(self, data: bytes) -> Any:
        """Decode by the first byte, if its form is accepted."""
        if not data:
            raise PayloadError("it is empty.")
        form = "pickle" if data[0] == pickled.FIRST_BYTE else "json"
        if form not in self.accept:
            raise PayloadError(wording.not_accepted(form, self.accept))
        return pickled.decode(data) if form == "pickle" else json.decode(data)


class RqSerializer:
    """RQ's `serializer=`: `dumps` and `loads` with the settings of a codec."""

    def __init__(self, codec: Codec) -> None:
        """Use the settings of `codec`."""
        self.dumps = codec.dump_unbound
        self.loads = codec.load_unbound
        # RQ's workers note a serializer's dotted path, to name it to a child process.
        self.__module__ = "taskq.serializers"
        self.__qualname__ = "rq"


def _format(setting: str, name: object) -> str:
    """The name of a format, checked."""
    known = name.strip() if isinstance(name, str) else name
    if known not in FORMATS:
        allowed = " and ".join(f'"{one}"' for one in FORMATS)
        raise ConfigError(f"{setting} is {name!r}: {allowed} are allowed.")
    return str(known)
