"""`taskq job ID`: everything about one job."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.connect import open_inspector
from taskq.cli.follow import follow, progress_data, progress_text
from taskq.cli.options import command, json_option, redis_option, setting
from taskq.cli.output import Column, ago, facts, paint, print_json, say, size, table
from taskq.cli.query import COLORS, iso, row_data, took
from taskq.cli.values import call_text, data, value_text
from taskq.errors import JobNotFound
from taskq.states import Status
from taskq.terminal import safe, safe_line

if TYPE_CHECKING:
    from taskq.inspector import JobRow, JobStory, ResultEntry, Run, StepRow

_VALUE_CHARS = 60
"""Of a step's value; `--json` gives all of it."""

_HELP = """Show everything about one job: call, times, steps, result or traceback, earlier runs.

\b
Examples:
  taskq job 0aJx3kLmP9qRsTuVwXyZ12
  taskq job report-2026-11 --json
  taskq job 0aJx3kLmP9qRsTuVwXyZ12 --follow     how far it is, until it has ended

Exit code 1 where there is no such job; with --follow, also where it did not finish.
Pickled values are named, not loaded.
"""


@command("job", text=_HELP, summary="Show everything about one job.")
@click.argument("job_id", metavar="ID")
@setting("--follow", "-f", "follow_it", is_flag=True, help="Show its progress until it has ended.")
@redis_option
@json_option
@click.pass_context
def job_command(
    ctx: click.Context, job_id: str, redis_url: str | None, as_json: bool, follow_it: bool
) -> None:
    """Ask for the job, and show it."""
    from taskq.inspector import story  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.settings import redact  # noqa: PLC0415 (late: a command imports what it needs)

    with open_inspector(redis_url) as inspector:
        found = inspector.run(story(inspector.keys, job_id))
        if found is None:
            raise JobNotFound(
                f"No job {job_id} at {redact(inspector.url)}. "
                "It may have ended and expired (result_ttl is 500 s unless set)."
            )
        finished = True
        if follow_it:
            finished = follow(inspector, job_id, safe_line(found.row.task or "?"), as_json)
            found = inspector.run(story(inspector.keys, job_id))
    if found is not None and as_json:
        print_json(as_data(found))
    elif found is not None:
        for line in _lines(found):
            say(line)
    if not finished:
        ctx.exit(1)


def as_data(story: JobStory) -> dict[str, Any]:
    """The keys of `taskq job --json`: stable, documented in docs/cli.md."""
    return {
        **row_data(story.row),
        "description": story.description,
        "call": data(story.call),
        "meta": data(story.meta),
        "options": story.options,
        "results": [_entry_data(entry) for entry in story.results],
        "runs": [_run_data(run) for run in story.runs],
        "progress": progress_data(story.progress),
        "steps": [_step_data(one) for one in story.steps],
        "callbacks": list(story.callbacks),
        "ahead": story.ahead,
        "expires_s": story.expires_s,
        "other_fields": list(story.others),
        "too_large": story.too_large,
    }


def _step_data(one: StepRow) -> dict[str, Any]:
    return {
        "place": one.place,
        "kind": one.kind,
        "name": one.name,
        "began_at": iso(one.began_at),
        "seconds": one.seconds,
        "tries": one.tries,
        "due_at": iso(one.due_at),
        "value": data(one.value),
        "size_bytes": one.size_bytes,
    }


def _entry_data(entry: ResultEntry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "at": iso(entry.at),
        "worker": entry.worker,
        "started_at": iso(entry.started_at),
        "ended_at": iso(entry.ended_at),
        "value": data(entry.value),
        "error_type": entry.error_type,
        "error": entry.error,
        "attempts": entry.attempts,
        "traceback": entry.traceback,
    }


def _run_data(run: Run) -> dict[str, Any]:
    return {
        "kind": run.kind,
        "started_at": iso(run.started_at),
        "ended_at": iso(run.ended_at),
        "worker": run.worker,
        "error_type": run.error_type,
        "error": run.error,
    }


def _lines(story: JobStory) -> list[str]:
    row = story.row
    status = paint(safe_line(row.status), COLORS.get(row.status), bold=True)
    lines = [f"{safe_line(row.task or '?')}  {status}", ""]
    lines += facts(_facts(story))
    if story.steps:
        lines += ["", paint("steps", None, bold=True), *_steps(story)]
    if story.results and story.results[0].kind == "finished":
        lines += ["", paint("result", None, bold=True), value_text(story.results[0].value)]
    elif story.results and story.results[0].traceback:
        lines += ["", paint("traceback", None, bold=True)]
        lines += safe(story.results[0].traceback.rstrip()).split("\n")
    earlier: list[tuple[float | None, ResultEntry | Run]]
    earlier = [(entry.at, entry) for entry in story.results[1:]]
    earlier += [(run.ended_at, run) for run in story.runs]
    if earlier:
        earlier.sort(key=lambda one: one[0] or 0.0, reverse=True)
        lines += ["", paint("earlier executions", None, bold=True)]
        lines += [_earlier(at, one) for at, one in earlier]
    return lines


def _steps(story: JobStory) -> list[str]:
    columns = [Column("", right=True), Column("step"), Column("when"), Column("took", right=True)]
    rows = [
        [one.place, safe_line(one.name), iso(one.began_at) or "?", _seconds(one), _outcome(one)]
        for one in story.steps
    ]
    return table([*columns, Column("", cut=True)], rows)


def _seconds(one: StepRow) -> str:
    return "" if one.seconds is None else f"{one.seconds:.3f} s"


def _outcome(one: StepRow) -> str:
    """How it ended, and the beginning of what it gave."""
    tries = f"{one.tries} tries" if one.tries is not None and one.tries > 1 else ""
    due = f"due {iso(one.due_at)}" if one.due_at is not None else ""
    told = ""
    if one.kind == "done":
        told = f"{one.size_bytes:,} bytes" if one.value is None else value_text(one.value)
    elif one.kind == "failed" and one.value is not None and isinstance(one.value.value, list):
        names, message, *_ = [*one.value.value, "", ""]
        kind = names[0] if isinstance(names, list) and names else ""
        told = f"failed: {kind}: {message}"
    else:
        told = one.kind
    shown = safe_line(told, _VALUE_CHARS)
    return "  ".join(filter(None, (shown, tries, due)))


def _facts(story: JobStory) -> list[tuple[str, str]]:
    row = story.row
    large = ", ".join(f"{name} ({size(count)})" for name, count in story.too_large.items())
    return [
        ("id", safe_line(row.id)),
        ("queue", safe_line(row.queue) + _ahead(story)),
        ("call", call_text(story.call) if story.call is not None else ""),
        ("description", safe_line(story.description)),
        ("created", _when(row.created_at)),
        ("enqueued", _when(row.enqueued_at)),
        ("due", _when(row.due_at)),
        ("started", _when(row.started_at)),
        ("ended", _when(row.ended_at) + _took(row)),
        ("worker", safe_line(row.worker)),
        ("progress", _progress(story)),
        ("attempts", "" if row.attempts is None else str(row.attempts)),
        ("retries left", "" if row.retries_left is None else str(row.retries_left)),
        ("error", ": ".join(filter(None, (row.error_type, row.error)))),
        ("callbacks", ", ".join(safe_line(one) for one in story.callbacks)),
        ("expires", "" if story.expires_s is None else f"in {ago(story.expires_s)}"),
        ("meta", value_text(story.meta) if story.meta is not None else ""),
        ("options", " ".join(f"{k}={safe_line(v, 200)}" for k, v in story.options.items())),
        ("too large", large),
        ("other fields", ", ".join(safe_line(name, 60) for name in story.others)),
    ]


def _progress(story: JobStory) -> str:
    """What it said last; of one that finished it would only mislead."""
    if story.row.status == Status.FINISHED:
        return ""
    return progress_text(story.progress, bar=sys.stdout.isatty())


def _ahead(story: JobStory) -> str:
    if story.ahead is None:
        return ""
    return "  (next)" if story.ahead == 0 else f"  ({story.ahead:,} ahead of it)"


def _took(row: JobRow) -> str:
    text = took(row.started_at, row.ended_at)
    return "" if text == "-" else f"  took {text}"


def _when(at: float | None) -> str:
    if at is None:
        return ""
    away = time.time() - at
    return (
        f"{iso(at) or at}  ({ago(away)} ago)"
        if away >= 0
        else f"{iso(at) or at}  (in {ago(-away)})"
    )


def _earlier(at: float | None, one: ResultEntry | Run) -> str:
    parts = [iso(at) or "?", one.kind.replace("_", " "), took(one.started_at, one.ended_at)]
    parts += [one.worker, ": ".join(filter(None, (one.error_type, one.error)))]
    return "  ".join(safe_line(part, 200) for part in parts if part)
