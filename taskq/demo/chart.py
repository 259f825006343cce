"""Bars: in the terminal, and as an SVG file that is readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, NAME_WIDTH, VALUE_WIDTH, ROW = 720, 110, 70, 24
_STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 }
  .bar { fill: #2f6feb }
  .first { fill: #b6bec8 }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .first { fill: #57606a } }
"""

Groups = Mapping[str, Mapping[str, float]]
"""Title of a group of bars, then name and seconds of each bar; the first bar is the yardstick."""


def bars(values: Mapping[str, float], width: int = 40) -> list[str]:
    """A line for each value: name, bar, seconds, and how many times as fast as the first."""
    longest = max(values.values())
    first = next(iter(values.values()))
    names = max(map(len, values))
    return [
        f"{name:<{names}}  {'█' * max(1, round(width * value / longest)):<{width}}"
        f"  {value:6.2f} s  {first / value:4.1f} x"
        for name, value in values.items()
    ]


def svg(title: str, groups: Groups) -> str:
    """The same as a document."""
    body = [_text(0, 18, title, "title")]
    y = 34.0
    for name, values in groups.items():
        y += 18
        body.append(_text(0, y, name, "title"))
        scale = (WIDTH - NAME_WIDTH - VALUE_WIDTH) / max(values.values())
        for number, (way, value) in enumerate(values.items()):
            y += ROW
            kind = "first" if number == 0 else "bar"
            body.append(_text(0, y, way))
            body.append(
                f'<rect class="{kind}" x="{NAME_WIDTH}" y="{y - 13:.0f}" rx="2" '
                f'width="{max(1.0, scale * value):.1f}" height="16"/>'
            )
            body.append(_text(NAME_WIDTH + scale * value + 6, y, f"{value:.2f} s"))
        y += 12
    size = f'viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}"'
    return "\n".join(_document(size, title, body))


def _document(size: str, title: str, body: Sequence[str]) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        *body,
        "</svg>\n",
    ]


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes}>{escape(words)}</text>'
