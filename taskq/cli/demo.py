"""`taskq demo`: the main job on real input, from nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.demo_parts import private_redis, workers
from taskq.cli.options import command, json_option, setting
from taskq.cli.output import Column, complain, print_json, say, table

if TYPE_CHECKING:
    from taskq.demo.run import Outcome

_HELP = """Run taskq's main job on real input: every source file of the standard library.

Starts a private Redis (none is needed on this machine), two worker processes and a small
web server, counts, hashes and fetches over a thousand files, retries what fails, delays
what is to be late, and checks every result against a computation without the queue.

\b
Examples:
  taskq demo
  taskq demo --processes 4
  taskq demo --ways                                  the same work in every mode, compared
  TASKQ_REDIS_URL=redis://localhost/5 taskq demo     on a Redis of your own

Exit code 0 when every result was right, 1 when not.
"""


@command("demo", text=_HELP, summary="Run the main job on real input, from nothing.")
@setting("--processes", type=click.IntRange(min=1), default=2, show_default=True,
              help="Worker processes.")  # fmt: skip
@setting("--files", type=click.IntRange(min=20), default=None,
              help="Only so many files. Default: all.")  # fmt: skip
@setting("--ways", is_flag=True,
              help="Instead: the same work in every mode, compared.")  # fmt: skip
@setting("--svg", type=click.Path(dir_okay=False, writable=True), default=None,
              help="With --ways: write the chart to this file, too.")  # fmt: skip
@json_option
def demo_command(
    processes: int, files: int | None, ways: bool, svg: str | None, as_json: bool
) -> None:
    """Start what it needs, run it, show it, stop what was started."""
    from taskq.demo.run import run, standard_library  # noqa: PLC0415 (redis)

    if svg is not None and not ways:
        raise click.UsageError("--svg goes with --ways.")
    paths = standard_library()[:files]
    if ways:
        from taskq.cli import ways as command  # noqa: PLC0415 (late: a command imports what it needs)

        command.compare(paths, svg, as_json)
        return
    with private_redis() as (url, what):
        os.environ["TASKQ_REDIS_URL"] = url
        if not as_json:
            say(f"Redis    {what}")
            say(f"Workers  {processes} processes, `taskq worker taskq.demo.tasks:queue -q demo`")
            say(f"Input    {len(paths):,} source files of Python {sys.version.split()[0]}'s "
                "standard library")  # fmt: skip
            say("Checking each result against a computation without the queue at the end.")
            say()
        with workers("taskq.demo.tasks:queue", "demo", processes) as watch:
            outcome = run(paths, _bar(watch, shown=not as_json))
    _show(outcome, as_json)
    if outcome.wrong:
        sys.exit(1)


def _bar(watch: Callable[[], int], *, shown: bool) -> Callable[[int, int], None]:
    """A progress bar on a terminal, a line at each quarter elsewhere, or nothing."""
    terminal = sys.stdout.isatty()
    start = time.monotonic()
    state: dict[str, Any] = {"shown": -1.0, "quarter": 0}

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if not shown:
            pass
        elif terminal:
            if now - state["shown"] < 0.1 and done < total:
                return
            state["shown"] = now
            width = 40
            full = width * done // total
            rate = done / max(now - start, 1e-3)
            click.echo(
                f"\r  [{'#' * full}{'.' * (width - full)}] {done:>5,} / {total:,} jobs"
                f"  {rate:>6,.0f} a second", nl=done >= total,
            )  # fmt: skip
        elif done * 4 // total > state["quarter"]:
            state["quarter"] = done * 4 // total
            say(f"  {done:,} of {total:,} jobs done")
        if done % 256 == 0:
            watch()

    return show


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "files": outcome.files,
                "jobs": outcome.jobs,
                "seconds": round(outcome.seconds, 3),
                "enqueue_s": round(outcome.enqueue_s, 3),
                "jobs_per_second": round(outcome.jobs / outcome.seconds, 1),
                "retries": outcome.retries,
                "delayed_job_late_s": round(outcome.lateness_s, 4),
                "largest": outcome.rows,
                "checked": outcome.checked,
                "wrong": outcome.wrong,
            }
        )
        return
    say()
    rows = [
        ("jobs", f"{outcome.jobs:,}"),
        ("seconds", f"{outcome.seconds:.2f}"),
        ("jobs a second", f"{outcome.jobs / outcome.seconds:,.0f}"),
        ("enqueued in", f"{outcome.enqueue_s:.2f} s"),
        ("retries", str(outcome.retries)),
        ("delayed job ran", f"{outcome.lateness_s * 1000:.0f} ms after its time"),
    ]
    for line in table([Column("figure"), Column("value", right=True)], rows):
        say(line)
    say()
    columns = [Column("largest modules"), Column("tokens", right=True),
               Column("lines", right=True), Column("SHA-256")]  # fmt: skip
    body = [
        (_short(row["path"]), f"{row['tokens']:,}", f"{row['lines']:,}", row["sha256"][:12])
        for row in outcome.rows
    ]
    for line in table(columns, body):
        say(line)
    say()
    if outcome.wrong:
        for line in outcome.wrong[:10]:
            complain(line, label="wrong")
        complain(f"{len(outcome.wrong)} of {outcome.checked:,} results are wrong.")
    else:
        say(f"All {outcome.checked:,} results are right: without the queue, they are the same.")


def _short(path: str) -> str:
    """The path below the standard library's folder."""
    parts = Path(path).parts
    for at, part in enumerate(parts):
        if part.startswith("python3"):
            return "/".join(parts[at + 1 :])
    return Path(path).name
