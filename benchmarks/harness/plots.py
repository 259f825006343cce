"""Charts as SVG, readable on light and dark pages, without a plotting library."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.arithmetic import Runs
from benchmarks.harness.goals import shown
from benchmarks.harness.systems import OURS

WIDTH, NAME_WIDTH, VALUE_WIDTH, ROW = 760, 130, 150, 26
STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 }
  .note { font-size: 11.5px; fill: #6e7781 }
  .peer { fill: #b6bec8 }
  .ours { fill: #2f6feb }
  .strong { font-weight: 600 }
  .spread, .axis { stroke: #57606a; stroke-width: 1; fill: none }
  .axis { stroke: #d0d7de }
  .line1 { stroke: #2f6feb; stroke-width: 2; fill: none }
  .line2 { stroke: #e0823d; stroke-width: 2; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9198a1 }
    .peer { fill: #57606a }
    .spread { stroke: #9198a1 }
    .axis { stroke: #3d444d }
  }
"""


class Bar(NamedTuple):
    name: str
    low: float
    middle: float
    high: float
    ours: bool


def bars(
    runs: Runs, figures: Sequence[str], key: str, *, highest: bool = True, most: int = 14
) -> list[Bar]:
    """Return the variants that have one of the figures, best first."""
    found = []
    for variant in runs.variants:
        for figure in figures:
            values = runs.values(variant, figure, key)
            if values:
                ours = runs.system(variant) == OURS
                middle = statistics.median(values)
                found.append(Bar(variant, min(values), middle, max(values), ours))
                break
    return sorted(found, key=lambda bar: bar.middle, reverse=highest)[:most]


def document(height: int, body: Sequence[str], title: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    return "\n".join([*head, *body, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{classes}>{escape(words)}</text>'


def bar_chart(title: str, note: str, found: Sequence[Bar], unit: str) -> str:
    """Return horizontal bars with whiskers from the lowest to the highest repeat."""
    scale = (WIDTH - NAME_WIDTH - VALUE_WIDTH) / max(bar.high for bar in found)
    body = [text(0, 18, title, "title"), text(0, 36, note, "note")]
    for row, bar in enumerate(found):
        top = 52 + row * ROW
        base = top + 15
        kind = "ours" if bar.ours else "peer"
        strong = "strong" if bar.ours else ""
        body.append(text(NAME_WIDTH - 10, base, bar.name, strong, "end"))
        length = max(1.5, bar.middle * scale)
        body.append(
            f'<rect x="{NAME_WIDTH}" y="{top}" width="{length:.1f}" height="{ROW - 6}" '
            f'rx="2" class="{kind}"/>'
        )
        left, right = NAME_WIDTH + bar.low * scale, NAME_WIDTH + bar.high * scale
        if right - left > 2:
            middle = top + (ROW - 6) / 2
            body.append(
                f'<path class="spread" d="M{left:.1f} {middle}H{right:.1f}'
                f'M{left:.1f} {middle - 4}v8M{right:.1f} {middle - 4}v8"/>'
            )
        end = max(NAME_WIDTH + length, right) + 8
        body.append(text(end, base, f"{shown(bar.middle)}{unit}", strong))
    return document(52 + len(found) * ROW + 6, body, title)


class Line(NamedTuple):
    name: str
    points: list[tuple[float, float]]


def line_chart(title: str, note: str, lines: Sequence[Line], x_unit: str, y_unit: str) -> str:
    """Return up to two lines over a common axis that starts at nought."""
    left, top, right, bottom = 70, 60, WIDTH - 20, 260
    x_most = max(x for line in lines for x, _ in line.points) or 1
    y_most = nice(max(y for line in lines for _, y in line.points) or 1)
    body = [text(0, 18, title, "title"), text(0, 36, note, "note")]
    for step in range(5):
        y = bottom - (bottom - top) * step / 4
        body.append(f'<path class="axis" d="M{left} {y:.1f}H{right}"/>')
        body.append(text(left - 8, y + 4, shown(y_most * step / 4), "note", "end"))
    for number, line in enumerate(lines[:2], 1):
        path = " ".join(
            f"{left + (right - left) * x / x_most:.1f},{bottom - (bottom - top) * y / y_most:.1f}"
            for x, y in line.points
        )
        body.append(f'<polyline class="line{number}" points="{path}"/>')
        label_x = right - 190 * (len(lines) - number) - 160
        body.append(f'<path class="line{number}" d="M{label_x} 52h18"/>')
        body.append(text(label_x + 24, 56, line.name, "note"))
    body.append(text(left, bottom + 20, "0", "note"))
    body.append(text(right, bottom + 20, f"{shown(x_most)} {x_unit}", "note", "end"))
    body.append(text(0, top - 6, y_unit, "note"))
    return document(bottom + 30, body, title)


def nice(value: float) -> float:
    """Return the next of 1, 2, 4, 5, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)


def depth_lines(runs: Runs) -> list[Line]:
    lines = []
    for variant in runs.variants:
        good = runs.good(variant, "depth/deep")
        if good:
            rates = [statistics.median(tenth) for tenth in zip(*(
                row["rates_of_tenths"] for row in good
            ), strict=True)]  # fmt: skip
            share = good[0]["n"] / len(rates)
            lines.append(Line(variant, [((k + 0.5) * share, r) for k, r in enumerate(rates)]))
    return lines


def sustained_lines(runs: Runs, key: str) -> list[Line]:
    return [
        Line(variant, [(sample["second"], sample[key]) for sample in good[0]["samples"]])
        for variant in runs.variants
        if (good := runs.good(variant, "sustained"))
    ]


def write(runs: Runs, out: Path) -> list[str]:
    """Write the charts that there are figures for; return their names relative to ``out``."""
    machine = runs.data["machine"]
    where = f"{machine['cores']} cores, Python {machine['python']}, {machine['redis']}"
    where += f", {machine['date']}"
    charts: dict[str, str] = {}

    def chart(
        name: str, title: str, note: str, figures: Sequence[str], key: str, unit: str, *,
        highest: bool = True,
    ) -> None:  # fmt: skip
        if found := bars(runs, figures, key, highest=highest):
            charts[name] = bar_chart(title, f"{note} · {where}", found, unit)

    rate = "jobs_per_s"
    chart(
        "drain",
        "No-op jobs per second, one worker process, results stored",
        "Redis on the other core; more is better",
        ["drain/1p/results"],
        rate,
        "/s",
    )
    chart(
        "enqueue",
        "Jobs enqueued per second by one process, many at once",
        "bulk call where there is one, else 100 in flight; more is better",
        ["enqueue/pipelined", "enqueue/gather"],
        rate,
        "/s",
    )
    chart(
        "sleep",
        "2,000 jobs that sleep 100 ms, one worker process",
        "500 at once where async, 100 threads else; more is better",
        ["io"],
        rate,
        "/s",
    )
    for figure, to_what in (("latency", "the job's first line"), ("roundtrip", "its result")):
        chart(
            figure,
            f"Milliseconds from the call that enqueues to {to_what}",
            "median, idle worker; less is better",
            [figure],
            "p50_ms",
            " ms",
            highest=False,
        )
    chart(
        "memory",
        "Bytes of Redis for a finished job with its result",
        "less is better",
        ["memory"],
        "bytes_per_finished_job",
        " B",
        highest=False,
    )
    if lines := depth_lines(runs):
        charts["depth"] = line_chart(
            "Drain rate along a very long queue",
            f"each point is a tenth of it · {where}",
            lines,
            "jobs done",
            "jobs/s",
        )
    if lines := sustained_lines(runs, "redis_mb"):
        charts["sustained"] = line_chart(
            "Redis's memory under a steady stream",
            f"half the drain rate, results kept 60 s · {where}",
            lines,
            "s",
            "MB",
        )
    directory = out / "plots"
    directory.mkdir(exist_ok=True)
    for name, svg in charts.items():
        (directory / f"{name}.svg").write_text(svg)
    return [f"plots/{name}.svg" for name in charts]
