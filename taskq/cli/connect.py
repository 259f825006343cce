"""The broker of commands that only talk to Redis, imported when they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.broker.client import Broker
    from taskq.inspector import Inspector


@contextmanager
def open_broker(url: str | None, *, deadline_s: float = 5.0) -> Iterator[Broker]:
    """A broker at `url`, or where the settings say; closed at the end.

    Raises:
        ConfigError: the URL is none.
    """
    from taskq.broker.client import Broker  # noqa: PLC0415 (redis takes 0.2 s to import)
    from taskq.settings import redis_url  # noqa: PLC0415

    broker = Broker(*redis_url(url), deadline_s=deadline_s)
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def open_inspector(url: str | None) -> Iterator[Inspector]:
    """An inspector of the broker at `url`, or where the settings say."""
    from taskq.inspector import Inspector  # noqa: PLC0415

    with open_broker(url) as broker:
        yield Inspector(broker)
