"""Answers over HTTP: packed where the browser likes it, and the page for each kind of trouble."""

from __future__ import annotations

import gzip
import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from taskq.dashboard.asking import BadRequest
from taskq.dashboard.pages import Page
from taskq.errors import BrokerUnavailable, TaskQError
from taskq.settings import redact

log = logging.getLogger("taskq.dashboard")

_PACKED_FROM = 600
_AWAY = "Redis does not answer"


def answer(request: Request, body: bytes, kind: str, status: int = 200, **headers: str) -> Response:
    """A response; gzip where it is asked for and worth it."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    more["vary"] = "accept-encoding"
    if len(body) >= _PACKED_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 5)
        more["content-encoding"] = "gzip"
    return Response(body, status, more, media_type=kind)


class Trouble:
    """From an error to a page; an outage of Redis is logged when it begins and when it ends."""

    def __init__(self) -> None:
        """Nothing is wrong yet."""
        self.is_away = False

    def page(self, error: Exception) -> Page:
        """What to show instead."""
        if isinstance(error, BadRequest):
            return _page(400, "This address means nothing here.", str(error))
        if isinstance(error, BrokerUnavailable):
            if not self.is_away:
                self.is_away = True
                log.warning("Redis is away: %s", redact(str(error)))
            return _page(503, f"{_AWAY}.", _advice(error))
        if isinstance(error, TaskQError):
            log.warning("Redis refuses to answer: %s", redact(str(error)))
            return _page(502, "Redis refuses to answer.", redact(str(error)))
        log.error("A page could not be made", exc_info=error)
        text = "The error is in the log of the dashboard."
        return _page(500, "This page could not be made.", text)

    def over(self) -> None:
        """Redis has answered."""
        if self.is_away:
            self.is_away = False
            log.warning("Redis is back.")


def _advice(error: Exception) -> str:
    return (
        f"{redact(str(error))} Jobs are safe: workers wait, too, and go on when it is back. "
        "So does this page."
    )


def _page(status: int, text: str, advice: str) -> Page:
    data: dict[str, Any] = {"error": text, "advice": advice}
    return Page("error", text, data, {"nav": ""}, status, is_live=status == 503)
