"""The process of `taskq scheduler APP`: serves its schedules until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from taskq.worker.cancelling import cancel_all
from taskq.worker.promote import Listener
from taskq.worker.schedule import SchedulerService, parts_of

if TYPE_CHECKING:
    from taskq.app import TaskQ

log = logging.getLogger("taskq.scheduler")


def run(app: TaskQ) -> int:
    """Serve the schedules of a loaded app until TERM or INT; returns the exit code.

    Raises:
        ConfigError, NotSerializable: a schedule in the code cannot be.
    """
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 (extra)

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return asyncio.run(_serve(app))


async def _serve(app: TaskQ) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform != "win32":
            loop.add_signal_handler(number, stop.set)
    link = app.broker.new_alink()
    service = SchedulerService(parts_of(app, link))

    def heard(channel: str, text: str) -> None:
        if channel == "wake" and not text:  # with a text: delayed jobs of that queue
            service.nudge()

    listener = Listener(app.broker, "-", heard)
    serving = loop.create_task(service.run())
    listening = loop.create_task(listener.run())
    log.info("Scheduler ready")
    stopping = loop.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    await cancel_all(serving, listening, stopping)
    await link.aclose()
    await app.aclose()
    log.info("Stopped")
    return 0
