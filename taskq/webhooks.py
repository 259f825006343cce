"""Webhooks: how a job ended, sent to a URL, signed; and the check on the other side.

The form is that of Standard Webhooks (https://www.standardwebhooks.com), for which there
are libraries in most languages: headers `webhook-id`, `webhook-timestamp` and
`webhook-signature`, the last one HMAC-SHA256 over "id.timestamp.body".

Sending is a job of its own, so it survives crashes, and what is not answered with 2xx is
tried again. Nothing of the answer is kept but its status. Redirects are not followed, and
proxies not used: what is connected to is the address that was checked.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import http.client
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from taskq.context import current_job
from taskq.endings import Ending
from taskq.errors import ConfigError, PayloadError
from taskq.settings import load
from taskq.targets import is_loopback, wrong_url

TIMEOUT_S = 10.0
"""To connect, to send, and to wait for the status."""
TOLERANCE_S = 300.0
"""What is older is refused by the receiver: somebody may be sending it once more."""
KEY_MARK = "whsec_"
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)
"""Where clouds tell a machine its secrets, beside the link-local address of most of them."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class WebhookFailed(ConnectionError):
    """A webhook was not accepted; it is sent again."""


class WebhookRefused(ValueError):
    """A webhook may not go where it should; it is not tried again."""


def deliver(url: str, ending: Ending, keys: Sequence[str] = ()) -> int:
    """Send a webhook; returns the status of the answer. Blocks. Run by workers, as a job.

    Args:
        url: where to.
        ending: what to tell.
        keys: "whsec_..."; each signs. None: the webhook is not signed.

    Raises:
        WebhookRefused: the URL or its address is not allowed.
        WebhookFailed: no connection, or another answer than 2xx.
    """
    if wrong := wrong_url(url):
        raise WebhookRefused(f"The URL {wrong}")
    job = current_job(None)
    body = event(ending)
    headers = {"Content-Type": "application/json", "User-Agent": "taskq"}
    headers |= sign(body, job.id if job is not None else ending.id, keys)
    return _post(url, body, headers)


def event(ending: Ending) -> bytes:
    """The body of a webhook: JSON without tags; what JSON cannot carry is text."""
    failed = ending.status != "finished"
    said = {
        "type": f"job.{ending.status}",
        "id": ending.id,
        "task": ending.task,
        "queue": ending.queue,
        "status": ending.status,
        "result": ending.result,
        "error": {"type": ending.exc_type, "message": ending.message} if failed else None,
        "attempts": ending.attempts,
        "ended_at": ending.ended_at.isoformat() if ending.ended_at else None,
        "meta": dict(ending.meta),
    }
    return json.dumps(said, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    for method, options in (("isoformat", {}), ("model_dump", {"mode": "json"})):  # dates, pydantic
        if callable(found := getattr(value, method, None)):
            return found(**options)
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return str(value)


# -- signatures --------------------------------------------------------------------------


def keys_of(own: Iterable[str], secrets: Iterable[str | bytes]) -> tuple[str, ...]:
    """What webhooks are signed with, as "whsec_..." texts.

    Args:
        own: TASKQ_WEBHOOK_SECRET; any text, or a "whsec_..." of another program.
        secrets: the app's, used where there is no own one. Receivers must not learn them,
            so keys are derived.
    """
    given = tuple(own)
    if given:
        return tuple(one if one.startswith(KEY_MARK) else _shown(one.encode()) for one in given)
    raw = (one.encode() if isinstance(one, str) else one for one in secrets)
    return tuple(_shown(hmac.digest(one, b"taskq webhooks", "sha256")) for one in raw)


def sign(
    body: bytes, webhook_id: str, keys: Iterable[str], now: float | None = None
) -> dict[str, str]:
    """The headers of a webhook: id, time, and a signature for each key."""
    stamp = str(int(time.time() if now is None else now))
    headers = {"webhook-id": webhook_id, "webhook-timestamp": stamp}
    signatures = [_signature(body, webhook_id, stamp, key) for key in keys]
    if signatures:
        headers["webhook-signature"] = " ".join(signatures)
    return headers


def verify_webhook(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance_s: float = TOLERANCE_S,
) -> dict[str, Any]:
    """Return what a webhook says, if it comes from who has the secret and is no older one.

    Args:
        body: of the request, as it came.
        headers: of the request; any case.
        secret: TASKQ_WEBHOOK_SECRET, or one of `queue.webhook_keys`; several while they change.
        tolerance_s: greatest age, in seconds.

    Raises:
        PayloadError: it is not signed, by another key, altered, or too old.
    """
    found = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, stamp = found["webhook-id"], found["webhook-timestamp"]
        signatures = found["webhook-signature"].split()
        age_s = abs(time.time() - int(stamp))
    except (KeyError, ValueError):
        raise PayloadError(
            "Not a signed webhook: webhook-id, webhook-timestamp or webhook-signature is missing."
        ) from None
    given = (secret,) if isinstance(secret, str) else secret
    keys = keys_of([part for one in given for part in one.split(",")], ())
    right = [_signature(body, webhook_id, stamp, key) for key in keys]
    # all of them, so that the time taken tells nothing
    matches = [hmac.compare_digest(a.encode(), b.encode()) for a in right for b in signatures]
    if not any(matches):
        raise PayloadError("The webhook's signature is wrong: another secret, or an altered body.")
    if age_s > tolerance_s:
        raise PayloadError(f"The webhook is {age_s:.0f} s old, more than {tolerance_s:g} s.")
    said: dict[str, Any] = json.loads(body)
    return said


def _shown(key: bytes) -> str:
    return KEY_MARK + base64.b64encode(key).decode()


def _signature(body: bytes, webhook_id: str, stamp: str, key: str) -> str:
    try:
        raw = base64.b64decode(key.removeprefix(KEY_MARK))
    except ValueError:
        raise ConfigError(f"A webhook key begins with {KEY_MARK!r} and is no base64.") from None
    made = hmac.digest(raw, f"{webhook_id}.{stamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(made).decode()


# -- sending -----------------------------------------------------------------------------


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    where = f"{parts.scheme}://{host}:{port}"  # the path may be a secret
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.sock = _connect(host, port, secure)
        connection.request("POST", path, body, dict(headers))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise WebhookFailed(f"{where}: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
    if not 200 <= status < 300:
        more = " (redirects are not followed)" if 300 <= status < 400 else ""
        raise WebhookFailed(f"{where} answered {status}{more}")
    return status


def _connect(host: str, port: int, secure: bool) -> socket.socket:
    """Connect to an address that was checked, and to no other.

    Raises:
        WebhookRefused: none of the host's addresses is allowed.
        OSError: none answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [info[4][0] for info in found]
    allowed = [str(one) for one in addresses if not wrong_address(host, str(one))]
    if not allowed:
        why = wrong_address(host, str(addresses[0]))
        raise WebhookRefused(f"{host} is {addresses[0]}, {why}. Nothing was sent.")
    error: OSError = OSError("no address")
    for address in dict.fromkeys(allowed):
        try:
            plain = socket.create_connection((address, port), TIMEOUT_S)
        except OSError as err:
            error = err
            continue
        if not secure:
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    raise error


def wrong_address(host: str, address: str) -> str:
    """Return why no webhook may go to an address of a host; "" where it may.

    Whoever chooses a URL chooses what a worker connects to: never where machines in a cloud
    find their secrets, and this machine itself only by its name.
    """
    found: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found in _NAT64:
            found = ipaddress.IPv4Address(found.packed[-4:])
        else:
            found = found.ipv4_mapped or found.sixtofour or found
    if found in _METADATA or found.is_link_local:
        return "where clouds keep what only the machine itself may know"
    if found.is_multicast or found.is_unspecified:
        return "the address of no single machine"
    if found.is_loopback:
        return "" if is_loopback(host) else "the worker's own machine"
    if not found.is_global and not load().webhook_private:
        return "in a private network (TASKQ_WEBHOOK_PRIVATE is off)"
    return ""
