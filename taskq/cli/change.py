"""`taskq retry` and `taskq cancel`: what changes jobs, after asking."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.connect import open_broker
from taskq.cli.group import EXIT_FAILED
from taskq.cli.options import command, json_option, redis_option, setting
from taskq.cli.output import complain, plural, print_json, say
from taskq.cli.query import criteria, filter_options, filtered, row_data, rows_table, status_option
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.broker.client import Broker
    from taskq.inspector import JobRow

_RETRY_HELP = """Run failed jobs again: back into their queues, their attempts start anew.

\b
Examples:
  taskq retry 0aJx3kLmP9qRsTuVwXyZ12
  taskq retry --task thumbnail --since 1h
  taskq retry --error ConnectionError --dry-run
  taskq retry --all -q high --yes
  taskq retry --status canceled --task report

Asks first on a terminal; elsewhere it needs --yes. Exit code 1 when a job named by
its id could not be queued again.
"""

_CANCEL_HELP = """Cancel jobs that wait; ask those that run to stop.

\b
Examples:
  taskq cancel 0aJx3kLmP9qRsTuVwXyZ12
  taskq cancel --task thumbnail -q low
  taskq cancel --status scheduled --since 1h --dry-run
  taskq cancel --all -q low --yes

Filters choose jobs that wait; those that run only with --status started. Asks first
on a terminal; elsewhere it needs --yes. Exit code 1 when a job named by its id could
not be canceled.
"""

_RETRY_STATUSES = ("failed", "stopped", "canceled")
_CANCEL_STATUSES = ("queued", "scheduled", "deferred", "started")
SAMPLE = 5


def _choice(command: Any) -> Any:
    """The options that both commands share."""
    for decorate in (
        json_option,
        redis_option,
        setting("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        setting("--yes", "-y", is_flag=True, help="Do not ask."),
        setting(
            "--limit",
            "-n",
            type=click.IntRange(min=1),
            help="At most so many, the newest. Default: all that fit.",
        ),
        setting("--all", "everything", is_flag=True, help="All there are, without a filter."),
        filter_options,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = decorate(command)
    return command


@command("retry", text=_RETRY_HELP, summary="Run failed jobs again.")
@_choice
@status_option(_RETRY_STATUSES)
def retry_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, queue again."""
    from taskq.operations import retry  # noqa: PLC0415 (late: a command imports what it needs)

    _check_choice(ids, options)
    with open_broker(options["redis_url"]) as broker:
        chosen, sample = _choose(broker, ids, options, ("failed", "stopped"))
        if not _agreed(chosen, sample, options, "Run again", "run again"):
            return
        # Oldest first: they have waited longest.
        done = retry(broker, chosen if ids else chosen[::-1])
    _report(asdict(done), options, "queued", {"queued": "queued again"}, named=bool(ids))
    if ids and (done.refused or done.missing):
        _regret(done.missing, "no such job")
        _regret(done.refused, "not failed, canceled or stopped")
        raise click.exceptions.Exit(EXIT_FAILED)


@command("cancel", text=_CANCEL_HELP, summary="Cancel jobs that have not ended.")
@_choice
@status_option(_CANCEL_STATUSES)
def cancel_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, cancel."""
    from taskq.operations import cancel  # noqa: PLC0415 (late: a command imports what it needs)

    _check_choice(ids, options)
    with open_broker(options["redis_url"]) as broker:
        chosen, sample = _choose(broker, ids, options, ("queued", "scheduled", "deferred"))
        if not _agreed(chosen, sample, options, "Cancel", "be canceled"):
            return
        # Oldest first: each is then found at the head of its queue, not after all others.
        done = cancel(broker, chosen if ids else chosen[::-1])
    words = {"canceled": "canceled", "asked": "running, asked to stop"}
    _report(asdict(done), options, "canceled", words, named=bool(ids))
    if ids and (done.ended or done.missing):
        _regret(done.missing, "no such job")
        _regret(done.ended, "has ended already")
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_choice(ids: tuple[str, ...], options: dict[str, Any]) -> None:
    by_filter = filtered(options) or options["everything"]
    if ids and (by_filter or options["limit"]):
        raise click.UsageError("Give ids or filters, not both.", click.get_current_context())
    if not ids and not by_filter:
        message = "Which jobs? Give ids, a filter, or --all."
        raise click.UsageError(message, click.get_current_context())


def _choose(
    broker: Broker, ids: tuple[str, ...], options: dict[str, Any], default: Iterable[str]
) -> tuple[list[str], list[JobRow]]:
    """The ids to change, newest first or as given, and the first few of them, read."""
    from taskq.inspector import Inspector, find, listed  # noqa: PLC0415 (late: a command imports what it needs)

    inspector = Inspector(broker)
    if ids:
        unique = list(dict.fromkeys(ids))
        return unique, inspector.run(listed(broker.keys, unique[:SAMPLE], errors=True))
    wanted = criteria(options, default)
    found = inspector.run(
        find(broker.keys, wanted, limit=options["limit"], keep=SAMPLE, errors=False)
    )
    return list(found.ids), list(found.jobs[:SAMPLE])


def _agreed(
    chosen: list[str], sample: list[JobRow], options: dict[str, Any], verb: str, future: str
) -> bool:
    """Show what is about to happen; whether it shall."""
    if options["dry_run"]:
        _show_plan(chosen, sample, options, f"Would {future}")
        return False
    if not chosen:
        if options["as_json"]:
            return True  # the report says that nothing was done
        say("No jobs fit.")
        return False
    if options["yes"]:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            f"{plural(len(chosen), 'job')} would {future}: say --yes, or --dry-run to see them."
        )
    _show_plan(chosen, sample, {**options, "as_json": False}, verb)
    return click.confirm(f"{verb} {plural(len(chosen), 'job')}?", default=False)


def _show_plan(
    chosen: list[str], sample: list[JobRow], options: dict[str, Any], title: str
) -> None:
    if options["as_json"]:
        data = {"count": len(chosen), "ids": chosen, "sample": [row_data(row) for row in sample]}
        print_json(data)
        return
    say(f"{title}: {plural(len(chosen), 'job')}{'.' if not sample else ''}")
    for line in rows_table(sample, errors=any(row.error for row in sample)) if sample else ():
        say(f"  {line}")
    if len(chosen) > len(sample):
        say(f"  and {len(chosen) - len(sample):,} more")


def _report(
    done: dict[str, list[str]],
    options: dict[str, Any],
    main: str,
    words: dict[str, str],
    *,
    named: bool,
) -> None:
    """Say what was done: counts for people, all ids for programs.

    What was left alone is counted here, or named by `_regret` where it was named before.
    """
    if options["as_json"]:
        print_json(done)
        return
    for name, text in words.items():
        if done[name] or name == main:
            say(f"{plural(len(done[name]), 'job')} {text}.")
    rest = sum(len(ids) for name, ids in done.items() if name not in words)
    if rest and not named:
        say(f"{plural(rest, 'job')} left alone: changed meanwhile, or gone.")


def _regret(ids: list[str], reason: str) -> None:
    for job_id in ids:
        complain(f"{safe_line(job_id)}: {reason}.")
