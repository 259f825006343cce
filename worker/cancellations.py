"""Jobs of this worker that somebody cancels: those that are here, or on their way to us."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from taskq.errors import BrokerUnavailable
from taskq.worker.cancelling import cancel_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskq.worker.claim import Claim
    from taskq.worker.presence import Presence
    from taskq.worker.runners import Runners

log = logging.getLogger("taskq.worker")

KEEP_S = 10.0
"""As long as an answer of the reserve script may take."""
_MOST = 10_000


class Cancellations:
    """Finds each of them, whenever it was said. On the event loop."""

    def __init__(self, runners: Runners, presence: Presence) -> None:
        """Nothing is canceled; `presence` asks Redis."""
        self._runners = runners
        self._presence = presence
        self._missed = Missed()
        self._looks: set[asyncio.Task[None]] = set()

    def heard(self, job_id: str) -> None:
        """Somebody cancels a job, which may be another worker's."""
        if not self._runners.cancel(job_id):
            self._missed.note(job_id)

    def came(self, claims: Sequence[Claim]) -> None:
        """Jobs are here now."""
        if self._missed.among(claims):
            self.look()

    def look(self) -> None:
        """Ask Redis for those that were canceled while nobody listened."""
        look = asyncio.get_running_loop().create_task(self._look())
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self) -> None:
        try:
            for pause_s in (0.0, 1.0):  # again: at the first look a job may be on its way to us
                await asyncio.sleep(pause_s)
                for job_id in await self._presence.canceled():
                    self._runners.cancel(job_id)
        except BrokerUnavailable as err:
            log.warning("%s Cancellations of the last seconds may not be heard", err)

    async def stop(self) -> None:
        """Look no more."""
        await cancel_all(*self._looks)


class Missed:
    """Remembers ids for a while: most are of jobs that another worker has."""

    def __init__(self) -> None:
        """None was missed."""
        self._until: dict[str, float] = {}

    def note(self, job_id: str) -> None:
        """A job is to be canceled that is not here."""
        now = time.monotonic()
        self._forget(now)
        self._until.pop(job_id, None)  # to the end
        self._until[job_id] = now + KEEP_S

    def among(self, claims: Sequence[Claim]) -> bool:
        """Whether one of the jobs that have come may have been canceled on its way."""
        if not self._until:
            return False
        self._forget(time.monotonic())
        return any(self._until.pop(claim.id, None) is not None for claim in claims)

    def _forget(self, now: float) -> None:
        for job_id, until in list(self._until.items()):  # the oldest first
            if until > now and len(self._until) < _MOST:
                return
            del self._until[job_id]
