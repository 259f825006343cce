"""Log records as text for people or JSON for machines, for `taskq.*` loggers only.

A library does not configure logging; only the command line calls `configure`, and
its handler keeps silent as soon as the program has handlers of its own. The root
logger is never touched. Records of other loggers that nobody handles, a task's own for
one, come to the same handler by way of `logging.lastResort`.

Records that belong to a job carry `job_id`, `task`, `queue` and `attempt` as extra
attributes; arguments are never among them. A program that configures logging itself
gets them with `JobFilter` on its handlers.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

from taskq.context import current_job
from taskq.terminal import safe, safe_line

JOB_FIELDS = ("job_id", "task", "queue", "attempt")
"""Extra attributes of a record that belongs to a job."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PYTHONS_LAST_RESORT = logging.lastResort
_COLORS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31;1"}

Fields = Callable[[], Mapping[str, object]]

if TYPE_CHECKING:
    _Stream = logging.StreamHandler[Any]
else:
    _Stream = logging.StreamHandler  # has no [] in Python 3.10


class TextFormatter(logging.Formatter):
    """`18:24:05.123 INFO taskq.worker: done job_id=7f3a task=shop.thumbnail`, in local time.

    Further lines of a message are indented, so that text from a job cannot pose as a
    record of its own; control characters become visible.
    """

    def __init__(self, *, color: bool = False) -> None:
        """`color`: paint warnings and errors."""
        super().__init__()
        self.color = color

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, with its traceback."""
        at = datetime.fromtimestamp(record.created, timezone.utc).astimezone()
        level = record.levelname
        if self.color and record.levelno in _COLORS:
            level = f"\x1b[{_COLORS[record.levelno]}m{level}\x1b[0m"
        text = f"{at:%H:%M:%S}.{int(record.msecs):03d} {level} {record.name}: {_message(record)}"
        for name in JOB_FIELDS:
            value = record.__dict__.get(name)
            if value is not None:
                text += f" {name}={safe_line(value)}"
        for detail in _details(self, record):
            text += "\n    " + safe(detail).replace("\n", "\n    ")
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, all extra attributes, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        at = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _text(record),
            "pid": record.process,
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD and name not in line and value is not None:
                line[name] = value
        details = _details(self, record)
        if details:
            line["exception"] = "\n".join(details)
        return json.dumps(line, default=str)


class Handler(_Stream):
    """Writes to stderr, while the program has configured no logging of its own."""

    def __init__(self, stream: IO[str] | None = None, fields: Fields | None = None) -> None:
        """`fields` gives the job's attributes for records made inside user code."""
        super().__init__(stream)
        self.fields = fields

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless the app has handlers by now: it would appear twice."""
        if logging.getLogger().handlers:
            return
        if self.fields is not None and not hasattr(record, "job_id"):
            for name, value in self.fields().items():
                record.__dict__.setdefault(name, value)
        super().emit(record)


class JobFilter(logging.Filter):
    """Adds `job_id`, `task`, `queue` and `attempt` to all records; None outside of a job.

    For the handlers of a program that configures logging itself, each of them, so that
    formats may name the attributes::

        handler.addFilter(taskq.logs.JobFilter())
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through; in the thread that made it, so before any queue."""
        fields = job_fields()
        for name in JOB_FIELDS:
            record.__dict__.setdefault(name, fields.get(name))
        return True


def job_fields() -> Mapping[str, object]:
    """The attributes of the job that the calling code runs for; none outside of jobs."""
    job = current_job(None)
    if job is None:
        return {}
    return {"job_id": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}


def configure(
    level: str = "info",
    form: str = "text",
    *,
    stream: IO[str] | None = None,
    fields: Fields | None = None,
) -> None:
    """Install our handler on the logger `taskq`, unless somebody has configured logging.

    Calling it again replaces our own handler: in a child after a fork, say.

    Args:
        level: debug, info, warning or error.
        form: text or json.
        stream: where to write; stderr by default.
        fields: gives job_id, task, queue, attempt of the job that runs here, or nothing.
    """
    logger = logging.getLogger("taskq")
    if isinstance(logging.lastResort, Handler):
        logging.lastResort = _PYTHONS_LAST_RESORT
    for handler in [each for each in logger.handlers if isinstance(each, Handler)]:
        logger.removeHandler(handler)
    if logger.handlers or logging.getLogger().handlers:
        return
    target = stream if stream is not None else sys.stderr
    handler = Handler(target, fields)
    handler.setFormatter(
        JsonFormatter() if form == "json" else TextFormatter(color=_may_color(target))
    )
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    # Only asked for records that no handler takes: a program that configures logging is left alone.
    # Its type in the stubs is narrower than what logging does with it.
    logging.lastResort = handler


def _may_color(stream: IO[str]) -> bool:
    return not os.environ.get("NO_COLOR") and stream.isatty()


def _text(record: logging.LogRecord) -> str:
    """The message; a wrong format string must not cost us the record."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg!s} {record.args!r}"


def _message(record: logging.LogRecord) -> str:
    return safe(_text(record)).replace("\n", "\n    ")


def _details(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    details = []
    if record.exc_text:  # formatted already, as in Python's own formatter
        details.append(record.exc_text)
    elif record.exc_info and record.exc_info[0] is not None:
        details.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        details.append(formatter.formatStack(record.stack_info))
    return details
