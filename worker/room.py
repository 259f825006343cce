"""How many jobs a worker process takes in hand.

Enough to be busy while the next ones are fetched, and no more: what waits here could
run elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from taskq.worker.rq_share import MOST_HOOKS, MOST_WAITING
from taskq.worker.runners import held_up, longest_running_s
from taskq.worker.settings import PAGE, SETTLE_BYTES

if TYPE_CHECKING:
    from taskq.worker.life import Life
    from taskq.worker.runner import Runner
    from taskq.worker.runners import Runners
    from taskq.worker.settings import WorkerSettings
    from taskq.worker.settle import Settler

_MOST = 2 * PAGE
"""More than two calls' worth of jobs is never wanted at once."""


class Room:
    """What the fetcher asks before each call."""

    def __init__(
        self,
        settings: WorkerSettings,
        modes: set[str],
        life: Life,
        runners: Runners,
        settler: Settler,
    ) -> None:
        """Look at the parts of one process.

        Args:
            settings: say after how many jobs it ends.
            modes: of the tasks that may come.
            life: knows the pace, and how many jobs there were.
            runners: have slots.
            settler: has what ended and Redis does not know yet.
        """
        self.pace = life.pace
        self._max_jobs = settings.max_jobs
        self._life = life
        self._runners = runners
        self._of_app = [
            _Lane(mode, runner) for mode, runner in runners.by_mode.items() if mode in modes
        ]
        self._came = runners.came
        self._settler = settler
        self._closed = False

    def close(self) -> None:
        """Want nothing more: the process stops."""
        self._closed = True

    def wanted(self, *, backlog: bool) -> int:
        """Jobs that this process wants now.

        Args:
            backlog: whether the last call found more than it took. From a queue that was empty
                a moment ago nothing is taken ahead: a job could find a long one begun before
                it, while another worker is free.
        """
        if self._closed or self._settler.bytes > SETTLE_BYTES:
            return 0
        if self._life.by_rq >= MOST_WAITING or self._life.sending >= MOST_HOOKS:
            return 0
        room = _MOST
        if self._max_jobs is not None:
            room = min(room, self._max_jobs - self._life.jobs - self._runners.busy)
        now = time.monotonic()
        for lane in self._of_app:
            runner, ahead = lane.runner, 0
            if backlog and not held_up(runner, self.pace.average_s, now):
                ahead = self.pace.lookahead(runner.slots, longest_running_s(runner, now))
            free = runner.slots - runner.busy + ahead
            if free < room and len(self._of_app) > 1:
                free += lane.unexpected(self._came, backlog=backlog)
            room = min(room, free)
        return room


class _Lane:
    """A runner, and for how many calls no job of its mode has come.

    What comes next may be of any mode, so the one with the fewest free slots would decide: eight
    threads for ten thousand coroutines. A mode of which nothing runs, and of which full calls in
    a row brought no job, is less and less expected. Should there be many at once after all, they
    wait here for `UNBEGUN_S` at most.
    """

    def __init__(self, mode: str, runner: Runner) -> None:
        self.mode = mode
        self.runner = runner
        self._calls = 0
        self._seen = 0.0

    def unexpected(self, came: dict[str, float], *, backlog: bool) -> int:
        """Jobs to take beyond the free slots."""
        newest = max(came.values(), default=0.0)
        if not backlog or self.runner.busy or came.get(self.mode, -1.0) == newest:
            self._calls = 0
        elif newest != self._seen:  # one more call, and nothing of this mode in it
            self._calls = min(self._calls + 1, 10)
        self._seen = newest
        # two calls' worth, so that this is not why the fetcher does not ask ahead
        return min(_MOST, self.runner.slots * ((1 << self._calls) - 1))
