"""`taskq info`: queues and workers, once or live."""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.connect import open_inspector
from taskq.cli.info_rates import rates_data, rates_lines
from taskq.cli.options import Duration, command, json_option, redis_option, setting
from taskq.cli.output import (
    Cell,
    Column,
    ago,
    paint,
    plural,
    print_json,
    say,
    size,
    table,
)
from taskq.cli.query import iso
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.inspector import Overview, Rates, ServerInfo, WorkerInfo

    Answer = tuple[Overview, dict[str, Rates]]

_HELP = """Show queues and workers. Reads only: nothing is swept, nothing is loaded.

\b
Examples:
  taskq info
  taskq info --watch                  live, Ctrl-C ends it
  taskq info --watch --interval 5
  taskq info --json                   {"redis", "queues", "workers", "totals", "rates", ...}

\b
wait     age of the job that is next in the queue
started  jobs in the hands of workers
stuck    threads and coroutines that ran on at their time limit
beat     how long ago a worker last said that it lives

\b
last 5 min  jobs that came and ended a second, the part of them that failed, waits and
            run times, and how long it takes until none waits if it goes on like this
"""

_STALE_S = 60.0
"""A worker silent for this long is worth a look: ours beat every 5 s, RQ's within 60 s at work."""

_DEADLINE_S = 3.0
"""An outage of Redis shows after this time, and --watch goes on."""

_STATES = {"busy": "green", "suspended": "yellow"}


@command("info", text=_HELP, summary="Show queues and workers.")
@setting("--watch", "-w", is_flag=True, help="Show it live until Ctrl-C.")
@setting(
    "--interval",
    type=Duration(),
    default=1.0,
    show_default="1s",
    help="How often --watch looks.",
)
@redis_option
@json_option
def info_command(redis_url: str | None, as_json: bool, watch: bool, interval: float) -> None:
    """Ask once or again and again, and show the answer."""
    from taskq.inspector import overview, rates  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.settings import redact  # noqa: PLC0415 (late: a command imports what it needs)

    with open_inspector(redis_url, deadline_s=_DEADLINE_S) as inspector:
        url = redact(inspector.url)

        def look() -> Answer:
            seen = inspector.run(overview(inspector.keys))
            names = [queue.name for queue in seen.queues]
            return seen, inspector.run(rates(inspector.keys, names))

        if not watch:
            _show(look(), url, as_json)
        elif as_json or not sys.stdout.isatty():
            while True:
                _show(look(), url, as_json)
                sys.stdout.flush()
                time.sleep(interval)
        else:
            _watch(lambda: _lines(look(), url), interval)


def as_data(looked: Answer, url: str) -> dict[str, Any]:
    """The keys of `taskq info --json`: stable, documented in docs/cli.md."""
    answer, found = looked
    return {
        "redis": {"url": url, **asdict(answer.server)},
        "at": iso(answer.at),
        "suspended": answer.suspended,
        "queues": [asdict(queue) for queue in answer.queues],
        "workers": [asdict(worker) for worker in answer.workers],
        "queue_count": answer.queue_count,
        "worker_count": answer.worker_count,
        "totals": answer.totals,
        "rates": rates_data(found),
    }


def _show(answer: Answer, url: str, as_json: bool) -> None:
    if as_json:
        print_json(as_data(answer, url))
        return
    for line in _lines(answer, url):
        say(line)


def _lines(looked: Answer, url: str) -> list[str]:
    answer, found = looked
    lines = [_server(answer.server, url)]
    if answer.suspended:
        lines.append(paint("All workers are suspended (rq suspend).", "yellow"))
    lines += ["", *_queues(answer), ""]
    if pace := rates_lines(found):
        lines += [*pace, ""]
    lines += _workers(answer)
    return lines


def _server(server: ServerInfo, url: str) -> str:
    parts = [f"{server.kind} {server.version}".strip(), url]
    if server.memory_bytes is not None:
        limit = f" of {size(server.memory_limit_bytes)}" if server.memory_limit_bytes else ""
        parts.append(f"{size(server.memory_bytes)}{limit}")
    if server.clients is not None:
        parts.append(plural(server.clients, "client"))
    text = "  ".join(safe_line(part) for part in parts)
    if server.memory_limit_bytes and server.eviction not in ("", "noeviction"):
        warning = f"maxmemory-policy {server.eviction} may evict jobs: use noeviction"
        text += "  " + paint(safe_line(warning), "yellow")
    return text


def _queues(answer: Overview) -> list[str]:
    if not answer.queues:
        return ["No queues yet."]
    names = ("queued", "started", "scheduled", "deferred", "finished", "failed", "canceled")
    columns = [Column("queue", cut=True)] + [Column(name, right=True) for name in names]
    rows = []
    for queue in answer.queues:
        counts = [Cell(f"{getattr(queue, name):,}") for name in names]
        counts[5] = Cell(counts[5], "red" if queue.failed else None)
        wait = Cell(ago(queue.oldest_waiting_s), "yellow" if queue.paused else None)
        title = Cell(queue.name + (" (paused)" if queue.paused else ""))
        rows.append([title, *counts, wait])
    if len(rows) > 1:
        rows.append(
            [Cell("total"), *(Cell(f"{answer.totals[name]:,}") for name in names), Cell("")]
        )
    lines = table([*columns, Column("wait", right=True)], rows)
    if answer.queue_count > len(answer.queues):
        lines.append(f"and {plural(answer.queue_count - len(answer.queues), 'queue')} more")
    return lines


def _workers(answer: Overview) -> list[str]:
    if not answer.workers:
        return ['No workers. Start one: "taskq worker APP".']
    columns = [
        Column("worker", cut=True),
        Column("host", cut=True),
        Column("pid", right=True),
        Column("state"),
        Column("queues", cut=True),
        Column("done", right=True),
        Column("failed", right=True),
        Column("up", right=True),
        Column("beat", right=True),
        Column("running", cut=True),
    ]
    lines = table(columns, [_worker(worker) for worker in answer.workers])
    if answer.worker_count > len(answer.workers):
        lines.append(f"and {plural(answer.worker_count - len(answer.workers), 'worker')} more")
    return lines


def _worker(worker: WorkerInfo) -> list[str]:
    stale = worker.heartbeat_age_s is None or worker.heartbeat_age_s > _STALE_S
    more = worker.running - len(worker.jobs)
    running = ", ".join(worker.jobs) + (f" and {more} more" if more > 0 else "")
    return [
        Cell(worker.name),
        Cell(worker.host),
        Cell("" if worker.pid is None else worker.pid),
        _state(worker),
        Cell(",".join(worker.queues)),
        Cell(f"{worker.finished:,}"),
        Cell(f"{worker.failed:,}", "red" if worker.failed else None),
        Cell(ago(worker.uptime_s)),
        Cell(ago(worker.heartbeat_age_s), "yellow" if stale else None),
        Cell(running),
    ]


def _state(worker: WorkerInfo) -> Cell:
    """RQ's word, and how many threads and coroutines would not end at their limit."""
    if worker.stuck:
        return Cell(f"{worker.state or '?'}, {worker.stuck} stuck", "red")
    return Cell(worker.state or "?", _STATES.get(worker.state))


def _watch(lines: Callable[[], list[str]], interval: float) -> None:
    """Redraw until interrupted; an outage of Redis is shown and waited out."""
    if importlib.util.find_spec("rich") is not None:
        _watch_rich(lines, interval)
        return
    while True:
        text = "\n".join(_or_outage(lines))
        click.clear()
        say(text)
        time.sleep(interval)


def _watch_rich(lines: Callable[[], list[str]], interval: float) -> None:
    """With rich: on the alternate screen, without flicker, cut at the window's edges."""
    from rich.console import Console  # noqa: PLC0415 (0.1 s, and optional)
    from rich.live import Live  # noqa: PLC0415 (late: a command imports what it needs)
    from rich.text import Text  # noqa: PLC0415 (late: a command imports what it needs)

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            text = Text.from_ansi("\n".join(_or_outage(lines)), no_wrap=True, overflow="crop")
            live.update(text, refresh=True)
            time.sleep(interval)


def _or_outage(lines: Callable[[], list[str]]) -> list[str]:
    from taskq.errors import BrokerUnavailable  # noqa: PLC0415 (late: a command imports what it needs)

    try:
        return lines()
    except BrokerUnavailable as error:
        return [paint(safe_line(error), "red")]
