"""`taskq retry`, `taskq cancel` and `taskq purge`: what changes jobs, after asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from taskq.cli.choosing import agreed, check_choice, choice_options, choose, gather, regret, report
from taskq.cli.connect import open_broker
from taskq.cli.group import EXIT_FAILED
from taskq.cli.options import command
from taskq.cli.query import status_option

if TYPE_CHECKING:
    from taskq.broker.client import Broker

Told = Callable[[int], None] | None
_Work = Callable[["Broker", list[str], str, Told], Any]
"""Changes the jobs of one queue; its answer is a dataclass with ids by what became of them."""

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


class _Change(NamedTuple):
    """One command that changes jobs.

    Attributes:
        default: statuses that it chooses from where none is given.
        verb: what is asked: "Cancel".
        future: what would be: "be canceled".
        past: what has been done: "Canceled".
        counts: for people: what became of jobs, with its words; the first one is what was wanted.
        reasons: why nothing was done to a job that was named, by what became of it.
    """

    default: tuple[str, ...]
    verb: str
    future: str
    past: str
    counts: dict[str, str]
    reasons: dict[str, str]

    def run(self, ids: tuple[str, ...], options: dict[str, Any], work: _Work) -> None:
        """Choose, ask, change, and say what became of them."""
        check_choice(ids, options)
        with open_broker(options["redis_url"]) as broker:
            chosen = choose(broker, ids, options, self.default)
            if not agreed(chosen, options, self.verb, self.future):
                return
            done = gather(
                chosen,
                lambda queue, some, progress: asdict(work(broker, some, queue, progress)),
                self.past,
            )
        report(done, options, next(iter(self.counts)), self.counts, named=bool(ids))
        if ids and any(done[name] for name in self.reasons):
            for name, reason in self.reasons.items():
                regret(done[name], reason)
            raise click.exceptions.Exit(EXIT_FAILED)


_RETRY = _Change(
    ("failed", "stopped"), "Run again", "run again", "Queued again",
    {"queued": "queued again"},
    {"missing": "no such job", "refused": "not failed, canceled or stopped"},
)  # fmt: skip
_CANCEL = _Change(
    ("queued", "scheduled", "deferred"), "Cancel", "be canceled", "Canceled",
    {"canceled": "canceled", "asked": "running, asked to stop"},
    {"missing": "no such job", "ended": "has ended already"},
)  # fmt: skip
_PURGE = _Change(
    ("queued",), "Delete", "be deleted", "Deleted",
    {"purged": "deleted", "needed": "left alone: other jobs wait for them"},
    {
        "missing": "no such job",
        "running": "it runs: cancel it first",
        "changed": "just being taken by a worker, or in the hands of RQ's own code",
        "needed": "other jobs wait for it: delete them first",
    },
)  # fmt: skip


@command("retry", text=_RETRY_HELP, summary="Run failed jobs again.")
@choice_options
@status_option(_RETRY_STATUSES)
def retry_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, queue again."""
    from taskq.operations import retry  # noqa: PLC0415 (late: a command imports what it needs)

    def work(broker: Broker, some: list[str], _queue: str, progress: Told) -> Any:
        # Oldest first: they have waited longest.
        return retry(broker, some if ids else some[::-1], progress=progress)

    _RETRY.run(ids, options, work)


@command("cancel", text=_CANCEL_HELP, summary="Cancel jobs that have not ended.")
@choice_options
@status_option(_CANCEL_STATUSES)
def cancel_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, cancel."""
    from taskq.operations import cancel  # noqa: PLC0415 (late: a command imports what it needs)

    def work(broker: Broker, some: list[str], queue: str, progress: Told) -> Any:
        return cancel(broker, some, queue=queue, progress=progress)

    _CANCEL.run(ids, options, work)


@command("purge", text=_PURGE_HELP, summary="Delete jobs that do not run.")
@choice_options
@status_option(_PURGE_STATUSES)
def purge_command(ids: tuple[str, ...], **options: Any) -> None:
    """Choose, ask, delete."""
    from taskq.operations import purge  # noqa: PLC0415 (late: a command imports what it needs)

    def work(broker: Broker, some: list[str], queue: str, progress: Told) -> Any:
        return purge(broker, some, queue=queue, progress=progress)

    _PURGE.run(ids, options, work)
