"""`taskq schedules import` and `aside`: rq-scheduler's entries become schedules; what was bad."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.connect import open_broker
from taskq.cli.group import EXIT_FAILED
from taskq.cli.options import app_argument, json_option, redis_option, setting
from taskq.cli.output import Column, complain, print_json, say, table
from taskq.cli.query import iso
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.rq_import import Candidate

_IMPORT_HELP = """Move rq-scheduler's periodic entries to schedules.

\b
Examples:
  taskq schedules import shop.queue:queue --dry-run
  taskq schedules import shop.queue:queue --tz Europe/Berlin
  taskq schedules import --yes                 plain functions, for: taskq worker --rq

With APP the functions must be tasks of it. Each entry is moved in one step, with its
next time: it is never in both places, nor in none. What cannot be moved stays where it
is and is listed with the reason; so do jobs that run once, which taskq scheduler fires
from there. Cron expressions are read in UTC unless the entry names a zone; --tz says
which one rq-scheduler's machine had ("local": this one's). Exit code 1 when some stay.
"""


@click.command("import", help=_IMPORT_HELP, short_help="Move rq-scheduler's entries to schedules.")
@app_argument
@setting("--tz", default=None, metavar="ZONE", help="Zone of cron expressions that name none.")
@click.option("--dry-run", "-n", is_flag=True, help="Only show what would be moved.")
@setting("--yes", "-y", is_flag=True, help="Do not ask.")
@redis_option
@json_option
def import_command(
    app: str | None, tz: str | None, dry_run: bool, yes: bool, redis_url: str | None, as_json: bool
) -> None:
    """Look, ask, move."""
    from taskq.finder import find_app  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.worker.rq_entries import usual_zone  # noqa: PLC0415 (the same)
    from taskq.worker.rq_import import Importer  # noqa: PLC0415 (the same)

    found: TaskQ | None = None
    if app:
        found = find_app(app, "taskq schedules import")
        found.load()
    zone = tz or str(usual_zone())
    with open_broker(redis_url or (found.url if found else None)) as broker:
        importer = Importer(broker, found, zone)
        all_ = list(importer.candidates())
        movable = [one for one in all_ if not one.reason]
        stay = [(one, one.reason) for one in all_ if one.reason]
        if not dry_run and movable and not yes:
            _ask(len(movable))
        moved: list[Candidate] = []
        if not dry_run:
            try:
                for one in movable:
                    outcome = importer.move(one)
                    if outcome == "moved":
                        moved.append(one)
                    else:
                        stay.append((one, outcome))
            finally:
                importer.close()
    chosen = movable if dry_run else moved
    if as_json:
        print_json(_data(chosen, stay, dry_run=dry_run))
    else:
        _show(chosen, stay, dry_run=dry_run)
    if stay and not dry_run:
        raise click.exceptions.Exit(EXIT_FAILED)


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _ask(count: int) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(f"{_entries(count)} would be moved: say --yes.")
    click.confirm(f"Move {_entries(count)} to schedules?", abort=True)


def _data(
    chosen: Sequence[Candidate], stay: Sequence[tuple[Candidate, str]], *, dry_run: bool
) -> dict[str, Any]:
    def row(one: Candidate) -> dict[str, Any]:
        return {"job": one.id, "name": one.name, "function": one.function, "when": one.when,
                "next_at": iso(one.due_at)}  # fmt: skip

    return {
        "dry_run": dry_run,
        "moved": [row(one) for one in chosen],
        "stay": [{**row(one), "reason": reason} for one, reason in stay],
    }


def _show(
    chosen: Sequence[Candidate], stay: Sequence[tuple[Candidate, str]], *, dry_run: bool
) -> None:
    columns = [Column("name", cut=True), Column("when", cut=True), Column("next")]
    rows = [[safe_line(one.name), safe_line(one.when), iso(one.due_at) or ""] for one in chosen]
    if rows:
        for line in table(columns, rows):
            say(line)
    verb = "would be moved" if dry_run else "moved"
    say(f"{_entries(len(chosen))} {verb}.")
    for one, reason in stay:
        complain(f"{safe_line(one.name)} ({safe_line(one.when)}) stays: {safe_line(reason)}.")


@click.command("aside", short_help="List entries of rq-scheduler that could not be fired.")
@redis_option
@json_option
def aside_command(redis_url: str | None, as_json: bool) -> None:
    """List entries of rq-scheduler that were set aside because they could not be fired.

    RQScheduler.restore(ID) puts one back when it has been mended.
    """
    from taskq.worker.rq_entries import asides  # noqa: PLC0415 (late: a command imports what it needs)

    with open_broker(redis_url) as broker:
        found = asides(broker)
    if as_json:
        print_json({"aside": [
            {"job": one.id, "reason": one.reason, "due_at": iso(one.due), "since": iso(one.since)}
            for one in found
        ]})  # fmt: skip
        return
    if not found:
        say("No entry was set aside.")
        return
    for one in found:
        say(f"{safe_line(one.id)}  due {iso(one.due)}  {safe_line(one.reason)}")
