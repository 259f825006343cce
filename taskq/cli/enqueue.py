"""`taskq enqueue TASK ARGS`: one call, checked as in a program, from the shell."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from taskq import logs
from taskq.cli.options import Command, Duration, Moment, setting
from taskq.cli.output import complain, print_json, say
from taskq.errors import ConfigError, UnknownTask
from taskq.terminal import safe

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.handle import Handle
    from taskq.tasks import Task

_HELP = """Enqueue one call of TASK, checked against its signature, and print the job's id.

ARGS are positional or key=value, each read as JSON where it is JSON, else as text:
64, true, null, [1, 2], {"a": 1}, a.png. For the text "64" write '"64"'.

\b
Examples:
  taskq enqueue thumbnail a.png size=64
  taskq enqueue shop.images.thumbnail path=a.png --queue high
  taskq enqueue report 30 --delay 10m
  taskq enqueue report --at 2026-12-01T07:00:00+01:00 --job-id report-2026-12
  taskq enqueue add 1 2 --wait --timeout 10     prints the result as JSON
  taskq enqueue --app shop.queue:queue thumbnail a.png

TASK is a task's name, or the end of it. The app: --app, TASKQ_APP, or app = "..."
under [tool.taskq]. What begins with a dash and is no number goes after --.
"""

_NEGATIVE = re.compile(r"-(?:\d|\.\d)")
_KEYWORD = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)
_MARK = "\0"  # no argument of a program can hold it


class _Enqueue(Command):
    """Takes `-5` for a number, not for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, with negative numbers hidden from its parser until `read_arguments`."""
        return super().parse_args(ctx, [_MARK + a if _NEGATIVE.match(a) else a for a in args])


@click.command("enqueue", cls=_Enqueue, help=_HELP, short_help="Enqueue one job.")
@click.argument("task")
@click.argument("args", nargs=-1)
@setting("--app", shared=True, metavar="APP", help="The app that has the task.")
@setting("--queue", "-q", metavar="NAME", help="Another queue than the task's.")
@setting("--delay", type=Duration(), help="Run after this time: 90s, 5m, 2h.")
@setting("--at", type=Moment(), help="Run at this time: 2026-12-01T07:00:00Z.")
@setting("--job-id", metavar="ID", help="Id of the job: letters, digits, - and _.")
@setting("--wait", is_flag=True, help="Wait for the result and print it.")
@setting("--timeout", type=Duration(), help="With --wait: how long. Default: as it takes.")
@setting("--json", "as_json", is_flag=True, help='Print {"id", "created", "result"}.')
def enqueue_command(task: str, args: Sequence[str], **options: Any) -> None:
    """Find the task, check the call, enqueue it, and perhaps wait."""
    if options["timeout"] is not None and not options["wait"]:
        raise click.UsageError("--timeout goes with --wait.", click.get_current_context())
    positional, named = read_arguments(args)
    app = _load(options["app"])
    chosen = find_task(app, task).options(**_task_options(options))
    with app:
        handle: Handle[Any] = chosen.delay(*positional, **named)
        answer = {"id": handle.id, "created": handle.created}
        if options["wait"]:
            answer["result"] = _wait(handle, options["timeout"])
        elif not options["as_json"]:
            say(handle.id)
    if options["as_json"]:
        print_json(answer)
    elif options["wait"]:
        say(_result_text(answer["result"]))


def read_arguments(args: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments from what stood on the command line.

    Raises:
        ConfigError: one name twice, or a positional argument behind a named one.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for arg in args:
        text = arg.removeprefix(_MARK)
        pair = _KEYWORD.fullmatch(text)
        if pair is None:
            if named:
                raise ConfigError(
                    f"{text!r} stands behind a key=value: positional ones come first."
                )
            positional.append(read_value(text))
        elif pair[1] in named:
            raise ConfigError(f"{pair[1]}= is given twice.")
        else:
            named[pair[1]] = read_value(pair[2])
    return positional, named


def read_value(text: str) -> Any:
    """JSON where it is JSON (not NaN and Infinity, which are none), else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def find_task(app: TaskQ, name: str) -> Task[..., Any]:
    """The task of that name, alias, or end of a name.

    Raises:
        UnknownTask: there is none, or the end of a name fits several.
    """
    if name not in app.tasks and re.fullmatch(r"[\w.]+", name):
        ends = sorted({t.name for t in app.tasks.values() if t.name.endswith(f".{name}")})
        if len(ends) == 1:
            return app.tasks[ends[0]]
        if ends:
            raise UnknownTask(f"Which {name!r}? {', '.join(ends)}. Nothing was enqueued.")
    return app.lookup(name)


def _load(spec: str | None) -> TaskQ:
    """The app with all its tasks. What it prints on import must not mix with our output."""
    if not spec:
        raise ConfigError(
            'Which app? "taskq enqueue" needs one: --app shop.queue:queue, TASKQ_APP, or '
            'app = "..." under [tool.taskq]. Nothing was enqueued.'
        )
    from taskq.finder import find_app  # noqa: PLC0415 (late: --help needs no app)

    logs.configure("warning")
    with contextlib.redirect_stdout(sys.stderr):
        app = find_app(spec, "taskq enqueue")
        app.load()
    return app


def _task_options(options: dict[str, Any]) -> dict[str, Any]:
    names = ("queue", "delay", "at", "job_id")
    return {name: options[name] for name in names if options[name] is not None}


def _wait(handle: Handle[Any], timeout: float | None) -> Any:
    try:
        return handle.result(timeout)
    except KeyboardInterrupt:
        complain(f"Job {handle.id} goes on. See: taskq job {handle.id}")
        raise


def _result_text(value: Any) -> str:
    """JSON, so that programs can read it; the repr of what JSON does not know."""
    try:
        return json.dumps(value, ensure_ascii=not sys.stdout.isatty())
    except (TypeError, ValueError):
        return safe(repr(value))


def _no_constant(name: str) -> Any:
    raise ValueError(name)
