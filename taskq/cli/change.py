"""`taskq retry`, `taskq cancel` and `taskq purge`: what changes jobs, after asking."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from taskq.cli.choosing import agreed, check_choice, choice_options, choose, gather, regret, report
from taskq.cli.connect import open_broker
from taskq.cli.group import EXIT_FAILED
from taskq.cli.options import command
from taskq.cli.query import status_option

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

_PURGE_HELP = """Delete jobs that wait, or have ended, with all that belongs to them.

\b
Examples:
  taskq purge -q low                        what waits in "low"
  taskq purge --status failed --since 30d --dry-run
  taskq purge --task thumbnail --status queued --status scheduled
  taskq purge --all --yes                   what waits, in all queues
  taskq purge 0aJx3kLmP9qRsTuVwXyZ12

Filters choose jobs that wait in a queue, others only with --status. A job that runs is
never deleted, nor one that other jobs wait for: cancel it, or delete those first. Who
waits for a deleted job is told. Asks first on a terminal; elsewhere it needs --yes.
Exit code 1 when a job named by its id was not deleted.
"""

_RETRY_STATUSES = ("failed", "stopped", "canceled")
_CANCEL_STATUSES = ("queued", "scheduled", "deferred", "started")
_PURGE_STATUSES = ("queued", "scheduled", "deferred", "failed", "stopped", "finished", "canceled")


@command("retry", text=_RETRY_HELP, summary="Run failed jobs again.")
@choice_options
@status_option(_RETRY_STATUSES)
def retry_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, queue again."""
    from taskq.operations import retry  # noqa: PLC0415 (late: a command imports what it needs)

    check_choice(ids, options)
    with open_broker(options["redis_url"]) as broker:
        chosen = choose(broker, ids, options, ("failed", "stopped"))
        if not agreed(chosen, options, "Run again", "run again"):
            return
        done = gather(
            chosen,
            # Oldest first: they have waited longest.
            lambda _queue, some, progress: asdict(
                retry(broker, some if ids else some[::-1], progress=progress)
            ),
            "Queued again",
        )
    report(done, options, "queued", {"queued": "queued again"}, named=bool(ids))
    if ids and (done["refused"] or done["missing"]):
        regret(done["missing"], "no such job")
        regret(done["refused"], "not failed, canceled or stopped")
        raise click.exceptions.Exit(EXIT_FAILED)


@command("cancel", text=_CANCEL_HELP, summary="Cancel jobs that have not ended.")
@choice_options
@status_option(_CANCEL_STATUSES)
def cancel_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, cancel."""
    from taskq.operations import cancel  # noqa: PLC0415 (late: a command imports what it needs)

    check_choice(ids, options)
    with open_broker(options["redis_url"]) as broker:
        chosen = choose(broker, ids, options, ("queued", "scheduled", "deferred"))
        if not agreed(chosen, options, "Cancel", "be canceled"):
            return
        done = gather(
            chosen,
            lambda queue, some, progress: asdict(
                cancel(broker, some, queue=queue, progress=progress)
            ),
            "Canceled",
        )
    words = {"canceled": "canceled", "asked": "running, asked to stop"}
    report(done, options, "canceled", words, named=bool(ids))
    if ids and (done["ended"] or done["missing"]):
        regret(done["missing"], "no such job")
        regret(done["ended"], "has ended already")
        raise click.exceptions.Exit(EXIT_FAILED)


@command("purge", text=_PURGE_HELP, summary="Delete jobs that do not run.")
@choice_options
@status_option(_PURGE_STATUSES)
def purge_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, delete."""
    from taskq.operations import purge  # noqa: PLC0415 (late: a command imports what it needs)

    check_choice(ids, options)
    with open_broker(options["redis_url"]) as broker:
        chosen = choose(broker, ids, options, ("queued",))
        if not agreed(chosen, options, "Delete", "be deleted"):
            return
        done = gather(
            chosen,
            lambda queue, some, progress: asdict(
                purge(broker, some, queue=queue, progress=progress)
            ),
            "Deleted",
        )
    words = {"purged": "deleted", "needed": "left alone: other jobs wait for them"}
    report(done, options, "purged", words, named=bool(ids))
    left = {name: done[name] for name in ("missing", "running", "changed", "needed")}
    if ids and any(left.values()):
        regret(left["missing"], "no such job")
        regret(left["running"], "it runs: cancel it first")
        regret(left["changed"], "just being taken by a worker, or in the hands of RQ's own code")
        regret(left["needed"], "other jobs wait for it: delete them first")
        raise click.exceptions.Exit(EXIT_FAILED)
