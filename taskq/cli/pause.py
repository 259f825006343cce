"""`taskq pause` and `taskq resume`: queues that workers leave alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.connect import open_broker
from taskq.cli.options import command, json_option, redis_option, setting
from taskq.cli.output import complain, plural, print_json, say
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.broker.client import Broker

_PAUSE_HELP = """Have taskq workers take nothing more from a queue. What runs goes on.

\b
Examples:
  taskq pause low
  taskq pause low mail --yes

Workers hear of it at once; jobs can be enqueued all the same, and wait. Stock RQ workers
know no paused queues: "rq suspend" stops them, and ours. Asks first on a terminal.
"""

_RESUME_HELP = """Have taskq workers take jobs from a paused queue again.

\b
Examples:
  taskq resume low
  taskq resume --all --yes        every paused queue

Asks first on a terminal.
"""


def _shared(command: Any) -> Any:
    for decorate in (
        json_option,
        redis_option,
        setting("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        setting("--yes", "-y", is_flag=True, help="Do not ask."),
    ):
        command = decorate(command)
    return command


@command("pause", text=_PAUSE_HELP, summary="Have workers leave a queue alone.")
@click.argument("queues", nargs=-1, required=True, metavar="QUEUE...")
@_shared
def pause_command(queues: tuple[str, ...], redis_url: str | None, **options: Any) -> None:
    """Ask, pause."""
    from taskq.operations import pause  # noqa: PLC0415 (late: a command imports what it needs)

    with open_broker(redis_url) as broker:
        known, paused = _state(broker)
        _warn_of_unknown([name for name in queues if name not in known], known)
        new = [name for name in dict.fromkeys(queues) if name not in paused]
        if not _agreed("pause", new, options):
            return
        changed = pause(broker, new) if new else []
    _report("paused", changed, [name for name in queues if name not in changed], options)


@command("resume", text=_RESUME_HELP, summary="Have workers serve a paused queue again.")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@setting("--all", "everything", is_flag=True, help="Every paused queue.")
@_shared
def resume_command(
    queues: tuple[str, ...], redis_url: str | None, *, everything: bool, **options: Any
) -> None:
    """Ask, resume."""
    from taskq.operations import resume  # noqa: PLC0415 (late: a command imports what it needs)

    if bool(queues) == everything:
        raise click.UsageError("Which queues? Name them, or say --all.")
    with open_broker(redis_url) as broker:
        _known, paused = _state(broker)
        chosen = sorted(paused) if everything else list(dict.fromkeys(queues))
        held = [name for name in chosen if name in paused]
        if not _agreed("resume", held, options):
            return
        changed = resume(broker, held) if held else []
    _report("resumed", changed, [name for name in chosen if name not in changed], options)


def _state(broker: Broker) -> tuple[list[str], set[str]]:
    """All queues there are, and those that are paused."""
    from taskq.inspector import Inspector  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.inspector.overview import queue_names  # noqa: PLC0415 (the same)
    from taskq.inspector.values import items, text  # noqa: PLC0415 (the same)

    known = Inspector(broker).run(queue_names(broker.keys))
    return known, {text(name) for name in items(broker.call("SMEMBERS", broker.keys.paused))}


def _warn_of_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        there = ", ".join(safe_line(one) for one in known[:10]) or "none"
        complain(
            f"No queue {safe_line(name)!r} yet (there: {there}). Pausing it counts when it comes."
        )


def _agreed(verb: str, names: list[str], options: dict[str, Any]) -> bool:
    """Whether it shall be done. What is done twice harms nobody, so only a person is asked."""
    shown = ", ".join(safe_line(name) for name in names)
    if options["dry_run"]:
        if options["as_json"]:
            print_json({"count": len(names), "queues": names})
        else:
            say(f"Would {verb}: {shown or 'nothing'}.")
        return False
    if not names or options["yes"] or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return click.confirm(f"{verb.capitalize()} {plural(len(names), 'queue')}: {shown}?")


def _report(done: str, changed: list[str], rest: list[str], options: dict[str, Any]) -> None:
    if options["as_json"]:
        print_json({done: changed, "unchanged": rest})
        return
    if changed:
        say(f"{done.capitalize()}: {', '.join(map(safe_line, changed))}.")
    if rest or not changed:
        was = "paused already" if done == "paused" else "not paused"
        names = ", ".join(map(safe_line, rest))
        say(f"{names}: {was}." if rest else "No queue is paused.")
