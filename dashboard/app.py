"""The application: addresses, and what answers there. Plain ASGI, to be mounted anywhere."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from taskq.broker.readonly import ReadOnly
from taskq.dashboard import schema
from taskq.dashboard.answers import Trouble, answer
from taskq.dashboard.asking import Asked
from taskq.dashboard.desk import Desk
from taskq.dashboard.events import Full, Hub
from taskq.dashboard.job_pages import job_page, jobs_page
from taskq.dashboard.metrics import metrics
from taskq.dashboard.pages import (
    SPANS,
    Maker,
    Page,
    failures_page,
    missing,
    overview_page,
    queue_page,
    schedules_page,
    span_of,
    workers_page,
)
from taskq.dashboard.plain import to_json
from taskq.dashboard.render import Renderer
from taskq.dashboard.security import Guard, Receive, Scope, Send
from taskq.dashboard.settings import DashboardSettings
from taskq.dashboard.shared import Shared
from taskq.dashboard.static import Static
from taskq.errors import BrokerUnavailable
from taskq.settings import redis_url

PAGES: dict[str, Maker] = {
    "/": overview_page,
    "/queue": queue_page,
    "/jobs": jobs_page,
    "/job": job_page,
    "/workers": workers_page,
    "/schedules": schedules_page,
    "/failures": failures_page,
}

Endpoint = Callable[[Request], Awaitable[Response]]

_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_INSIDE = "taskq-inside"
_LONGEST_VIEW = 30_000


class _Room(NamedTuple):
    """What one event loop has: a connection, what is known, who watches."""

    link: ReadOnly
    desk: Desk
    hub: Hub


class Dashboard:
    """The dashboard as an ASGI application. Connects to Redis when first asked."""

    def __init__(self, settings: DashboardSettings) -> None:
        """Prepare templates and routes.

        Raises:
            ConfigError: the settings, or Redis's URL, are wrong.
        """
        self.settings = settings.checked()
        self._static = Static()
        self._renderer = Renderer(settings, self._static)
        self._trouble = Trouble()
        self._rooms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Room] = (
            weakref.WeakKeyDictionary()
        )
        self._where = redis_url(settings.redis_url or None)
        ReadOnly(*self._where)  # a wrong URL is an error now
        inner_routes = self._routes()
        inner = Starlette(routes=inner_routes, lifespan=self._lifespan)
        self._guarded = Guard(inner, self.settings)

    def _routes(self) -> list[Route]:
        def route(path: str, endpoint: Endpoint) -> Route:
            return Route(path, self._safe(endpoint))

        return [
            *(route(path, self._page) for path in PAGES),
            *(route(f"/api/{_api_name(path)}", self._api) for path in PAGES),
            route("/api", self._index),
            route("/api/series", self._series),
            route("/api/openapi.json", self._schema),
            route("/events", self._events),
            route("/metrics", self._metrics),
            route("/healthz", self._healthz),
            route("/readyz", self._readyz),
            route("/static/{name}", self._file),
            route("/{rest:path}", self._nowhere),
        ]

    def _safe(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint; what it raises becomes a status, and a line in the log."""

        async def safe(request: Request) -> Response:
            try:
                return await endpoint(request)
            except Exception as error:  # noqa: BLE001 (each becomes an answer, and the log has it)
                page = self._trouble.page(error)
                kind = _JSON if _path(request).startswith("/api") else "text/plain; charset=utf-8"
                text = f"{page.title}\n".encode()
                body = to_json(page.data) if kind == _JSON else text
                return answer(request, body, kind, page.status)

        return safe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        root = self.settings.root_path
        if scope["type"] == "http" and root and not scope.get("root_path"):
            # a proxy keeps the prefix, or removes it: links have it in both cases
            path = f"{root}/" if scope["path"] == root else scope["path"]
            scope = {**scope, "root_path": root, "path": path}
        await self._guarded(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _app: Any) -> AsyncIterator[None]:
        yield
        await self.aclose()

    async def aclose(self) -> None:
        """Close this event loop's connection, and end all live pages."""
        room = self._rooms.pop(asyncio.get_running_loop(), None)
        if room is not None:
            await room.hub.aclose()
            await room.link.aclose()

    def _room(self) -> _Room:
        loop = asyncio.get_running_loop()
        room = self._rooms.get(loop)
        if room is None:
            link = ReadOnly(*self._where)
            hub = Hub(self.settings.refresh_s)
            room = self._rooms[loop] = _Room(link, Desk(Shared(link), self.settings), hub)
        return room

    # -- pages ---------------------------------------------------------------------------

    async def _made(self, path: str, query: bytes) -> Page:
        """The page of an address, or the one that says why there is none."""
        try:
            page = await PAGES[path](self._room().desk, Asked(query))
        except Exception as error:  # noqa: BLE001 (as in `_safe`)
            return self._trouble.page(error)
        if page.name != "error":
            self._trouble.over()
        return page

    async def _page(self, request: Request) -> Response:
        root = request.scope.get("root_path", "")
        page = await self._made(_path(request), request.scope["query_string"])
        headers = {"retry_after": "5"} if page.status == 503 else {}
        if request.headers.get(_INSIDE):
            text = self._renderer.inside(page, root)
            return answer(request, text.encode(), _HTML, page.status, taskq_inside="1", **headers)
        theme = request.cookies.get("taskq_theme", "")
        theme = theme if theme in ("dark", "light") else ""
        text = self._renderer.whole(page, root, theme)
        return answer(request, text.encode(), _HTML, page.status, **headers)

    async def _nowhere(self, request: Request) -> Response:
        page = missing("", "There is no such page.", "The overview leads to all there are.")
        text = self._renderer.whole(page, request.scope.get("root_path", ""), "")
        return answer(request, text.encode(), _HTML, 404)

    async def _events(self, request: Request) -> Response:
        view = request.query_params.get("view", "/")
        parts = urlsplit(view)
        if parts.path not in PAGES or len(view) > _LONGEST_VIEW:
            return answer(request, b"There is no such view.\n", "text/plain", 404)
        root, hub = request.scope.get("root_path", ""), self._room().hub
        query = parts.query.encode("ascii", "ignore")

        async def make() -> tuple[str, str]:
            page = await self._made(parts.path, query)
            return "page", self._renderer.inside(page, root)

        name = f"{root}\n{view}"
        try:
            hub.check_room(name)
        except Full:
            return answer(request, b"Too many watch already.\n", "text/plain", 503)
        if request.method == "HEAD":
            return Response(status_code=200, media_type="text/event-stream")
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(
            hub.watch(name, make), media_type="text/event-stream", headers=headers
        )

    # -- for programs --------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        name = _path(request).removeprefix("/api/")
        path = "/" if name == "overview" else f"/{name}"
        page = await self._made(path, request.scope["query_string"])
        return answer(request, to_json(page.data), _JSON, page.status)

    async def _index(self, request: Request) -> Response:
        root = request.scope.get("root_path", "")
        names = [*(_api_name(path) for path in PAGES), "series", "openapi.json"]
        return answer(request, to_json({name: f"{root}/api/{name}" for name in names}), _JSON)

    async def _series(self, request: Request) -> Response:
        asked = Asked(request.scope["query_string"])
        found = await self._room().desk.series(asked.get("queue"), *SPANS[span_of(asked, "1h")])
        return answer(request, to_json({"series": found}), _JSON)

    async def _schema(self, request: Request) -> Response:
        return answer(request, to_json(schema.openapi()), _JSON)

    async def _metrics(self, request: Request) -> Response:
        text = metrics(await self._room().desk.board())
        self._trouble.over()
        return answer(request, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _healthz(self, request: Request) -> Response:
        """Whether this process answers, whatever Redis does: restarting us would not help it."""
        return answer(request, b'{"status":"ok"}', _JSON)

    async def _readyz(self, request: Request) -> Response:
        """Whether Redis answers as well."""
        try:
            await self._room().link.apipe([("PING",)])
        except BrokerUnavailable:
            return answer(request, b'{"status":"no Redis"}', _JSON, 503)
        return answer(request, b'{"status":"ok"}', _JSON)

    async def _file(self, request: Request) -> Response:
        file = self._static.files.get(request.path_params["name"])
        if file is None:
            return answer(request, b"There is no such file.\n", "text/plain", 404)
        packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = {"vary": "accept-encoding"}
        if request.scope["query_string"].decode("latin-1") == file.digest:
            headers["cache-control"] = "public, max-age=31536000, immutable"
        if packed:
            headers["content-encoding"] = "gzip"
        body = file.packed if packed else file.content
        return Response(body, 200, headers, media_type=file.type)


def _path(request: Request) -> str:
    """The path below the root of the dashboard."""
    path: str = request.scope["path"]
    root = request.scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def _api_name(path: str) -> str:
    return path.removeprefix("/") or "overview"
