"""Runs `process` tasks: a pool of job processes, each one job at a time.

The bytes of a job go to its process as they came from Redis, and the bytes of its result
come back as they go there: nothing is decoded here. A job process that dies takes its job
with it, and nothing else. At a time limit the code is interrupted; what does not end in
half a second (C code, a swallowed interrupt) is killed with its process.

Short jobs are sent ahead, so that a process goes from one to the next without waiting for us.
They count as waiting, can be taken back until they begin (`process_ahead`), and are taken back
before anything is done to their process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from taskq.errors import PayloadError
from taskq.worker import process_wire as wire
from taskq.worker.outcome import Interrupted
from taskq.worker.process_deal import Deal
from taskq.worker.process_ends import end_of, read_end
from taskq.worker.process_handle import told_exit
from taskq.worker.process_pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim
    from taskq.worker.process_handle import ProcessHandle
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.worker")

STRIKE_S = 0.5
"""Seconds that interrupted code has to end before its process is killed."""
CANCEL_S = 2.0
"""Seconds that a job has to end by itself after somebody asked for that."""
_REAP_S = 0.005
_DRAIN = 10


class ProcessRunner:
    """Runs them.

    Attributes:
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
        self._begin = begin
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._pool = Pool(settings, self._listen)
        self._free = self._pool.free
        self._of: dict[str, ProcessHandle] = {}
        self._queue: dict[str, Claim] = {}  # of `waiting`, what was not sent ahead
        self._ended: list[tuple[Claim, Any, BaseException | None]] = []
        self._deal = Deal()
        self.waiting: dict[str, Claim] = {}
        self.running: dict[str, Claim] = {}

    @property
    def slots(self) -> int:
        """Processes that are ready; one job may come while the first of them starts."""
        return self._pool.slots

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
        self._pool.attach(worker, more_slots, warm=warm)

    def submit(self, claim: Claim) -> None:
        """Run a job as soon as a process is free."""
        self.waiting[claim.id] = self._queue[claim.id] = claim
        self._assign()

    def take_back(self, claim: Claim) -> bool:
        """Withdraw a job whose code has not begun; False when it is too late."""
        if claim.id not in self._queue:
            for one in self._pool.all:
                if any(other is claim for _number, other in one.ahead.claims):
                    self._recall(one)
                    break
        if self._queue.pop(claim.id, None) is None:
            return False
        del self.waiting[claim.id]
        return True

    # -- handing out ---------------------------------------------------------------------

    def _assign(self) -> None:
        free = self._free
        if free and self.waiting and not self._queue:
            self._level()
        queue = self._queue
        while queue and free:
            one = free.pop()
            claim = queue.pop(next(iter(queue)))
            if one.order(claim):
                self._begins(one, claim)
                self._send_rest(one)
            else:  # it died idle: the job has not begun
                self._queue = queue = {claim.id: claim, **queue}
        if queue:
            for one, orders in self._deal.ahead(queue, self._pool.all):
                one.order_ahead(orders)
                self._send_rest(one)
        if not free:
            self._pool.grow()

    def _begins(self, one: ProcessHandle, claim: Claim) -> None:
        del self.waiting[claim.id]
        self.running[claim.id] = claim
        self._of[claim.id] = one
        self._begin(claim)

    def _level(self) -> None:
        """A process has nothing to do: take back what another will not begin soon."""
        now = time.monotonic()
        for one in self._pool.all:
            if not self._queue and self._deal.is_late(one, now):
                self._recall(one)

    def _recall(self, one: ProcessHandle) -> None:
        """Take back what was sent ahead; what cannot be, has begun, and is known to have after."""
        back = one.recall()
        if back:
            self._queue = {claim.id: claim for claim in back} | self._queue
        self._send_rest(one)
        tries = 0
        while one.ahead.claims and one.is_open and tries < _DRAIN:
            tries += 1  # the report on the job before is there
            self._hear(one)
        if self._ended:
            self._flush()

    def _send_rest(self, one: ProcessHandle) -> None:
        if one.unsent:
            self._loop.add_writer(one.socket.fileno(), self._writable, one)

    def _writable(self, one: ProcessHandle) -> None:
        if not one.send() or not one.unsent:
            self._loop.remove_writer(one.socket.fileno())

    # -- listening -----------------------------------------------------------------------

    def _listen(self, one: ProcessHandle) -> None:
        self._loop.add_reader(one.socket.fileno(), self._heard, one)

    def _heard(self, one: ProcessHandle) -> None:
        self._hear(one)
        self._assign()  # before anything else: the process may be idle
        self._flush()
        if not one.is_open:
            self._reap(one)

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        for claim, value, error in ended:
            self._done(claim, value, error)

    def _hear(self, one: ProcessHandle) -> int:
        """Take reports that have come, and return how many; ends go to `_ended`."""
        count = 0
        try:
            for report in one.hear():
                count += 1
                self._take(one, report)
        except (PayloadError, ValueError) as err:
            log.error("Job process %d is broken: %s Killed", one.pid, err)
            one.is_open = False
            one.kill()
        if not one.is_open:
            self._deafen(one)
        return count

    def _deafen(self, one: ProcessHandle) -> None:
        one.is_open = False
        self._loop.remove_reader(one.socket.fileno())
        self._loop.remove_writer(one.socket.fileno())

    def _take(self, one: ProcessHandle, report: wire.Report) -> None:
        if report.kind == wire.READY:
            self._pool.is_ready(one)
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
        self._forget(claim)
        self._ended.append((claim, value, error))
        self._deal.ran(time.monotonic() - claim.begun_mono)
        if report.last:
            self._take_all_back(one)
        fit = one.ended_job() or getattr(error, "over_limit", False)
        if report.last or not fit:
            self._pool.retire(one)
        elif one.claim is not None:
            self._begins(one, one.claim)
        else:
            self._free.append(one)

    def _forget(self, claim: Claim) -> None:
        del self._of[claim.id]
        del self.running[claim.id]

    # -- ends ----------------------------------------------------------------------------

    def _reap(self, one: ProcessHandle) -> None:
        """Its socket is closed; the process ends now, or is made to."""
        if one not in self._pool.all:
            return
        if one.has_ended():
            self._gone(one)
        elif not self._loop.is_closed():
            self._loop.call_later(_REAP_S, self._reap, one)

    def _gone(self, one: ProcessHandle) -> None:
        """A process has ended: its job is settled, and another takes its place."""
        while one.is_open and self._hear(one):  # what it said before its end counts
            pass
        self._deafen(one)
        has_begun = self._take_all_back(one)
        claim, one.claim = one.claim, None
        if claim is None and not one.retired and not self._pool.closed:
            pause = "" if one.ready else f"; the next starts in {self._pool.slow_down():g} s"
            log.error("Job process %d ended: %s%s", one.pid, told_exit(one.exit_code or 0), pause)
        self._pool.gone(one)
        if claim is not None:
            self._forget(claim)
            error = end_of(one, claim) if has_begun else Interrupted("died")
            self._ended.append((claim, None, error))
        one.close()
        self._assign()
        self._flush()

    def _take_all_back(self, one: ProcessHandle) -> bool:
        """Of a process that begins nothing any more; returns whether the job it has had begun."""
        back, again = one.ahead.recall()
        if back:
            self._queue = {claim.id: claim for claim in back} | self._queue
        return not again

    def check_limits(self, now: float) -> None:
        """Hold jobs to their time limits, look after the processes. Called every 25 or 50 ms."""
        for one in list(self._pool.all):
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
            elif now - claim.begun_mono > claim.deadline and self._is_alone(one, claim):
                one.strike()
        if self._free and self.waiting:
            self._assign()
        self._pool.fill()

    def _is_alone(self, one: ProcessHandle, claim: Claim) -> bool:
        """Whether a process still has this job, and certainly no other after it."""
        self._recall(one)
        return one.claim is claim and not one.ahead.claims

    def request_cancel(self, claim: Claim) -> None:
        """Tell a running job that it should stop; its process is killed if it does not."""
        claim.context.cancel_requested = True
        one = self._of.get(claim.id)
        if one is not None and not one.kill_mono and self._is_alone(one, claim):
            one.ask_to_cancel(claim)
            one.kill_mono = time.monotonic() + CANCEL_S
            one.kill_why = "cancel"

    def end_now(self, claim: Claim, why: str) -> None:
        """End a running job by a command: its process is killed."""
        one = self._of.get(claim.id)
        if one is not None:
            one.kill(why)

    def interrupt(self, claim: Claim) -> None:
        """The grace time of a shutdown is over: its process is killed."""
        one = self._of.get(claim.id)
        if one is not None and self._is_alone(one, claim):
            one.kill("shutdown")

    @property
    def all_ended(self) -> bool:
        """Whether no process is left, after `abandon`."""
        return self._pool.all_ended

    def abandon(self) -> list[Claim]:
        """End all processes; returns jobs that still ran."""
        self._pool.close()
        left = list(self.running.values())
        self.running.clear()
        self._of.clear()
        for one in self._pool.all:
            one.claim = None
        return left
