"""What `taskq demo` starts, with `--ways` or without: a private Redis, real workers."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from taskq.errors import TaskQError

_START_S = 30.0
_STOP_S = 10.0


@contextmanager
def private_redis() -> Iterator[tuple[str, str]]:
    """An explicit URL first; else a private server that ends with us."""
    from taskq.embedded import EmbeddedRedis  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.settings import redact, redis_url  # noqa: PLC0415 (late: a command imports what it needs)

    url, source = redis_url()
    if source != "default":
        yield url, f"{redact(url)} (from {source})"
        return
    with EmbeddedRedis.start() as server:
        yield server.url, f"private server on a unix socket, process {server.pid}"


@contextmanager
def workers(app: str, queue: str, processes: int) -> Iterator[Callable[[], int]]:
    """A real worker, as a user starts it.

    Gives a function that looks whether it lives, and returns its process id.
    """
    before = _registered(queue)
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "taskq", "worker", app, "-q", queue,
             "--processes", str(processes), "--log-level", "error"],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

        def watch() -> int:
            if worker.poll() is not None:
                raise TaskQError(f"The worker ended with {worker.returncode}:\n{_tail(log)}")
            return worker.pid

        try:
            _wait_ready(queue, before + processes, watch)
            yield watch
        finally:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
                try:
                    worker.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()


def _registered(queue: str) -> int:
    """Worker processes that serve a queue."""
    from taskq.demo.tasks import queue as app  # noqa: PLC0415 (late: a command imports what it needs)

    return int(app.broker.call("SCARD", f"{app.broker.keys.prefix}:workers:{queue}"))


def _wait_ready(queue: str, processes: int, watch: Callable[[], int]) -> None:
    end = time.monotonic() + _START_S
    while _registered(queue) < processes:
        watch()
        if time.monotonic() > end:
            raise TaskQError(f"The workers did not start within {_START_S:g} s.")
        time.sleep(0.02)


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read()[-4000:].decode("utf-8", "replace")
