"""Schedules as people and programs read them: rows of a table, everything about one, JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from taskq.cli.output import Cell, ago, facts
from taskq.cli.query import COLORS, iso
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.inspector import ScheduleRow


def as_data(row: ScheduleRow) -> dict[str, Any]:
    """A schedule as JSON: the keys of `ScheduleRow`, times as ISO dates in UTC."""
    found = {name: iso(value) if name.endswith("_at") else value
             for name, value in asdict(row).items()}  # fmt: skip
    found["upcoming"] = [iso(at) for at in row.upcoming]
    return found


def cells(row: ScheduleRow, now: float) -> list[str]:
    """One row of the table."""
    if row.error:
        return [Cell(row.name), Cell(row.error, "red"), *[Cell("")] * 5, Cell(row.task)]
    when = row.words or row.expression
    if row.ended:
        coming = Cell("ended", "yellow")
    elif row.paused:
        coming = Cell("paused", "yellow")
    elif row.fires_at is None:
        coming = Cell("-")
    else:
        late = row.fires_at < now - 1
        text = (
            f"{ago(now - row.fires_at)} late" if late else f"in {ago(max(row.fires_at - now, 0))}"
        )
        coming = Cell(text, "red" if late else None)
    last = "-" if row.last_at is None else ago(max(now - row.last_at, 0.0))
    status = Cell(row.last_status, COLORS.get(row.last_status))
    return [Cell(row.name), Cell(when), Cell(row.tz), coming, Cell(last), status,
            Cell(row.missed), Cell(row.task)]  # fmt: skip


def story(row: ScheduleRow) -> list[str]:
    """Everything about one schedule, for people."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415 (late: a command imports what it needs)

    zone = ZoneInfo(row.tz) if row.tz else None

    def local(at: float | None) -> str:
        return "" if at is None else local_time(at, zone)

    state = "paused" if row.paused else "ended" if row.ended else ""
    limits = "" if row.max_runs is None else f" of {row.max_runs}"
    runs = f"{row.runs:,}{limits}; {row.skipped:,} skipped for overlap; {row.dropped:,} missed"
    window = "" if row.window_s is None else f", at most {ago(row.window_s)} late"
    return facts(
        [
            ("name", safe_line(row.name)),
            ("when", f"{row.words} ({row.expression}{', ' + row.tz if row.tz else ''})"),
            ("state", state),
            ("error", row.error),
            ("next", "\n".join(map(local, row.upcoming))),
            ("held", local(row.held_at)),
            ("last", local(row.last_at)),
            ("last job", f"{row.last_job} {row.last_status}".strip()),
            ("runs", runs),
            ("missed", f"{row.missed}{window}"),
            ("overlap", row.overlap),
            ("jitter", ago(row.jitter_s) if row.jitter_s else ""),
            ("start", local(row.start_at)),
            ("end", local(row.end_at)),
            ("task", f"{row.task} in queue {row.queue}"),
            ("defined", f"in the code of {row.app}" if row.app else "at run time"),
        ]
    )  # fmt: skip


def local_time(at: float, zone: Any) -> str:
    """A time in a zone: `Mon 2026-03-02 07:00:00 CET (UTC+01:00)`."""
    moment = datetime.fromtimestamp(at, timezone.utc).astimezone(zone)
    offset = moment.strftime("%z")
    return f"{moment:%a %Y-%m-%d %H:%M:%S} {moment:%Z} (UTC{offset[:3]}:{offset[3:5]})"
