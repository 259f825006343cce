"""What commands that change many jobs share: which ones, what would happen, asking, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.options import json_option, redis_option, setting
from taskq.cli.output import complain, plural, print_json, say
from taskq.cli.query import criteria, filter_options, filtered, row_data, rows_table
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.broker.client import Broker
    from taskq.inspector import JobRow

SAMPLE = 5
_WORTH_TELLING = 2_000
"""Fewer jobs are done before somebody has read it."""


@dataclass
class Choice:
    """The jobs that a command is about.

    Attributes:
        groups: queue ("" where it is not known) and ids, the newest first or as given.
        sample: the first few of them, read.
    """

    groups: list[tuple[str, list[str]]] = field(default_factory=list)
    sample: list[JobRow] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """All of them."""
        return [job_id for _queue, ids in self.groups for job_id in ids]

    def __len__(self) -> int:
        """How many."""
        return sum(len(ids) for _queue, ids in self.groups)


def choice_options(command: Any) -> Any:
    """The options of a command that changes jobs."""
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


def check_choice(ids: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse ids together with filters, and neither.

    Raises:
        click.UsageError: one of these.
    """
    by_filter = filtered(options) or options["everything"]
    if ids and (by_filter or options["limit"]):
        raise click.UsageError("Give ids or filters, not both.", click.get_current_context())
    if not ids and not by_filter:
        message = "Which jobs? Give ids, a filter, or --all."
        raise click.UsageError(message, click.get_current_context())


def choose(
    broker: Broker, ids: tuple[str, ...], options: dict[str, Any], default: Iterable[str]
) -> Choice:
    """The jobs to change, queue by queue."""
    from taskq.inspector import Inspector, find, listed  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.inspector.overview import queue_names  # noqa: PLC0415 (the same)

    inspector = Inspector(broker)
    if ids:
        unique = list(dict.fromkeys(ids))
        sample = inspector.run(listed(broker.keys, unique[:SAMPLE], errors=True))
        return Choice([("", unique)], sample)
    wanted = criteria(options, default)
    if options["limit"]:
        found = inspector.run(find(broker.keys, wanted, limit=options["limit"]))
        groups: dict[str, list[str]] = {}
        for row in found.jobs:
            groups.setdefault(row.queue, []).append(row.id)
        return Choice(list(groups.items()), list(found.jobs[:SAMPLE]))
    chosen = Choice()
    names = list(wanted.queues) or inspector.run(queue_names(broker.keys))
    for name in names:
        one = criteria({**options, "queues": (name,)}, default)
        found = inspector.run(find(broker.keys, one, keep=SAMPLE))
        if found.ids:
            chosen.groups.append((name, list(found.ids)))
            chosen.sample += found.jobs[: SAMPLE - len(chosen.sample)]
    return chosen


def agreed(chosen: Choice, options: dict[str, Any], verb: str, future: str) -> bool:
    """Show what is about to happen; whether it shall."""
    if options["dry_run"]:
        _show_plan(chosen, options, f"Would {future}")
        return False
    if not len(chosen):
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
    _show_plan(chosen, {**options, "as_json": False}, verb)
    return click.confirm(f"{verb} {plural(len(chosen), 'job')}?", default=False)


def _show_plan(chosen: Choice, options: dict[str, Any], title: str) -> None:
    sample = chosen.sample
    if options["as_json"]:
        rows = [row_data(row) for row in sample]
        print_json({"count": len(chosen), "ids": chosen.ids, "sample": rows})
        return
    say(f"{title}: {plural(len(chosen), 'job')}{'.' if not sample else ''}")
    for line in rows_table(sample, errors=any(row.error for row in sample)) if sample else ():
        say(f"  {line}")
    if len(chosen) > len(sample):
        say(f"  and {len(chosen) - len(sample):,} more")


def gather(
    chosen: Choice,
    work: Callable[[str, list[str], Callable[[int], None] | None], dict[str, list[str]]],
    doing: str,
) -> dict[str, list[str]]:
    """Do `work(queue, ids, progress)` for each queue, and put the answers together.

    Args:
        chosen: the jobs.
        work: changes those of one queue; its answer has ids by what became of them.
        doing: what is shown on a terminal meanwhile, "Canceled".
    """
    done: dict[str, list[str]] = {}
    before, total = 0, len(chosen)
    shows = total >= _WORTH_TELLING and sys.stderr.isatty()

    def tell(n: int) -> None:
        click.echo(f"\r{doing} {before + n:,} of {total:,} ...", err=True, nl=False)

    for queue, ids in chosen.groups or [("", [])]:
        for name, part in work(queue, ids, tell if shows else None).items():
            done.setdefault(name, []).extend(part)
        before += len(ids)
    if shows:
        click.echo(f"\r{' ' * 70}\r", err=True, nl=False)
    return done


def report(
    done: dict[str, list[str]],
    options: dict[str, Any],
    main: str,
    words: dict[str, str],
    *,
    named: bool,
) -> None:
    """Say what was done: counts for people, all ids for programs.

    What was left alone is counted here, or named by `regret` where it was named before.
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


def regret(ids: Sequence[str], reason: str) -> None:
    """Say why nothing was done to jobs that were named."""
    for job_id in ids:
        complain(f"{safe_line(job_id)}: {reason}.")
