"""Schedules of a test: fired when its clock gets there, by the scheduler's own code and scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from taskq.schedules.asking import run
from taskq.schedules.firing import Firing
from taskq.schedules.record import ScheduleKeys

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.broker.records import NewJob


class Planned:
    """The schedules of one app on a Redis in memory."""

    def __init__(self, app: TaskQ, broker: Broker, fired: Callable[[list[NewJob]], None]) -> None:
        """Nothing is fired yet; `fired` gets the jobs of each look."""
        self._app = app
        self._broker = broker
        self._firing = Firing(app.codec, broker.clock, fired)
        self._keys = ScheduleKeys(broker.keys)

    def begin(self) -> None:
        """Bring what the app's code defines, as a scheduler does when it starts.

        Raises:
            ConfigError, NotSerializable: a schedule in the code cannot be.
        """
        if self._app.schedules.has_code:
            self._app.schedules.sync_code()

    def next_due(self) -> float | None:
        """When the next schedule fires, in seconds since 1970."""
        head = self._broker.call("ZRANGEBYSCORE", self._keys.due, "-inf", "(+inf", "WITHSCORES",
                                 "LIMIT", 0, 1)  # fmt: skip
        return float(head[1]) / 1000 if head else None

    def fire(self) -> int:
        """Enqueue what is due; returns how many jobs."""
        count = 0
        while True:
            look = run(self._broker, self._firing.look())
            count += look.fired
            if look.pause_s != 0.0:
                return count

    def release(self) -> int:
        """Enqueue occurrences that waited for the one before, where that one has ended."""
        return self.fire() if self._broker.call("SCARD", self._keys.held) else 0
