"""`taskq scheduler`: load the app, say what it serves, fire its schedules until told to stop."""

from __future__ import annotations

import sys

from taskq import logs
from taskq.cli.options import app_argument, command, log_options
from taskq.cli.output import paint, plural, say
from taskq.terminal import safe_line

_HELP = """Fire the schedules of APP: those in its code, and those made at run time.

Any number may run, on any number of servers: each occurrence is enqueued exactly once.
Sleeps until the next is due. "taskq worker APP --with-scheduler" needs no process for it.

\b
Examples:
  taskq scheduler shop.queue:queue
  taskq scheduler shop.py --log-level debug
  taskq schedules                              what there is, and what comes next

Without APP: TASKQ_APP, or app = "..." under [tool.taskq] in pyproject.toml.
TERM and INT end it at once: nothing is in its hands.
"""


@command("scheduler", text=_HELP, summary="Fire the schedules of an app.")
@app_argument
@log_options
def scheduler_command(app: str | None, log_level: str, log_format: str) -> None:
    """Check everything that can be wrong, then run until told to stop."""
    from taskq.finder import find_app  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.settings import redact  # noqa: PLC0415 (the same)
    from taskq.worker import scheduler  # noqa: PLC0415 (redis)

    logs.configure(log_level, log_format)
    found = find_app(app, "taskq scheduler")
    found.load()
    if log_format == "text":  # else a program reads our output: log lines only
        count = plural(len(found.schedules.defined()), "schedule")
        rows = [("app", found.name), ("redis", redact(found.url)), ("in code", count)]
        for name, text in rows:
            say(f"{paint(name.rjust(8), None, bold=True)}  {safe_line(text)}")
    sys.exit(scheduler.run(found))
