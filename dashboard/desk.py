"""What the pages know: questions with names and ages, asked through `Shared`.

How old an answer may be is decided here and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from taskq.dashboard.hiding import Hider
from taskq.dashboard.settings import DashboardSettings
from taskq.dashboard.shared import Shared
from taskq.inspector import (
    Around,
    Concern,
    Criteria,
    FailureGroup,
    JobPage,
    JobStory,
    Overview,
    QueueInfo,
    Rates,
    ScheduleList,
    Series,
    around,
    begun,
    concerns,
    failure_groups,
    overview,
    page,
    queue_info,
    rates,
    schedules,
    series,
    story,
)

_NOW_S = 1.0
"""What changes from one second to the next."""
_TREND_S = 5.0
"""Rates and lines: they are about minutes."""
_SLOW_S = 10.0
"""Schedules, groups of failures."""

MAX_SCHEDULES = 500


@dataclass(frozen=True)
class Board:
    """What most pages begin with: queues and workers now, their rates, what needs a person."""

    seen: Overview
    rates: dict[str, Rates]
    concerns: tuple[Concern, ...]


class Desk:
    """Asks for what pages show."""

    def __init__(self, shared: Shared, settings: DashboardSettings) -> None:
        """Ask through `shared`."""
        self.shared = shared
        self.settings = settings
        self.keys = shared.keys
        self.hider = Hider(settings.redact, everything=settings.hide_arguments)

    async def board(self) -> Board:
        """Queues, workers, rates and concerns. Commands by queues and workers."""
        keys = self.keys
        seen, listed = await asyncio.gather(
            self.shared.ask("overview", _NOW_S, lambda: overview(keys)), self.schedules()
        )
        names = [queue.name for queue in seen.queues]
        by_queue = await self.shared.ask(
            ("rates", tuple(names)), _TREND_S, lambda: rates(keys, names)
        )
        return Board(seen, by_queue, concerns(seen, by_queue, listed.overdue))

    async def queue(self, name: str) -> tuple[QueueInfo, Rates | None] | None:
        """One queue, also where there are more than the board has; None where there is none."""
        board = await self.board()
        found = next((one for one in board.seen.queues if one.name == name), None)
        if found is None and board.seen.queue_count > len(board.seen.queues):
            found = await self.shared.ask(
                ("queue", name), _NOW_S, lambda: queue_info(self.keys, name)
            )
        return None if found is None else (found, board.rates.get(name))

    async def series(self, queue: str, span_s: int, step_s: int) -> Series:
        """Counters over time; queue "" means all together."""
        until = time.time()
        return await self.shared.ask(
            ("series", queue, span_s, step_s),
            min(step_s / 12, 60.0),  # a point more or less a minute later
            lambda: series(self.keys, queue, since=until - span_s, until=until, step_s=step_s),
        )

    async def failures(self, days: int, queue: str = "") -> tuple[FailureGroup, ...]:
        """Failures by task and error, the latest first."""
        until = time.time()
        since = until - (days - 1) * 86400
        return await self.shared.ask(
            ("failures", days, queue),
            _SLOW_S,
            lambda: failure_groups(self.keys, since=since, until=until, queue=queue),
        )

    async def schedules(self) -> ScheduleList:
        """All schedules, up to `MAX_SCHEDULES`."""
        return await self.shared.ask(
            "schedules", _SLOW_S, lambda: schedules(self.keys, limit=MAX_SCHEDULES)
        )

    async def jobs(self, criteria: Criteria, limit: int, cursor: str, errors: bool) -> JobPage:
        """One page of jobs."""
        return await self.shared.ask(
            ("jobs", criteria, limit, cursor, errors),
            _NOW_S,
            lambda: page(self.keys, criteria, limit=limit, cursor=cursor, errors=errors),
        )

    async def job(self, job_id: str) -> tuple[JobStory, Around] | None:
        """Everything about one job; None where there is none."""
        found = await self.shared.ask(("job", job_id), _NOW_S, lambda: story(self.keys, job_id))
        if found is None:
            return None
        beside = await self.shared.ask(
            ("around", job_id), _NOW_S, lambda: around(self.keys, job_id)
        )
        return found, beside

    async def begun(self, ids: Sequence[str]) -> dict[str, float]:
        """When running jobs began, of those that tell."""
        return await self.shared.ask(("begun", tuple(ids)), _NOW_S, lambda: begun(self.keys, ids))
