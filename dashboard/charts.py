"""Lines as SVG, made here: they are there without a script, and before one.

Colours come from the style sheet by class; nothing is styled inline, which the content
security policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from markupsafe import Markup, escape

from taskq.dashboard.words import compact

Values = Sequence[float | None]

WIDTH, HEIGHT = 720, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 6, 8, 20


@dataclass(frozen=True)
class Line:
    """One line of a chart; `kind` names its colour, `filled` shades what is below."""

    label: str
    kind: str
    values: Values
    filled: bool = False


def spark(values: Values, label: str, kind: str = "depth") -> Markup:
    """A line without axes, for a table's cell. `label` says in words what it shows."""
    width, height = 96.0, 24.0
    top = max((v for v in values if v is not None), default=0.0)
    if sum(v is not None for v in values) < 2:
        return Markup('<span class="quiet" aria-hidden="true">&ndash;</span>')
    points = _points(values, (0.0, 1.5, width, height - 3.0), top or 1.0)
    path, area = _path(points), _area(points, height)
    return Markup(
        '<svg class="spark k-{kind}" viewBox="0 0 {w:g} {h:g}" preserveAspectRatio="none" '
        'role="img" aria-label="{label}"><path class="area" d="{area}"/>'
        '<path class="line" d="{path}"/></svg>'
    ).format(kind=kind, w=width, h=height, label=label, area=area, path=path)


def chart(lines: Sequence[Line], since: float, step_s: int, label: str) -> Markup:
    """Lines over time with axes; times in UTC."""
    count = max((len(line.values) for line in lines), default=0)
    top = _round_up(max((v for line in lines for v in line.values if v is not None), default=0.0))
    box = (float(_LEFT), float(_TOP), float(WIDTH - _LEFT - _RIGHT), float(HEIGHT - _TOP - _BOTTOM))
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">').format(
            w=WIDTH, h=HEIGHT, label=label
        )
    ]
    parts += [_grid(top, share, box) for share in (0.0, 0.5, 1.0)]
    parts += _ticks(since, step_s, count, box)
    for line in lines:
        points = _points(line.values, box, top)
        if line.filled:
            area = _area(points, box[1] + box[3])
            parts.append(Markup('<path class="area k-{}" d="{}"/>').format(line.kind, area))
        parts.append(Markup('<path class="line k-{}" d="{}"/>').format(line.kind, _path(points)))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def meter(share: float | None, label: str, kind: str = "") -> Markup:
    """A bar that is filled up to `share` of 1."""
    filled = 100 * min(max(share or 0.0, 0.0), 1.0)
    return Markup(
        '<svg class="meter {}" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" '
        'aria-label="{}"><rect class="back" width="100" height="4"/>'
        '<rect class="fill" width="{:.1f}" height="4"/></svg>'
    ).format(kind, label, filled)


def _grid(top: float, share: float, box: tuple[float, float, float, float]) -> Markup:
    left, upper, width, height = box
    y = upper + height * (1 - share)
    shown = top * share
    text = compact(shown) if shown >= 10 or shown == int(shown) else f"{shown:.2g}"
    return Markup(
        '<line class="grid" x1="{:g}" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text class="y" x="{:g}" y="{:.1f}">{}</text>'
    ).format(left, left + width, y, y, left - 6, y + 3.5, text)


def _ticks(
    since: float, step_s: int, count: int, box: tuple[float, float, float, float]
) -> list[Markup]:
    left, upper, width, height = box
    span = step_s * max(count - 1, 1)
    every = next((e for e in (300, 900, 1800, 3600, 10800, 21600, 43200) if span / e <= 7), 86400)
    found = []
    at = math.ceil(since / every) * every
    while at <= since + span:
        x = left + width * (at - since) / span
        moment = datetime.fromtimestamp(at, timezone.utc)
        text = f"{moment.day} {moment:%b}" if every == 86400 else f"{moment:%H:%M}"
        if left + 14 < x < left + width - 14:
            found.append(
                Markup('<text class="x" x="{:.1f}" y="{:g}">{}</text>').format(
                    x, upper + height + 14, escape(text)
                )
            )
        at += every
    return found


def _points(
    values: Values, box: tuple[float, float, float, float], top: float
) -> list[tuple[float, float] | None]:
    left, upper, width, height = box
    step = width / max(len(values) - 1, 1)
    return [
        None if v is None else (left + at * step, upper + height * (1 - min(max(v / top, 0), 1)))
        for at, v in enumerate(values)
    ]


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    parts = []
    pen = "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        parts.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L"
    return "".join(parts)


def _area(points: Sequence[tuple[float, float] | None], floor: float) -> str:
    known = [point for point in points if point is not None]
    if len(known) < 2:
        return ""
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in known)
    return f"M{known[0][0]:.1f} {floor:.1f}L{line}L{known[-1][0]:.1f} {floor:.1f}Z"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 10 times a power of ten: an axis that does not jump about."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value * 0.9999)
