"""The parent of a server's worker processes. It never runs user code.

It starts the children, keeps their leases alive by its heartbeats (a child whose
interpreter is held by one long regular expression cannot), sweeps for jobs of dead
workers, kills a child that is stuck past a time limit, gives a dead child's jobs
back at once, and replaces it. TERM and INT drain, twice is now; HUP replaces the
children one by one; QUIT prints their stacks. As PID 1 it reaps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from taskq import logs
from taskq.broker import Broker
from taskq.broker.client import run_script
from taskq.broker.link import pack, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker import heartbeat
from taskq.worker.begun import Begun, BegunTable
from taskq.worker.claim import Claim
from taskq.worker.execute import TimeLimit, failure_item, lost_text
from taskq.worker.items import Item, pack_items
from taskq.worker.settings import BEAT_S

if TYPE_CHECKING:
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.supervisor")

HARD_S = 5.0
"""A child is killed when one of its jobs is this long past its time limit."""
CHECK_S = 0.25
_EXIT_APP, _EXIT_REPLACE = 3, 75
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_QUICK_S = 5.0
_PATIENCE_S = 5.0
_LEASE_LOST, _HAS_DEPENDENTS = 0, 2


def new_uid() -> str:
    """8 random letters and digits: the name of one worker process in leases."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(8))


def run(settings: WorkerSettings) -> int:
    """Run a server's worker until it is told to stop; returns the exit code."""
    if sys.platform == "win32":
        print("Workers run on Linux and macOS; the client also on Windows.", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    return asyncio.run(Supervisor(settings).run())


class Child:
    """One worker process and what we know of it."""

    def __init__(self, settings: WorkerSettings, index: int) -> None:
        """Start it."""
        self.index = index
        self.uid = new_uid()
        self.name = ""
        self.started_mono = time.monotonic()
        self.stopping = False
        self.cut_off = False
        self.killed_for: list[Begun] = []
        self.summary: dict[str, Any] = {}
        slots = settings.threads + settings.concurrency + 64
        self.table = BegunTable(slots)
        ours, theirs = socket.socketpair()
        self.control = ours
        self.control.setblocking(False)
        self._text = b""
        os.set_inheritable(self.table.fd, True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskq.worker.child",
             str(theirs.fileno()), str(self.table.fd), str(slots)],
            pass_fds=(theirs.fileno(), self.table.fd), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        first = {"uid": self.uid, "settings": settings.to_json()}
        self.control.sendall(json.dumps(first).encode() + b"\n")

    def drain(self) -> None:
        """Ask it to stop warmly."""
        self.stopping = True
        try:
            self.control.send(b"drain\n")
        except OSError:
            pass  # it is gone already

    def hear(self) -> list[dict[str, Any]]:
        """Messages that have come."""
        try:
            data = self.control.recv(65536)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            raise EOFError
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        return [json.loads(line) for line in lines if line]

    def close(self) -> None:
        """Let go of what belonged to it."""
        self.control.close()
        self.table.close()


class Supervisor:
    """Starts, watches and replaces the children of one server."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Nothing runs yet."""
        self._settings = settings
        self._children: list[Child] = []
        self._stop = False
        self._exit = 0
        self._failures = 0
        self._not_before = 0.0
        self._replace: list[Child] = []
        self._jobs = 0
        self._pending: list[asyncio.Task[None]] = []
        self._force_after = 0.0
        self._ended: set[int] = set()

    async def run(self) -> int:
        """Run until stopped."""
        broker = Broker(self._settings.url, self._settings.url_source)
        self._broker = broker
        self._link = broker.new_alink()
        self._story = lost_text()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked)
        loop.add_signal_handler(signal.SIGHUP, self._renew)
        loop.add_signal_handler(signal.SIGQUIT, self._stacks)
        services = [
            loop.create_task(heartbeat.every(BEAT_S, self._beat, "Heartbeat")),
            loop.create_task(heartbeat.every(BEAT_S, self._sweep, "Sweep")),
        ]
        for index in range(self._settings.processes):
            self._start(index)
        while self._children or self._pending or not self._over():
            self._watch()
            self._pending = [task for task in self._pending if not task.done()]
            await asyncio.sleep(CHECK_S if not self._stop else 0.02)
        for service in services:
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)
        await self._link.aclose()
        log.info("Stopped: %d jobs done by this server's workers", self._jobs)
        return self._exit

    def _over(self) -> bool:
        """Whether no process is to be started any more."""
        return self._stop or len(self._ended) == self._settings.processes

    # -- signals -------------------------------------------------------------------------

    def _asked(self) -> None:
        now = time.monotonic()
        if not self._stop:
            self._stop = True
            self._force_after = now + 0.5
            log.info("Stopping: running jobs have %g s. Once more to stop now", self._settings.grace_s)
            for child in self._children:
                child.drain()
        elif now > self._force_after:
            log.warning("Stopping now: running jobs are given back")
            for child in self._children:
                child.cut_off = True
                child.process.kill()

    def _renew(self) -> None:
        log.info("Replacing %d worker processes one by one", len(self._children))
        self._replace = list(self._children)
        self._renew_next()

    def _renew_next(self) -> None:
        if self._replace and not self._stop:
            child = self._replace.pop(0)
            if child in self._children:
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

    def _hear(self, child: Child) -> None:
        try:
            messages = child.hear()
        except EOFError:
            asyncio.get_running_loop().remove_reader(child.control.fileno())
            return
        for message in messages:
            if "ready" in message:
                child.name = message["ready"]
                self._failures = 0
                log.info("Worker %s ready (process %d)", child.name, child.process.pid)
            if "end" in message:
                child.summary = message
                self._jobs += int(message.get("jobs", 0))

    def _watch(self) -> None:
        """Reap the dead, kill the stuck, start what is missing."""
        now = time.monotonic()
        for child in list(self._children):
            code = child.process.poll()
            if code is not None:
                self._gone(child, code)
                continue
            overdue = [b for b in child.table.read() if b.deadline and now > b.deadline + HARD_S]
            if overdue and not child.killed_for:
                child.killed_for = overdue
                log.error(
                    "Worker %s does not answer and its job %s is %g s past its time limit: killed",
                    child.name, overdue[0].job_id, now - overdue[0].deadline,
                )  # fmt: skip
                child.process.kill()
        self._fill()

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

    def _slow_down(self) -> None:
        """The next start waits, longer each time."""
        self._failures += 1
        self._not_before = time.monotonic() + min(0.1 * 2**self._failures, 10.0)

    def _gone(self, child: Child, code: int) -> None:
        """A child has ended: its jobs go back, and unless it was to end, another starts."""
        self._hear_rest(child)
        self._children.remove(child)
        begun = child.table.read()
        child.close()
        clean = code in (0, _EXIT_REPLACE) and bool(child.summary)
        if not clean:
            self._pending.append(
                asyncio.get_running_loop().create_task(self._give_back(child, begun))
            )
        if code == _EXIT_APP:
            self._ended.add(child.index)
            self._exit = 1
            self._stop = True
            for other in self._children:
                other.drain()
            return
        renewed = child.stopping and not self._stop
        if clean and self._settings.burst and not renewed:
            self._ended.add(child.index)
        broke = not clean or child.summary.get("end") == "failed"
        if broke and not self._stop:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.error("Worker %s (process %d) died: %s; starting another",
                      child.name or child.uid, child.process.pid, how)  # fmt: skip
            if time.monotonic() - child.started_mono < _QUICK_S:
                self._slow_down()
            else:
                self._failures = 0
        self._renew_next()

    def _hear_rest(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.control.fileno())
        try:
            while True:
                messages = child.hear()
                if not messages:
                    break
                for message in messages:
                    if "end" in message:
                        child.summary = message
                        self._jobs += int(message.get("jobs", 0))
        except EOFError:
            pass

    async def _give_back(self, child: Child, begun: list[Begun]) -> None:
        """A dead child's jobs: those over their time limit have failed, the others run again."""
        while True:
            try:
                open_ = await self._fail_overdue(child)
                # killed by us: for one job, or in a hurry: the others deserve no crash mark
                ids = open_ if child.killed_for or child.cut_off else [b.job_id for b in begun]
                requeued, failed = await heartbeat.release(
                    self._broker, self._link, child.uid, "dead", self._story, ids
                )
            except BrokerUnavailable:
                if self._stop:
                    log.error("Redis is away: jobs of %s run again when their leases end", child.name)
                    return
                await asyncio.sleep(0.5)
            else:
                if requeued or failed:
                    log.warning("Jobs of %s: %d queued again, %d failed",
                                child.name or child.uid, requeued, failed)  # fmt: skip
                return

    async def _fail_overdue(self, child: Child) -> list[str]:
        """End (or retry) the jobs for which a child was killed; returns those left as they are."""
        broker = self._broker
        names = [name for name, _weight in self._settings.queues]
        keys = [broker.keys.prefix, broker.keys.own]
        chosen = script("settle")
        left: list[str] = []
        for job in child.killed_for:
            get = pack(("HGETALL", broker.keys.job(job.job_id)))
            flat = (await self._link.ask(partial(_packed, get), 1, _PATIENCE_S))[0]
            flat = flat if isinstance(flat, list) else []
            # which of our queues it came from is not in the table: the fence tells
            for position, name in enumerate(names, 1):
                claim = Claim(position, name, job.job_id, job.exec_id, flat, 0.0)
                args = [child.name, broker.clock.iso(), 0, 1, "0", len(names), *names, 0]
                args += pack_items([(claim, _overdue_item(claim, job))])[0]
                packed = pack_script(chosen, keys, args)
                answer = await run_script(
                    self._link, chosen, partial(_packed, packed), _PATIENCE_S
                )
                if answer[0] == _HAS_DEPENDENTS:
                    left.append(job.job_id)
                if answer[0] != _LEASE_LOST:
                    break
        return left

    # -- services ------------------------------------------------------------------------

    async def _beat(self) -> None:
        queues = "\n".join(name for name, _weight in self._settings.queues)
        beats = [
            heartbeat.Beat(child.uid, child.name, queues, "")
            for child in self._children
            if child.name and not _frozen(child.process.pid)
        ]
        if beats:
            await heartbeat.beat(self._broker, self._link, beats)

    async def _sweep(self) -> None:
        await heartbeat.sweep(self._broker, self._link, self._story)


def _packed(request: bytes, _resend: bool) -> bytes:
    """A request that is the same however often it is sent."""
    return request


def _overdue_item(claim: Claim, job: Begun) -> Item:
    """A retry or the end of a job for which its worker process was killed."""
    claim.begun_at = time.time() - (time.monotonic() - job.deadline)
    with contextlib.suppress(ValueError):
        claim.begun_at -= claim.timeout_s
        claim.attempt = 1 + int(claim.number(b"tq_attempts", 0) + claim.number(b"tq_crashes", 0))
    return failure_item(
        claim,
        TimeLimit(
            "It ran longer than its time limit, could not be stopped, and its worker process "
            "was killed"
        ),
    )


def _frozen(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, a debugger): it cannot be counted on."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False
