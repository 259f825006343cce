"""RQ's serializer for jobs of taskq: `rq worker --serializer taskq.serializers.rq`.

A stock worker does not know the app, so the settings come from the environment:
TASKQ_ACCEPT ("json" by default; "json,pickle"), TASKQ_SECRET (several separated by
commas), TASKQ_SERIALIZER (what is written; "json"). They are looked up at each call and
cached by their values.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from taskq.serializers.codec import Codec


@lru_cache(maxsize=16)
def _codec(serializer: str | None, accept: str | None, secret: str | None) -> Codec:
    return Codec(serializer or "json", accept or "json", secret)


def _current() -> Codec:
    get = os.environ.get
    return _codec(get("TASKQ_SERIALIZER"), get("TASKQ_ACCEPT"), get("TASKQ_SECRET"))


def dumps(value: Any, /) -> bytes:
    """Write a call (RQ's tuple of four), a result, or meta.

    Raises:
        NotSerializable: says what cannot be carried.
        PayloadTooLarge: over 1 MB.
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
