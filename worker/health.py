"""`--health-port`: whether this server's worker lives and can work, for whoever looks after it.

Served by the supervisor, which runs no user code: no task can hold up the answer. GET and HEAD
of two paths, JSON; nothing else is understood, nothing can be changed.

/healthz   200 while every worker process gives signs of life, or is about to be replaced;
           503 where one is stopped or silent: restarting the server would help
/readyz    200 while a worker process takes jobs and Redis has answered lately; else 503:
           restarting would not help, waiting may
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from taskq.worker.settings import BEAT_S

if TYPE_CHECKING:
    from taskq.worker.children import Child
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.supervisor")

SILENT_S = 30.0
"""A worker process that gave no sign of life for so long is stuck, unless a job within its own
time limit explains it (C code that never lets go of the interpreter)."""
AWAY_S = 3 * BEAT_S
"""Redis counts as away when it has not answered for so long; a refused call counts at once."""
_REQUEST_S = 5.0
_MOST_CLIENTS = 64


class Health:
    """Answers probes; `asking` is put around the supervisor's own calls of Redis."""

    def __init__(self, settings: WorkerSettings, children: Sequence[Child]) -> None:
        """Listen to nothing yet.

        Args:
            settings: have host and port, or no port: then nothing is served.
            children: of the supervisor; the list changes.
        """
        self._settings = settings
        self._children = children
        self._server: asyncio.Server | None = None
        self._clients = 0
        self._answered_at = 0.0
        self._error = "not asked yet"
        self.stopping = False

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken, or not ours to take.
        """
        if self._settings.health_port is None:
            return
        host, port = self._settings.health_host, self._settings.health_port
        self._server = await asyncio.start_server(self._client, host, port, limit=8192)
        shown, bound = self._server.sockets[0].getsockname()[:2]
        log.info("Health at http://%s:%d/healthz and /readyz", shown, bound)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Note whether the call of Redis inside succeeds."""
        try:
            yield
        except Exception as err:
            self._error = str(err)
            raise
        self._answered_at, self._error = time.monotonic(), ""

    # -- what is so ------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What both paths tell."""
        now = time.monotonic()
        age = now - self._answered_at if self._answered_at else None
        processes = [_process(child, now) for child in list(self._children)]
        reachable = age is not None and age < AWAY_S and not self._error
        return {
            "alive": not any(one["state"] in ("stopped", "silent") for one in processes),
            "ready": reachable
            and not self.stopping
            and any(one["state"] == "ready" for one in processes),
            "stopping": self.stopping,
            "redis": {
                "reachable": reachable,
                "answered_s": None if age is None else round(age, 1),
                "error": self._error,
            },
            "processes": processes,
        }

    # -- HTTP ------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _MOST_CLIENTS:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_S)
                writer.write(self._answer(head))
                await asyncio.wait_for(writer.drain(), _REQUEST_S)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError):
            pass  # too slow, too long, or gone
        except asyncio.LimitOverrunError:
            pass
        finally:
            self._clients -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        method, path = (*head.split(b"\r\n", 1)[0].split(b" "), b"", b"")[:2]
        body: dict[str, Any]
        if method not in (b"GET", b"HEAD"):
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET and HEAD"}
        elif (name := path.partition(b"?")[0]) in (b"/healthz", b"/readyz"):
            body = self.facts()
            good = body["alive" if name == b"/healthz" else "ready"]
            status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        else:
            status, body = HTTPStatus.NOT_FOUND, {"error": "there are /healthz and /readyz"}
        text = json.dumps(body).encode() + b"\n"
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return lines.encode() + (b"" if method == b"HEAD" else text)


def _process(child: Child, now: float) -> dict[str, Any]:
    pulse = child.table.pulse()
    heard = max(pulse.loop_at, pulse.watch_at)
    begun = child.table.read()
    busy = any(not job.deadline or job.deadline > now for job in begun)
    if child.ending or child.killed_for:
        state = "ending"  # it is replaced without anybody's help
    elif child.is_frozen():
        state = "stopped"
    elif not child.name:
        state = "starting"
    elif heard and now - heard > SILENT_S and not busy:
        state = "silent"
    elif child.stopping:
        state = "draining"
    else:
        state = "ready"
    return {
        "pid": child.process.pid,
        "name": child.name,
        "state": state,
        "heard_s": round(now - heard, 1) if heard else None,
        "running": len(begun),
        "age_s": round(child.age_s, 1),
    }
