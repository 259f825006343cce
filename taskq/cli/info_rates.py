"""How fast queues go, as `taskq info` shows it: the same figures as on the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from taskq.cli.output import Cell, Column, ago, table

if TYPE_CHECKING:
    from taskq.inspector import Percentiles, Rates

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK = 20
"""Characters of the little chart; each is as many minutes as fit."""


def rates_lines(found: Mapping[str, Rates]) -> list[str]:
    """Lines of a table: the last five minutes of each queue, and its depth in the last hour."""
    columns = [
        Column("last 5 min", cut=True),
        Column("in/s", right=True),
        Column("out/s", right=True),
        Column("failed", right=True),
        Column("wait p50/p95/p99", right=True),
        Column("run p50/p95/p99", right=True),
        Column("empty in", right=True),
        Column("depth, last hour"),
    ]
    queues = sorted(name for name in found if name)
    shown = queues if len(queues) == 1 else [*queues, ""]
    return table(columns, [_row(found[name]) for name in shown]) if queues else []


def rates_data(found: Mapping[str, Rates]) -> dict[str, Any]:
    """As JSON: by queue, "" for all together."""
    return {name: asdict(one) for name, one in found.items()}


def _row(one: Rates) -> list[str]:
    share = one.failure_share
    failed = Cell("-" if share is None else f"{share:.1%}", "red" if share else None)
    grows = one.waiting and one.to_empty_s is None
    return [
        Cell(one.queue or "total"),
        Cell(_rate(one.enqueued_per_s)),
        Cell(_rate(one.finished_per_s)),
        failed,
        Cell(_three(one.wait)),
        Cell(_three(one.run)),
        Cell("never" if grows else ago(one.to_empty_s), "yellow" if grows else None),
        Cell(spark(one.depth)),
    ]


def _rate(per_s: float) -> str:
    return (
        f"{per_s:,.0f}"
        if per_s >= 100
        else f"{per_s:.1f}"
        if per_s >= 0.05 or not per_s
        else "<0.1"
    )


def _three(values: Percentiles) -> str:
    if not values.count:
        return "-"
    return " / ".join(short(value) for value in (values.p50, values.p95, values.p99))


def short(seconds: float | None) -> str:
    """A duration in few characters: `0.8ms`, `12ms`, `1.5s`, `3m 20s`."""
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f}ms"
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else ago(seconds)


def spark(depth: Sequence[int | None]) -> str:
    """A line of blocks, the highest as high as the deepest; a dot where nobody looked."""
    width = max(-(-len(depth) // _SPARK), 1)
    groups = [depth[at : at + width] for at in range(0, len(depth), width)]
    peaks = [max((d for d in group if d is not None), default=None) for group in groups]
    top = max((peak for peak in peaks if peak), default=0)
    return "".join(
        "·" if peak is None else _BLOCKS[0] if not peak else _BLOCKS[-(-peak * 7 // top)]
        for peak in peaks
    )
