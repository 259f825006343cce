"""What changes while one looks at a job: its status, its progress, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskq.broker.watch import Watch, look
from taskq.inspector.values import items, raw, text
from taskq.progress import FIELD, Progress, parse_progress

if TYPE_CHECKING:
    from taskq.broker.outcomes import Outcome
    from taskq.inspector.query import Query
    from taskq.keys import Keys


@dataclass(frozen=True)
class Glimpse:
    """One look at a job.

    Attributes:
        status: RQ's word, "" where its hash is gone.
        progress: what it reported last, or None.
        outcome: its end, or None while there is none.
    """

    status: str
    progress: Progress | None
    outcome: Outcome | None


def glimpse(keys: Keys, watch: Watch) -> Query[Glimpse]:
    """Look at a job again; `watch` is kept from one look to the next. Two round trips, or more."""
    (reply,) = yield [("HMGET", raw(keys.job(watch.job_id)), "status", FIELD)]
    status, progress = (*items(reply), None, None)[:2]
    ended = yield from look(keys, [watch])
    return Glimpse(
        text(status),
        parse_progress(progress if isinstance(progress, bytes) else None),
        ended[0][1] if ended else None,
    )
