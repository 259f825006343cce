"""The life of a job as a list of moments, the first one first."""

from __future__ import annotations

from dataclasses import dataclass

from taskq.inspector import Around, JobStory, ResultEntry


@dataclass(frozen=True)
class Moment:
    """One thing that happened to a job, or will.

    Attributes:
        kind: created, queued, begun, finished, failed, retried, stopped, canceled, due, running.
        at: when, seconds since 1970.
        text: what, in a few words.
        took_s: how long the execution ran, where it is one.
        worker: who did it.
        error: how it failed.
        traceback: of that failure.
    """

    kind: str
    at: float | None
    text: str
    took_s: float | None = None
    worker: str = ""
    error: str = ""
    traceback: str = ""


_WORDS = {
    "finished": "Finished",
    "failed": "Failed for good",
    "retried": "Failed, to be tried again",
    "stopped": "Stopped",
}


def timeline(story: JobStory, around: Around, now: float) -> tuple[Moment, ...]:
    """What is known of a job's life, from its hash, its results, and its executions."""
    row = story.row
    found: list[Moment] = []
    if row.created_at is not None:
        found.append(Moment("created", row.created_at, "Created"))
    moved = row.enqueued_at is not None and row.created_at is not None
    if row.enqueued_at is not None and not (moved and row.enqueued_at - row.created_at < 0.01):  # type: ignore[operator]
        found.append(Moment("queued", row.enqueued_at, f"Put into the queue {row.queue}"))
    found += [_ended(entry) for entry in reversed(story.results)]
    found += [
        Moment("running", one.started_at, "Runs now", _since(one.started_at, now), one.worker)
        for one in around.executions
    ]
    if row.status == "started" and not around.executions and row.started_at is not None:
        found.append(
            Moment("running", row.started_at, "Began", _since(row.started_at, now), row.worker)
        )
    if row.status == "canceled":
        found.append(Moment("canceled", row.ended_at, "Canceled"))
    elif row.ended_at is not None and not story.results:
        found.append(Moment(row.status, row.ended_at, _WORDS.get(row.status, "Ended")))
    found.sort(key=lambda moment: moment.at or 0.0)
    if row.status == "scheduled" and row.due_at is not None:
        found.append(Moment("due", row.due_at, "Will be put into its queue"))
    return tuple(found)


def _ended(entry: ResultEntry) -> Moment:
    took = None
    if entry.started_at is not None and entry.ended_at is not None:
        took = max(entry.ended_at - entry.started_at, 0.0)
    error = ": ".join(part for part in (entry.error_type, entry.error) if part)
    at = entry.ended_at if entry.ended_at is not None else entry.at
    words = _WORDS.get(entry.kind, "Ended; the entry cannot be read")
    return Moment(entry.kind, at, words, took, entry.worker, error, entry.traceback)


def _since(at: float | None, now: float) -> float | None:
    return None if at is None else max(now - at, 0.0)
