"""Entry of a job process: signals, settings, the app; then the loop of `process_loop`.

It lives no longer than its worker process: the kernel kills it with that one (Linux), and a
thread of the loop sees the control socket close.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from taskq import logs
from taskq.errors import TaskQError
from taskq.resources import standing_alone
from taskq.worker import process_wire as wire
from taskq.worker.loading import load_app
from taskq.worker.process_ahead import Turns
from taskq.worker.process_loop import JobProcess, Lines
from taskq.worker.settings import EXIT_APP, EXIT_OK, WorkerSettings

if TYPE_CHECKING:
    from types import FrameType

    from taskq.app import TaskQ

log = logging.getLogger("taskq.worker")

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Entry of `... -m taskq.worker.process_child JOBS_FD CONTROL_FD TRACE_FD TURNS_FD PARENT`."""
    jobs_fd, control_fd, trace_fd, turns_fd, parent = map(int, sys.argv[1:6])
    _die_with(parent)
    _set_signals(trace_fd)
    jobs, control = socket.socket(fileno=jobs_fd), socket.socket(fileno=control_fd)
    orders = wire.Orders(jobs)
    first = orders.next()
    if first is None:
        os._exit(EXIT_OK)
    told = json.loads(first[1])
    settings = WorkerSettings.from_json(told["settings"])
    logs.configure(settings.log_level, settings.log_format, fields=logs.job_fields)
    try:
        app = load_app(settings)
    except BaseException as err:  # user code: whatever it raises is shown
        shown = None if isinstance(err, TaskQError) else err
        log.critical("Cannot load %s: %s", settings.app, err, exc_info=shown)
        os._exit(EXIT_APP)
    _title(settings)
    gc.collect()
    gc.freeze()  # what was imported stays
    lines = Lines(jobs, orders, control, Turns(turns_fd))
    loop = JobProcess(app, settings, told["worker"], lines)
    if not _needs_resources(app):
        loop.serve()
        return
    try:
        with standing_alone(app):
            loop.serve()
    except Exception as err:  # the app's lifespan: whatever it raises is shown
        log.critical("The lifespan failed in a job process: %r", err, exc_info=err)
        os._exit(EXIT_APP)


def _needs_resources(app: TaskQ) -> bool:
    """Whether something is to be opened once for the process; else a thread is spared."""
    return app.lifespan_function is not None or any(
        task.injection is not None for task in app.tasks.values()
    )


def _die_with(parent: int) -> None:
    """End with the worker process, whatever we are doing then: also in C code."""
    with suppress(OSError):
        os.setpgid(0, 0)  # so that what a job has started can be killed with it
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 (elsewhere not needed)

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_OK)


def _set_signals(trace_fd: int) -> None:
    """What reaches a whole group or service is for the worker process, which decides.

    Handlers, because what is ignored would also be ignored by programs that a job starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave_it_to_the_worker)
    faulthandler.enable(trace_fd, all_threads=False)
    faulthandler.register(signal.SIGQUIT, all_threads=True)


def _leave_it_to_the_worker(_number: int, _frame: FrameType | None) -> None:
    pass


def _title(settings: WorkerSettings) -> None:
    with suppress(ImportError):
        from setproctitle import setproctitle  # noqa: PLC0415 (extra)

        setproctitle(f"taskq: jobs {settings.app or 'rq'}")


if __name__ == "__main__":
    main()
