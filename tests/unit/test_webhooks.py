"""Webhooks without a network: what may be called, what is said, and how it is signed."""

from __future__ import annotations

import json
import socket
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from taskq import ConfigError, Ending, PayloadError, TaskQ, verify_webhook, webhooks
from taskq.notify import netstrings
from taskq.options import DEFAULTS
from taskq.targets import wrong_target

NOW = 1_700_000_000

queue = TaskQ("redis://localhost:1/0")


@queue.task
def told(end: Ending, *, loud: bool = False) -> None: ...


@queue.task
def two(end: Ending, other: int) -> None: ...


# -- what may be called ------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        told,
        pytest.param(told.options(queue="mail", delay=3), id="with options"),
        "https://hooks.example.com/x?y=1",
        "https://10.0.0.7:8443/",
        "http://localhost:8000/x",
        "http://127.0.0.1/",
        "http://[::1]:80/",
    ],
)
def test_what_may_be_told(value: Any) -> None:
    assert wrong_target(value) == ""
    assert DEFAULTS.merge("t", {"on_success": value}).on_success is value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (print, "must be a task"),
        (told.fn, "must be a task"),
        (7, "must be a task"),
        (two, "is called with one argument, an Ending: two() misses"),
        pytest.param(told.options(job_id="x"), "has job_id=", id="job_id"),
        pytest.param(told.options(unique=True), "has unique=", id="unique"),
        ("", "must be a task, or an https"),
        ("ftp://example.com", "must be a task, or an https"),
        ("https://", "must be a task, or an https"),
        ("https://[::1", "is no URL"),
        ("https://h:99999/", "is no URL"),
        ("https://user:pw@example.com/", "has a login"),
        ("https://example.com/a b", "without spaces"),
        ("https://exämple.com/", "ASCII"),
        ("http://example.com/", "TASKQ_WEBHOOK_HTTP=example.com"),
    ],
)
def test_what_may_not(value: Any, why: str) -> None:
    assert why in wrong_target(value)
    with pytest.raises(ConfigError, match="on_failure="):
        DEFAULTS.merge("t", {"on_failure": value})


def test_plain_http_to_hosts_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQ_WEBHOOK_HTTP", "hooks.internal,example.com")
    assert wrong_target("http://example.com/x") == ""
    assert "TASKQ_WEBHOOK_HTTP" in wrong_target("http://example.org/x")


@pytest.mark.parametrize(
    ("host", "address", "allowed"),
    [
        ("example.com", "93.184.216.34", True),
        ("example.com", "10.1.2.3", True),
        ("example.com", "2606:4700::1", True),
        ("localhost", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("example.com", "127.0.0.1", False),
        ("example.com", "::1", False),
        ("example.com", "::ffff:127.0.0.1", False),
        ("example.com", "169.254.169.254", False),
        ("169.254.169.254", "169.254.169.254", False),
        ("example.com", "::ffff:169.254.169.254", False),
        ("example.com", "64:ff9b::a9fe:a9fe", False),
        ("example.com", "2002:a9fe:a9fe::1", False),
        ("example.com", "fe80::1%eth0", False),
        ("example.com", "fd00:ec2::254", False),
        ("example.com", "100.100.100.200", False),
        ("example.com", "0.0.0.0", False),
        ("example.com", "224.0.0.1", False),
    ],
)
def test_addresses(host: str, address: str, allowed: bool) -> None:
    assert (webhooks.wrong_address(host, address) == "") is allowed


def test_private_networks_may_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQ_WEBHOOK_PRIVATE", "0")
    assert "private network" in webhooks.wrong_address("example.com", "10.1.2.3")
    assert webhooks.wrong_address("example.com", "93.184.216.34") == ""


def test_a_name_that_leads_to_metadata_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_args: object, **_more: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(webhooks.WebhookRefused, match=r"169\.254\.169\.254.*Nothing was sent"):
        webhooks.deliver("https://example.com/latest", Ending("1", "t", "q", "finished"))


# -- what is said ------------------------------------------------------------------------


def test_the_body_is_plain_json() -> None:
    at = datetime(2026, 11, 22, tzinfo=timezone.utc)
    result = {"at": date(2026, 1, 2), "set": {1}, "sum": Decimal("1.5"), "raw": b"hi", "t": (1, 2)}
    ending = Ending("7f", "shop.pay", "web", "finished", result, attempts=2, ended_at=at)
    assert json.loads(webhooks.event(ending)) == {
        "type": "job.finished",
        "id": "7f",
        "task": "shop.pay",
        "queue": "web",
        "status": "finished",
        "result": {"at": "2026-01-02", "set": [1], "sum": "1.5", "raw": "aGk=", "t": [1, 2]},
        "error": None,
        "attempts": 2,
        "ended_at": "2026-11-22T00:00:00+00:00",
        "meta": {},
    }


def test_a_traceback_stays_at_home() -> None:
    ending = Ending("7f", "shop.pay", "web", "failed", None, "builtins.ValueError", "no", "secret!")
    said = json.loads(webhooks.event(ending))
    assert said["error"] == {"type": "builtins.ValueError", "message": "no"}
    assert "secret!" not in json.dumps(said)


# -- signatures --------------------------------------------------------------------------


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks."""
    headers = webhooks.sign(
        b'{"test": 2432232314}',
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        1614265330,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def _signed(body: bytes = b'{"a":1}', *keys: str, now: float | None = None) -> dict[str, str]:
    return webhooks.sign(body, "id1", keys or webhooks.keys_of(["s3cret"], ()), now)


def test_verify() -> None:
    headers = _signed()
    assert verify_webhook(b'{"a":1}', headers, "s3cret") == {"a": 1}
    shouted = {name.title(): value for name, value in headers.items()}
    assert verify_webhook(b'{"a":1}', shouted, ["old", "s3cret"]) == {"a": 1}


@pytest.mark.parametrize(
    ("change", "secret", "why"),
    [
        ({}, "other", "signature is wrong"),
        ({"webhook-id": "id2"}, "s3cret", "signature is wrong"),
        ({"webhook-signature": "v1,AAAA"}, "s3cret", "signature is wrong"),
        ({"webhook-signature": ""}, "s3cret", "signature is wrong"),
        ({"webhook-timestamp": "soon"}, "s3cret", "Not a signed webhook"),
        ({"webhook-id": None}, "s3cret", "Not a signed webhook"),
    ],
)
def test_what_is_not_verified(change: dict[str, Any], secret: str, why: str) -> None:
    headers = {k: v for k, v in {**_signed(), **change}.items() if v is not None}
    with pytest.raises(PayloadError, match=why):
        verify_webhook(b'{"a":1}', headers, secret)


def test_an_old_one_is_refused() -> None:
    headers = _signed(now=NOW)
    with pytest.raises(PayloadError, match="s old, more than 300 s"):
        verify_webhook(b'{"a":1}', headers, "s3cret")
    assert verify_webhook(b'{"a":1}', headers, "s3cret", tolerance_s=1e10)


def test_without_a_secret_nothing_is_signed() -> None:
    assert queue.webhook_keys == ()
    assert "webhook-signature" not in webhooks.sign(b"{}", "id", [])


def test_keys_of_the_apps_secret_do_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = TaskQ("redis://localhost:1/0", secret="new,old").webhook_keys
    assert len(set(keys)) == 2
    assert all(key.startswith("whsec_") for key in keys)
    monkeypatch.setenv("TASKQ_WEBHOOK_SECRET", "whsec_YWJj,plain")
    own = TaskQ("redis://localhost:1/0", secret="new,old").webhook_keys
    assert own == ("whsec_YWJj", "whsec_cGxhaW4=")


def test_netstrings() -> None:
    assert netstrings(["ab", b"\xff:", 7, ""]) == b"2:ab2:\xff:1:70:"
