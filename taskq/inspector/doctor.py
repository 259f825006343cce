"""What `taskq doctor` finds: the server's condition, and jobs that are not where they should be.

Everything here reads. What mends is `taskq.repairs`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from taskq.inspector.census import census
from taskq.inspector.condition import COMMANDS, Complaint, complaints
from taskq.inspector.query import Inspector, Query
from taskq.inspector.server import server_time
from taskq.inspector.suspects import Census, Suspect
from taskq.inspector.values import text

PAUSE_S = 0.5
"""Between two passes: what was on its way has arrived by then."""


class Kind(NamedTuple):
    """One kind of trouble.

    Attributes:
        severity: as in `condition.Complaint`.
        text: what it means; `{count}` things of them.
        mended: what `--repair` does about it; "" nothing, it needs a person.
    """

    severity: str
    text: str
    mended: str


KINDS = {
    "orphan": Kind(
        "error",
        "accepted jobs that are in no queue and no registry: nothing will ever run them",
        "back to the head of their queue (redeliver=False and started: failed, with the reason)",
    ),
    "lost": Kind(
        "error",
        "ids without a record: their jobs were deleted, evicted, or have expired",
        "taken out of registries; in queues left to workers, which record them as failed",
    ),
    "doubled": Kind(
        "error",
        "jobs that are in more than one place, or twice in one",
        "left where their status says, taken out elsewhere",
    ),
    "misplaced": Kind(
        "error",
        "jobs that are in a place that does not fit their status",
        "the status is set to fit the place they wait in; what has ended is left to a person",
    ),
    "dead-lease": Kind(
        "error",
        "running jobs whose worker has not been heard of for 45 s and that nobody took back "
        "(is any taskq worker running?)",
        "as a sweep does: back to their queue, or failed when redeliver=False",
    ),
    "rq-lease": Kind(
        "warning",
        "running jobs of stock RQ workers whose lease has ended: RQ's next maintenance fails them, "
        "or retries them",
        "",
    ),
    "dead-claim": Kind(
        "error",
        "lists with ids that a worker claimed before it died",
        "back to the head of their queue",
    ),
    "stale-lock": Kind(
        "warning",
        "unique locks whose job has ended or is gone, or locks of RQ without TTL: nobody else gets "
        "what they guard",
        "deleted",
    ),
    "endless": Kind(
        "warning",
        "jobs that have ended and will never be forgotten: no TTL",
        "given the TTL of their registry, or a day",
    ),
    "wrong-type": Kind(
        "error",
        "keys of a type that they must not have",
        "renamed to taskq:quarantine:..., for a person to look at",
    ),
    "unlisted-queue": Kind(
        "warning",
        "queues that are missing in RQ's set of queues: sweeps and `rq info` do not see them",
        "added to it",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One kind of trouble, with all it concerns.

    Attributes:
        code: "orphan", "eviction", ...
        severity: "error", "warning" or "note".
        text: a sentence for people.
        suspects: what it concerns; empty for the server's condition.
        repair: what `--repair` does; "" nothing.
    """

    code: str
    severity: str
    text: str
    suspects: tuple[Suspect, ...] = ()
    repair: str = ""

    def samples(self, most: int = 5) -> list[str]:
        """The first few, as `name (where, status)`."""
        shown = []
        for one in self.suspects[:most]:
            more = ", ".join(part for part in (one.place, one.status) if part)
            shown.append(text(one.name) + (f" ({more})" if more else ""))
        return shown


@dataclass(frozen=True)
class Diagnosis:
    """The answer of `examine`.

    Attributes:
        jobs: job records that were read.
        places: ids in each kind of place.
        findings: errors first.
    """

    jobs: int
    places: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether there are no errors: each accepted job is in exactly one place."""
        return not any(finding.severity == "error" for finding in self.findings)


def examine(inspector: Inspector) -> Diagnosis:
    """Look at everything, twice where something looks wrong. Blocks; reads only.

    Raises:
        BrokerUnavailable: Redis did not answer.
    """
    found: list[Finding] = [
        Finding(one.code, one.severity, one.text) for one in inspector.run(condition())
    ]
    seen: Census = inspector.run(census(inspector.keys))
    suspects = seen.suspects
    for _ in range(2):
        if not suspects:
            break
        time.sleep(PAUSE_S)
        seen = inspector.run(census(inspector.keys))
        suspects = suspects & seen.suspects
    found += findings(suspects)
    order = ("error", "warning", "note")
    found.sort(key=lambda finding: order.index(finding.severity))
    return Diagnosis(seen.jobs, dict(sorted(seen.places.items())), tuple(found))


def findings(suspects: set[Suspect]) -> list[Finding]:
    """Suspects by kind, in words."""
    by_code: dict[str, list[Suspect]] = {}
    for one in sorted(suspects):
        by_code.setdefault(one.code, []).append(one)
    made = []
    for code, kind in KINDS.items():
        if ours := by_code.get(code):
            words = f"{len(ours):,} {kind.text}."
            made.append(Finding(code, kind.severity, words, tuple(ours), kind.mended))
    return made


def condition() -> Query[list[Complaint]]:
    """Ask the server about itself, and compare the clocks."""
    before = time.time()
    [now] = yield [("TIME",)]
    after = time.time()
    replies = yield list(COMMANDS)
    theirs = server_time(now)
    return complaints(replies, (before + after) / 2 - theirs if theirs else 0.0)
