"""What a URL of Redis says, before anything is connected."""

from __future__ import annotations

import asyncio
import socket

import pytest

from taskq import BrokerUnavailable, ConfigError, TaskQ
from taskq.broker import sentinel
from taskq.broker.connect import check_url


def test_a_sentinel_url_says_it_all():
    service = sentinel.parse(
        "redis+sentinel://us%40er:p%2Fw@one:1,two,[::1]:3/jobs/4"
        "?sentinel_username=w&sentinel_password=s%26w&socket_keepalive=yes"
    )
    assert service.sentinels == [("one", 1), ("two", 26379), ("::1", 3)]
    assert service.name == "jobs"
    assert service.login == {"username": "w", "password": "s&w"}
    assert service.options == {
        "username": "us@er", "password": "p/w", "db": 4, "socket_keepalive": True,
    }  # fmt: skip


def test_a_short_sentinel_url():
    service = sentinel.parse("redis+sentinel://one/jobs")
    assert service == ([("one", 26379)], "jobs", {"db": 0}, {}, False)


def test_a_sentinel_url_with_tls(tmp_path):
    service = sentinel.parse("rediss+sentinel://one/jobs?ssl_cert_reqs=none")
    assert service.has_tls
    assert service.options == {"db": 0, "ssl_cert_reqs": "none"}
    check_url("rediss+sentinel://one/jobs?ssl_cert_reqs=none")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+sentinel://one:1", "needs the service"),
        ("redis+sentinel://one:1/", "needs the service"),
        ("redis+sentinel://one:1/jobs/first", "'first' is not a number"),
        ("redis+sentinel://one:x/jobs", "'one:x' is no host:port"),
        ("redis+sentinel://one,,two/jobs", "'' is no host:port"),
        ("redis+sentinel://:pw@/jobs", "'' is no host:port"),
        ("redis+sentinel://one/jobs?socket_timeout=soon", "socket_timeout"),
        ("redis+sentinel://one/jobs?ssl_cert_reqs=none", "unknown option, ssl_cert_reqs"),
        ("rediss+sentinel://one/jobs?ssl_ca_certs=/nowhere", "ssl_ca_certs=/nowhere: No such"),
        ("http://one", "http://... is no Redis URL"),
        ("one", "The text given is no Redis URL"),
    ],
)
def test_what_is_wrong_is_told_at_once(url: str, words: str):
    with pytest.raises(ConfigError, match=words):
        check_url(url)


def test_that_nobody_is_there_is_said_in_the_same_words():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"redis://127.0.0.1:{probe.getsockname()[1]}/0"
    app = TaskQ(url)
    app.broker.deadline_s = 0.8

    async def ping() -> None:
        try:
            await app.broker.acall("PING")
        finally:
            await app.aclose()

    with pytest.raises(BrokerUnavailable) as caught:
        app.broker.call("PING")
    with pytest.raises(BrokerUnavailable) as caught_async:
        asyncio.run(ping())
    assert str(caught.value) == str(caught_async.value) == f"No Redis at {url}: connection refused."
