"""Parts of the dashboard without a server: words, lines, hiding, asking, settings, events."""

from __future__ import annotations

import asyncio
import json
import time
from xml.etree import ElementTree as ET

import pytest

from taskq.broker.readonly import check
from taskq.dashboard import DashboardSettings, words
from taskq.dashboard.asking import Asked, BadRequest, Filter, address, moment
from taskq.dashboard.charts import Line, chart, spark
from taskq.dashboard.events import Full, Hub, encoded
from taskq.dashboard.hiding import HIDDEN, Hider
from taskq.dashboard.settings import is_allowed_host, is_loopback
from taskq.dashboard.shared import Shared
from taskq.errors import BrokerUnavailable, ConfigError
from taskq.keys import Keys


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "\u2013"), (0.0042, "4.2 ms"), (0.4, "400 ms"), (1.24, "1.2 s"), (42, "42 s"),
     (59.7, "1m"), (200, "3m 20s"), (18720, "5h 12m"), (273600, "3d 4h"), (-5, "-5.0 s")],
)  # fmt: skip
def test_durations(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(None, "\u2013"), (0, "0"), (120.4, "120/s"), (1.5, "1.5/s"), (0.5, "30/min"),
     (0.05, "3.0/min"), (0.001, "4/h")],
)  # fmt: skip
def test_rates(per_s, text):
    assert words.rate(per_s) == text


def test_numbers_and_sizes():
    assert words.compact(9_999) == "9,999"
    assert words.compact(12_345) == "12.3k"
    assert words.compact(1_234_567) == "1.2M"
    assert words.size(512) == "512 B"
    assert words.size(1_500_000) == "1.5 MB"
    assert words.percent(0.004) == "0.4 %"
    assert words.iso(1e30) == ""


def test_lines_are_wellformed_and_have_gaps():
    made = chart([Line("a", "in", [1.0, None, 3.0])], 0.0, 60, 'a "label" <x>')
    root = ET.fromstring(str(made))
    assert root.get("aria-label") == 'a "label" <x>'
    path = next(e for e in root.iter() if e.get("class") == "line k-in").get("d") or ""
    assert path.count("M") == 2
    assert ET.fromstring(str(spark([1.0, 2.0], "x"))) is not None
    assert "svg" not in spark([None, 1.0], "x")


class TestHiding:
    @pytest.mark.parametrize(
        "name", ["password", "api_key", "API-Key", "db_passwd", "authToken", "client_secret"]
    )
    def test_by_name(self, name):
        assert Hider().value({"deep": [{name: "hunter2"}]}) == {"deep": [{name: HIDDEN}]}

    @pytest.mark.parametrize(
        "text",
        [
            "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
            "AKIAABCDEFGHIJKLMNOP",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "ghp_0123456789abcdefghijABCDEFGHIJ",
            "redis://user:hunter2@host/0",
            "login failed: password=hunter2",
            '{"token": "hunter2"}',
            "Bearer abcdefghijklmnop",
        ],
    )
    def test_by_shape(self, text):
        shown = Hider().text(f"before {text} after")
        assert HIDDEN in shown
        assert shown.startswith("before ")
        for secret in ("hunter2", "AKIAABCDEFGH", "MIIE", "ghp_0", "c2lnbmF0", "abcdefghijklm"):
            assert secret not in shown

    def test_what_is_none_stays(self):
        value = {"path": "a.png", "size": 64, "author_id": 7, "tags": ["x", None, True]}
        assert Hider().value(value) == value

    def test_more_names_and_everything(self):
        assert Hider(["path"]).value({"path": "a"}) == {"path": HIDDEN}
        assert Hider(everything=True).value(["a"]) == HIDDEN

    @pytest.mark.parametrize(
        "text",
        ["x" * 900_000, "eyJ" * 300_000, "token" * 200_000, "a://" * 200_000, "password=" * 90_000,
         "-----BEGIN " * 90_000, "bearer " * 130_000, "'" * 900_000, "a://b:" * 150_000],
    )  # fmt: skip
    def test_hostile_texts_take_no_longer_than_others(self, text):
        begin = time.process_time()
        Hider().text(text)
        assert time.process_time() - begin < 8, "it took a minute where a part was tried again"

    def test_deep_values_end(self):
        value: list = []
        for _ in range(200):
            value = [value]
        assert "\u2026" in json.dumps(Hider().value(value), ensure_ascii=False)


class TestAsking:
    def test_filter_survives_its_address(self):
        query = Filter(("failed", "stopped"), "a b", "shop.*", "x&y=<z>", "1h").query()
        assert Filter.of(Asked(query[1:].encode())) == Filter(
            ("failed", "stopped"), "a b", "shop.*", "x&y=<z>", "1h"
        )

    def test_bytes_that_are_no_utf8(self):
        assert address(name="caf\udce9") == "?name=caf%E9"
        assert Asked(b"name=caf%E9").get("name") == "caf\udce9"

    @pytest.mark.parametrize(
        "query",
        ["status=nope", "since=yesterday", "since=2026-11-22T10:00:00", "q=" + "x" * 2_000,
         "&".join(f"a{n}=1" for n in range(200))],
    )  # fmt: skip
    def test_nonsense_is_refused(self, query):
        with pytest.raises(BadRequest):
            Filter.of(Asked(query.encode()))

    @pytest.mark.parametrize("text", ["-1", "0", "999999999999999999999", "abc", "1e3", "٣"])
    def test_numbers(self, text):
        from urllib.parse import quote

        with pytest.raises(BadRequest):
            Asked(f"n={quote(text)}".encode()).number("n", 1, 1, 100)

    def test_times(self):
        found = moment("1h")
        assert found is not None
        assert 3595 < time.time() - found < 3620
        assert moment("2026-11-22T18:00:00Z") == 1795370400
        assert moment("") is None


class TestSettings:
    def test_loopback_needs_nothing(self):
        assert DashboardSettings().checked()

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "jobs.example.org"])
    def test_elsewhere_needs_a_secret_or_a_proxy(self, host):
        with pytest.raises(ConfigError, match="anybody who reaches"):
            DashboardSettings(host=host).checked()
        assert DashboardSettings(host=host, token="long enough").checked()
        assert DashboardSettings(host=host, user="a", password="long enough").checked()
        assert DashboardSettings(host=host, behind_proxy=True).checked()

    @pytest.mark.parametrize(
        "wrong",
        [{"user": "a"}, {"password": "long enough"}, {"token": "short"}, {"root_path": "taskq"},
         {"root_path": "/taskq/"}, {"refresh_s": 0.0}],
    )  # fmt: skip
    def test_contradictions(self, wrong):
        with pytest.raises(ConfigError):
            DashboardSettings(**wrong).checked()

    def test_secrets_are_not_in_its_repr(self):
        made = DashboardSettings(token="tokentoken", user="a", password="passpass1",
                                 redis_url="redis://:hunter2@x/0")  # fmt: skip
        for secret in ("tokentoken", "passpass1", "hunter2"):
            assert secret not in repr(made)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
    def test_loopback(self, host):
        assert is_loopback(host)

    @pytest.mark.parametrize(
        ("header", "good"),
        [("localhost:8899", True), ("127.0.0.1", True), ("[::1]:80", True), ("10.1.2.3:1", True),
         ("evil.example", False), ("localhost.evil.example", False), ("", False),
         ("jobs.example.org", True), ("JOBS.example.org:8080", True)],
    )  # fmt: skip
    def test_host_header(self, header, good):
        assert is_allowed_host(header, ("jobs.example.org",)) is good


class TestReadOnly:
    @pytest.mark.parametrize(
        "command",
        [
            ("SET", "a", 1), ("KEYS", "*"), ("SCAN", 0), ("EVALSHA", "x", 0), ("DEL", "a"),
            ("SMEMBERS", "a"), ("SORT", "a"), ("CONFIG", "GET", "*"), ("GETEX", "a"),
            ("XREAD", "STREAMS", "a", "0"), ("LRANGE", "a", 0, -1), ("ZRANGE", "a", 0, -1),
            ("LRANGE", "a", 0, 5_000), ("ZRANGE", "a", "-inf", "+inf", "BYSCORE"),
            ("XRANGE", "a", "-", "+"), ("SRANDMEMBER", "a", -5), ("SRANDMEMBER", "a", 100_000),
            ("set", "a", 1), ("get", "a"),
        ],
    )  # fmt: skip
    def test_refused(self, command):
        with pytest.raises(PermissionError):
            check(command)

    @pytest.mark.parametrize(
        "command",
        [
            ("GET", "a"), ("LRANGE", "a", -50, -1), ("ZRANGE", "a", 0, 49, "REV", "WITHSCORES"),
            ("XREVRANGE", "a", "+", "-", "COUNT", 10), ("SRANDMEMBER", "a", 5_000), ("TIME",),
            ("ZRANGE", "a", "-inf", "+inf", "BYSCORE", "LIMIT", 0, 100), ("SRANDMEMBER", "a"),
        ],
    )  # fmt: skip
    def test_allowed(self, command):
        check(command)


class _Link:
    """A connection that counts, and answers when it is told to."""

    def __init__(self) -> None:
        self.keys = Keys("rq")
        self.asked = 0
        self.free = asyncio.Event()
        self.error: Exception | None = None

    async def apipe(self, commands):
        self.asked += 1
        await self.free.wait()
        if self.error:
            raise self.error
        return [self.asked]


def _ask():
    (reply,) = yield [("GET", "a")]
    return reply


class TestShared:
    async def test_many_askers_are_one_question(self):
        link = _Link()
        shared = Shared(link)
        asking = [asyncio.create_task(shared.ask("a", 60, _ask)) for _ in range(50)]
        await asyncio.sleep(0)
        link.free.set()
        assert set(await asyncio.gather(*asking)) == {1}
        assert await shared.ask("a", 60, _ask) == 1
        assert link.asked == 1
        assert await shared.ask("b", 60, _ask) == 2

    async def test_one_who_leaves_does_not_end_it_for_the_others(self):
        link = _Link()
        shared = Shared(link)
        leaving = asyncio.create_task(shared.ask("a", 60, _ask))
        staying = asyncio.create_task(shared.ask("a", 60, _ask))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0)
        link.free.set()
        assert await staying == 1

    async def test_a_failure_is_shared_and_asked_again_later(self, monkeypatch):
        monkeypatch.setattr("taskq.dashboard.shared._OUTAGE_S", 0.0)
        link = _Link()
        link.free.set()
        link.error = BrokerUnavailable("away")
        shared = Shared(link)
        for _ in range(3):
            with pytest.raises(BrokerUnavailable):
                await shared.ask("a", 60, _ask)
        assert link.asked == 1
        link.error = None
        assert await shared.ask("a", 0, _ask) == 2

    async def test_in_an_outage_one_question_waits_for_all(self):
        link = _Link()
        link.free.set()
        link.error = BrokerUnavailable("away")
        shared = Shared(link)
        for name in "abcdef":
            with pytest.raises(BrokerUnavailable):
                await shared.ask(name, 0, _ask)
        assert link.asked == 1

    async def test_what_is_kept_is_bounded(self):
        link = _Link()
        link.free.set()
        shared = Shared(link)
        for number in range(1_000):
            await shared.ask(number, 60, _ask)
        assert len(shared._answers) <= 256


class TestEvents:
    async def test_watchers_share_one_maker(self):
        made = 0

        async def make():
            nonlocal made
            made += 1
            return "page", f"<p>{made}</p>"

        hub = Hub(0.01)
        streams = [hub.watch("a", make) for _ in range(20)]
        for stream in streams:
            assert await stream.__anext__() == b"retry: 2000\n\n"
        first = [await stream.__anext__() for stream in streams]
        assert all(event.startswith(b"event: page\ndata: <p>") for event in first)
        assert made <= 20 / 2, "twenty watchers would have made it twenty times"
        assert hub.watchers == 20
        for stream in streams:
            await stream.aclose()
        assert hub.watchers == 0
        assert hub._views == {}

    async def test_what_has_not_changed_is_not_sent(self):
        async def make():
            return "page", "same"

        hub = Hub(0.001)
        stream = hub.watch("a", make)
        await stream.__anext__()
        await stream.__anext__()
        waiting = asyncio.ensure_future(stream.__anext__())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await hub.aclose()

    async def test_there_is_an_end_to_room(self):
        hub = Hub(60)

        async def make():
            return "page", ""

        streams = []
        for number in range(200):
            hub.check_room(str(number))
            streams.append(hub.watch(str(number), make))
            await streams[-1].__anext__()
        hub.check_room("7")
        with pytest.raises(Full):
            hub.check_room("one more")
        for stream in streams:
            await stream.aclose()

    def test_each_line_is_data(self):
        assert encoded("page", "a\n\nevent: x\r\nb") == (
            b"event: page\ndata: a\ndata: \ndata: event: x\ndata: b\n\n"
        )
