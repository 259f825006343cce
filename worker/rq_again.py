"""A `Retry` of RQ that a job returned in a job process: as plain values, and made again."""

from __future__ import annotations

from typing import Any

from rq.job import Retry


def retry_of(asked: dict[str, Any]) -> Retry:
    """The object of these values.

    Raises:
        ValueError: RQ does not take them.
    """
    return Retry(int(asked["max"]), list(asked["intervals"]), bool(asked["at_front"]))
