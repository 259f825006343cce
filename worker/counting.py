"""Statistics of what goes on: jobs that have begun and not ended yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from taskq.worker.presence import RECORD_S

if TYPE_CHECKING:
    from taskq.worker.runners import Runners
    from taskq.worker.settle import Settler


class Counting:
    """Counts begins of longer jobs every few seconds; short ones are counted when they end."""

    def __init__(self, settler: Settler, runners: Runners) -> None:
        """Count nothing yet.

        Args:
            settler: has the tally, and sends it.
            runners: have the jobs that run.
        """
        self._settler = settler
        self._runners = runners

    async def step(self) -> None:
        """Count those that have run for a second, and send it if no settle will."""
        now = time.monotonic()
        for claim in self._runners.running():
            if claim.begun_mono and now - claim.begun_mono > RECORD_S:
                self._settler.tally.began(claim)
        self._settler.flush()
