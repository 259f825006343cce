"""The URL of a redis-py client, and back."""

from __future__ import annotations

import ssl

import pytest
import redis
from redis.sentinel import Sentinel

from taskq.broker import connect, sentinel
from taskq.worker.rq_url import url_of


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://:p%40ss%2F@10.0.0.1:7000/3",
        "redis://user:p%3Aw@host:6379/0",
        "redis://[::1]:6380/1",
        "unix:///tmp/a%20b.sock?db=2",
        "unix://:pw@/tmp/x.sock?db=0",
        "rediss://:pw@host:6379/0?ssl_cert_reqs=none&ssl_check_hostname=False",
    ],
)
def test_round_trip(url: str):
    client = redis.Redis.from_url(url)
    again = redis.Redis.from_url(url_of(client))
    theirs, ours = client.connection_pool, again.connection_pool
    assert theirs.connection_class is ours.connection_class
    for name in ("host", "port", "db", "username", "password", "path", "ssl_cert_reqs"):
        before, after = theirs.connection_kwargs.get(name), ours.connection_kwargs.get(name)
        assert (before or None) == (after or None), name
    connect.check_url(url_of(client))


def test_from_arguments():
    client = redis.Redis("h", 1, 2, "pw", ssl=True, ssl_cert_reqs=ssl.CERT_NONE)
    assert url_of(client).startswith("rediss://:pw@h:1/2?")
    assert "ssl_cert_reqs=none" in url_of(client)
    assert url_of(redis.Redis(decode_responses=True)) == "redis://localhost:6379/0"


def test_of_a_sentinel():
    sentinels = Sentinel([("s1", 26379), ("s2", 26380)], sentinel_kwargs={"password": "x"})
    client = sentinels.master_for("mymaster", db=4, password="pw")
    service = sentinel.parse(url_of(client))
    assert service.sentinels == [("s1", 26379), ("s2", 26380)]
    assert (service.name, service.login) == ("mymaster", {"password": "x"})
    assert service.options["password"] == "pw"
    assert service.options["db"] == 4
