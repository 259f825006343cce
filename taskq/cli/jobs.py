"""`taskq jobs` and `taskq failed`: lists of jobs, newest first."""

from __future__ import annotations

from typing import Any

import click

from taskq.cli.connect import open_inspector
from taskq.cli.options import command, json_option, redis_option, setting
from taskq.cli.output import print_json, say
from taskq.cli.query import (
    criteria,
    explain_cut,
    filter_options,
    row_data,
    rows_table,
    status_option,
)
from taskq.states import STATUSES

_JOBS_HELP = """List jobs, newest first. Reads only; payloads are never unpickled.

\b
Examples:
  taskq jobs
  taskq jobs --status queued --status started -q high
  taskq jobs --task thumbnail --since 10m --limit 100
  taskq jobs --json              {"jobs": [...], "total", "scanned", "complete"}

"when" is the last thing that happened to the job: enqueued, started, ended.
"""

_FAILED_HELP = """List failed jobs, newest first, with their errors.

\b
Examples:
  taskq failed
  taskq failed --error TimeoutError --since 1d
  taskq failed --task "shop.images.*" -q web
  taskq failed --json            {"jobs": [...], "total", "scanned", "complete"}

"taskq job ID" shows the traceback, "taskq retry" runs them again.
"""

MAX_SCAN = 20_000
"""Jobs looked at for a list: a second or two of reading."""

_limit = setting(
    "--limit",
    "-n",
    type=click.IntRange(min=1, max=10_000),
    default=20,
    show_default=True,
    help="How many.",
)


@command("jobs", text=_JOBS_HELP, summary="List jobs, newest first.")
@status_option(STATUSES)
@filter_options
@_limit
@redis_option
@json_option
def jobs_command(**options: Any) -> None:
    """List jobs of any status."""
    _list(options, STATUSES, errors=bool(options["error"]), empty="No jobs.")


@command("failed", text=_FAILED_HELP, summary="List failed jobs, newest first.")
@filter_options
@_limit
@redis_option
@json_option
def failed_command(**options: Any) -> None:
    """List failed and stopped jobs."""
    _list(options, ("failed", "stopped"), errors=True, empty="No failed jobs.")


def _list(options: dict[str, Any], default: tuple[str, ...], *, errors: bool, empty: str) -> None:
    from taskq.inspector import find  # noqa: PLC0415 (late: a command imports what it needs)

    wanted = criteria(options, default)
    with open_inspector(options["redis_url"]) as inspector:
        found = inspector.run(
            find(
                inspector.keys,
                wanted,
                limit=options["limit"],
                max_scan=MAX_SCAN,
                errors=errors,
            )
        )
    if options["as_json"]:
        print_json(
            {
                "jobs": [row_data(row) for row in found.jobs],
                "total": found.total,
                "scanned": found.scanned,
                "complete": found.complete,
            }
        )
        return
    for line in rows_table(found.jobs, errors=errors) if found.jobs else [empty]:
        say(line)
    if not found.complete:
        explain_cut(len(found.jobs), found.scanned, found.total)
