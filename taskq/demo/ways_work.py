"""The work of `taskq demo --ways`, as plain functions: fetch and parse a page, tokenise a file.

Each task of `taskq.demo.ways_tasks` gives the same results as these.
"""

from __future__ import annotations

import http.client
import io
import json
import sys
import time
import tokenize
from html.parser import HTMLParser
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit


class Parsed(TypedDict):
    """What is counted in a page."""

    tags: int
    words: int


class _Counter(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags = self.words = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 (its interface)
        self.tags += 1

    def handle_data(self, data: str) -> None:
        self.words += len(data.split())


def parse(body: bytes) -> Parsed:
    """Count tags and words of an HTML page."""
    counter = _Counter()
    counter.feed(body.decode("utf-8", "replace"))
    counter.close()
    return {"tags": counter.tags, "words": counter.words}


def request_of(url: str) -> tuple[str, int, bytes]:
    """Host, port and the bytes to send for a GET of `url`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    sent = f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode()
    return parts.hostname, parts.port, sent


def body_of(answer: bytes) -> bytes:
    """The body of an HTTP answer.

    Raises:
        ConnectionError: it is not a complete answer with status 200.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise ConnectionError(f"the server answered {head[:60]!r}")
    return body


def page(url: str) -> Parsed:
    """Fetch a page and parse it; the caller's thread waits."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    try:
        connection.request("GET", parts.path)
        return parse(connection.getresponse().read())
    finally:
        connection.close()


def tokens(path: str) -> int:
    """Count the tokens of a source file, up to its first fault."""
    count = 0
    try:
        for _ in tokenize.tokenize(io.BytesIO(Path(path).read_bytes()).readline):
            count += 1
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        pass
    return count


def plain(load: list[tuple[str, str]]) -> list[Parsed | int]:
    """Do a load, one item after the other: ("page", url) or ("file", path)."""
    return [page(what) if kind == "page" else tokens(what) for kind, what in load]


def main() -> None:
    """Do the loads that come as JSON on stdin in this process; tell what each took, as JSON."""
    told = []
    for load in json.load(sys.stdin):
        start, cpu = time.perf_counter(), time.process_time()
        results = plain(load)
        told.append(
            {
                "seconds": time.perf_counter() - start,
                "cpu_s": time.process_time() - cpu,
                "memory_mb": peak_mb(),
                "results": results,
            }
        )
    json.dump(told, sys.stdout)


def peak_mb() -> float | None:
    """The most memory that this process had, in MB; None where nobody tells."""
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    main()
