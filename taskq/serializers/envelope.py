"""Signed envelopes: who has no key can neither make a payload nor move one.

::

    0x01 | key id, 4 bytes | HMAC-SHA256, 32 bytes | purpose, 1 byte
         | length, job id | length, queue | body          (lengths: 2 bytes, big-endian)

The HMAC covers everything from the purpose on; it is compared in constant time before
anything in the envelope is looked at, decompressed or decoded. The job id and the
queue are inside because RQ hands a serializer nothing but the bytes: it can check the
signature alone, and taskq, which knows both, compares them as well.

Keys rotate: the first one signs, all of them verify. The key id only says which one to
try; it is computed from the key one-way.

The first byte is not that of a zlib stream, a pickle or JSON, so that RQ, which tries
to decompress all `data`, takes it as it is.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import NamedTuple

from taskq.errors import ConfigError, PayloadError

FIRST_BYTE = 1

CALL, RESULT, META = b"c", b"r", b"m"
YIELD, SEND = b"y", b"s"
"""What a generator task yields, and what is sent to it."""
STEP = b"p"
"""The record of a durable task's step."""
UNBOUND_CALL, UNBOUND_VALUE = b"C", b"V"
"""Made by a stock RQ with our serializer, which knows neither job nor queue."""

_HEAD_BYTES = 1 + 4 + 32
_PURPOSES = frozenset((CALL, RESULT, META, YIELD, SEND, STEP, UNBOUND_CALL, UNBOUND_VALUE))


class Opened(NamedTuple):
    """A verified envelope."""

    purpose: bytes
    job_id: str
    queue: str
    body: bytes


def split_secrets(secret: str | bytes | Iterable[str | bytes]) -> list[bytes]:
    """The keys in `secret`: a text may hold several, separated by commas.

    So TASKQ_SECRET=new,old means the same wherever it is read.

    Raises:
        ConfigError: there is none, or an empty one.
    """
    given = [secret] if isinstance(secret, (str, bytes)) else list(secret)
    keys: list[bytes] = []
    for one in given:
        if isinstance(one, str):
            keys += [part.strip().encode() for part in one.split(",")]
        elif isinstance(one, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            keys.append(one)
        else:
            raise ConfigError(f"secret holds a {type(one).__name__}: a text or bytes are allowed.")
    if not keys or not all(keys):
        raise ConfigError(
            "secret (TASKQ_SECRET) is empty or has an empty part. Leave it out for unsigned "
            "payloads, or set one text, or several separated by commas (the first signs)."
        )
    return keys


class Seal:
    """Makes and opens envelopes with a set of keys. Immutable, safe in threads."""

    def __init__(self, keys: list[bytes]) -> None:
        """Prepare the keys, the one that signs first."""
        # A prepared HMAC is copied for each message: 0.8 instead of 1.4 µs.
        prepared = [(_key_id(key), hmac.new(key, digestmod="sha256")) for key in keys]
        self._sign_id, self._sign = prepared[0]
        self._known: dict[bytes, list[hmac.HMAC]] = {}
        for key_id, mac in prepared:
            self._known.setdefault(key_id, []).append(mac)

    def close(self, body: bytes, purpose: bytes, job_id: str = "", queue: str = "") -> bytes:
        """Put `body` into a signed envelope.

        Raises:
            ValueError: a job id or queue of 64 kB.
        """
        job, name = job_id.encode(), queue.encode()
        if len(job) > 0xFFFF or len(name) > 0xFFFF:
            raise ValueError("A job id or a queue's name is longer than 65,535 bytes.")
        signed = b"".join(
            (purpose, len(job).to_bytes(2, "big"), job, len(name).to_bytes(2, "big"), name, body)
        )
        mac = self._sign.copy()
        mac.update(signed)
        return b"\x01" + self._sign_id + mac.digest() + signed

    def open(self, data: bytes) -> Opened:
        """Verify `data` and take it apart.

        Raises:
            PayloadError: it is not signed, by none of our keys, or damaged.
        """
        if data[:1] != b"\x01":
            raise PayloadError("not signed, but this app has a secret.")
        signed = data[_HEAD_BYTES:]
        for prepared in self._known.get(data[1:5], ()):
            mac = prepared.copy()
            mac.update(signed)
            if hmac.compare_digest(mac.digest(), data[5:_HEAD_BYTES]):
                return _take_apart(signed)
        if data[1:5] not in self._known:
            raise PayloadError("signed with a key that this app does not have (TASKQ_SECRET).")
        raise PayloadError("the signature is wrong: changed after it was signed.")


def _key_id(key: bytes) -> bytes:
    return hmac.digest(key, b"taskq key id", "sha256")[:4]


def _take_apart(signed: bytes) -> Opened:
    """Take verified bytes apart; only another version of us could make them wrong."""
    try:
        purpose = signed[:1]
        job_end = 3 + int.from_bytes(signed[1:3], "big")
        queue_end = job_end + 2 + int.from_bytes(signed[job_end : job_end + 2], "big")
        if purpose not in _PURPOSES or queue_end > len(signed):
            raise ValueError("its parts do not fit")
        job_id, queue = signed[3:job_end].decode(), signed[job_end + 2 : queue_end].decode()
    except ValueError as error:
        raise PayloadError(f"signed by another version of taskq: {error}.") from None
    return Opened(purpose, job_id, queue, signed[queue_end:])
