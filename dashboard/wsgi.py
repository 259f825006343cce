"""The dashboard for WSGI servers: its event loop runs in a thread, requests wait for it.

Live pages poll there: a WSGI server has a thread for each request, and one that never
ends would keep it. `/events` answers 503, and the pages' script takes the hint.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from taskq.dashboard.app import Dashboard

StartResponse = Callable[..., Any]

_PATIENCE_S = 30.0


class WsgiDashboard:
    """A WSGI application around `Dashboard`; starts its thread with the first request."""

    def __init__(self, app: Dashboard) -> None:
        """Wrap `app`."""
        self._app = app
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request. Blocks."""
        scope = _scope(environ)
        if scope["path"].removeprefix(scope["root_path"]) == "/events":
            text = b"Live pages poll here.\n"
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [text]
        future = asyncio.run_coroutine_threadsafe(self._answer(scope), self._running())
        status, headers, body = future.result(_PATIENCE_S)
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and loop.is_running():
            asyncio.run_coroutine_threadsafe(self._app.aclose(), loop).result(_PATIENCE_S)
            loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            # a server may fork after the first request: the thread stays with the parent
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(
                    target=_serve, args=(self._loop,), name="taskq-dashboard", daemon=True
                ).start()
            return self._loop

    async def _answer(self, scope: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        status, headers, parts = 500, [], []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in message["headers"]
                ]
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        return status, headers, b"".join(parts)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _scope(environ: dict[str, Any]) -> dict[str, Any]:
    """The request as ASGI has it: the path with its prefix, headers as pairs of bytes."""
    root = environ.get("SCRIPT_NAME", "").rstrip("/")
    path = environ.get("PATH_INFO", "") or "/"
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": environ["REQUEST_METHOD"],
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "path": _decoded(root + path),
        "raw_path": (root + path).encode("latin-1"),
        "root_path": _decoded(root),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "headers": headers,
        "client": (environ.get("REMOTE_ADDR") or "unknown", 0),
        "server": (environ.get("SERVER_NAME", ""), int(environ.get("SERVER_PORT") or 0)),
    }


def _decoded(text: str) -> str:
    """A path of WSGI (bytes written as Latin-1) as text."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")
