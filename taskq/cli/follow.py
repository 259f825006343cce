"""`taskq job ID --follow`: a live line until the job has ended."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.output import ago, paint, print_json, say
from taskq.cli.query import COLORS, iso
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.inspector import Glimpse, Inspector
    from taskq.progress import Progress

_LOOK_S = 0.3
"""A worker writes progress about as often."""
_WIDTH = 30
_NOTE_CHARS = 60
_ERASE = "\r\x1b[K"


def follow(inspector: Inspector, job_id: str, name: str, as_json: bool) -> bool:
    """Show how a job goes on until it has ended; returns whether it finished.

    On a terminal one line that changes; else a line, or an object, for each change.
    An outage of Redis is waited out.
    """
    from taskq.broker.outcomes import Kind  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.broker.watch import Target, Watch  # noqa: PLC0415 (the same)
    from taskq.errors import BrokerUnavailable  # noqa: PLC0415 (the same)
    from taskq.inspector import glimpse  # noqa: PLC0415 (the same)

    watch = Watch(inspector.keys, Target(job_id, is_known=True))
    live = sys.stdout.isatty() and not as_json
    began = time.monotonic()
    last: Any = None
    while True:
        try:
            seen = inspector.run(glimpse(inspector.keys, watch))
        except BrokerUnavailable as error:
            if live:
                click.echo(_ERASE + paint(safe_line(error, 100), "red"), nl=False)
            time.sleep(_LOOK_S)
            continue
        if seen.outcome is not None:
            if live:
                click.echo(_ERASE, nl=False)
            kind = seen.outcome.kind
            if kind in (Kind.UNKEPT, Kind.EXPIRED) and not as_json:
                how = "finished; its result is not kept" if kind is Kind.UNKEPT else "is gone"
                say(f"{name}  {how}")
            return kind in (Kind.FINISHED, Kind.UNKEPT)
        now = (seen.status, seen.progress)
        if live:
            line = _line(name, seen, time.monotonic() - began)
            click.echo(_ERASE + line, nl=False)
        elif now != last:
            _tell(job_id, name, seen, as_json)
        last = now
        time.sleep(_LOOK_S)


def _tell(job_id: str, name: str, seen: Glimpse, as_json: bool) -> None:
    if as_json:
        at = iso(time.time())
        progress = progress_data(seen.progress)
        print_json({"id": job_id, "at": at, "status": seen.status, "progress": progress})
    else:
        say("  ".join(filter(None, (name, safe_line(seen.status), progress_text(seen.progress)))))
    sys.stdout.flush()


def _line(name: str, seen: Glimpse, seconds: float) -> str:
    import shutil  # noqa: PLC0415 (4 ms, only for a terminal)

    status = safe_line(seen.status)
    plain = [name, status, progress_text(seen.progress, bar=True), ago(seconds)]
    if len("  ".join(filter(None, plain))) < shutil.get_terminal_size().columns:
        plain[1] = paint(status, COLORS.get(seen.status), bold=True)
        return "  ".join(filter(None, plain))
    return "  ".join(filter(None, plain))[: shutil.get_terminal_size().columns - 1]


def progress_text(progress: Progress | None, *, bar: bool = False) -> str:
    """Progress for people: `42 %  420 of 1,000  parsing`, with a bar before it where wanted."""
    if progress is None:
        return ""
    parts = []
    share = progress.fraction
    if share is not None:
        full = min(max(int(_WIDTH * share), 0), _WIDTH)
        if bar:
            parts.append(f"[{'#' * full}{'.' * (_WIDTH - full)}]")
        parts.append(f"{share:.0%}".replace("%", " %"))
    of = "" if progress.total is None else f" of {progress.total:,.6g}"
    parts.append(f"{progress.done:,.6g}{of}")
    parts.append(safe_line(progress.note, _NOTE_CHARS))
    return "  ".join(filter(None, parts))


def progress_data(progress: Progress | None) -> dict[str, Any] | None:
    """Progress in `--json`."""
    if progress is None:
        return None
    return {"done": progress.done, "total": progress.total, "note": progress.note}
