"""The broker of commands that only talk to Redis, imported when they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.broker.client import Broker
    from taskq.inspector import Inspector


CONTACT_S = 1.5
"""Time for Redis to answer at all: a person waits. Programs are given 5 s."""
WORK_S = 30.0
"""Time for one answer then: large queues are read in large pieces."""


@contextmanager
def open_broker(url: str | None, *, deadline_s: float = WORK_S) -> Iterator[Broker]:
    """A broker at `url`, or where the settings say, that has answered; closed at the end.

    Args:
        url: where Redis is, or None.
        deadline_s: time for one answer after the first.

    Raises:
        ConfigError: the URL is none.
        BrokerUnavailable: no answer within `CONTACT_S`.
    """
    from taskq.broker.client import Broker  # noqa: PLC0415 (redis takes 0.2 s to import)
    from taskq.settings import redis_url  # noqa: PLC0415 (late: a command imports what it needs)

    place = redis_url(url)
    first = Broker(*place, deadline_s=CONTACT_S)
    try:
        first.call("PING")
    finally:
        first.close()
    broker = Broker(*place, deadline_s=deadline_s)
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def open_inspector(url: str | None, *, deadline_s: float = WORK_S) -> Iterator[Inspector]:
    """An inspector of the broker at `url`, or where the settings say."""
    from taskq.inspector import Inspector  # noqa: PLC0415 (late: a command imports what it needs)

    with open_broker(url, deadline_s=deadline_s) as broker:
        yield Inspector(broker)
