"""From a page to HTML. Everything is escaped: by Jinja, and before that made safe to read."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from taskq.dashboard import charts, words
from taskq.dashboard.asking import address
from taskq.dashboard.pages import DAYS, SPANS, Page
from taskq.dashboard.settings import DashboardSettings
from taskq.dashboard.static import Static
from taskq.inspector import Rates, Series
from taskq.terminal import safe

_BY_TONE = {
    "bad": "failed stopped missing unreadable bad",
    "run": "started running busy begun",
    "good": "finished done",
    "wait": "queued scheduled deferred due timer postponed given_back",
    "warn": "suspended retried retrying crashed lost warn",
}
_TONES = {one: tone for tone, text in _BY_TONE.items() for one in text.split()}
"""The colour of a status; its word is always there as well."""


class Renderer:
    """Templates with what they need."""

    def __init__(self, settings: DashboardSettings, static: Static) -> None:
        """Load the templates that are installed with us."""
        self._env = Environment(
            loader=PackageLoader("taskq.dashboard", "templates"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            finalize=_readable,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        tools: dict[str, Any] = {
            **_TOOLS,
            "asset": static.address,
            "settings_title": settings.title,
            "refresh_s": settings.refresh_s,
        }
        self._env.globals.update(tools)
        self._env.filters.update(_FILTERS)

    def whole(self, page: Page, root: str, theme: str) -> str:
        """A page with everything around it."""
        return self._render(page, root, "base.html", theme)

    def inside(self, page: Page, root: str) -> str:
        """What changes of a page: what is sent to those who have it open."""
        return self._render(page, root, "inside.html", "")

    def _render(self, page: Page, root: str, layout: str, theme: str) -> str:
        template = self._env.get_template(f"{page.name}.html")
        around = {"page": page, "layout": layout, "root": root, "theme": theme}
        return template.render({"nav": page.name, **page.data, **page.shown, **around})


def throughput(series: Series, label: str) -> Markup:
    """Jobs in and out for each step of time."""
    points = series.points
    lines = [
        charts.Line("in", "in", [float(p.counts.enqueued) for p in points]),
        charts.Line("out", "out", [float(p.counts.finished) for p in points], filled=True),
        charts.Line("failed", "bad", [float(p.counts.failed) for p in points]),
    ]
    return charts.chart(lines, _since(series), series.step_s, label)


def depth_chart(series: Series, label: str) -> Markup:
    """Waiting jobs over time."""
    values = [None if p.depth is None else float(p.depth) for p in series.points]
    lines = [charts.Line("waiting", "depth", values, filled=True)]
    return charts.chart(lines, _since(series), series.step_s, label)


def times_chart(series: Series, which: str, label: str) -> Markup:
    """Median, 95th and 99th percentile of the time waited or run."""
    found = [point.wait if which == "wait" else point.run for point in series.points]
    lines = [
        charts.Line("p99", "p99", [one.p99 for one in found]),
        charts.Line("p95", "p95", [one.p95 for one in found]),
        charts.Line("p50", "p50", [one.p50 for one in found], filled=True),
    ]
    return charts.chart(lines, _since(series), series.step_s, label)


def depth_words(rates: Rates | None) -> str:
    """What the small line of a queue shows, for who cannot see it."""
    known = [depth for depth in rates.depth if depth is not None] if rates else []
    if not known:
        return "Depth over the last hour: not known"
    return f"Depth over the last hour: from {known[0]:,} to {known[-1]:,}, at most {max(known):,}"


def _since(series: Series) -> float:
    return series.points[0].at if series.points else series.since


def _readable(value: Any) -> Any:
    """Control characters and marks that reorder text become visible; markup of ours stays."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return safe(value)


def _pretty(value: Any, most: int = 4_000) -> str:
    """A JSON value in several lines, cut where it is too long."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) > most:
        return f"{text[:most]}… ({len(text):,} characters; /api/job has more)"
    return text


_TOOLS: dict[str, Any] = {
    "address": address,
    "days": DAYS,
    "depth_chart": depth_chart,
    "depth_words": depth_words,
    "meter": charts.meter,
    "plural": words.plural,
    "spans": SPANS,
    "spark": charts.spark,
    "throughput": throughput,
    "times_chart": times_chart,
}
_FILTERS: dict[str, Any] = {
    "ago": words.ago,
    "clock": words.clock,
    "compact": words.compact,
    "duration": words.duration,
    "first_parts": lambda name: str(name).rpartition(".")[0],
    "iso": words.iso,
    "last_part": lambda name: str(name).rpartition(".")[2],
    "number": words.number,
    "percent": words.percent,
    "pretty": _pretty,
    "rate": words.rate,
    "size": words.size,
    "tone": lambda status: _TONES.get(str(status), "off"),
    "unbuilt": lambda name: str(name).removeprefix("builtins."),
}
