"""`taskq dev`: a private Redis and a worker in one terminal, for development."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import click

from taskq import logs
from taskq.cli.appcheck import in_child
from taskq.cli.options import app_argument, command, setting
from taskq.cli.output import say
from taskq.cli.worker import announce
from taskq.errors import ConfigError
from taskq.settings import DEV_FILE, redact, redis_url

_HELP = """Run the tasks and schedules of APP with a Redis of its own: nothing has to be installed.

Leaves the address in .taskq/dev.json, so that a script in a second terminal of the same
folder finds it. Serves all queues that the app's tasks use. Ctrl-C ends everything; the
data goes with it.

\b
Examples:
  taskq dev hello.py            then, in a second terminal: python hello.py
  taskq dev shop.queue:queue --processes 2

A Redis named by TASKQ_REDIS_URL, REDIS_URL or pyproject.toml is used as it is.
"""


@command("dev", text=_HELP, summary="A private Redis and a worker, for development.")
@app_argument
@setting("--processes", type=click.IntRange(min=1), default=1, show_default=True,
              help="Worker processes.")  # fmt: skip
def dev_command(app: str | None, processes: int) -> None:
    """Start the server, then work until Ctrl-C."""
    if not app:
        from taskq.finder import find_app  # noqa: PLC0415 (for its message)

        find_app(app, "taskq dev")
    from taskq.worker import supervisor  # noqa: PLC0415 (redis: only when a worker starts)
    from taskq.worker.settings import WorkerSettings  # noqa: PLC0415 (late: a command imports what it needs)

    with _redis() as url:
        os.environ["TASKQ_REDIS_URL"] = url
        facts = in_child(app or "")
        if redact(facts.url) != redact(url):
            raise ConfigError(
                f"The app names a Redis itself ({redact(facts.url)}), so this one would stay "
                "unused. Leave the URL out of TaskQ(...), or start: taskq worker."
            )
        names = sorted({queue for _, _, queue in facts.tasks}, key=lambda name: name != "default")
        settings = WorkerSettings(
            app=app or "",
            queues=tuple((name, 0.0) for name in names or ("default",)),
            processes=processes,
            grace_s=5.0,
            with_scheduler=True,
            directory=str(Path.cwd()),
        )
        announce(settings, facts)
        logs.configure("info", "text")
        code = supervisor.run(replace(settings, url=facts.url, url_source=facts.url_source))
    sys.exit(code)


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
        DEV_FILE.write_text(json.dumps({"url": server.url, "pid": server.pid}), encoding="utf-8")
        try:
            yield server.url
        finally:
            with suppress(FileNotFoundError):
                DEV_FILE.unlink()
