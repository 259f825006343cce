"""How far a running job says it is."""

from __future__ import annotations

import json
from dataclasses import dataclass

FIELD = "tq_progress"
"""Field of the job hash: JSON [done, total, note]; total and note may be null."""

_MOST = 1e300


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
        return min(max(self.done / self.total, 0.0), 1.0) if self.total else None


def parse_progress(raw: bytes | None) -> Progress | None:
    """Read the field; None where it is missing or is nothing of ours."""
    if not raw:
        return None
    try:
        done, total, note = json.loads(raw)
        if _is_number(done) and (total is None or _is_number(total)):
            return Progress(done, total, str(note or ""))
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < _MOST  # false for NaN
