"""What one pass over a database collects: where ids are, and what looks wrong.

See `census`, which fills it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from taskq.keys import Keys

SILENT_S = 45.0
"""A worker without a heartbeat for so long is dead, and its jobs should be elsewhere: 30 s."""


class Suspect(NamedTuple):
    """Something that looks wrong. Equal ones in two passes are a finding.

    Attributes:
        code: kind of trouble, as in `doctor.KINDS`.
        name: job id, member of a registry, or key.
        place: `KIND:QUEUE`, several separated by blanks; "" is nowhere.
        status: of the job, or what was found instead.
    """

    code: str
    name: bytes
    place: str = ""
    status: str = ""


@dataclass
class Census:
    """One pass.

    Attributes:
        at: Redis's clock when it began.
        jobs: job records that were read.
        places: how many ids there are in each kind of place.
        suspects: what looks wrong.
    """

    at: float = 0.0
    jobs: int = 0
    places: dict[str, int] = field(default_factory=dict)
    suspects: set[Suspect] = field(default_factory=set)


@dataclass
class Pass:
    """What a pass knows while it goes on."""

    keys: Keys
    out: Census = field(default_factory=Census)
    where: dict[bytes, Any] = field(default_factory=dict)
    met: set[bytes] = field(default_factory=set)
    forever: set[bytes] = field(default_factory=set)
    expired: set[bytes] = field(default_factory=set)
    entries: set[bytes] = field(default_factory=set)
    alive: dict[str, float] = field(default_factory=dict)
    queues: set[str] = field(default_factory=set)

    def suspect(self, code: str, name: bytes, place: str = "", status: str = "") -> None:
        """Accuse something."""
        self.out.suspects.add(Suspect(code, name, place, status))

    def put(self, job_id: bytes, place: str) -> None:
        """An id is in this place."""
        kind = place.partition(":")[0]
        self.out.places[kind] = self.out.places.get(kind, 0) + 1
        before = self.where.get(job_id)
        self.where[job_id] = place if before is None else f"{before} {place}"
