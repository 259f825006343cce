"""A scheduler moved by hand, for tests: at times of the test's choice."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from taskq import TaskQ
from taskq.schedules import changes
from taskq.schedules.asking import run
from taskq.schedules.firing import Firing, Look

UTC = timezone.utc


def ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO date; UTC where it names no zone."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


class Hand:
    """A scheduler moved by hand, at times of the test's choice."""

    def __init__(self, app: TaskQ) -> None:
        self.app = app
        self.jobs: list[str] = []
        self._firing = Firing(app.codec, app.broker.clock, self._fired)

    def _fired(self, jobs: list[Any]) -> None:
        self.jobs += [job.id for job in jobs]

    def look(self, at: str | int) -> Look:
        return run(self.app.broker, self._firing.look(at if isinstance(at, int) else ms(at)))

    def until_idle(self, at: str | int) -> list[str]:
        """Look until nothing is due any more; the jobs fired."""
        before = len(self.jobs)
        while self.look(at).pause_s == 0.0:
            pass
        return self.jobs[before:]

    def put(self, at: str | int, name: str, call: Any, when: Any, **options: Any) -> None:
        """Make a schedule as if it were `at`."""
        self.put_all(at, {name: call}, when, **options)

    def put_all(self, at: str | int, calls: dict[str, Any], when: Any, **options: Any) -> None:
        """Make several."""
        make = self.app.schedules._entry
        entries = [make(name, call, when, options) for name, call in calls.items()]
        now = at if isinstance(at, int) else ms(at)
        run(self.app.broker, changes.put(self.app.broker.keys, entries, now))
