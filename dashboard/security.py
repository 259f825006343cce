"""Who may look, and what a browser may do with what it gets: around every answer.

Plain ASGI, outside the router, so that nothing is answered without it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from taskq.dashboard.settings import DashboardSettings, is_allowed_host, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
)

OPEN = ("/healthz", "/readyz")
"""For probes, who know no password: they tell nothing but whether it works."""


class Guard:
    """Checks method, Host and credentials before the application; adds headers behind it."""

    def __init__(self, app: App, settings: DashboardSettings) -> None:
        """Guard `app`."""
        self._app = app
        self._settings = settings
        self._hosts = (settings.host, socket.gethostname(), *settings.allowed_hosts)
        if settings.behind_proxy and not settings.allowed_hosts:
            self._hosts = ("*",)  # the proxy knows its names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                extra = [*HEADERS, (b"cache-control", b"no-store")]
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in extra if name not in known),
                ]
            elif scope["method"] == "HEAD":
                message["body"] = b""
            await send(message)

        if refusal is None:
            await self._app(scope, receive, with_headers)
            return
        status, text, more = refusal
        body = b"" if scope["method"] == "HEAD" else f"{text}\n".encode()
        head = [(b"content-type", b"text/plain; charset=utf-8"), *more]
        head.append((b"content-length", str(len(text.encode()) + 1).encode()))
        await with_headers({"type": "http.response.start", "status": status, "headers": head})
        await with_headers({"type": "http.response.body", "body": body})

    def _refusal(
        self, scope: Scope, headers: dict[bytes, bytes]
    ) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "This page only shows: GET and HEAD.", [(b"allow", b"GET, HEAD")]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN:
            return None
        host = headers.get(b"host", b"").decode("latin-1")
        if not is_allowed_host(host, self._hosts):
            text = (
                f"The Host header names {host[:200]!r}, which is none of this dashboard's names. "
                "If it is one: --allowed-host."
            )
            return 400, text, []
        return self._stranger(scope, headers)

    def _stranger(
        self, scope: Scope, headers: dict[bytes, bytes]
    ) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        settings = self._settings
        if settings.has_credentials:
            if self._knows(headers.get(b"authorization", b"")):
                return None
            ask = (b"www-authenticate", b'Basic realm="taskq", charset="UTF-8"')
            return 401, "Not without a token, or user and password.", [ask]
        client = scope.get("client")
        if settings.behind_proxy or client is None or is_loopback(client[0]):
            return None
        return 403, "Without a token, the dashboard answers this machine alone.", []

    def _knows(self, header: bytes) -> bool:
        """Whether the Authorization header has what we want; takes as long if it has not."""
        kind, _, given = header.partition(b" ")
        kind = kind.lower()
        user, password = b"", given.strip()
        if kind == b"basic":
            try:
                user, _, password = base64.b64decode(given, validate=True).partition(b":")
            except (binascii.Error, ValueError):
                return False
        elif kind != b"bearer":
            return False
        settings = self._settings
        by_token = hmac.compare_digest(password, settings.token.encode()) & bool(settings.token)
        right_user = hmac.compare_digest(user, settings.user.encode())
        right_password = hmac.compare_digest(password, settings.password.encode())
        by_name = right_user & right_password & bool(settings.password) & (kind == b"basic")
        return by_token | by_name
