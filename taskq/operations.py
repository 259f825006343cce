"""Changes to jobs that people ask for: run again, cancel. Each job atomically, by script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskq.broker.client import Broker

PAGE = 100
"""Jobs in one call: longer scripts stall Redis's other clients (DESIGN section 3)."""


@dataclass
class Retried:
    """What became of jobs that were to run again.

    Attributes:
        queued: ids that wait in their queue now.
        refused: ids that have not ended, or have finished, or lost their payload.
        missing: ids that Redis does not know.
    """

    queued: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass
class Canceled:
    """What became of jobs that were to be canceled.

    Attributes:
        canceled: ids that waited and will not run.
        asked: ids that run; they were asked to stop.
        ended: ids that had ended already.
        missing: ids that Redis does not know.
    """

    canceled: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def retry(broker: Broker, ids: Sequence[str], *, at_front: bool = False) -> Retried:
    """Put ended jobs back into their queues, in this order, as if they had never run.

    Failed, canceled and stopped jobs can run again: their attempts start at one, and they
    retry as often as when they were enqueued. (How often is noted at a job's first retry;
    a stock RQ worker does not, so what it used up is not given back.)

    Raises:
        BrokerUnavailable: Redis did not answer; what came before is done.
        BrokerError: the key of a queue is no list. Nothing of that page was changed; the
            pages before it are done.
    """
    done = Retried()
    places = {1: done.queued, 0: done.refused, -1: done.missing}
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        answers = broker.script(
            "requeue",
            [broker.keys.prefix, broker.keys.own],
            [broker.clock.iso(), "1" if at_front else "0", *map(_raw, page)],
        )
        _sort(page, answers, places)
    return done


def cancel(broker: Broker, ids: Sequence[str]) -> Canceled:
    """Take jobs out of their queues; ask those that run to stop.

    Raises:
        BrokerUnavailable: Redis did not answer; what came before is done.
        BrokerError: the script refused.
    """
    done = Canceled()
    places = {1: done.canceled, 2: done.asked, 0: done.ended, -1: done.missing}
    for job_id in ids:
        answer = broker.script(
            "cancel",
            [broker.keys.prefix, broker.keys.own],
            [_raw(job_id), broker.clock.iso()],
        )
        _sort([job_id], [answer], places)
    return done


def _sort(ids: Iterable[str], answers: Iterable[Any], places: dict[int, list[str]]) -> None:
    for job_id, answer in zip(ids, answers):
        places[int(answer)].append(job_id)


def _raw(job_id: str) -> bytes:
    """The id's bytes: what was read from Redis need not be UTF-8 (`inspector.values.text`)."""
    return job_id.encode("utf-8", "surrogateescape")
