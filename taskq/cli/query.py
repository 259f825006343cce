"""What the commands on jobs share: criteria from options, rows as tables and as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskq.cli.options import Since, setting
from taskq.cli.output import Cell, Column, ago, say, table
from taskq.states import Status

if TYPE_CHECKING:
    from taskq.inspector import Criteria, JobRow

F = TypeVar("F", bound=Callable[..., Any])

COLORS = {
    "failed": "red",
    "stopped": "red",
    "missing": "red",
    "unreadable": "red",
    "started": "green",
    "scheduled": "cyan",
    "canceled": "yellow",
}


def filter_options(command: F) -> F:
    """Options that choose jobs; `criteria` reads them."""
    for decorate in (
        setting(
            "--since",
            type=Since(),
            metavar="WHEN",
            help="Only what changed after WHEN: 90s, 5m, 2h, 1d, or a date with its zone.",
        ),
        setting(
            "--error",
            metavar="TEXT",
            help="Only jobs whose error's type or message contains TEXT.",
        ),
        setting(
            "--task",
            metavar="NAME",
            help='Only this task: "shop.images.thumbnail", "thumbnail", or "shop.*".',
        ),
        setting(
            "--queue",
            "-q",
            "queues",
            multiple=True,
            metavar="NAME",
            help="Only this queue; may be repeated.",
        ),
    ):
        command = decorate(command)
    return command


def status_option(choices: Sequence[str]) -> Callable[[F], F]:
    """`--status`, one or several."""
    return setting(
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice(choices),
        metavar="STATUS",
        help=f"Only these; may be repeated: {', '.join(choices)}.",
    )


def criteria(options: dict[str, Any], default: Iterable[str]) -> Criteria:
    """The jobs that the filter options choose, with these statuses where none was given."""
    from taskq.inspector import Criteria  # noqa: PLC0415 (late: a command imports what it needs)

    chosen = options.get("statuses") or default
    return Criteria(
        statuses=tuple(Status(status) for status in chosen),
        queues=tuple(options["queues"]),
        task=options["task"] or "",
        error=options["error"] or "",
        since=options["since"],
    )


def filtered(options: dict[str, Any]) -> bool:
    """Whether any filter was given."""
    return any(options.get(name) for name in ("queues", "statuses", "task", "error", "since"))


def rows_table(rows: Sequence[JobRow], *, errors: bool) -> list[str]:
    """Lines of a table of jobs."""
    now = time.time()
    columns = [
        Column("id"),
        Column("status"),
        Column("task", cut=True),
        Column("queue", cut=True),
        Column("when", right=True),
    ]
    if errors:
        columns += [Column("tries", right=True), Column("error", cut=True)]
    else:
        columns += [Column("took", right=True)]
    return table(columns, [_row(row, now, errors) for row in rows])


def row_data(row: JobRow) -> dict[str, Any]:
    """A job as JSON: the keys of `JobRow`, times as ISO dates in UTC."""
    return {
        name: iso(value) if name.endswith("_at") else value for name, value in asdict(row).items()
    }


def iso(at: float | None) -> str | None:
    """A time as `2026-11-22T18:00:00.123Z`; None where it is none, or beyond the calendar."""
    if at is None:
        return None
    try:
        moment = datetime.fromtimestamp(at, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def took(started_at: float | None, ended_at: float | None) -> str:
    """How long something ran, for people."""
    if started_at is None or ended_at is None or ended_at < started_at:
        return "-"
    seconds = ended_at - started_at
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else ago(seconds)


def explain_cut(shown: int, scanned: int, total: int) -> None:
    """Say that a list was cut short."""
    what = "more may fit" if shown else "others may fit"
    say(f"Looked at {scanned:,} of {total:,} jobs: {what}. Narrow it down with --queue.")


def _row(row: JobRow, now: float, errors: bool) -> list[str]:
    when = ago(max(now - row.changed_at, 0.0)) if row.changed_at else "-"
    if row.status == Status.SCHEDULED and row.due_at is not None:
        when = f"in {ago(max(row.due_at - now, 0.0))}"
    cells = [
        Cell(row.id),
        Cell(row.status, COLORS.get(row.status)),
        Cell(row.task or "?"),
        Cell(row.queue),
        Cell(when),
    ]
    if not errors:
        return [*cells, Cell(took(row.started_at, row.ended_at))]
    error = f"{row.error_type}: {row.error}" if row.error_type and row.error else ""
    tries = "" if row.attempts is None else str(row.attempts)
    return [*cells, Cell(tries), Cell(error or row.error_type or row.error)]
