"""The life of a job as a list of moments, the first one first."""

from __future__ import annotations

from dataclasses import dataclass

from taskq.inspector import Around, JobStory, ResultEntry, Run


@dataclass(frozen=True)
class Moment:
    """One thing that happened to a job, or will.

    Attributes:
        kind: created, queued, running, finished, failed, stopped, canceled, due; of executions
            after which the job was to run again: retried, postponed, crashed, lost, given_back.
        at: when, seconds since 1970.
        text: what, in a few words.
        started_at: when the execution began, where it is one.
        took_s: how long it ran.
        worker: who did it.
        error: how it failed.
        traceback: of that failure.
    """

    kind: str
    at: float | None
    text: str
    started_at: float | None = None
    took_s: float | None = None
    worker: str = ""
    error: str = ""
    traceback: str = ""


_WORDS = {
    "finished": "Finished",
    "failed": "Failed for good",
    "retried": "Failed, to be tried again",
    "stopped": "Stopped",
    "postponed": "Asked to be run later",
    "crashed": "Its process died, to be run again",
    "lost": "Its worker was gone, given to another",
    "given_back": "Its worker was stopped, given back",
}


def timeline(story: JobStory, around: Around, now: float) -> tuple[Moment, ...]:
    """What is known of a job's life, from its hash, its results, and its executions.

    Of an execution that was not the last, stock RQ leaves an entry only where the task asked
    for the next one; ours are all there, up to the last twenty.
    """
    row = story.row
    found: list[Moment] = []
    if row.created_at is not None:
        found.append(Moment("created", row.created_at, "Created"))
    moved = row.enqueued_at is not None and row.created_at is not None
    if row.enqueued_at is not None and not (moved and row.enqueued_at - row.created_at < 0.01):  # type: ignore[operator]
        found.append(Moment("queued", row.enqueued_at, f"Put into the queue {row.queue}"))
    found += [_ended(entry) for entry in reversed(story.results)]
    found += [_again(run) for run in story.runs]
    found += [_running(one.started_at, "Runs now", one.worker, now) for one in around.executions]
    if row.status == "started" and not around.executions and row.started_at is not None:
        found.append(_running(row.started_at, "Began", row.worker, now))
    if row.status == "canceled":
        found.append(Moment("canceled", row.ended_at, "Canceled"))
    elif row.ended_at is not None and not story.results:
        found.append(Moment(row.status, row.ended_at, _WORDS.get(row.status, "Ended")))
    found.sort(key=lambda moment: moment.at or 0.0)
    if row.status == "scheduled" and row.due_at is not None:
        found.append(Moment("due", row.due_at, "Will be put into its queue"))
    return tuple(found)


def _ended(entry: ResultEntry) -> Moment:
    took = None if entry.ended_at is None else _since(entry.started_at, entry.ended_at)
    error = ": ".join(part for part in (entry.error_type, entry.error) if part)
    at = entry.ended_at if entry.ended_at is not None else entry.at
    words = _WORDS.get(entry.kind, "Ended; the entry cannot be read")
    return Moment(
        entry.kind, at, words, entry.started_at, took, entry.worker, error, entry.traceback
    )


def _again(run: Run) -> Moment:
    known = run.kind != "lost" and run.ended_at is not None
    took = _since(run.started_at, run.ended_at or 0.0) if known else None
    error = ": ".join(part for part in (run.error_type, run.error) if part)
    words = _WORDS[run.kind]
    return Moment(run.kind, run.ended_at, words, run.started_at, took, run.worker, error)


def _running(at: float | None, words: str, worker: str, now: float) -> Moment:
    return Moment("running", at, words, at, _since(at, now), worker)


def _since(at: float | None, now: float) -> float | None:
    return None if at is None else max(now - at, 0.0)
