"""`taskq schedules`: what there is and what comes next; pause, resume, remove, run, preview."""

from __future__ import annotations

import importlib.util
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from taskq.cli.connect import open_broker, open_inspector
from taskq.cli.options import Command, Moment, json_option, redis_option, setting
from taskq.cli.output import Column, complain, plural, print_json, say, table
from taskq.cli.query import iso
from taskq.cli.schedule_rows import as_data, cells, local_time, story
from taskq.errors import ScheduleNotFound
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker.client import Broker
    from taskq.inspector import ScheduleList
    from taskq.schedules.asking import Steps

_HELP = """List schedules: the next to fire first.

\b
Examples:
  taskq schedules
  taskq schedules --upcoming                     with the next five times of each
  taskq schedules --json                         all there is, times in UTC
  taskq schedules show report                    one of them, with its next five times
  taskq schedules run report                     its job now, beside its times
  taskq schedules pause report                   until: taskq schedules resume report
  taskq schedules remove report --yes
  taskq schedules preview "0 7 * * mon-fri" --tz Europe/Berlin
"""

_LAZY = {
    "import": ("taskq.cli.schedules_import", "import_command"),
    "aside": ("taskq.cli.schedules_import", "aside_command"),
}
"""Commands in modules of their own."""


class Schedules(click.Group, Command):
    """`taskq schedules` by itself lists; its commands look at or change one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, the lazy ones included that are there."""
        there = [name for name, (module, _) in _LAZY.items() if _is_there(module)]
        return [*super().list_commands(ctx), *there]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import what is lazy."""
        if cmd_name in _LAZY and _is_there(_LAZY[cmd_name][0]):
            module, attribute = _LAZY[cmd_name]
            found: click.Command = getattr(importlib.import_module(module), attribute)
            return found
        return super().get_command(ctx, cmd_name)


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@click.group(
    "schedules",
    cls=Schedules,
    help=_HELP,
    short_help="List schedules; pause, run, preview.",
    invoke_without_command=True,
)
@setting(
    "--limit",
    "-n",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="List so many.",
)
@setting("--upcoming", "-u", is_flag=True, help="Below each its next five times, in its zone.")
@redis_option
@json_option
@click.pass_context
def schedules_command(
    ctx: click.Context, limit: int, upcoming: bool, redis_url: str | None, as_json: bool
) -> None:
    """Ask, and show the answer."""
    if ctx.invoked_subcommand is not None:
        return
    from taskq.inspector import schedules  # noqa: PLC0415 (late: a command imports what it needs)

    with open_inspector(redis_url) as inspector:
        found = inspector.run(schedules(inspector.keys, limit=limit))
    if as_json:
        print_json(
            {
                "at": iso(found.at),
                "total": found.total,
                "overdue": found.overdue,
                "schedules": [as_data(row) for row in found.rows],
            }
        )
        return
    if not found.total:
        say("No schedules. Those in an app's code come with its scheduler: taskq scheduler APP.")
        return
    _print(found, upcoming=upcoming)
    if found.overdue:
        complain(
            f"{plural(found.overdue, 'schedule')} overdue: does a scheduler run? "
            "(taskq scheduler APP, or taskq worker APP --with-scheduler)"
        )


def _print(found: ScheduleList, *, upcoming: bool) -> None:
    """The table, for people."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415 (late: a command imports what it needs)

    columns = [
        Column("name", cut=True),
        Column("when", cut=True),
        Column("zone"),
        Column("next", right=True),
        Column("last", right=True),
        Column("ended"),
        Column("missed"),
        Column("task", cut=True),
    ]
    head, *lines = table(columns, [cells(row, found.at) for row in found.rows])
    say(head)
    for line, row in zip(lines, found.rows):
        say(line)
        for at in row.upcoming if upcoming else ():
            say(f"    {local_time(at, ZoneInfo(row.tz))}")
    if found.total > len(found.rows):
        say(f"{len(found.rows)} of {found.total:,} schedules: --limit shows more.")


def _named(command: str, short_help: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command on the schedule NAME."""

    def decorate(function: Callable[..., None]) -> click.Command:
        for option in (json_option, redis_option, click.argument("name")):
            function = option(function)
        return schedules_command.command(command, short_help=short_help)(function)

    return decorate


@_named("show", "Show one schedule.")
def show_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Show everything about the schedule NAME, with its next five times."""
    from taskq.inspector import schedule  # noqa: PLC0415 (late: a command imports what it needs)

    with open_inspector(redis_url) as inspector:
        row = inspector.run(schedule(inspector.keys, name))
    if row is None:
        raise ScheduleNotFound(f"There is no schedule {name!r}. taskq schedules lists them.")
    if as_json:
        print_json(as_data(row))
        return
    for line in story(row):
        say(line)


@_named("run", "Enqueue a schedule's job now.")
def run_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Enqueue the job of the schedule NAME now, beside its times."""
    from taskq.app import TaskQ  # noqa: PLC0415 (late: a command imports what it needs)

    with open_broker(redis_url) as broker:
        app = TaskQ(broker.url)
        try:
            handle = app.schedules.run(name)
        finally:
            app.close()
    if as_json:
        print_json({"name": name, "job": handle.id})
    else:
        say(f"Enqueued as job {handle.id}.")


@_named("pause", "Stop a schedule until it is resumed.")
def pause_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Stop the schedule NAME until it is resumed. A new release of the code does not."""
    from taskq.schedules import changes  # noqa: PLC0415 (late: a command imports what it needs)

    _change(redis_url, lambda broker: changes.pause(broker.keys, name), name, as_json,
            ("paused", "was paused already"))  # fmt: skip


@_named("resume", "Let a paused schedule go on.")
def resume_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Let the schedule NAME go on with its next time; what was due meanwhile is not made up for."""
    from taskq.schedules import changes  # noqa: PLC0415 (late: a command imports what it needs)

    _change(redis_url, lambda broker: changes.resume(broker.keys, name), name, as_json,
            ("resumed", "was not paused"))  # fmt: skip


@_named("remove", "Remove a schedule.")
@setting("--yes", "-y", is_flag=True, help="Do not ask.")
def remove_command(name: str, yes: bool, redis_url: str | None, as_json: bool) -> None:
    """Remove the schedule NAME. Its jobs stay.

    One that the code of an app defines comes back when a scheduler of that app starts:
    pause it instead, or remove it from the code.
    """
    from taskq.inspector import Inspector, schedule  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.schedules import changes  # noqa: PLC0415 (the same)

    with open_broker(redis_url) as broker:
        row = Inspector(broker).run(schedule(broker.keys, name))
    if row is None:
        raise ScheduleNotFound(f"There is no schedule {name!r}. taskq schedules lists them.")
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise click.UsageError(f"The schedule {name!r} would be removed: say --yes.")
        if not click.confirm(f"Remove the schedule {safe_line(name)}?", default=False):
            return
    _change(redis_url, lambda _broker: changes.remove(name), name, as_json,
            ("removed", "was gone already"))  # fmt: skip
    if row.app and not as_json:
        complain(f"The code of {safe_line(row.app)} defines it: it comes back when a scheduler "
                 "of that app starts.")  # fmt: skip


@schedules_command.command("preview", short_help="Show the times of a cron expression.")
@click.argument("expression")
@click.option("--tz", default="UTC", show_default=True, help="Time zone, like Europe/Berlin.")
@click.option("--count", "-n", type=click.IntRange(1, 1000), default=5, show_default=True,
              help="So many times.")  # fmt: skip
@click.option("--from", "start", type=Moment(), metavar="WHEN",
              help="After this date with its zone, instead of now.")  # fmt: skip
@json_option
def preview_command(
    expression: str, tz: str, count: int, start: datetime | None, as_json: bool
) -> None:
    """Show what EXPRESSION means and when it comes next, without Redis."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415 (late: a command imports what it needs)

    from taskq.timing import Cron, moment_ms  # noqa: PLC0415 (the same)

    cron = Cron(expression, tz=tz)
    at: int | None = moment_ms("--from", start or datetime.now(timezone.utc))
    times: list[datetime] = []
    while at is not None and len(times) < count:
        at = cron.after(at)
        if at is not None:
            times.append(datetime.fromtimestamp(at / 1000, timezone.utc))
    if as_json:
        print_json(
            {
                "expression": cron.expression,
                "tz": cron.tz,
                "words": cron.words,
                "times": [iso(one.timestamp()) for one in times],
            }
        )
        return
    say(f"{cron.words} ({safe_line(cron.tz)})")
    for one in times:
        say(local_time(one.timestamp(), ZoneInfo(cron.tz)))


def _change(
    redis_url: str | None,
    steps: Callable[[Broker], Steps[bool]],
    name: str,
    as_json: bool,
    words: tuple[str, str],
) -> None:
    """Carry out a change and say what became of it."""
    from taskq.schedules.asking import run  # noqa: PLC0415 (late: a command imports what it needs)

    with open_broker(redis_url) as broker:
        done = run(broker, steps(broker))
    if as_json:
        print_json({"name": name, words[0]: done})
    else:
        say(f"{safe_line(name)} {'is ' + words[0] if done else words[1]}.")
