"""The job processes of a worker process: how many there are, their start and their end."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from taskq.worker.process_handle import ProcessHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.worker")

RETIRE_S = 12.0
"""What a process has open it closes within 10 s."""
_AT_END_S = 1.0
_LONGEST_PAUSE_S = 10.0


class Pool:
    """Processes start when there is work for them, and stay.

    Attributes:
        all: processes, also those that load the app or end.
        free: those without a job.
        slots: processes that are ready; one job may come while the first of them starts.
        closed: none is started any more.
    """

    def __init__(self, settings: WorkerSettings, listen: Callable[[ProcessHandle], None]) -> None:
        """Start nothing yet.

        Args:
            settings: of the worker; `pool` is the most processes at the same time.
            listen: called with each new process.
        """
        self._settings = settings
        self._listen = listen
        self._worker = ""
        self._more_slots: Callable[[], object] = bool  # nothing
        self._wanted = 0
        self._failures = 0
        self._not_before = 0.0
        self.all: list[ProcessHandle] = []
        self.free: list[ProcessHandle] = []
        self.slots = 1
        self.closed = False

    def attach(self, worker: str, more_slots: Callable[[], object], *, warm: bool) -> None:
        """Get ready; see `ProcessRunner.attach`."""
        self._worker = worker
        self._more_slots = more_slots
        if warm:
            self._wanted = 1
            self.fill()

    def grow(self) -> None:
        """All are busy: twice as many, as soon as those that were wanted before are there."""
        if self._wanted >= self._settings.pool:
            return
        if self._wanted <= sum(one.ready for one in self.all):
            self._wanted = min(max(2 * self._wanted, 1), self._settings.pool)
        self.fill()

    def fill(self) -> None:
        """Start what is missing."""
        alive = sum(not one.retired for one in self.all)
        while alive < self._wanted and not self.closed and time.monotonic() >= self._not_before:
            try:
                one = ProcessHandle(self._settings, self._worker)
            except OSError as err:  # no more processes, files or memory: that may pass
                log.error("Cannot start a job process: %s; trying again in %g s",
                          err, self.slow_down())  # fmt: skip
                return
            self.all.append(one)
            alive += 1
            self._listen(one)

    def slow_down(self) -> float:
        """The next start waits, longer each time; returns for how many seconds."""
        self._failures += 1
        pause = min(0.1 * 2.0**self._failures, _LONGEST_PAUSE_S)
        self._not_before = time.monotonic() + pause
        return pause

    def is_ready(self, one: ProcessHandle) -> None:
        """A process has loaded the app."""
        one.ready = True
        self._failures = 0
        self.free.append(one)
        self._count_slots()

    def retire(self, one: ProcessHandle) -> None:
        """Let a process end that has no job, and start another."""
        one.retire()
        one.kill_mono = time.monotonic() + RETIRE_S
        self._count_slots()
        self.fill()

    def gone(self, one: ProcessHandle) -> None:
        """A process has ended."""
        self.all.remove(one)
        if one in self.free:
            self.free.remove(one)
        self._count_slots()
        self.fill()

    def _count_slots(self) -> None:
        before = self.slots
        self.slots = max(1, sum(one.ready and not one.retired for one in self.all))
        if self.slots > before:
            self._more_slots()

    @property
    def all_ended(self) -> bool:
        """Whether no process is left, after `close`."""
        return all(one.has_ended() for one in self.all)

    def close(self) -> None:
        """End all processes, those with a job at once."""
        self.closed = True
        for one in self.all:
            if one.claim is None:
                one.retire()
            else:
                one.kill("shutdown")
        end = time.monotonic() + _AT_END_S
        while time.monotonic() < end and not all(
            one.has_ended() for one in self.all if one.claim is not None
        ):
            time.sleep(0.002)
