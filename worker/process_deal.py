"""Which waiting jobs are sent ahead to which job process, and when they are taken back from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskq.worker import process_wire as wire
from taskq.worker.process_ahead import MOST
from taskq.worker.settings import LOOKAHEAD_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskq.worker.claim import Claim
    from taskq.worker.process_handle import ProcessHandle

AHEAD_S = 0.005
"""Work that is sent ahead of one process, if that is more than one job."""
AHEAD_BYTES = 65_536
"""Larger orders are not sent ahead: the socket has no room for many, and they gain little."""
IDLE_S = 0.002
"""An idle process gets what is ahead of another one that will not begin it so soon."""

Orders = list[tuple["Claim", bytes]]


class Deal:
    """Knows how long jobs take."""

    def __init__(self) -> None:
        """Nothing is known: nothing is sent ahead until short jobs were seen."""
        self._average_s = 1.0

    def ran(self, seconds: float) -> None:
        """A job ended after `seconds`. As `Pace`: up at once, down slowly."""
        if seconds > self._average_s:
            self._average_s = seconds
        else:
            self._average_s += (seconds - self._average_s) * 0.05

    def ahead(
        self, queue: dict[str, Claim], processes: Iterable[ProcessHandle]
    ) -> list[tuple[ProcessHandle, Orders]]:
        """Take from the queue what busy processes work off in the next moments.

        A job that runs at most once stays in it, and what comes after it: whether such a job has
        begun must be known at every moment.
        """
        if self._average_s > LOOKAHEAD_S:  # a round trip is nothing beside such jobs
            return []
        most = max(1, min(MOST, int(AHEAD_S / self._average_s)))
        open_to: list[tuple[ProcessHandle, Orders]] = [
            (one, []) for one in processes if one.takes_more and len(one.ahead.claims) < most
        ]
        chosen = list(open_to)
        while queue and open_to:
            claim = next(iter(queue.values()))
            if claim.fields.get(b"tq_redeliver") == b"0":
                break
            order = wire.pack_order(claim)
            if len(order) > AHEAD_BYTES:
                break
            one, orders = open_to.pop(0)
            orders.append((claim, order))
            del queue[claim.id]
            if len(one.ahead.claims) + len(orders) < most:
                open_to.append((one, orders))
        return [(one, orders) for one, orders in chosen if orders]

    def is_late(self, one: ProcessHandle, now: float) -> bool:
        """Whether a process has jobs ahead that an idle one would begin sooner."""
        count = len(one.ahead.claims)
        if not count or one.claim is None:
            return False
        return now - one.claim.begun_mono + count * self._average_s > IDLE_S
