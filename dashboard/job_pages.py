"""Lists of jobs, and one job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from taskq.dashboard.asking import Asked, BadRequest, Filter
from taskq.dashboard.desk import Desk
from taskq.dashboard.hiding import HIDDEN, Hider
from taskq.dashboard.pages import Page, missing
from taskq.dashboard.timeline import Moment, timeline
from taskq.inspector import Around, JobRow, JobStory, Peeked, ScheduleList, StepRow
from taskq.states import STATUSES
from taskq.terminal import safe_line

LIMIT = 50
MAX_SHOWN = 4_000
"""Characters of a value on the page; the JSON has 100,000."""
MAX_DATA = 100_000
MAX_TRACE = 40_000
"""Characters of a traceback: its begin and, twice as much, its end."""


async def jobs_page(desk: Desk, asked: Asked) -> Page:
    """A list of jobs, newest first, with the filter and the place in the address."""
    chosen = Filter.of(asked)
    limit = asked.number("limit", LIMIT, 1, 200)
    failed_only = bool(chosen.statuses) and set(chosen.statuses) <= {"failed", "stopped"}
    board = await desk.board()
    try:
        found = await desk.jobs(chosen.criteria(), limit, asked.get("after"), errors=failed_only)
    except ValueError as error:
        raise BadRequest("after=… is no place in a list: begin at its first page.") from error
    hider = desk.hider
    jobs = [_hidden_row(row, hider) for row in found.jobs]
    data = {
        "at": board.seen.at,
        "jobs": jobs,
        "total": found.total,
        "scanned": found.scanned,
        "after": found.cursor or None,
    }
    totals = board.seen.totals
    shown = {
        "filter": chosen,
        "statuses": [(status, totals.get(status)) for status in STATUSES if status != "stopped"],
        "queues": [queue.name for queue in board.seen.queues],
        "errors": any(job.error or job.error_type for job in jobs),
        "is_first": not asked.get("after"),
    }
    return Page("jobs", "Jobs", data, shown, is_live=not asked.get("after"))


async def job_page(desk: Desk, asked: Asked) -> Page:
    """Everything about one job."""
    job_id = asked.get("id")
    found = await desk.job(job_id) if job_id else None
    if found is None:
        return missing(
            "jobs",
            f"There is no job “{safe_line(job_id, 80)}”.",
            "It may have ended and expired: a result is kept for 500 s unless the task says more.",
        )
    story, around = found
    board = await desk.board()
    row = _hidden_row(story.row, desk.hider)
    moments = [_hidden_moment(one, desk.hider) for one in timeline(story, around, board.seen.at)]
    origin = _schedule_of(job_id, await desk.schedules()) if job_id.startswith("cron-") else ""
    data: dict[str, Any] = {
        "at": board.seen.at,
        "job": row,
        "description": "" if desk.hider.everything else desk.hider.text(_cut(story.description)),
        "call": _call(story.call, desk.hider),
        "meta": _value(story.meta, desk.hider),
        "options": {name: value for name, value in story.options.items() if name not in _ELSEWHERE},
        "progress": story.progress,
        "ahead": story.ahead,
        "expires_s": story.expires_s,
        "timeline": moments,
        "result": _result(story, desk.hider),
        "stream": _stream(around, desk.hider),
        "sent_count": around.sent_count,
        "steps": [_step(one, desk.hider) for one in story.steps],
        "needs": around.needs,
        "needed_by": around.needed_by,
        "needed_by_count": around.needed_by_count,
        "callbacks": story.callbacks,
        "schedule": origin,
        "other_fields": story.others,
        "too_large": story.too_large,
    }
    status = 410 if row.status == "missing" else 200
    goes_on = row.status in ("queued", "scheduled", "started")
    told = [one for one in moments if one.traceback or (goes_on and one.error)]
    last = told[-1] if told else None
    shown = {
        "last_failure": last,
        "call_text": _call_text(data["call"]),
        "nav": "jobs",
        "max_shown": MAX_SHOWN,
        "fraction": story.progress.fraction if story.progress else None,
    }
    return Page("job", f"{row.task or 'Job'} {job_id}", data, shown, status)


_ELSEWHERE = ("dependency_id", "dependency_ids")


def _hidden_row(row: JobRow, hider: Hider) -> JobRow:
    """A job's row without secrets in its error."""
    return replace(row, error=hider.text(_cut(row.error))) if row.error else row


def _hidden_moment(moment: Moment, hider: Hider) -> Moment:
    error, trace = hider.text(_cut(moment.error)), hider.text(_cut(moment.traceback))
    return replace(moment, error=error, traceback=trace)


def _cut(text: str) -> str:
    """A long text without its middle: a traceback begins and ends with what matters."""
    if len(text) <= MAX_TRACE:
        return text
    third = MAX_TRACE // 3
    left_out = len(text) - MAX_TRACE
    return f"{text[:third]}\n[… {left_out:,} characters …]\n{text[-2 * third :]}"


def _call(call: Peeked | None, hider: Hider) -> dict[str, Any] | None:
    """The payload taken apart: task, positional and named arguments, without secrets."""
    if call is None:
        return None
    value = call.value
    form = {"form": call.form, "size_bytes": call.size_bytes, "signed": call.signed}
    is_call = isinstance(value, list) and len(value) == 4
    if not is_call or not isinstance(value[2], list) or not isinstance(value[3], dict):
        return form
    return {
        **form,
        "task": str(value[0]),
        "args": [hider.value(one) for one in value[2]],
        "kwargs": {name: hider.value(one, name) for name, one in value[3].items()},
    }


def _value(peeked: Peeked | None, hider: Hider) -> dict[str, Any] | None:
    """A stored value without secrets; of one that is no JSON, its form and size."""
    if peeked is None:
        return None
    found: dict[str, Any] = {"form": peeked.form, "size_bytes": peeked.size_bytes}
    if peeked.form == "json" and not peeked.cut:
        text = json.dumps(peeked.value)
        if len(text) > MAX_DATA:
            return {**found, "is_cut": True}
        return {**found, "value": hider.value(peeked.value)}
    return {**found, "is_cut": peeked.cut}


def _result(story: JobStory, hider: Hider) -> dict[str, Any] | None:
    last = story.results[0] if story.results else None
    return _value(last.value, hider) if last is not None and last.kind == "finished" else None


def _stream(around: Around, hider: Hider) -> dict[str, Any]:
    return {
        "length": around.stream_length,
        "newest": [{"id": one.id, **(_value(one.value, hider) or {})} for one in around.stream],
    }


def _step(step: StepRow, hider: Hider) -> dict[str, Any]:
    """One recorded step of a durable job."""
    return {
        "place": step.place,
        "kind": step.kind,
        "name": hider.text(step.name),
        "began_at": step.began_at,
        "took_s": step.seconds,
        "tries": step.tries,
        "due_at": step.due_at,
        "size_bytes": step.size_bytes,
        "value": _value(step.value, hider),
    }


def _call_text(call: dict[str, Any] | None) -> str:
    """`thumbnail("a.png", size=64)`, as far as the payload can be read."""
    if call is None or "args" not in call:
        return ""
    parts = [_literal(value) for value in call["args"]]
    parts += [f"{name}={_literal(value)}" for name, value in call["kwargs"].items()]
    name = str(call["task"]).rpartition(".")[2]
    return f"{name}({', '.join(parts)})"


def _literal(value: Any) -> str:
    return HIDDEN if value == HIDDEN else json.dumps(value, ensure_ascii=False)


def _schedule_of(job_id: str, listed: ScheduleList) -> str:
    """Name of the schedule that made a job: its id begins with a hash of that name."""
    for row in listed.rows:
        digest = hashlib.sha256(row.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        if job_id.startswith(f"cron-{digest}-"):
            return row.name
    return ""
