"""Changes that people ask for: run again, cancel, delete, pause. Each job atomically, by script."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskq.broker.client import Broker

PAGE = 100
"""Jobs in one call: longer scripts stall Redis's other clients (DESIGN section 3)."""

WINDOW = 5_000
"""Entries of a queue looked at in one call: about a millisecond."""

_FURTHER_ON = -2

Progress = Callable[[int], None] | None
"""Called with the number of jobs that are done with."""


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


@dataclass
class Purged:
    """What became of jobs that were to be deleted.

    Attributes:
        purged: ids that are gone.
        running: ids that run, or are just beginning to.
        needed: ids that others wait for (RQ's dependents).
        changed: ids that were just being taken, or moved, or are of a status of RQ's own.
        missing: ids that Redis does not know.
    """

    purged: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def retry(
    broker: Broker, ids: Sequence[str], *, at_front: bool = False, progress: Progress = None
) -> Retried:
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
        if progress is not None:
            progress(start + len(page))
    return done


def cancel(
    broker: Broker, ids: Sequence[str], *, queue: str = "", progress: Progress = None
) -> Canceled:
    """Take jobs out of their queues; ask those that run to stop.

    Args:
        broker: their Redis.
        ids: which; those of one queue the newest first, as `find` gives them.
        queue: all of them are of this one: then many are looked for in one pass.
        progress: told after each step how many are done with.

    Raises:
        BrokerUnavailable: Redis did not answer; what came before is done.
        BrokerError: the script refused.
    """
    done = Canceled()
    places = {1: done.canceled, 2: done.asked, 0: done.ended, -1: done.missing}
    _clear(broker, "cancel", ids, queue, places, progress)
    return done


def purge(
    broker: Broker, ids: Sequence[str], *, queue: str = "", progress: Progress = None
) -> Purged:
    """Delete jobs that do not run, with all that belongs to them.

    Their results, streams, unique locks and notes of other jobs go with them. Whoever waits
    for one that had not ended is told that it was deleted. Arguments as for `cancel`.

    Raises:
        BrokerUnavailable: Redis did not answer; what came before is done.
        BrokerError: the script refused.
    """
    done = Purged()
    places = {1: done.purged, 2: done.running, 3: done.needed, 0: done.changed, -1: done.missing}
    _clear(broker, "purge", ids, queue, places, progress)
    return done


def pause(broker: Broker, queues: Sequence[str]) -> list[str]:
    """Have workers take nothing more from these queues; returns those that were not paused yet.

    What runs goes on. Workers hear of it at once; each reserve looks, too.

    Raises:
        BrokerUnavailable: Redis did not answer.
    """
    return _paused(broker, "SADD", queues)


def resume(broker: Broker, queues: Sequence[str]) -> list[str]:
    """Have workers take from these queues again; returns those that were paused.

    Raises:
        BrokerUnavailable: Redis did not answer.
    """
    return _paused(broker, "SREM", queues)


def _paused(broker: Broker, command: str, queues: Sequence[str]) -> list[str]:
    changed = [name for name in queues if broker.call(command, broker.keys.paused, _raw(name))]
    broker.call("PUBLISH", broker.keys.pause, "\n".join(queues))
    return changed


def _clear(
    broker: Broker,
    what: str,
    ids: Sequence[str],
    queue: str,
    places: dict[int, list[str]],
    progress: Progress,
) -> None:
    """Step by step: at most `PAGE` ids and `WINDOW` entries of the queue each."""
    keys = [broker.keys.prefix, broker.keys.own]
    todo = deque(ids)
    offset, sure = -1, 0
    while todo:
        if offset < 0:  # once more from the tail on: each time at least the first page is settled
            offset, sure = 0, PAGE
        page = [todo.popleft() for _ in range(min(PAGE, len(todo)))]
        args = [what, broker.clock.iso(), _raw(queue), offset, WINDOW, sure, *map(_raw, page)]
        offset, *codes = broker.script("clear", keys, args)
        sure = sum(code == _FURTHER_ON for code in codes[:sure])
        todo.extendleft(
            job_id for job_id, code in zip(page[::-1], codes[::-1]) if code == _FURTHER_ON
        )
        known = [(job_id, code) for job_id, code in zip(page, codes) if code != _FURTHER_ON]
        _sort([job_id for job_id, _code in known], [code for _id, code in known], places)
        if progress is not None:
            progress(len(ids) - len(todo))


def _sort(ids: Iterable[str], answers: Iterable[Any], places: dict[int, list[str]]) -> None:
    for job_id, answer in zip(ids, answers):
        places[int(answer)].append(job_id)


def _raw(job_id: str) -> bytes:
    """The id's bytes: what was read from Redis need not be UTF-8 (`inspector.values.text`)."""
    return job_id.encode("utf-8", "surrogateescape")
