"""Runs `process` tasks: a pool of job processes, each one job at a time.

The bytes of a job go to its process as they came from Redis, and the bytes of its result
come back as they go there: nothing is decoded here. A job process that dies takes its job
with it, and nothing else. At a time limit the code is interrupted; what does not end in
half a second (C code, a swallowed interrupt) is killed with its process.

No job is sent ahead to a busy process: it could not be taken back from behind a long one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from taskq.errors import PayloadError
from taskq.worker import process_wire as wire
from taskq.worker.process_ends import end_of, read_end
from taskq.worker.process_handle import ProcessHandle, told_exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.worker")

STRIKE_S = 0.5
"""Seconds that interrupted code has to end before its process is killed."""
CANCEL_S = 2.0
"""Seconds that a job has to end by itself after somebody asked for that."""
RETIRE_S = 12.0
"""What a process has open it closes within 10 s."""
_AT_END_S = 1.0
_REAP_S = 0.005
_LONGEST_PAUSE_S = 10.0


class ProcessRunner:
    """The pool. Processes start when there is work for them, and stay.

    Attributes:
        slots: processes that are ready; one job may come while the first of them starts.
        waiting: jobs in hand that have not begun, in the order in which they came.
        running: jobs that a process runs.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        begin: Callable[[Claim], None],
        done: Callable[[Claim, Any, BaseException | None], None],
    ) -> None:
        """Start nothing yet.

        Args:
            settings: of the worker; `pool` is the most processes at the same time.
            begin: called just before a job's code.
            done: called with (claim, value, error).
        """
        self._settings = settings
        self._worker = ""
        self._begin = begin
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._all: list[ProcessHandle] = []
        self._free: list[ProcessHandle] = []
        self._of: dict[str, ProcessHandle] = {}
        self._wanted = 0
        self._failures = 0
        self._not_before = 0.0
        self._closed = False
        self.slots = 1
        self._more_slots: Callable[[], object] = bool  # nothing
        self.waiting: dict[str, Claim] = {}
        self.running: dict[str, Claim] = {}

    @property
    def busy(self) -> int:
        """Jobs in hand: begun and waiting."""
        return len(self.waiting) + len(self.running)

    def attach(self, worker: str, more_slots: Callable[[], object], *, warm: bool) -> None:
        """Get ready.

        Args:
            worker: name of this worker process.
            more_slots: called when there are more slots.
            warm: start the first process now, before there is work for it.
        """
        self._worker = worker
        self._more_slots = more_slots
        if warm:
            self._wanted = 1
            self._fill()

    def submit(self, claim: Claim) -> None:
        """Run a job as soon as a process is free."""
        self.waiting[claim.id] = claim
        self._assign()

    def take_back(self, claim: Claim) -> bool:
        """Withdraw a job whose code has not begun; False when it is too late."""
        return self.waiting.pop(claim.id, None) is not None

    # -- handing out ---------------------------------------------------------------------

    def _assign(self) -> None:
        while self.waiting and self._free:
            one = self._free.pop()
            claim = self.waiting.pop(next(iter(self.waiting)))
            if one.send(wire.pack_order(claim)):
                one.claim = claim
                self._of[claim.id] = one
                self.running[claim.id] = claim
                self._begin(claim)
                if one.unsent:
                    self._loop.add_writer(one.socket.fileno(), self._send_rest, one)
            else:  # it died idle: the job has not begun
                self.waiting = {claim.id: claim, **self.waiting}
        if not self._free and self._wanted < self._settings.pool:
            self._grow()

    def _grow(self) -> None:
        """All are busy: twice as many, as soon as those that were wanted before are there."""
        if self._wanted <= sum(one.ready for one in self._all):
            self._wanted = min(max(2 * self._wanted, 1), self._settings.pool)
        self._fill()

    def _send_rest(self, one: ProcessHandle) -> None:
        if not one.send() or not one.unsent:
            self._loop.remove_writer(one.socket.fileno())

    def _fill(self) -> None:
        """Start what is missing."""
        alive = sum(not one.retired for one in self._all)
        while alive < self._wanted and not self._closed and time.monotonic() >= self._not_before:
            try:
                one = ProcessHandle(self._settings, self._worker)
            except OSError as err:  # no more processes, files or memory: that may pass
                log.error("Cannot start a job process: %s; trying again in %g s",
                          err, self._slow_down())  # fmt: skip
                return
            self._all.append(one)
            alive += 1
            self._loop.add_reader(one.socket.fileno(), self._heard, one)

    def _slow_down(self) -> float:
        """The next start waits, longer each time; returns for how many seconds."""
        self._failures += 1
        pause = min(0.1 * 2.0**self._failures, _LONGEST_PAUSE_S)
        self._not_before = time.monotonic() + pause
        return pause

    def _count_slots(self) -> None:
        before = self.slots
        self.slots = max(1, sum(one.ready and not one.retired for one in self._all))
        if self.slots > before:
            self._more_slots()

    # -- listening -----------------------------------------------------------------------

    def _heard(self, one: ProcessHandle) -> None:
        try:
            reports = one.hear()
            for report in reports:
                self._take(one, report)
        except (PayloadError, ValueError) as err:
            log.error("Job process %d is broken: %s Killed", one.pid, err)
            one.is_open = False
            one.kill()
        if not one.is_open:
            self._loop.remove_reader(one.socket.fileno())
            self._loop.remove_writer(one.socket.fileno())
            self._reap(one)

    def _take(self, one: ProcessHandle, report: wire.Report) -> None:
        if report.kind == wire.READY:
            one.ready = True
            self._failures = 0
            self._free.append(one)
            self._count_slots()
            self._assign()
            return
        claim = one.claim
        if claim is None:
            raise PayloadError("It reports on a job that it does not have.")
        if report.kind == wire.PROGRESS:
            if claim.report is not None:
                done, total, note = report.json()
                claim.report(claim.id, done, total, note)
            return
        value, error = read_end(report)
        if report.kind == wire.FINISHED:
            claim.ready = report.body
        del self._of[claim.id]
        fit = one.ended_job() or getattr(error, "over_limit", False)
        if report.last or not fit:
            self._retire(one)
        else:
            self._free.append(one)
        del self.running[claim.id]
        self._assign()  # before anything else: the process is idle
        self._done(claim, value, error)

    # -- ends ----------------------------------------------------------------------------

    def _retire(self, one: ProcessHandle) -> None:
        one.retire()
        one.kill_mono = time.monotonic() + RETIRE_S
        self._count_slots()
        self._fill()

    def _reap(self, one: ProcessHandle) -> None:
        """Its socket is closed; the process ends now, or is made to."""
        if one not in self._all:
            return
        if one.has_ended():
            self._gone(one)
        elif not self._loop.is_closed():
            self._loop.call_later(_REAP_S, self._reap, one)

    def _gone(self, one: ProcessHandle) -> None:
        """A process has ended: its job is settled, and another takes its place."""
        while one.is_open:  # what it said before its end counts
            self._heard_last(one)
        self._all.remove(one)
        if one in self._free:
            self._free.remove(one)
        claim, one.claim = one.claim, None
        if claim is None and not one.retired and not self._closed:
            pause = "" if one.ready else f"; the next starts in {self._slow_down():g} s"
            log.error("Job process %d ended: %s%s", one.pid, told_exit(one.exit_code or 0), pause)
        self._count_slots()
        self._fill()
        if claim is not None:
            del self._of[claim.id]
            del self.running[claim.id]
            self._done(claim, None, end_of(one, claim))
        one.close()

    def _heard_last(self, one: ProcessHandle) -> None:
        self._loop.remove_reader(one.socket.fileno())
        self._loop.remove_writer(one.socket.fileno())
        try:
            reports = one.hear()
            if not reports:
                one.is_open = False
            for report in reports:
                self._take(one, report)
        except (PayloadError, ValueError):
            one.is_open = False

    def check_limits(self, now: float) -> None:
        """Hold jobs to their time limits, look after the processes. Called every 25 or 50 ms."""
        for one in list(self._all):
            if one.has_ended():
                self._gone(one)
                continue
            claim = one.claim
            if one.kill_mono and now > one.kill_mono:
                one.kill_mono = 0.0
                one.kill(one.kill_why)
            if claim is None or not claim.deadline or one.why:
                continue
            if one.struck_mono:
                if now - one.struck_mono > STRIKE_S:
                    one.kill("timeout")
            elif now - claim.begun_mono > claim.deadline:
                one.strike()
        if len(self._all) < self._wanted:
            self._fill()

    def request_cancel(self, claim: Claim) -> None:
        """Tell a running job that it should stop; its process is killed if it does not."""
        claim.context.cancel_requested = True
        one = self._of.get(claim.id)
        if one is not None and not one.kill_mono:
            one.ask_to_cancel(claim)
            one.kill_mono = time.monotonic() + CANCEL_S
            one.kill_why = "cancel"

    def interrupt(self, claim: Claim) -> None:
        """The grace time of a shutdown is over: its process is killed."""
        one = self._of.get(claim.id)
        if one is not None:
            one.kill("shutdown")

    @property
    def all_ended(self) -> bool:
        """Whether no process is left, after `abandon`."""
        return all(one.has_ended() for one in self._all)

    def abandon(self) -> list[Claim]:
        """End all processes; returns jobs that still ran."""
        self._closed = True
        for one in self._all:
            if one.claim is None:
                one.retire()
            else:
                one.kill("shutdown")
        end = time.monotonic() + _AT_END_S
        while time.monotonic() < end and not all(
            one.has_ended() for one in self._all if one.claim is not None
        ):
            time.sleep(0.002)
        left = list(self.running.values())
        self.running.clear()
        self._of.clear()
        for one in self._all:
            one.claim = None
        return left
