"""A worker process: started by the supervisor, one event loop, runs user code.

Talks to the supervisor over a socket: settings in, then "drain"; "ready" and a
summary out. When the socket closes, the supervisor is gone: the worker drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from taskq import logs
from taskq.errors import TaskQError
from taskq.worker.begun import BegunTable
from taskq.worker.loading import load_app, resident_mb
from taskq.worker.settings import EXIT_APP, EXIT_OK, EXIT_REPLACE, WorkerSettings

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.runtime import Runtime

log = logging.getLogger("taskq.worker")

GC_OBJECTS = 10_000
"""New objects after which the garbage collector looks: five hundred jobs in hand."""
_JOB_OBJECTS = 20
"""Of a coroutine that sleeps. To look at all of those that run finds nothing to collect."""
_PYTHONS_THRESHOLD = gc.get_threshold()
_MANY = 1_000
"""Coroutines from which on memory for them is made ready."""
_JOB_BYTES = 3_000
_BLOCK_BYTES = 400
_PINNED = 1_000
"""One in so many blocks stays: two or so in each of Python's arenas (1 MiB)."""


def main() -> None:
    """Entry of `python -m taskq.worker.child SOCKET_FD TABLE_FD SLOTS`."""
    # Ctrl-C reaches the whole group: the supervisor decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    control = socket.socket(fileno=int(sys.argv[1]))
    table_fd, slots = int(sys.argv[2]), int(sys.argv[3])
    first, asked = _read_settings(control)
    uid, text = first["uid"], first["settings"]
    settings = WorkerSettings.from_json(text)
    logs.configure(settings.log_level, settings.log_format, fields=logs.job_fields)
    if asked:
        _tell(control, {"end": "asked"})
        os._exit(EXIT_OK)
    try:
        app = load_app(settings)
        if settings.with_scheduler:
            app.schedules.defined()  # what is wrong with one is said now
    except Exception as err:  # user code: whatever it raises is shown
        told = isinstance(err, TaskQError)
        log.critical("Cannot load %s: %s", settings.app, err, exc_info=None if told else err)
        os._exit(EXIT_APP)
    _title(settings)
    table = BegunTable(slots, table_fd)
    _spare_collections(settings.concurrency)
    _pins = _warm_memory(settings.concurrency)
    os._exit(_run(app, settings, uid, table, control))  # abandoned threads must not hold us


def _spare_collections(coroutines: int) -> None:
    """Let the garbage collector look at jobs' objects only, and not after every few jobs.

    Python looks after 700 new objects: thirty jobs in hand. That took a fifth of a worker's time.
    """
    gc.collect()
    gc.freeze()  # what was imported stays
    if gc.get_threshold() == _PYTHONS_THRESHOLD:  # else the app chose its own
        gc.set_threshold(max(GC_OBJECTS, coroutines * _JOB_OBJECTS), *_PYTHONS_THRESHOLD[1:])


def _warm_memory(coroutines: int) -> list[bytes]:
    """Have the memory ready that many coroutines need when they begin at the same time.

    To get it page by page from the kernel then is an eighth of what their start costs. Python gives
    an arena back when nothing is in it, so something stays in each: keep what is returned.
    """
    if coroutines < _MANY:
        return []
    blocks = [bytes(_BLOCK_BYTES) for _ in range(coroutines * _JOB_BYTES // _BLOCK_BYTES)]
    return blocks[::_PINNED]


def _read_settings(control: socket.socket) -> tuple[dict[str, Any], bool]:
    """The first line, and whether we were asked to stop before we read it."""
    data = b""
    while b"\n" not in data:
        part = control.recv(65536)
        if not part:
            os._exit(EXIT_OK)  # the supervisor is gone before we began
        data += part
    line, _, rest = data.partition(b"\n")
    found: dict[str, Any] = json.loads(line)
    return found, bool(rest)


def _title(settings: WorkerSettings) -> None:
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle  # noqa: PLC0415 (extra)

        queues = ",".join(name for name, _weight in settings.queues)
        setproctitle(f"taskq: worker {settings.app or 'rq'} [{queues}]")


def _run(
    app: TaskQ, settings: WorkerSettings, uid: str, table: BegunTable, control: socket.socket
) -> int:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 (extra)

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    serving = loop.create_task(_serve(app, settings, uid, table, control))
    while True:
        try:
            return loop.run_until_complete(serving)
        except (SystemExit, KeyboardInterrupt) as err:
            if serving.done():
                raise
            # Python lets these two out of the loop when a task that a job has started raises
            # them. They are that job's affair: it gets them where it awaits the task.
            log.warning("%r in a task or callback of a job: the worker goes on", err)
        except Exception:
            log.critical("The worker broke down", exc_info=True)
            return 1


async def _serve(
    app: TaskQ, settings: WorkerSettings, uid: str, table: BegunTable, control: socket.socket
) -> int:
    from taskq.worker.runtime import Runtime  # noqa: PLC0415 (redis)

    loop = asyncio.get_running_loop()
    runtime = Runtime(app, settings, uid, table)
    loop.add_signal_handler(signal.SIGTERM, runtime.stop)
    faulthandler.unregister(signal.SIGQUIT)  # else it would not see the handler to go on to
    loop.add_signal_handler(signal.SIGQUIT, _show_tasks)
    faulthandler.register(signal.SIGQUIT, all_threads=True, chain=True)
    control.setblocking(False)

    def heard() -> None:
        try:
            data = control.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(control.fileno())
            runtime.stop("supervisor gone")
        elif b"drain" in data:
            runtime.stop("asked")

    loop.add_reader(control.fileno(), heard)
    watch = loop.create_task(_watch_memory(runtime, settings))

    def ready() -> None:
        _tell(control, {"ready": runtime.name})

    why = await runtime.run(ready)
    watch.cancel()
    _tell(control, {"end": why, "jobs": runtime.jobs, "lost": runtime.settler.lost})
    if why == "lifespan":
        return EXIT_APP
    return EXIT_REPLACE if why in {"jobs", "memory", "fenced", "stuck", "failed"} else EXIT_OK


def _show_tasks() -> None:
    """Where each coroutine stands: the stacks of threads say only that the loop waits."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=8, file=sys.stderr)
    sys.stderr.flush()


def _tell(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        control.send(json.dumps(message).encode() + b"\n")


async def _watch_memory(runtime: Runtime, settings: WorkerSettings) -> None:
    """Stop for a replacement when resident memory is over the limit."""
    if settings.max_memory_mb is None:
        return
    while True:
        await asyncio.sleep(1.0)
        used = resident_mb()
        if used > settings.max_memory_mb:
            log.warning("Uses %d MB, over the limit of %d MB: makes room for a fresh process",
                        used, settings.max_memory_mb)  # fmt: skip
            runtime.stop("memory")
            return


if __name__ == "__main__":
    main()
