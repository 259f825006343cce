"""The parent of a server's worker processes. It never runs user code.

It starts the children, keeps their leases alive by its heartbeats (a child whose
interpreter is held by one long regular expression cannot), sweeps for jobs of dead
workers, kills a child that is stuck past a time limit, gives a dead child's jobs
back at once, and replaces it. TERM and INT drain, twice is now; HUP replaces the
children one by one; QUIT prints their stacks and those of their coroutines. As PID 1 it reaps.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from taskq import logs
from taskq.broker import Broker
from taskq.worker import heartbeat
from taskq.worker.cancelling import cancel_all
from taskq.worker.children import Child
from taskq.worker.health import Health
from taskq.worker.orphans import Orphans
from taskq.worker.renewal import Renewal
from taskq.worker.settings import BEAT_S, EXIT_APP, EXIT_FAILED, EXIT_OK, EXIT_REPLACE
from taskq.worker.traces import NO_TRACEBACK

if TYPE_CHECKING:
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.supervisor")

CHECK_S = 0.25
_GONE_S = 0.02
"""Between a child's last word and its end, and between looks while we stop."""
_QUICK_S = 5.0
"""A child that dies so soon is not replaced at once."""
_LAST_S = 40.0
"""So long after the grace time a child that still has not ended is killed: it gives its own steps
(settling, RQ's code, job processes) less than that."""
_FROZEN_S = 2.0
"""The same for one that is stopped (SIGSTOP): it cannot even begin."""
_SAME_PRESS_S = 0.5
"""Signals within this time are one press of Ctrl-C, which reaches us more than once."""
_LONGEST_PAUSE_S = 10.0
_OUTWORN = ("stuck", "memory", "fenced")
"""A process that ended so has left work to its replacement, also in a burst."""


def run(settings: WorkerSettings) -> int:
    """Run a server's worker until it is told to stop; returns the exit code."""
    if sys.platform == "win32":
        sys.stderr.write("Workers run on Linux and macOS; the client also on Windows.\n")
        return 2
    logs.configure(settings.log_level, settings.log_format)
    return asyncio.run(Supervisor(settings).run())


class Supervisor:
    """Starts, watches and replaces the children of one server. Make it inside an event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Nothing runs yet."""
        self._settings = settings
        self._queues = [name for name, _weight in settings.queues]
        self._children: list[Child] = []
        self._stop = False
        self._exit = 0
        self._was_ready = False
        self._failures = 0
        self._not_before = 0.0
        self._renewal = Renewal(self._children)
        self._health = Health(settings, self._children)
        self._jobs = 0
        self._pending: list[asyncio.Task[None]] = []
        self._force_after = 0.0
        self._stopped_at = 0.0
        self._ended: set[int] = set()
        self._soon = asyncio.Event()

    async def run(self) -> int:
        """Run until stopped; returns the exit code."""
        broker = Broker(self._settings.url, self._settings.url_source)
        self._broker = broker
        self._link = broker.new_alink()
        self._orphans = Orphans(broker, self._link, self._queues, lambda: self._stop)
        self._story = NO_TRACEBACK
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked)
        loop.add_signal_handler(signal.SIGHUP, self._renewal.begin)
        loop.add_signal_handler(signal.SIGQUIT, self._stacks)
        try:
            await self._health.start()
        except OSError as err:
            log.critical("Cannot listen at --health-port %s: %s", self._settings.health_port, err)
            await self._link.aclose()
            return EXIT_FAILED
        services = [
            loop.create_task(heartbeat.every(BEAT_S, self._beat, "Heartbeat")),
            loop.create_task(heartbeat.every(BEAT_S, self._sweep, "Sweep")),
        ]
        for index in range(self._settings.processes):
            self._start(index)
        while self._children or self._pending or not self._over():
            self._watch()
            self._pending = [task for task in self._pending if not task.done()]
            await self._pause()
        await cancel_all(*services)
        self._health.close()
        await self._link.aclose()
        log.info("Stopped: %d jobs done by this server's workers", self._jobs)
        return self._exit

    async def _pause(self) -> None:
        """Until the next look: soon where a child is about to be gone."""
        self._soon.clear()
        ending = self._stop or any(child.ending for child in self._children)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._soon.wait(), _GONE_S if ending else CHECK_S)

    def _over(self) -> bool:
        """Whether no process is to be started any more."""
        return self._stop or len(self._ended) == self._settings.processes

    # -- signals -------------------------------------------------------------------------

    def _asked(self) -> None:
        now = time.monotonic()
        if not self._stop:
            self._force_after = now + _SAME_PRESS_S
            log.info("Stopping: running jobs have %g s. Once more to stop now",
                     self._settings.grace_s)  # fmt: skip
            self._drain_all()
        elif now > self._force_after:
            log.warning("Stopping now: running jobs are given back")
            for child in self._children:
                child.cut_off = True
                child.process.kill()

    def _drain_all(self) -> None:
        if not self._stop:
            self._stopped_at = time.monotonic()
        self._stop = self._health.stopping = True
        self._renewal.end()
        for child in self._children:
            child.drain()

    def _stacks(self) -> None:
        for child in self._children:
            child.process.send_signal(signal.SIGQUIT)

    # -- children ------------------------------------------------------------------------

    def _start(self, index: int) -> None:
        child = Child(self._settings, index)
        self._children.append(child)
        log.debug("Started worker process %d", child.process.pid)
        asyncio.get_running_loop().add_reader(child.control.fileno(), self._hear, child)

    def _hear(self, child: Child) -> bool:
        """Take what a child says; False when nothing more is to come for now."""
        try:
            messages = child.hear()
        except EOFError:
            asyncio.get_running_loop().remove_reader(child.control.fileno())
            child.ending = True  # dead, or about to be: not at the next regular look but now
            self._soon.set()
            return False
        for message in messages:
            if "ready" in message:
                child.name = message["ready"]
                self._was_ready = True
                self._failures = 0
                log.info("Worker %s ready (process %d)", child.name, child.process.pid)
                self._renewal.ready(child)
            if "end" in message:
                child.summary = message
                self._jobs += int(message.get("jobs", 0))
        return bool(messages)

    def _watch(self) -> None:
        """Reap the dead, kill the stuck, start what is missing."""
        for child in list(self._children):
            code = child.process.poll()
            if code is not None:
                self._gone(child, code)
                continue
            overdue = child.overdue()
            if overdue and not child.killed_for:
                child.killed_for = overdue
                log.error(
                    "Worker %s does not answer and its job %s is %.1f s past its time limit: "
                    "killed",
                    child.title, overdue[0].job_id, time.monotonic() - overdue[0].deadline,
                )  # fmt: skip
                child.process.kill()
            if self._stop and not child.cut_off and self._is_too_late(child):
                log.error("Worker %s did not stop within its grace time: killed", child.title)
                child.cut_off = True
                child.process.kill()
        self._fill()

    def _is_too_late(self, child: Child) -> bool:
        """Whether a child that was asked to stop will not: nobody waits for it for ever."""
        late_s = time.monotonic() - self._stopped_at - self._settings.grace_s
        return late_s > _LAST_S or (late_s > _FROZEN_S and child.is_frozen())

    def _fill(self) -> None:
        if self._stop or time.monotonic() < self._not_before:
            return
        running = {child.index for child in self._children}
        for index in range(self._settings.processes):
            if index not in running and index not in self._ended:
                try:
                    self._start(index)
                except OSError as err:  # no more processes, files or memory: that may pass
                    log.error("Cannot start a worker process: %s; trying again", err)
                    self._slow_down()
                    return

    def _slow_down(self) -> float:
        """The next start waits, longer each time; returns for how many seconds."""
        self._failures += 1
        pause = min(0.1 * 2.0**self._failures, _LONGEST_PAUSE_S)
        self._not_before = time.monotonic() + pause
        return pause

    def _gone(self, child: Child, code: int) -> None:
        """A child has ended: its jobs go back, and unless it was to end, another starts."""
        while self._hear(child):
            pass
        asyncio.get_running_loop().remove_reader(child.control.fileno())
        self._children.remove(child)
        begun = child.table.read()
        child.close()
        clean = code in (EXIT_OK, EXIT_REPLACE) and bool(child.summary)
        if not clean:
            care = self._orphans.settle(child, begun)
            self._pending.append(asyncio.get_running_loop().create_task(care))
        if code == EXIT_APP:
            self._cannot_load(child)
            return
        renewed = child.stopping and not self._stop
        outworn = child.summary.get("end") in _OUTWORN
        if clean and self._settings.burst and not renewed and not outworn:
            self._ended.add(child.index)
        if clean and child.summary.get("end") == "shutdown":  # RQ's command to this one worker
            self._ended.add(child.index)
        broke = not clean or child.summary.get("end") == "failed"
        if broke and not self._stop:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.error("Worker %s died: %s; starting another", child.title, how)
            if child.age_s < _QUICK_S:
                self._slow_down()
            else:
                self._failures = 0

    def _cannot_load(self, child: Child) -> None:
        """The app is broken. A release gone wrong must not take down what still runs."""
        if not self._was_ready:
            self._exit = 1
            self._drain_all()
        elif self._stop:
            return
        elif self._settings.burst:  # those that work end by themselves
            log.error("Process %d cannot load the app; it is not replaced", child.process.pid)
            self._exit = 1
            self._ended.add(child.index)
            self._renewal.end()
        else:
            pause = self._slow_down()
            log.error(
                "Process %d cannot load the app; %d of %d processes run. Trying again in %g s",
                child.process.pid, len(self._children), self._settings.processes, pause,
            )  # fmt: skip

    # -- services ------------------------------------------------------------------------

    async def _beat(self) -> None:
        queues = "\n".join(self._queues)
        beats = [
            heartbeat.Beat(child.uid, child.name, queues, "")
            for child in self._children
            if child.name and not child.is_frozen()
        ]
        if beats:
            with self._health.asking():
                await heartbeat.beat(self._broker, self._link, beats)

    async def _sweep(self) -> None:
        with self._health.asking():
            await heartbeat.sweep(self._broker, self._link, self._story)
