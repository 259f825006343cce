"""The demo's tasks. Run by `taskq worker taskq.demo.tasks:queue -q demo`."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
import tokenize
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

from taskq import Batch, Retry, TaskQ, current_job

QUEUE = "demo"
FLAKY_FAILURES = 2
"""The flaky task fails this often before it works."""

queue = TaskQ()


class Measured(TypedDict):
    """What `measure` finds in one source file."""

    path: str
    bytes: int
    lines: int
    tokens: int


class Fetched(TypedDict):
    """What `fetch` got over HTTP."""

    status: int
    bytes: int
    sha256: str


class Row(TypedDict):
    """One line of the last task's table."""

    path: str
    tokens: int
    lines: int
    sha256: str


@queue.task(queue=QUEUE)
def measure(path: str) -> Measured:
    """Count the tokens and lines of a source file: work for the CPU.

    Files that are not valid Python (the standard library's tests have some on purpose)
    count the tokens up to the fault.
    """
    data = Path(path).read_bytes()
    tokens = 0
    try:
        for _ in tokenize.tokenize(io.BytesIO(data).readline):
            tokens += 1
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        pass
    return {"path": path, "bytes": len(data), "lines": data.count(b"\n"), "tokens": tokens}


@queue.task(queue=QUEUE)
def digest(path: str) -> str:
    """SHA-256 of a file, as hex."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@queue.task(queue=QUEUE, timeout=30)
async def fetch(url: str) -> Fetched:
    """GET a page over HTTP: waiting, so many run at once on the event loop."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return {
        "status": int(head.split(b" ", 2)[1]),
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }


@queue.task(queue=QUEUE, retry=Retry(3, backoff="exponential", base=0.2, jitter=True))
def flaky(path: str) -> int:
    """Fails twice and then works, as services do."""
    attempt = current_job().attempt
    if attempt <= FLAKY_FAILURES:
        raise ConnectionError(f"attempt {attempt} of {Path(path).name}: not yet")
    return attempt


@queue.task(queue=QUEUE)
def clock() -> float:
    """The time at which it runs (epoch s); the demo delays it."""
    return time.time()


@queue.task(queue=QUEUE)
def report(measured: list[str], digests: list[str], largest: int = 10) -> list[Row]:
    """Gather the results of other jobs, by their ids, into a table of the largest modules."""
    found = Batch(queue, [measure.handle(job_id) for job_id in measured], "demo").results(
        timeout=30
    )
    hashes = Batch(queue, [digest.handle(job_id) for job_id in digests], "demo").results(timeout=30)
    rows: list[Row] = [
        {"path": one["path"], "tokens": one["tokens"], "lines": one["lines"], "sha256": sha}
        for one, sha in zip(found, hashes, strict=True)
    ]
    rows.sort(key=lambda row: (-row["tokens"], row["path"]))
    return rows[:largest]
