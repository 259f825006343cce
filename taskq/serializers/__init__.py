"""Payloads: what stands in Redis as a call, a result or meta, and how it is checked.

JSON with Python's usual types (the default), pickle where it is asked for, signed where
there is a secret.
"""

from __future__ import annotations

from taskq.errors import PayloadError
from taskq.serializers import rq  # RQ finds "taskq.serializers.rq" only if it is here already
from taskq.serializers.codec import Codec, RqSerializer
from taskq.serializers.shape import Call

__all__ = ["Call", "Codec", "PayloadError", "RqSerializer", "rq"]
