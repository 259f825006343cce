"""Cancellations of jobs that are not here, or not yet: reserved, and on their way to us."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskq.worker.claim import Claim

KEEP_S = 10.0
"""As long as an answer of the reserve script may take."""
_MOST = 10_000


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
