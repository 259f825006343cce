"""Weeks in which clocks change, simulated, with hundreds of schedules and two schedulers."""

from __future__ import annotations

from types import ModuleType

import pytest
import redis

from tests.year import Simulation, utc

APP = """
from taskq import TaskQ
queue = TaskQ()

@queue.task
def nothing() -> None: ...
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("start", "end"),
    [("2026-03-07", "2026-03-11"), ("2026-03-27", "2026-03-31"), ("2026-10-24", "2026-11-02")],
    ids=["New York goes forward", "Berlin goes forward", "both go back"],
)
def test_each_occurrence_of_the_oracle_is_fired_once(
    app: ModuleType, redis_client: redis.Redis, start: str, end: str
) -> None:
    simulation = Simulation(app.queue, redis_client, utc(start), utc(end))
    simulation.make(70, ["Europe/Berlin", "America/New_York"], app.nothing.call(), 0.3)
    assert simulation.occurrences > 100
    simulation.go()
    simulation.check()
    app.queue.close()
