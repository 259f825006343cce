"""`taskq demo`: the main job on real input, from nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from taskq.cli.options import command, json_option, setting
from taskq.cli.output import Column, complain, print_json, say, table
from taskq.errors import TaskQError

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
  TASKQ_REDIS_URL=redis://localhost/5 taskq demo     on a Redis of your own

Exit code 0 when every result was right, 1 when not.
"""
_START_S = 30.0
_STOP_S = 10.0


@command("demo", text=_HELP, summary="Run the main job on real input, from nothing.")
@setting("--processes", type=click.IntRange(min=1), default=2, show_default=True,
              help="Worker processes.")  # fmt: skip
@setting("--files", type=click.IntRange(min=20), default=None,
              help="Only so many files. Default: all.")  # fmt: skip
@json_option
def demo_command(processes: int, files: int | None, as_json: bool) -> None:
    """Start what it needs, run it, show it, stop what was started."""
    from taskq.demo.run import run, standard_library  # noqa: PLC0415 (redis)

    paths = standard_library()[:files]
    with _redis() as (url, what):
        os.environ["TASKQ_REDIS_URL"] = url
        if not as_json:
            say(f"Redis    {what}")
            say(f"Workers  {processes} processes, `taskq worker taskq.demo.tasks:queue -q demo`")
            say(f"Input    {len(paths):,} source files of Python {sys.version.split()[0]}'s "
                "standard library")  # fmt: skip
            say("Checking each result against a computation without the queue at the end.")
            say()
        with _workers(processes) as watch:
            outcome = run(paths, _bar(watch) if not as_json else lambda _done, _all: watch())
    _show(outcome, as_json)
    if outcome.wrong:
        sys.exit(1)


@contextmanager
def _redis() -> Iterator[tuple[str, str]]:
    """An explicit URL first; else a private server that ends with us."""
    from taskq.embedded import EmbeddedRedis  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.settings import redact, redis_url  # noqa: PLC0415 (late: a command imports what it needs)

    url, source = redis_url()
    if source != "default":
        yield url, f"{redact(url)} (from {source})"
        return
    with EmbeddedRedis.start() as server:
        yield server.url, f"private server on a unix socket, process {server.pid}"


@contextmanager
def _workers(processes: int) -> Iterator[Callable[[], None]]:
    """Real workers, as a user starts them; gives a function that looks whether they live."""
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "taskq", "worker", "taskq.demo.tasks:queue", "-q", "demo",
             "--processes", str(processes), "--log-level", "error"],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

        def watch() -> None:
            if worker.poll() is not None:
                raise TaskQError(f"The worker ended with {worker.returncode}:\n{_tail(log)}")

        try:
            _wait_ready(processes, watch)
            yield watch
        finally:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
                try:
                    worker.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()


def _wait_ready(processes: int, watch: Callable[[], None]) -> None:
    from taskq.demo.tasks import QUEUE, queue  # noqa: PLC0415 (late: a command imports what it needs)

    key = f"{queue.broker.keys.prefix}:workers:{QUEUE}"
    end = time.monotonic() + _START_S
    while int(queue.broker.call("SCARD", key)) < processes:
        watch()
        if time.monotonic() > end:
            raise TaskQError(f"The workers did not start within {_START_S:g} s.")
        time.sleep(0.02)


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read()[-4000:].decode("utf-8", "replace")


def _bar(watch: Callable[[], None]) -> Callable[[int, int], None]:
    """A progress bar on a terminal, a line at each quarter elsewhere."""
    terminal = sys.stdout.isatty()
    start = time.monotonic()
    state: dict[str, Any] = {"shown": -1.0, "quarter": 0}

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if terminal:
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
