"""What commands print: tables, facts and JSON on stdout, complaints on stderr.

Everything that comes from Redis passes `taskq.terminal.safe` on its way to a
terminal; JSON escapes all but ASCII. Colours only on a terminal, and never with
NO_COLOR (https://no-color.org).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

import click

from taskq.terminal import safe, safe_line

GAP = "  "


def colored(stream: IO[str]) -> bool:
    """Whether colours may be written to `stream`."""
    return not os.environ.get("NO_COLOR") and stream.isatty()


def paint(
    text: str, color: str | None, *, stream: IO[str] | None = None, bold: bool = False
) -> str:
    """`text` in `color` where the stream (stdout by default) may have colours."""
    if (color is None and not bold) or not colored(stream or sys.stdout):
        return text
    return click.style(text, fg=color, bold=bold or None)


def say(text: str = "") -> None:
    """One line on stdout. The text is ours, or has passed `safe`."""
    click.echo(text, color=colored(sys.stdout))


def complain(message: str, *, label: str = "") -> None:
    """One line on stderr; control characters in it become visible."""
    start = f"{paint(label, 'red', stream=sys.stderr)} " if label else ""
    click.echo(start + safe(message), err=True, color=colored(sys.stderr))


def print_json(value: Any) -> None:
    """`value` as JSON: indented for people on a terminal, one line for programs."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, indent=indent, default=str))


class Column:
    """One column of a table: its title and how its cells look."""

    def __init__(self, title: str, *, right: bool = False, cut: bool = False) -> None:
        """`right` aligns numbers; `cut` lets the cell shrink when the terminal is narrow."""
        self.title = title
        self.right = right
        self.cut = cut


class Cell(str):
    """A cell with a colour."""

    __slots__ = ("color",)
    color: str | None

    def __new__(cls, text: object, color: str | None = None) -> Cell:
        """The text of a cell, and the colour it has on a terminal."""
        self = super().__new__(cls, str(text))
        self.color = color
        return self


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a plain table with a head; cells are made safe, in one line, aligned.

    Columns marked `cut` share what the terminal leaves; without a terminal nothing
    is cut, so that programs see whole values.
    """
    cells = [[Cell(safe_line(cell), getattr(cell, "color", None)) for cell in row] for row in rows]
    widths = [
        max([len(column.title), *(len(row[at]) for row in cells)])
        for at, column in enumerate(columns)
    ]
    _shrink(columns, widths)
    head = GAP.join(
        _fit(column.title, column, width) for column, width in zip(columns, widths, strict=True)
    )
    lines = [paint(head.rstrip(), None, bold=True)]
    for row in cells:
        parts = [
            paint(_fit(cell, column, width), cell.color)
            for cell, column, width in zip(row, columns, widths, strict=True)
        ]
        lines.append(GAP.join(parts).rstrip())
    return lines


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of `name  value`, values aligned, also their further lines; empty ones left out."""
    known = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in known), default=0)
    lines = []
    for name, value in known:
        first, *rest = safe(value).split("\n")
        lines.append(f"{paint(name.ljust(width), None, bold=True)}{GAP}{first}")
        lines += [" " * (width + len(GAP)) + line for line in rest]
    return lines


def ago(seconds: float | None) -> str:
    """A duration for people: `0.4s`, `12s`, `3m 20s`, `5h 12m`, `3d 4h`; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return f"-{ago(-seconds)}"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    for size, below, names in ((60, 3600, "ms"), (3600, 86400, "hm")):
        if whole < below:
            return f"{whole // size}{names[0]} {whole % size // (size // 60)}{names[1]}"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def size(count_bytes: int | None) -> str:
    """Bytes for people: `812 B`, `4.2 kB`, `1.3 MB`; "-" for None."""
    if count_bytes is None:
        return "-"
    if count_bytes < 1000:
        return f"{count_bytes} B"
    value = float(count_bytes)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def plural(count: int, noun: str) -> str:
    """`1 job`, `1,200 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _fit(text: str, column: Column, width: int) -> str:
    if len(text) > width:
        text = safe_line(text, width)
    return text.rjust(width) if column.right else text.ljust(width)


def _shrink(columns: Sequence[Column], widths: list[int]) -> None:
    """Take what is too wide for the terminal from the columns that may be cut."""
    if not sys.stdout.isatty():
        return
    import shutil  # noqa: PLC0415 (4 ms, only for a terminal)

    over = sum(widths) + len(GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
    while over > 0:
        candidates = [at for at, column in enumerate(columns) if column.cut and widths[at] > 12]
        if not candidates:
            return
        widest = max(candidates, key=widths.__getitem__)
        widths[widest] -= 1
        over -= 1
