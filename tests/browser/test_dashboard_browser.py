"""The dashboard in a real browser: live, by keys, on a phone, with hostile data, for everybody."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.dashboard import PATHS, put_failure, put_job, put_worker, served

pytestmark = pytest.mark.timeout(90)

WIDTHS = (390, 1360)


def test_live_without_a_reload(page, shop, redis_client):
    page.goto(f"{shop}/")
    page.wait_for_selector('#live[data-state="on"]')
    page.evaluate("window.same = true")
    put_job(redis_client, "fresh-1", "queued", queue="brand-new")
    page.wait_for_selector("text=brand-new")
    assert page.evaluate("window.same") is True


def test_what_one_types_survives_a_refresh(page, shop, redis_client):
    page.goto(f"{shop}/jobs")
    page.wait_for_selector('#live[data-state="on"]')
    page.keyboard.press("/")
    page.keyboard.type("no such")
    put_job(redis_client, "fresh-1", "queued")
    page.wait_for_selector("text=fresh-1")
    assert page.input_value("#filter") == "no such"
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs?*q=no+such*")
    assert page.locator("tr[data-row]").count() == 1
    assert "failed-1" in page.inner_text("tr[data-row]")


def test_by_keys(page, shop):
    page.goto(f"{shop}/jobs")
    page.wait_for_selector('#live[data-state="on"]')
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.locator("tr.at").count() == 1
    assert page.evaluate("!!document.activeElement.closest('tr.at')")
    page.keyboard.press("Enter")
    page.wait_for_url("**/job?id=*")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("w")
    page.wait_for_url("**/workers")


def test_dark_and_light_stay_chosen(page, shop):
    page.goto(f"{shop}/")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("d")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.goto(f"{shop}/jobs")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_local_time(chromium, shop):
    context = chromium.new_context(timezone_id="Asia/Tokyo")
    page = context.new_page()
    page.goto(f"{shop}/job?id=failed-1")
    assert "10:00" in page.inner_text(".timeline")
    page.keyboard.press("t")
    assert "19:00" in page.inner_text(".timeline")
    context.close()


def test_whole_without_a_script(chromium, shop):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    for path in PATHS:
        page.goto(f"{shop}{path}")
        assert page.is_visible("h1")
        assert page.locator("noscript meta, meta[http-equiv=refresh]").count() == 1
        assert page.locator("button.js:visible").count() == 0
    page.goto(f"{shop}/")
    assert page.locator("svg.chart path.line").count() == 3
    page.click("nav >> text=Jobs")
    page.fill("#filter", "mail-1")
    page.click("button >> text=Filter")
    assert page.locator("tr[data-row]").count() == 1
    context.close()


def test_polling_where_there_are_no_events(page, shop, redis_client):
    page.route("**/events?*", lambda route: route.abort())
    page.goto(f"{shop}/jobs")
    page.wait_for_selector('#live[data-state="poll"]')
    put_job(redis_client, "fresh-1", "queued")
    page.wait_for_selector("text=fresh-1")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(page, shop, width):
    page.set_viewport_size({"width": width, "height": 844})
    for path in PATHS:
        page.goto(f"{shop}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


KINDS = (
    "<script>window.owned={n}</script>",
    '"><img src=x onerror=window.owned={n}>',
    "'-window.owned={n}-'",
    "<svg/onload=window.owned={n}>",
    "javascript:window.owned={n}",
    "{{{{ {n} * {n} }}}}{{% if 1 %}}",
    "</textarea></script><body onload=window.owned={n}>",
    "\u202e\u200b\x1b]0;{n}\x07<b hx-get=/x hx-trigger=load>",
    "&lt;script&gt;window.owned={n}&lt;/script&gt; &#x3c;",
    "\ndata: x\nevent: page\n<a href=//evil.example/{n}>" + "w" * 300,
)
HOSTILE = [KINDS[n % len(KINDS)].format(n=n) for n in range(500)]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("half", [0, 1])
def test_five_hundred_hostile_texts_in_each_field(page, redis_url, redis_client, half):
    """In each field that is shown; nothing runs, nothing is asked for elsewhere, nothing breaks."""
    client = redis_client
    for n, text in enumerate(HOSTILE):
        job_id = f"{n}-{text}"
        call = [f"mod.{text}", text, [text, {text: [text]}], {text: text}]
        put_job(client, job_id, "failed", queue=f"q{n % 3}", call=call, description=text,
                meta=json.dumps({text: text}), worker_name=text, dependency_id=text,
                tq_progress=json.dumps([1, 2, text]), timeout=text,
                tq_runs=json.dumps(["retried", 1, 2, text, text, text]),
                **{f"x{text}": text})  # fmt: skip
        put_failure(client, job_id, text, f"Traceback\n{text}\nValueError: {text}")
        client.xadd(f"taskq:stream:{job_id}", {"v": json.dumps({text: text})}, f"5-{n + 1}")
        client.sadd("rq:queues", f"rq:queue:{text}")
        put_worker(client, text, hostname=text, queues=text, version=text, python_version=text,
                   state=text, current_job=text)  # fmt: skip
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail("a dialog was opened"))
    with served(redis_url, "--refresh", "0.3", "--title", HOSTILE[0]) as root:
        paths = [["/", "/jobs"], ["/failures", "/schedules"]][half]
        paths += [f"/workers?page={n}" for n in range(1 + half, 6, 2)]
        paths += [f"/jobs?status=failed&limit=200&queue=q{n}" for n in range(half, 3, 2)]
        for n in range(half, len(KINDS), 2):
            text = quote(HOSTILE[n], safe="")
            paths += [f"/job?id={quote(f'{n}-{HOSTILE[n]}', safe='')}", f"/queue?name={text}",
                      f"/jobs?q={text}&task={text}&queue={text}", f"/workers?q={text}"]  # fmt: skip
        for path in paths:
            page.goto(root + path, wait_until="load")
            assert page.evaluate("window.owned") is None, path
            foreign = "#page img, #page script, #page [hx-get], #page [onload]"
            assert page.locator(foreign).count() == 0
            assert page.is_visible("h1")
        # the way of live pages, too
        page.goto(f"{root}/jobs?status=failed&limit=200")
        page.wait_for_selector('#live[data-state="on"]')
        put_job(client, "last-1", "failed", at="2027-01-01T00:00:00.000000Z")
        page.wait_for_selector("text=last-1")
        assert page.evaluate("window.owned") is None
        assert [url for url in asked if not url.startswith(root)] == []


def test_redis_away_and_back(page, redis_program):
    from taskq.embedded import EmbeddedRedis

    server = EmbeddedRedis.start(port=0, binary=redis_program)
    port = server.port
    with served(f"redis://127.0.0.1:{port}/0", "--refresh", "0.3") as root:
        page.goto(f"{root}/")
        page.wait_for_selector("text=All is well")
        server.stop()
        page.wait_for_selector("text=Redis does not answer", timeout=20_000)
        server = EmbeddedRedis.start(port=port, binary=redis_program)
        page.wait_for_selector("text=All is well", timeout=20_000)
        server.stop()


def test_what_is_sent_is_small(page, shop):
    """All of a first visit of the heaviest page, packed; nothing waits for a script to be drawn."""
    sizes: list[int] = []
    page.on("response", lambda one: sizes.append(int(one.headers.get("content-length", 0))))
    page.goto(f"{shop}/queue?name=default")
    page.wait_for_selector(".uplot")
    assert 20_000 < sum(sizes) < 150_000
    assert page.locator("head script:not([defer]):not([src*=uplot])").count() == 0
