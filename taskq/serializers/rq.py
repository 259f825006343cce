"""RQ's serializer for jobs of taskq: `rq worker --serializer taskq.serializers.rq`.

A stock worker does not know the app, so the settings come from the environment:
TASKQ_ACCEPT ("json" by default; "json,pickle"), TASKQ_SECRET (several separated by
commas), TASKQ_SERIALIZER (what is written; "json"), TASKQ_MAX_BYTES (1,000,000). They are
looked up at each call and cached by their values; an empty one counts as not set, but
for TASKQ_SECRET, where it is an error.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from taskq.errors import ConfigError
from taskq.serializers.codec import Codec


@lru_cache(maxsize=16)
def _codec(serializer: str, accept: str, secret: str | None, max_bytes: str) -> Codec:
    if not max_bytes.isascii() or not max_bytes.isdigit():
        raise ConfigError(f"TASKQ_MAX_BYTES is {max_bytes!r}: a number of bytes is allowed.")
    return Codec(serializer, accept, secret, int(max_bytes))


def _current() -> Codec:
    get = os.environ.get
    return _codec(
        get("TASKQ_SERIALIZER") or "json",
        get("TASKQ_ACCEPT") or "json",
        get("TASKQ_SECRET"),
        get("TASKQ_MAX_BYTES") or "1000000",
    )


def dumps(value: Any, /) -> bytes:
    """Write a call (RQ's tuple of four), a result, or meta.

    Raises:
        NotSerializable: says what cannot be carried.
        PayloadTooLarge: over TASKQ_MAX_BYTES.
        ConfigError: a variable has a value that is not allowed.
    """
    return _current().dump_unbound(value)


def loads(data: bytes, /) -> Any:
    """Read what `dumps`, taskq or a stock RQ wrote.

    Raises:
        PayloadError: says what is wrong with it.
        ConfigError: a variable has a value that is not allowed.
    """
    return _current().load_unbound(data)
