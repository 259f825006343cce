"""axe on every page, in light and dark, on a screen and on a phone: nothing serious.

It is fetched by `make axe`, or named by `TASKQ_AXE`. `TASKQ_NEEDS_AXE=1` makes a missing one an
error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.dashboard import PATHS, put_job, served

pytestmark = pytest.mark.timeout(90)

_PLACE = Path(os.environ.get("TASKQ_AXE") or ".axe/axe.min.js")
_NEEDED = os.environ.get("TASKQ_NEEDS_AXE") == "1"
MORE = (
    "/job?id=again-1", "/job?id=gen-1", "/job?id=started-1", "/job?id=nobody", "/jobs?q=zzz",
    "/jobs?status=failed", "/queue?name=nothing", "/workers?q=zzz", "/nowhere",
)  # fmt: skip
OPEN = "document.querySelectorAll('details').forEach(one => { one.open = true })"


@pytest.fixture(scope="module")
def axe() -> str:
    """Its source."""
    if not _PLACE.is_file():
        missing = "no axe-core (make axe, or TASKQ_AXE=/path/to/axe.min.js)"
        pytest.fail(missing) if _NEEDED else pytest.skip(missing)
    return _PLACE.read_text()


def violations(page, axe: str, where: str) -> list[tuple[str, ...]]:
    page.evaluate(OPEN)
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert found["passes"], "it has looked at something"
    return [
        (where, one["id"], one["impact"], one["nodes"][0]["html"][:200])
        for one in found["violations"]
    ]


# contrast does not depend on the width, nor the layout on the colours
@pytest.mark.parametrize(("scheme", "width"), [("light", 1360), ("dark", 390)])
def test_axe_finds_nothing(chromium, shop, redis_client, axe, scheme, width):
    ends = ("retried", "postponed", "crashed", "lost", "given_back")
    runs = "\n".join(json.dumps([how, 1e9, 1e9 + 1, "E", "no", "w1"]) for how in ends)
    put_job(redis_client, "again-1", "queued", tq_runs=runs, tq_attempts=5)
    put_job(redis_client, "gen-1", "started", dependency_ids="failed-1", tq_progress='[3, 4, "go"]')
    redis_client.xadd("taskq:stream:gen-1", {"v": '{"n": 1}'}, "5-1")
    context = chromium.new_context(
        color_scheme=scheme,
        bypass_csp=True,
        reduced_motion="reduce",
        viewport={"width": width, "height": 844},
    )
    page = context.new_page()
    bad = []
    for path in (*PATHS, *MORE):
        page.goto(f"{shop}{path}")
        bad += violations(page, axe, path)
    page.goto(f"{shop}/jobs")
    page.wait_for_selector('#live[data-state="on"]')
    page.keyboard.press("?")
    page.wait_for_selector("#help", state="visible")
    bad += violations(page, axe, "the help")
    assert not bad, "\n".join(map(str, bad))
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_where_redis_is_away(chromium, axe, scheme):
    context = chromium.new_context(color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    page = context.new_page()
    with served("redis://127.0.0.1:1/0", "--refresh", "0.3") as root:
        page.goto(f"{root}/")
        page.wait_for_selector("text=Redis does not answer")
        assert violations(page, axe, "Redis away") == []
    context.close()


def test_axe_sees_what_is_wrong(page, axe, shop):
    page.goto(f"{shop}/healthz")
    page.set_content("<img src=x><button></button>")
    assert {one[1] for one in violations(page, axe, "")} >= {"image-alt", "button-name"}
