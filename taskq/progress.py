"""How far a running job says it is."""

from __future__ import annotations

import json
from dataclasses import dataclass

FIELD = "tq_progress"
"""Field of the job hash: JSON [done, total, note]; total and note may be null."""


@dataclass(frozen=True)
class Progress:
    """What the job reported last with `current_job().progress(done, total, note)`.

    Attributes:
        done: units of work done so far.
        total: units in all, or None where the task does not know.
        note: a word about what it is doing, or "".
    """

    done: float
    total: float | None = None
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """Share of the work that is done, 0 to 1; None where the total is not known."""
        return min(self.done / self.total, 1.0) if self.total else None


def parse_progress(raw: bytes | None) -> Progress | None:
    """Read the field; None where it is missing or is nothing of ours."""
    if not raw:
        return None
    try:
        done, total, note = json.loads(raw)
        return Progress(done, total, str(note or ""))
    except (ValueError, TypeError):
        return None
