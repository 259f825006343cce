"""Jobs that were running at several deaths of their process: they begin one by one.

The one that kills is so told from those that only were beside it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim
    from taskq.worker.runner import Runner

CRASHES = b"2"
"""So many deaths make a suspect; one more, and the job is failed."""
_TRIAL_S = 10.0
"""Who has run for so long bars nobody any more."""


class Suspects:
    """Waits, in order, for the one that runs."""

    def __init__(self, runner_of: Callable[[Claim], Runner]) -> None:
        """Nobody is suspected; `runner_of` says who runs a job."""
        self._runner_of = runner_of
        self._waiting: list[Claim] = []
        self.current: Claim | None = None

    def __len__(self) -> int:
        """Those that have not begun."""
        return len(self._waiting)

    def job_ids(self) -> set[str]:
        """Ids of those."""
        return {claim.id for claim in self._waiting}

    def add(self, claim: Claim) -> None:
        """Run a job when it is its turn."""
        self._waiting.append(claim)
        self.next()

    def next(self) -> None:
        """Let the next one begin, unless one runs alone."""
        last = self.current
        if last is not None:
            runner = self._runner_of(last)
            here = runner.running.get(last.id) is last or runner.waiting.get(last.id) is last
            if here and not (last.begun_mono and time.monotonic() - last.begun_mono > _TRIAL_S):
                return
        self.current = None
        if self._waiting:
            claim = self.current = self._waiting.pop(0)
            self._runner_of(claim).submit(claim)

    def withdraw(self) -> list[Claim]:
        """Take back those that have not begun."""
        withdrawn, self._waiting = self._waiting, []
        return withdrawn
