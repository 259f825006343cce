"""Questions about jobs that need no waiting, as conversations (see `taskq.broker.watch`)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from taskq.broker.watch import Command, find_marked
from taskq.errors import PayloadError
from taskq.keys import Keys
from taskq.states import Status

_CHUNK = 1_000
"""Jobs in one pipeline."""

UNKEPT = "(unkept)"
"""Stands for a job that finished within the last minute and was deleted (`result_ttl=0`)."""
MISSING = ""
"""Stands for a job that Redis does not know."""
_FAILED = Status.FAILED.value


def ask_states(
    keys: Keys, job_ids: Sequence[str]
) -> Generator[Sequence[Command], list[Any], list[str]]:
    """Status of each job: RQ's value, `UNKEPT` or `MISSING`. One HMGET a job, 1,000 a trip.

    Raises:
        PayloadError: a key is no hash.
    """
    states: list[str] = []
    for start in range(0, len(job_ids), _CHUNK):
        chunk = job_ids[start : start + _CHUNK]
        replies = yield [("TIME",), *(("HMGET", keys.job(job_id), "status") for job_id in chunk)]
        found = [_text(job_id, reply) for job_id, reply in zip(chunk, replies[1:], strict=True)]
        missing = [job_id for job_id, state in zip(chunk, found, strict=True) if not state]
        if missing:
            marked = yield from find_marked(keys, missing, replies[0])
            ended = {job_id: _FAILED if error else UNKEPT for job_id, error in marked.items()}
            found = [
                state or ended.get(job_id, MISSING)
                for job_id, state in zip(chunk, found, strict=True)
            ]
        states += found
    return states


def as_status(job_id: str, state: str) -> Status:
    """The status a state text stands for.

    Raises:
        PayloadError: RQ has no such status.
    """
    try:
        return Status.FINISHED if state == UNKEPT else Status(state)
    except ValueError:
        raise PayloadError(f"Job {job_id} has the status {state!r:.60}, which is none.") from None


def _text(job_id: str, reply: Any) -> str:
    if isinstance(reply, Exception):
        raise PayloadError(f"What Redis holds for job {job_id} cannot be read: {reply}.")
    return (reply[0] or b"").decode("utf-8", "replace")
