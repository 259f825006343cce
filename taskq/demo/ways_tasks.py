"""The tasks of `taskq demo --ways`: the same two pieces of work in each mode.

Run by `taskq worker taskq.demo.ways_tasks:queue -q ways`.
"""

from __future__ import annotations

import asyncio
import io
import select
import socket
import tokenize
from collections.abc import Generator
from pathlib import Path

from taskq import TaskQ
from taskq.demo import ways_work
from taskq.demo.ways_work import Parsed

QUEUE = "ways"
_TURN = 2_000
"""Tokens after which a generator gives the turn to the next."""

queue = TaskQ()


@queue.task(queue=QUEUE, mode="process")
def page_in_process(url: str) -> Parsed:
    """A page, in a child process."""
    return ways_work.page(url)


@queue.task(queue=QUEUE, mode="process")
def tokens_in_process(path: str) -> int:
    """A file, in a child process: on a core of its own."""
    return ways_work.tokens(path)


@queue.task(queue=QUEUE)
def page_in_thread(url: str) -> Parsed:
    """A page, in a thread: others run while it waits."""
    return ways_work.page(url)


@queue.task(queue=QUEUE)
def tokens_in_thread(path: str) -> int:
    """A file, in a thread."""
    return ways_work.tokens(path)


@queue.task(queue=QUEUE)
def page_by_turns(url: str) -> Generator[None, None, Parsed]:
    """A page, as a generator: it gives its turn away while the server takes its time."""
    host, port, sent = ways_work.request_of(url)
    answer = bytearray()
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(sent)
        connection.setblocking(False)
        while True:
            while not select.select([connection], [], [], 0)[0]:
                yield
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    return ways_work.parse(ways_work.body_of(bytes(answer)))


@queue.task(queue=QUEUE)
def tokens_by_turns(path: str) -> Generator[None, None, int]:
    """A file, as a generator: every 2,000 tokens it is somebody else's turn."""
    count = 0
    try:
        for _ in tokenize.tokenize(io.BytesIO(Path(path).read_bytes()).readline):
            count += 1
            if count % _TURN == 0:
                yield
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        pass
    return count


@queue.task(queue=QUEUE)
async def page_on_loop(url: str) -> Parsed:
    """A page, on the event loop: hundreds wait at once."""
    host, port, sent = ways_work.request_of(url)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    return ways_work.parse(ways_work.body_of(answer))


@queue.task(queue=QUEUE)
async def tokens_on_loop(path: str) -> int:
    """A file, on the event loop, which stands still meanwhile: the wrong way for such work."""
    return ways_work.tokens(path)
