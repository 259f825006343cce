"""Look at an app without keeping its code: the supervisor must stay free of user code.

User code may start threads, open connections, hold locks; a supervisor that forks
workers for weeks must have none of it. So a short-lived child imports the app and
sends back plain facts.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from taskq.errors import ConfigError


@dataclass(frozen=True)
class AppFacts:
    """What the command line wants to know of an app.

    Attributes:
        name: `module:attribute`.
        url: where its Redis is, with its password: not for showing.
        url_source: where the URL came from.
        tasks: (name, mode, queue) of each task.
        undecided: names of those whose decorator has no `mode`.
    """

    name: str
    url: str = field(repr=False)
    url_source: str
    tasks: tuple[tuple[str, str, str], ...] = ()
    undecided: tuple[str, ...] = ()


def describe(spec: str) -> AppFacts:
    """Import the app in this process and describe it.

    Raises:
        ConfigError: there is no such app; the message says where it looked.
    """
    from taskq.finder import find_app  # noqa: PLC0415 (late: --help needs no app)

    app = find_app(spec)
    app.load()
    tasks = {task.name: (task.name, task.mode, task.opts.queue) for task in app.tasks.values()}
    undecided = tuple(task.name for task in app.tasks.values() if not task.has_own_mode)
    return AppFacts(app.name, app.broker.url, app.broker.source, tuple(tasks.values()), undecided)


def in_child(spec: str) -> AppFacts:
    """As `describe`, in a child process that ends at once. Needs `os.fork`.

    Raises:
        ConfigError: there is no such app, or importing it failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(writer, spec)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.readline()  # not until the end: what the app forked may hold the other side
    _, status = os.waitpid(child, 0)
    return _read(raw, status, spec)


def _answer(writer: int, spec: str) -> NoReturn:
    """In the child: send the facts or the error, and end without running exit handlers."""
    answer: dict[str, Any]
    try:
        # What the app prints when it is imported is printed by the workers, once.
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            answer = {"facts": astuple(describe(spec))}
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:  # noqa: BLE001 (user code may raise anything, also SystemExit)
        answer = {"error": _story(error, spec), "traceback": traceback.format_exc()}
    with contextlib.suppress(OSError), os.fdopen(writer, "wb") as pipe:
        pipe.write(json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _story(error: BaseException, spec: str) -> str:
    """The error in one line; what user code raised also with the place in that code."""
    if isinstance(error, ConfigError):
        return str(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f'Cannot import "{spec}": {what}{place}. TASKQ_DEBUG=1 shows the traceback.'


def _read(raw: bytes, status: int, spec: str) -> AppFacts:
    if not raw:
        code = os.waitstatus_to_exitcode(status)
        if code == 130:
            raise KeyboardInterrupt
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ConfigError(f'Importing "{spec}" ended the process ({how}).')
    answer = json.loads(raw)
    if "error" in answer:
        if os.environ.get("TASKQ_DEBUG"):
            sys.stderr.write(answer["traceback"])
        raise ConfigError(answer["error"])
    name, url, source, tasks, undecided = answer["facts"]
    listed = tuple((name, mode, queue) for name, mode, queue in tasks)
    return AppFacts(name, url, source, listed, tuple(undecided))
