"""`taskq dev`: a private Redis, a worker, a scheduler and the dashboard in one terminal."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from taskq.cli.appcheck import in_child
from taskq.cli.dev_parts import Part, Plan, Screen, stop_all
from taskq.cli.dev_reload import Reloads
from taskq.cli.options import app_argument, command, setting
from taskq.cli.output import say
from taskq.errors import ConfigError
from taskq.settings import DEV_FILE, redact, redis_url

if TYPE_CHECKING:
    from taskq.cli.appcheck import AppFacts

_HELP = """Run the tasks and schedules of APP with a Redis of its own: nothing has to be installed.

Worker, scheduler and dashboard, each behind its name, in one terminal; the same commands
run them one by one. Worker and scheduler start again when a Python file below this folder
changes. Leaves the address in .taskq/dev.json, so that a script in a second terminal of the
same folder finds it. Serves all queues that the app's tasks use. Ctrl-C ends everything,
twice at once; the data goes with it.

\b
Examples:
  taskq dev hello.py            then, in a second terminal: python hello.py
  taskq dev shop.queue:queue --processes 2
  taskq dev hello.py --no-reload --no-dashboard

A Redis named by TASKQ_REDIS_URL, REDIS_URL or pyproject.toml is used as it is.
"""

GRACE_S = 5
_TURN_S = 0.2


@command("dev", text=_HELP, summary="Redis, worker, scheduler and dashboard in one terminal.")
@app_argument
@setting("--processes", type=click.IntRange(min=1), default=1, show_default=True,
         help="Worker processes.")  # fmt: skip
@setting("--reload/--no-reload", default=True, show_default=True,
         help="Start again when the code changes.")  # fmt: skip
@setting("--dashboard/--no-dashboard", default=True, show_default=True,
         help="Serve the dashboard (where its extra is installed).")  # fmt: skip
@setting("--port", type=click.IntRange(0, 65535), default=8899, show_default=True,
         help="Port of the dashboard; 0: any free one.")  # fmt: skip
def dev_command(
    app: str | None, *, processes: int, reload: bool, dashboard: bool, port: int
) -> None:
    """Start the server and the parts, then work until Ctrl-C."""
    if not app:
        from taskq.finder import find_app  # noqa: PLC0415 (for its message)

        find_app(app, "taskq dev")
    if not hasattr(os, "fork"):
        raise ConfigError(f"taskq workers run on Linux and macOS, not on {sys.platform}.")
    with _redis() as url:
        os.environ["TASKQ_REDIS_URL"] = url
        facts = in_child(app or "")
        if redact(facts.url) != redact(url):
            raise ConfigError(
                f"The app names a Redis itself ({redact(facts.url)}), so this one would stay "
                "unused. Leave the URL out of TaskQ(...), or start: taskq worker."
            )
        plans = _plans(app or "", facts, processes)
        if dashboard:
            plans += _dashboard(port)
        _run(plans, reload=reload)


def _plans(app: str, facts: AppFacts, processes: int) -> list[Plan]:
    names = sorted({queue for _, _, queue in facts.tasks}, key=lambda name: name != "default")
    flags = [flag for name in names or ("default",) for flag in ("-q", name)]
    worker = ("worker", app, *flags, "--processes", str(processes), "--grace", str(GRACE_S))
    return [Plan("worker", "green", worker), Plan("scheduler", "cyan", ("scheduler", app))]


def _dashboard(port: int) -> list[Plan]:
    """The dashboard, where its libraries are installed; else a word on how to have it."""
    from taskq.cli import main  # noqa: PLC0415 (it imports this module by name)

    if "dashboard" not in main.entries:
        return []
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "jinja2")):
        say('No dashboard: pip install "taskq[dashboard]".')
        return []
    return [Plan("dashboard", "magenta", ("dashboard", "--port", str(port)), reloads=False)]


class _Signals:
    """Ctrl-C and TERM: the first asks, the second insists."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: Sequence[Part] = ()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            for part in self.parts:
                part.kill()


def _run(plans: Sequence[Plan], *, reload: bool) -> None:
    signals = _Signals()
    screen = Screen([plan.name for plan in plans])
    env = _environment()
    parts = signals.parts = [Part(plan, env, screen) for plan in plans]
    reloads = Reloads(Path.cwd()) if reload else None
    try:
        for part in parts:
            part.start()
        while not signals.count:
            changed = reloads.wait(_TURN_S) if reloads is not None else _rest()
            if changed and not signals.count:
                for part in parts:
                    if part.plan.reloads:
                        part.say(f"{_names(changed)} changed: starting again")
                        part.restart()
            for part in parts:
                code = part.ended()
                if code is not None:
                    after = " Starts again when the code changes." if part.plan.reloads else ""
                    part.say(f"ended with exit code {code}.{after if reload else ''}")
    finally:
        if reloads is not None:
            reloads.close()
        stop_all(parts)


def _rest() -> set[Path]:
    time.sleep(_TURN_S)
    return set()


def _names(changed: set[Path]) -> str:
    shown = sorted(path.name for path in changed)[:3]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _environment() -> Mapping[str, str]:
    """Ours; output comes line by line, and what is said of the app is said for all parts."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


@contextmanager
def _redis() -> Iterator[str]:
    """An explicit URL first; else a private server, its address in `.taskq/dev.json`."""
    url, source = redis_url()
    if source == str(DEV_FILE):
        raise ConfigError(f"taskq dev runs here already ({DEV_FILE}): end it first.")
    if source != "default":
        say(f"Redis: {redact(url)} (from {source})")
        yield url
        return
    from taskq.embedded import EmbeddedRedis  # noqa: PLC0415 (late: a command imports what it needs)

    with EmbeddedRedis.start() as server:
        DEV_FILE.parent.mkdir(exist_ok=True)
        ignore = DEV_FILE.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        # whole at once: a script in a second terminal may look at any moment
        fresh = DEV_FILE.with_suffix(".new")
        fresh.write_text(json.dumps({"url": server.url, "pid": server.pid}), encoding="utf-8")
        fresh.replace(DEV_FILE)
        try:
            yield server.url
        finally:
            with suppress(FileNotFoundError):
                DEV_FILE.unlink()
