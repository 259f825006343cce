"""Why a job has no result yet: looked up when a caller's time is over, or has become long."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from taskq.clock import parse_iso
from taskq.keys import Keys

_LOOK_AHEAD = 10_000
"""LPOS compares this many ids at most (some 100 us)."""
_WORKERS = 20
"""Registered workers whose life is checked."""
_RUNNABLE = ("queued", "scheduled", "started", "deferred")


@dataclass
class Picture:
    """What Redis says about a job that is waited for."""

    status: str = ""
    queue: str = ""
    ahead: int | None = None
    due_in_s: float | None = None
    running_s: float | None = None
    worker_count: int = 0
    stopped_by: str = ""


def paint(keys: Keys, job_id: str) -> Generator[Sequence[tuple[Any, ...]], list[Any], Picture]:
    """Conversation (see `taskq.broker.watch`) of three small pipelines."""
    job, now = yield [
        ("HMGET", keys.job(job_id), "status", "origin", "started_at"), ("TIME",)
    ]  # fmt: skip
    status, queue, started = _texts(job, 3)
    picture = Picture(status, queue)
    if not queue or status not in _RUNNABLE:
        return picture
    place, due, workers, suspended, paused = yield [
        ("LPOS", keys.queue(queue), job_id, "MAXLEN", _LOOK_AHEAD),
        ("ZSCORE", keys.scheduled(queue), job_id),
        ("SRANDMEMBER", f"{keys.workers}:{queue}", _WORKERS),
        ("EXISTS", keys.suspended),
        ("SISMEMBER", keys.paused, queue),
    ]
    now_s = int(now[0]) + int(now[1]) / 1e6 if isinstance(now, list) else 0.0
    if isinstance(place, int):
        picture.ahead = place
    if isinstance(due, bytes):
        picture.due_in_s = max(float(due) - now_s, 0.0)
    if status == "started" and started:
        picture.running_s = _since(started, now_s)
    if suspended == 1:
        picture.stopped_by = "All workers are suspended (rq suspend)."
    elif paused == 1:
        picture.stopped_by = f"Queue {queue!r} is paused; go on with: taskq resume {queue}."
    if isinstance(workers, list) and workers:
        alive = yield [("EXISTS", key) for key in workers]
        picture.worker_count = sum(1 for reply in alive if reply == 1)
    return picture


def sentence(label: str, waited_s: float, picture: Picture | None, app_name: str) -> str:
    """The message of `ResultTimeout`.

    Args:
        label: name of the task and id of the job.
        waited_s: seconds the caller has waited.
        picture: None where Redis did not answer.
        app_name: what to type after `taskq worker`.
    """
    head = f"No result of {label} after {waited_s:g} s: "
    if picture is None:
        return head + "Redis does not answer. The job is not affected."
    if not picture.status:
        return head + "Redis knows no job of that id."
    text = f"{head}{picture.status}{_where(picture)}."
    if picture.stopped_by:
        return f"{text} {picture.stopped_by}"
    if not picture.queue:
        return text
    if picture.worker_count == 0 and picture.status in ("queued", "scheduled"):
        start = f"taskq worker {app_name} -q {picture.queue}"
        return f"{text} No worker listens to {picture.queue!r}; start: {start}."
    if picture.status == "queued":
        s = "" if picture.worker_count == 1 else "s"
        more = "+" if picture.worker_count == _WORKERS else ""
        return f"{text} {picture.worker_count}{more} worker{s} on {picture.queue!r}."
    return text


def _where(picture: Picture) -> str:
    if picture.status == "queued":
        if picture.ahead is None:
            return f" in {picture.queue!r}" if picture.queue else ""
        return f", {picture.ahead} ahead of it in {picture.queue!r}"
    if picture.status == "scheduled" and picture.due_in_s is not None:
        return f", due in {picture.due_in_s:.0f} s on {picture.queue!r}"
    if picture.status == "started" and picture.running_s is not None:
        return f" {picture.running_s:.0f} s ago, still running"
    if picture.status == "deferred":
        return ", it waits for other jobs"
    return ""


def _since(started: str, now_s: float) -> float | None:
    try:
        return max(now_s - parse_iso(started), 0.0)
    except ValueError:
        return None


def _texts(reply: Any, count: int) -> list[str]:
    values = reply if isinstance(reply, list) else [None] * count
    return [(value or b"").decode("utf-8", "replace") for value in values]
