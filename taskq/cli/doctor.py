"""`taskq doctor`: is each job in exactly one place, and is this Redis fit to keep it?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.connect import open_broker
from taskq.cli.group import EXIT_FAILED
from taskq.cli.options import command, json_option, redis_option, setting
from taskq.cli.output import paint, plural, print_json, say
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.broker.client import Broker
    from taskq.inspector.doctor import Diagnosis, Finding
    from taskq.repairs import Step

_HELP = """Check that each accepted job is in exactly one place, and that this Redis is fit.

\b
Examples:
  taskq doctor                     reads only, in steps of 1,000 keys
  taskq doctor --redis-url redis://old.internal/0     a plain RQ database, too
  taskq doctor --repair --dry-run  what would be mended
  taskq doctor --repair --yes      mends what is safe, telling each step
  taskq doctor --json              {"sound", "jobs", "places", "findings", "steps"}

Needs about 230 bytes of memory for each job. What looks wrong is looked at three
times, so that jobs on their way from one place to the next are not accused.

Exit codes: 0 no errors (there may be warnings), or all of them mended; 1 errors are left.
"""

_COLORS = {"error": "red", "warning": "yellow", "note": None}
_SHOWN = 5
_WORK_S = 60.0


@command("doctor", text=_HELP, summary="Check jobs and Redis, mend what is safe.")
@setting("--repair", is_flag=True, help="Mend what is safe.")
@setting("--dry-run", is_flag=True, help="With --repair: say what would be done, do nothing.")
@setting("--yes", "-y", is_flag=True, help="With --repair: do not ask.")
@redis_option
@json_option
def doctor_command(
    redis_url: str | None, as_json: bool, repair: bool, dry_run: bool, yes: bool
) -> None:
    """Look, say what was found, mend if told, look again."""
    from taskq.inspector import Inspector  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.inspector.doctor import examine  # noqa: PLC0415 (the same)
    from taskq.repairs import plan  # noqa: PLC0415 (the same)

    with open_broker(redis_url, deadline_s=_WORK_S) as broker:
        inspector = Inspector(broker)
        found = examine(inspector)
        if not as_json:
            _show(found)
        steps = plan(found) if repair else []
        told: list[dict[str, str]] = []
        if steps and _agreed(steps, as_json=as_json, dry_run=dry_run, yes=yes):
            told = _mend(broker, steps, as_json=as_json)
            found = examine(inspector)
            if not as_json:
                say()
                _show(found)
    if as_json:
        print_json({**as_data(found), "steps": told})
    if not found.is_sound:
        raise click.exceptions.Exit(EXIT_FAILED)


def as_data(found: Diagnosis) -> dict[str, Any]:
    """The keys of `taskq doctor --json`: stable, documented in docs/cli.md."""
    return {
        "sound": found.is_sound,
        "jobs": found.jobs,
        "places": found.places,
        "findings": [
            {
                "code": one.code,
                "severity": one.severity,
                "text": one.text,
                "count": len(one.suspects),
                "samples": one.samples(100),
                "repair": one.repair,
            }
            for one in found.findings
        ],
    }


def _show(found: Diagnosis) -> None:
    places = ", ".join(f"{count:,} {kind}" for kind, count in found.places.items())
    say(f"{plural(found.jobs, 'job')} read{f': {places}' if places else ''}.")
    for one in found.findings:
        _show_finding(one)
    if found.is_sound:
        say(paint("Each accepted job is in exactly one place.", "green"))


def _show_finding(one: Finding) -> None:
    say(f"{paint(one.severity, _COLORS[one.severity])} [{one.code}] {safe_line(one.text)}")
    for line in one.samples(_SHOWN):
        say(f"    {safe_line(line)}")
    if len(one.suspects) > _SHOWN:
        say(f"    and {len(one.suspects) - _SHOWN:,} more")
    if one.repair:
        say(f"    --repair: {one.repair}")


def _agreed(steps: list[Step], *, as_json: bool, dry_run: bool, yes: bool) -> bool:
    """Whether the steps shall be taken."""
    if dry_run:
        if not as_json:
            say(f"\nWould take {plural(len(steps), 'step')}:")
            for step in steps[:100]:
                say(f"  {step.what}: {safe_line(step.words)}")
        return False
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            f"{plural(len(steps), 'repair')} would be made: say --yes, or --dry-run to see them."
        )
    return click.confirm(f"\nMake {plural(len(steps), 'repair')}?", default=False)


def _mend(broker: Broker, steps: list[Step], *, as_json: bool) -> list[dict[str, str]]:
    from taskq.repairs import mend  # noqa: PLC0415 (late: a command imports what it needs)

    told = []
    for mended in mend(broker, steps):
        told.append({"what": mended.step.what, "text": mended.words, "done": mended.done})
        if not as_json:
            say(f"  {safe_line(mended.words)}")
    return told
