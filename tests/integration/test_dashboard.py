"""The dashboard on a real server: each page, what it may do, and what it does with bad input."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from html import unescape
from html.parser import HTMLParser

import pytest
import redis

from taskq.dashboard import create_app, create_wsgi_app
from taskq.dashboard.schema import ANSWERS
from taskq.embedded import EmbeddedRedis
from tests.dashboard import PATHS, fill, get, made, put_failure, put_job, put_worker
from tests.support import time_passes, wait_until


@pytest.fixture
async def app(redis_url, redis_client):
    fill(redis_client)
    app = made(redis_url)
    yield app
    await app.aclose()


@pytest.mark.parametrize("path", PATHS)
async def test_each_page(app, path):
    answer = await get(app, path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.count("<h1") == 1
    _Balanced().feed(answer.text)


class _Balanced(HTMLParser):
    """Fails where an element is closed that is not open; the browser would mend it in silence."""

    VOID = ("meta", "link", "input", "path", "rect", "line", "circle", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert not [name for name, _ in attrs if name == "style" or name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


async def test_what_the_overview_says(app):
    text = (await get(app, "/")).text
    assert "needs you" in text or "need you" in text
    assert "No worker listens to \u201cmail\u201d; 1 job wait" in unescape(text)
    api = (await get(app, "/api/overview")).json
    assert api["totals"]["queued"] == 4
    assert {one["queue"]["name"] for one in api["queues"]} == {"default", "mail"}
    kinds = {(one["kind"], one["queue"]) for one in api["concerns"]}
    assert ("no_worker", "mail") in kinds


async def test_all_is_well_and_nothing_at_all(redis_url, redis_client):
    app = made(redis_url)
    text = (await get(app, "/")).text
    assert "All is well" in text
    assert "No queues yet" in text
    assert "No workers" in text
    for path, words in [("/jobs", "No jobs."), ("/schedules", "No schedules."),
                        ("/failures", "Nothing failed."), ("/workers", "No workers.")]:  # fmt: skip
        assert words in (await get(app, path)).text
    await app.aclose()


async def test_one_job(app, redis_client):
    redis_client.hset("rq:job:failed-1", "meta", json.dumps({"tenant": "acme", "token": "hush"}))
    text = unescape((await get(app, "/job?id=failed-1")).text)
    assert 'thumbnail("a.png", size=64)' in text
    assert "no such file" in text
    assert "Traceback: it broke" in text
    assert "Failed for good" in text
    assert "after 1.5 s" in text
    assert "acme" in text
    assert "hush" not in text
    api = (await get(app, "/api/job?id=failed-1")).json
    assert api["call"]["kwargs"] == {"size": 64}
    assert api["meta"]["value"] == {"tenant": "acme", "token": "\u2022\u2022\u2022"}


async def test_a_generators_stream_and_kin(app, redis_client):
    put_job(redis_client, "gen-1", "started", dependency_ids="failed-1", tq_progress='[3, 4, "go"]')
    for number in range(1, 31):
        redis_client.xadd("taskq:stream:gen-1", {"v": json.dumps({"n": number})}, f"5-{number}")
    redis_client.sadd("rq:job:gen-1:dependents", "deferred-1")
    api = (await get(app, "/api/job?id=gen-1")).json
    assert api["stream"]["length"] == 30
    assert [one["value"]["n"] for one in api["stream"]["newest"]] == list(range(30, 10, -1))
    assert [one["id"] for one in api["needs"]] == ["failed-1"]
    assert [one["id"] for one in api["needed_by"]] == ["deferred-1"]
    text = (await get(app, "/job?id=gen-1")).text
    assert "3 of 4" in text


async def test_secrets_are_on_no_page(redis_url, redis_client):
    fill(redis_client)
    arguments = ["redis://u:hunter2@h/0", {"apiKey": "hunter2"}]
    more = {
        "call": ["t", None, arguments, {"password": "hunter2"}],
        "description": "t(password='hunter2')",
        "meta": json.dumps({"auth_token": "hunter2"}),
    }
    put_job(redis_client, "secret-1", "failed", **more)
    put_failure(
        redis_client, "secret-1", "login password=hunter2 failed", "x = dict(token='hunter2')"
    )
    redis_client.xadd("taskq:stream:secret-1", {"v": '{"secret": "hunter2"}'})
    app = made(redis_url)
    for path in (*PATHS, "/job?id=secret-1", "/jobs?status=failed", "/jobs?q=hunter2",
                 "/api/job?id=secret-1", "/api/jobs?status=failed"):  # fmt: skip
        text = (await get(app, path)).text
        assert "hunter2" not in text.replace("q=hunter2", "").replace('value="hunter2"', ""), path
    await app.aclose()


async def test_arguments_can_be_hidden_altogether(redis_url, redis_client):
    fill(redis_client)
    app = made(redis_url, hide_arguments=True)
    for path in ("/job?id=failed-1", "/api/job?id=failed-1"):
        assert "a.png" not in (await get(app, path)).text
    await app.aclose()


class TestReadOnly:
    async def test_with_a_user_that_may_only_read_and_nothing_changes(
        self, redis_client, redis_server
    ):
        """Crawl every link of every page as such a user; the data is the same afterwards."""
        fill(redis_client)
        redis_client.acl_setuser(
            "viewer", enabled=True, passwords=["+look"], keys=["*"], reset=True,
            commands=["+@read", "-keys", "+ping", "+select", "+info", "+time"],
        )  # fmt: skip
        app = made(f"redis://viewer:look@127.0.0.1:{redis_server.port}/0")
        before = _digest(redis_client)
        seen: set[str] = set()
        todo = [*PATHS, *(f"/api/{name}" for name in ANSWERS), "/metrics", "/readyz", "/nowhere"]
        while todo:
            path = todo.pop()
            if path in seen or len(seen) > 150:
                continue
            seen.add(path)
            answer = await get(app, path)
            assert answer.status in (200, 404), (path, answer.text)
            if "text/html" in answer.headers["content-type"]:
                links = re.findall(r'href="(/[^"]*)"', answer.text)
                todo += [unescape(link) for link in links if not link.startswith("/static")]
        assert len(seen) > 30
        assert _digest(redis_client) == before
        await app.aclose()
        redis_client.acl_deluser("viewer")

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
    @pytest.mark.parametrize("path", ["/", "/api/jobs", "/healthz"])
    async def test_only_get_and_head(self, app, method, path):
        answer = await get(app, path, method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"

    @pytest.mark.parametrize("path", [*PATHS, "/api/jobs", "/metrics"])
    async def test_head_has_no_body(self, app, path):
        answer = await get(app, path, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")

    async def test_a_pickle_is_not_loaded(self, app, redis_client, tmp_path):
        import pickle

        class Boom:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        put_job(redis_client, "evil-1", "finished")
        call = pickle.dumps(("a.b", None, (Boom(),), {}))
        redis_client.hset("rq:job:evil-1", mapping={"data": call, "meta": pickle.dumps(Boom())})
        for path in ("/job?id=evil-1", "/jobs", "/api/job?id=evil-1"):
            assert (await get(app, path)).status == 200
        assert not (tmp_path / "ran").exists()
        assert "Reading them would run code" in (await get(app, "/job?id=evil-1")).text


def _digest(client: redis.Redis) -> dict[bytes, object]:
    """All keys with their content and whether they expire; statistics of the server not."""
    return {key: (client.dump(key), client.pttl(key) > 0) for key in sorted(client.keys("*"))}


class TestWhoMayLook:
    async def test_headers(self, app):
        headers = (await get(app, "/")).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", ""])
    async def test_a_foreign_name_is_refused(self, app, host):
        answer = await get(app, "/", headers={"host": host})
        assert answer.status == 400
        assert "--allowed-host" in answer.text

    async def test_without_a_secret_only_this_machine(self, app):
        assert (await get(app, "/", client="10.0.0.9")).status == 403
        assert (await get(app, "/healthz", client="10.0.0.9")).status == 200

    async def test_a_token(self, redis_url):
        import base64

        app = made(redis_url, token="tokentoken", allowed_hosts=("*",))
        by_name = base64.b64encode(b"anybody:tokentoken").decode()
        for header, status in [
            ("", 401), ("Bearer tokentoken", 200), (f"Basic {by_name}", 200),
            ("Bearer tokentokem", 401), ("Basic !!!", 401), ("Bearer ", 401), ("Digest x", 401),
            ("Basic " + base64.b64encode(b":").decode(), 401),
        ]:  # fmt: skip
            answer = await get(app, "/", headers={"authorization": header}, client="10.0.0.9")
            assert answer.status == status, header
        assert answer.headers["www-authenticate"].startswith("Basic")
        for path in ("/static/taskq.css", "/api/jobs", "/metrics", "/events?view=/"):
            assert (await get(app, path)).status == 401
        await app.aclose()

    async def test_user_and_password(self, redis_url):
        import base64

        app = made(redis_url, user="ada", password="passpass1")
        for pair, status in [(b"ada:passpass1", 200), (b"eve:passpass1", 401), (b"ada:x", 401)]:
            header = {"authorization": "Basic " + base64.b64encode(pair).decode()}
            assert (await get(app, "/", headers=header)).status == status
        bearer = {"authorization": "Bearer passpass1"}
        assert (await get(app, "/", headers=bearer)).status == 401
        await app.aclose()

    async def test_behind_a_proxy_it_decides(self, redis_url):
        app = made(redis_url, behind_proxy=True)
        headers = {"host": "jobs.example.org"}
        assert (await get(app, "/", headers=headers, client="10.0.0.9")).status == 200
        await app.aclose()


class TestLists:
    async def test_pages_have_each_job_once(self, redis_url, redis_client):
        for at in range(120):
            when = f"2026-11-22T10:{at // 60:02}:{at % 60:02}.000000Z"
            put_job(redis_client, f"j{at:03}", "queued", at=when)
        for at in range(70):
            when = f"2026-11-22T10:00:{at % 60:02}.500000Z"
            put_job(redis_client, f"k{at:03}", "failed", "mail", at=when)
        app = made(redis_url)
        found: list[str] = []
        after = ""
        for turn in range(10):
            answer = (await get(app, f"/api/jobs?limit=40&after={after}")).json
            assert answer["total"] == 190 + turn
            found += [job["id"] for job in answer["jobs"]]
            after = answer["after"]
            if not after:
                break
            # what comes in meanwhile moves all places
            put_job(redis_client, f"new{turn}", "queued", at="2026-11-22T12:00:00.000000Z")
        assert len(found) == len(set(found)) == 190
        assert found[0] == "j119"
        await app.aclose()

    async def test_newest_first_in_one_queue(self, app):
        jobs = (await get(app, "/api/jobs?status=queued&queue=default")).json["jobs"]
        assert [job["id"] for job in jobs] == ["queued-2", "queued-1", "queued-0"]

    @pytest.mark.parametrize(
        ("query", "ids"),
        [
            ("status=failed", ["failed-1"]),
            ("q=no+such+FILE", ["failed-1"]),
            ("q=mail-1", ["mail-1"]),
            ("queue=mail", ["mail-1"]),
            ("task=thumb*&queue=mail", []),
            ("task=thumbnail&queue=mail", ["mail-1"]),
            ("task=shop.*&queue=mail", ["mail-1"]),
            ("since=1h", []),
            ("until=2026-11-22T10:00:00Z&queue=mail", ["mail-1"]),
            ("since=2026-11-22T10:00:02Z&until=2026-11-22T10:00:03Z", ["failed-1"]),
            ("queue=nowhere", []),
        ],
    )
    async def test_filters(self, app, query, ids):
        answer = await get(app, f"/api/jobs?{query}")
        assert [job["id"] for job in answer.json["jobs"]] == ids
        assert (await get(app, f"/jobs?{query}")).status == 200

    async def test_a_search_without_a_hit_looks_at_a_bounded_part(self, redis_url, redis_client):
        ids = [f"j{n}" for n in range(5_000)]
        redis_client.sadd("rq:queues", "rq:queue:default")
        redis_client.rpush("rq:queue:default", *ids)
        app = made(redis_url)
        first = (await get(app, "/api/jobs?status=queued&q=zzz")).json
        assert "scanned" in first, first
        assert first["jobs"] == []
        assert first["scanned"] <= 800
        again = (await get(app, f"/api/jobs?status=queued&q=zzz&after={first['after']}")).json
        assert again["after"] != first["after"]
        assert "look further" in (await get(app, "/jobs?status=queued&q=zzz")).text
        await app.aclose()


class TestBounds:
    async def test_commands_do_not_grow_with_jobs(self, redis_url, redis_client):
        counts = []
        for size in (10, 5_000):
            redis_client.flushall()
            fill(redis_client)
            redis_client.rpush("rq:queue:default", *[f"j{n}" for n in range(size)])
            redis_client.zadd("rq:failed:default", {f"f{n}": 4102444800 + n for n in range(size)})
            app = made(redis_url)
            await get(app, "/")
            counts.append(app._room().link.sent)
            await app.aclose()
        assert counts[0] == counts[1]

    async def test_fifty_watchers_ask_as_much_as_one(self, redis_url, redis_client):
        fill(redis_client)
        app = made(redis_url, refresh_s=0.2)
        room = app._room()

        async def make():
            page = await app._made("/", b"")
            return "page", app._renderer.inside(page, "")

        streams = [room.hub.watch("/", make) for _ in range(50)]
        for stream in streams:
            await stream.__anext__()
        await asyncio.gather(*(stream.__anext__() for stream in streams))
        alone = made(redis_url)
        await get(alone, "/")
        assert room.link.sent <= 3 * alone._room().link.sent
        for stream in streams:
            await stream.aclose()
        await alone.aclose()
        await app.aclose()


class TestBadInput:
    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/job?id=nope", 404), ("/job", 404), ("/job?id=" + "x" * 900, 404),
            ("/queue?name=nope", 404), ("/queue", 404), ("/nowhere", 404),
            ("/static/../app.py", 404), ("/static/nope.js", 404),
            ("/jobs?status=nope", 400), ("/jobs?after=%21%21", 400),
            ("/jobs?after=eJyrVkrLzElVslIy0FEqSyzKTCwpBQA0wQYh", 400), ("/jobs?limit=0", 400),
            ("/jobs?limit=100000", 400), ("/jobs?since=never", 400), ("/?span=1y", 400),
            ("/failures?days=8", 400), ("/workers?page=-1", 400), ("/jobs?q=" + "x" * 1_500, 400),
            ("/job?id=%00%1b%5b2J%ff", 404), ("/queue?name=%ff%fe", 404), ("/jobs?q=%ff", 200),
            ("/events?view=/nope", 404), ("/jobs?" + "a=1&" * 200, 400),
            ("/jobs?queue=" + "%F0%9F%92%A5" * 50, 200), ("/workers?page=999", 200),
        ],
    )  # fmt: skip
    async def test_a_status_and_a_page_that_says_why(self, app, path, status, caplog):
        caplog.set_level(logging.WARNING)
        answer = await get(app, path)
        assert answer.status == status
        assert answer.body
        assert caplog.records == []

    async def test_a_job_whose_hash_is_gone(self, app, redis_client):
        redis_client.delete("rq:job:failed-1")
        answer = await get(app, "/job?id=failed-1")
        assert answer.status == 410
        assert "what is left of it" in answer.text
        assert "missing" in (await get(app, "/jobs?status=failed")).text

    @pytest.mark.parametrize(
        "key",
        ["rq:job:failed-1", "rq:results:failed-1", "rq:queue:default", "rq:failed:default",
         "rq:worker:w1", "rq:workers", "rq:wip:default", "taskq:paused", "rq:job:queued-0",
         "taskq:stream:failed-1", "rq:job:failed-1:dependents"],
    )  # fmt: skip
    @pytest.mark.parametrize("kind", ["text", "list"])
    async def test_keys_of_a_wrong_type(self, app, redis_client, key, kind):
        redis_client.delete(key)
        redis_client.set(key, "x") if kind == "text" else redis_client.rpush(key, b"\xff", "")
        for path in (*PATHS, "/api/overview", "/metrics", "/queue?name=mail"):
            answer = await get(app, path)
            assert answer.status in (200, 404, 410), (path, answer.text[-600:])

    async def test_garbage_in_every_field(self, app, redis_client):
        for name in redis_client.hkeys("rq:job:failed-1"):
            redis_client.hset("rq:job:failed-1", name, b"\xff\xfe\x00<script>")
        for name in redis_client.hkeys("rq:worker:w1"):
            redis_client.hset("rq:worker:w1", name, b"\xff\xfe\x00<script>")
        redis_client.xadd("rq:results:failed-1", {"type": b"\xff", "exc_string": b"\xff"})
        for path in PATHS:
            answer = await get(app, path)
            assert answer.status == 200, path
            assert b"<script>" not in answer.body.partition(b"<main")[2]

    async def test_large_fields(self, app, redis_client):
        put_job(redis_client, "large-1", "failed", call=["t", None, ["x" * 900_000], {}])
        redis_client.hset("rq:job:large-1", "meta", "[" * 200_000)
        put_failure(redis_client, "large-1", "e" * 100_000, "t" * 900_000)
        answer = await get(app, "/job?id=large-1")
        assert answer.status == 200
        assert len(answer.body) < 1_500_000


class TestRedisAway:
    async def test_pages_say_so_and_the_log_once(self, redis_program, caplog):
        server = EmbeddedRedis.start(port=0, binary=redis_program)
        url = f"redis://:hunter2@127.0.0.1:{server.port}/0"
        app = made(f"redis://127.0.0.1:{server.port}/0")
        assert (await get(app, "/")).status == 200
        server.stop()
        caplog.set_level(logging.WARNING)
        time_passes(1.1)  # what is known may be a second old
        for path in ("/", "/jobs", "/job?id=a", "/api/overview", "/metrics", "/workers"):
            answer = await get(app, path)
            assert answer.status == 503, path
        assert "Redis does not answer" in (await get(app, "/")).text
        assert (await get(app, "/readyz")).status == 503
        assert (await get(app, "/healthz")).status == 200
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "hunter2" not in caplog.text + url.replace("hunter2", "")
        await app.aclose()


class TestForPrograms:
    @pytest.mark.parametrize("name", sorted(ANSWERS))
    async def test_answers_are_as_documented(self, app, name):
        query = {"queue": "?name=default", "job": "?id=failed-1"}.get(name, "")
        answer = await get(app, f"/api/{name}{query}")
        assert answer.status == 200
        document = (await get(app, "/api/openapi.json")).json
        schema = document["paths"][f"/api/{name}"]["get"]["responses"]["200"]["content"]
        _conforms(answer.json, schema["application/json"]["schema"], document, name)
        assert set(answer.json) == set(ANSWERS[name])

    async def test_prometheus(self, app, redis_client):
        put_job(redis_client, "x", "queued", 'we"ird\\\n')
        answer = await get(app, "/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.text.splitlines()
        assert 'rq_jobs{queue="default",status="queued"} 3' in lines
        assert 'rq_workers{name="w1",state="busy",queues="default"} 1' in lines
        assert 'taskq_jobs{queue="we\\"ird\\\\\\n",status="queued"} 1' in lines
        sample = re.compile(r'[a-z_]+(\{([a-z_]+="(\\.|[^"\\])*",?)+\})? -?[0-9.e+-]+$')
        named = set()
        for line in lines:
            if line.startswith("# TYPE "):
                assert line.split()[2] not in named
                named.add(line.split()[2])
            elif not line.startswith("#"):
                assert sample.match(line), line
                assert re.split(r"[{ ]", line)[0] in named

    async def test_files_are_kept_by_browsers_and_pages_are_not(self, app):
        page = (await get(app, "/")).text
        address = re.search(r'href="(/static/taskq\.css\?\w+)"', page)
        assert address
        packed = await get(app, address[1], headers={"accept-encoding": "gzip"})
        assert "immutable" in packed.headers["cache-control"]
        assert packed.headers["content-encoding"] == "gzip"
        old = await get(app, "/static/taskq.css?old")
        assert old.headers["cache-control"] == "no-store"


def _conforms(value, schema, document, where) -> None:
    """A small JSON Schema check: types, properties, required ones, nothing undocumented."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", ())
    if "anyOf" in schema:
        if value is None and {"type": "null"} in schema["anyOf"]:
            return
        rest = next(one for one in schema["anyOf"] if one.get("type") != "null")
        _conforms(value, rest, document, where)
    elif kinds and not (value is None and where.rpartition(".")[2] in ("call", "meta", "result")):
        kinds = [kinds] if isinstance(kinds, str) else kinds
        names = {"string": str, "integer": int, "number": (int, float), "boolean": bool,
                 "object": dict, "array": list, "null": type(None)}  # fmt: skip
        assert any(isinstance(value, names[kind]) for kind in kinds), (where, value, kinds)
        if isinstance(value, dict) and "properties" in schema:
            assert set(value) <= set(schema["properties"]), where
            assert set(schema.get("required", ())) <= set(value), where
            for name, inner in value.items():
                _conforms(inner, schema["properties"][name], document, f"{where}.{name}")
        elif isinstance(value, list):
            for inner in value:
                _conforms(inner, schema["items"], document, where)


class TestMounted:
    async def test_in_starlette_and_so_in_fastapi(self, redis_url, redis_client):
        from starlette.applications import Starlette
        from starlette.routing import Mount

        fill(redis_client)
        inner = create_app(redis_url)
        app = Starlette(routes=[Mount("/ops/jobs", inner)])
        page = await get(app, "/ops/jobs/")
        assert page.status == 200
        _all_below(page.text, "/ops/jobs")
        assert (await get(app, "/ops/jobs/job?id=failed-1")).status == 200
        assert (await get(app, "/ops/jobs/healthz", client="10.0.0.9")).status == 200
        await inner.aclose()

    async def test_behind_a_prefix_that_the_proxy_keeps_or_removes(self, redis_url):
        app = made(redis_url, root_path="/taskq", behind_proxy=True)
        kept = await get(app, "/taskq/")
        assert kept.status == 200
        _all_below(kept.text, "/taskq")
        removed = await get(app, "/jobs")
        assert removed.status == 200
        _all_below(removed.text, "/taskq")
        await app.aclose()

    def test_in_wsgi(self, redis_url, redis_client):
        fill(redis_client)
        app = create_wsgi_app(redis_url)
        try:
            status, headers, body = _wsgi(app, "/ops", "/job", "id=failed-1")
            assert status == "200 OK"
            assert "content-security-policy" in headers
            _all_below(body.decode(), "/ops")
            assert _wsgi(app, "/ops", "/events", "view=/")[0].startswith("503")
            assert _wsgi(app, "/ops", "/", "", method="POST")[0].startswith("405")
            assert _wsgi(app, "/ops", "/", "", host="evil.example")[0].startswith("400")
            assert _wsgi(app, "/ops", "/", "", address="10.0.0.9")[0].startswith("403")
        finally:
            app.close()
        wait_until(lambda: app._loop is None)


def _all_below(text: str, root: str) -> None:
    links = re.findall(r'(?:href|src|action|data-series)="(/[^"]*)"', text)
    assert links
    assert [link for link in links if not link.startswith(root)] == []


def _wsgi(app, root, path, query, method="GET", host="localhost", address="127.0.0.1"):
    found: list = []
    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": root, "PATH_INFO": path, "QUERY_STRING": query,
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", "HTTP_HOST": host,
        "REMOTE_ADDR": address, "wsgi.url_scheme": "http",
    }  # fmt: skip
    body = b"".join(app(environ, lambda status, headers: found.extend((status, dict(headers)))))
    return found[0], found[1], body


async def test_workers_with_what_they_do(app, redis_client):
    put_worker(redis_client, "w2", state="idle", tq_stuck=2, tq_memory=40_000_000)
    redis_client.sadd("rq:worker:w1:executions", "started-1:e1")
    redis_client.hset("rq:job:started-1", "started_at", "2026-11-22T10:00:00.000000Z")
    api = (await get(app, "/api/workers")).json
    assert [worker["name"] for worker in api["workers"]] == ["w2", "w1"], "trouble first"
    assert api["elapsed_s"]["started-1"] > 0
    text = (await get(app, "/workers")).text
    assert "2 stuck" in text
    assert "40.0 MB" in text
