"""What a payload says, without running any of it.

Reads the JSON forms, signed or compressed, and of a pickle the function's name alone:
`pickletools` lists a pickle's opcodes without executing one. Signatures are not
checked here (no secret is needed to look), so what is shown proves nothing.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any, NamedTuple

from taskq.serializers.envelope import FIRST_BYTE

MAX_BYTES = 1_000_000
"""Most that is decompressed or decoded of one payload."""

_HEAD_BYTES = 1 + 4 + 32  # of a signed envelope: mark, key id, HMAC
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_JSON_NAME = re.compile(rb'\s*\[\s*("(?:[^"\\]|\\.){1,500}")')


class Peeked(NamedTuple):
    """One payload.

    Attributes:
        form: json, pickle, empty, or unreadable.
        signed: whether it is in an envelope.
        value: what the JSON says; None for other forms.
        size_bytes: of the payload as stored.
        cut: whether it is larger than `MAX_BYTES` and was not decoded.
    """

    form: str
    signed: bool
    value: Any
    size_bytes: int
    cut: bool = False


def peek(data: bytes) -> Peeked:
    """Look at a call, a result, or a meta field."""
    body, signed = _unsealed(data)
    body = _unpacked(body, MAX_BYTES + 1)
    if not body:
        return Peeked("empty", signed, None, len(data))
    if body[0] == 0x80:
        return Peeked("pickle", signed, None, len(data))
    if len(body) > MAX_BYTES:
        form = "json" if body[:1] in b'[{"' else "unreadable"
        return Peeked(form, signed, None, len(data), cut=True)
    try:
        return Peeked("json", signed, json.loads(body), len(data))
    except (ValueError, RecursionError):
        return Peeked("unreadable", signed, None, len(data))


def task_of(data: bytes) -> str:
    """Name of the function that a call's payload names; "" where it cannot be read.

    Looks at the first bytes only: a listing reads many.
    """
    body = _unpacked(_unsealed(data)[0], 4_096)
    if body[:1] == b"\x80":
        return _pickled_name(body)
    found = _JSON_NAME.match(body)
    if found is None:
        return ""
    try:
        name = json.loads(found[1])
    except ValueError:
        return ""
    return name if isinstance(name, str) else ""


def _unsealed(data: bytes) -> tuple[bytes, bool]:
    """The body of a signed envelope (see `taskq.serializers.envelope`), not verified."""
    if data[:1] != bytes([FIRST_BYTE]):
        return data, False
    at = _HEAD_BYTES + 1
    for _ in ("job id", "queue"):
        at += 2 + int.from_bytes(data[at : at + 2], "big")
    return data[at:], True


def _unpacked(data: bytes, most: int) -> bytes:
    """At most `most` bytes of what a zlib stream holds; other data as it is."""
    if data[:1] != b"x":
        return data
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return data


def _pickled_name(body: bytes) -> str:
    """RQ pickles a tuple that begins with the name: the first text among the opcodes."""
    import pickletools  # noqa: PLC0415 (lists opcodes, runs none; 8 ms, for pickles only)

    try:
        for at, (opcode, argument, _) in enumerate(pickletools.genops(body)):
            if isinstance(argument, str) and "UNICODE" in opcode.name:
                return argument if _NAME.fullmatch(argument) else ""
            if at > 10:
                break
    except Exception:  # noqa: BLE001 (pickletools raises many kinds for garbage)
        return ""
    return ""
