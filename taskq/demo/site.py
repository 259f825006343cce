"""A small web server on loopback that serves the demo's files."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class Site:
    """Serves files by number, `http://127.0.0.1:PORT/17`, while its block runs."""

    def __init__(
        self, files: Sequence[Path], *, as_pages: bool = False, latency_s: float = 0.0
    ) -> None:
        """Listen on a free port of the loopback interface.

        Args:
            files: what there is.
            as_pages: as HTML, a line in an element each; else as they are.
            latency_s: each answer takes this long, as if the server were far away.
        """

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = self.path.lstrip("/")
                if not number.isdigit() or int(number) >= len(files):
                    self.send_error(404)
                    return
                body = files[int(number)].read_bytes()
                if as_pages:
                    body = _page(body)
                time.sleep(latency_s)
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if as_pages else "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
                """Say nothing: the demo has its own output."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256  # a hundred connections arrive at once

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def url(self, number: int) -> str:
        """Address of a file."""
        return f"http://127.0.0.1:{self._server.server_port}/{number}"

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _page(source: bytes) -> bytes:
    lines = html.escape(source.decode("utf-8", "replace")).splitlines()
    body = "".join(f"<p>{line}</p>\n" for line in lines)
    return f"<!doctype html><title>source</title>{body}".encode()
