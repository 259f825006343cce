"""The pages: what each shows, gathered into one object for its template and for its JSON."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from taskq.dashboard.asking import Asked, BadRequest, Filter
from taskq.dashboard.desk import Board, Desk
from taskq.inspector import FailureGroup, QueueInfo, Series, WorkerInfo
from taskq.terminal import safe_line

SPANS = {
    "1h": (3600, 60),
    "6h": (6 * 3600, 300),
    "24h": (86400, 900),
    "7d": (7 * 86400, 3600),
    "60d": (60 * 86400, 6 * 3600),
}
"""How far back lines go, and how far apart their points are: at most 240 points."""
DAYS = {"1": "today", "7": "7 days", "30": "30 days", "90": "90 days"}


@dataclass(frozen=True)
class Page:
    """One page, ready to be shown.

    Attributes:
        name: of its template, and its place in the navigation.
        title: for the browser's tab; from data, so shown escaped.
        data: what the JSON of the page has; the template sees it as well.
        shown: what else the template needs.
        status: of the HTTP answer.
        is_live: whether it is looked at again and again.
    """

    name: str
    title: str
    data: dict[str, Any]
    shown: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    is_live: bool = True


Maker = Callable[[Desk, Asked], Awaitable[Page]]


@dataclass(frozen=True)
class Host:
    """The workers of one machine, together."""

    name: str
    workers: int
    busy: int
    running: int
    stuck: int
    finished: int
    failed: int


async def overview_page(desk: Desk, asked: Asked) -> Page:
    """Everything at a glance."""
    # asked together, they share round trips
    (span, series), board, failures, listed = await asyncio.gather(
        _line(desk, asked, "", "1h"), desk.board(), desk.failures(1), desk.schedules()
    )
    soon = sorted(
        (row for row in listed.rows if row.next_at is not None), key=lambda row: row.next_at or 0
    )[:4]
    data = {
        "at": board.seen.at,
        "concerns": board.concerns,
        "redis": board.seen.server,
        "suspended": board.seen.suspended,
        "totals": board.seen.totals,
        "queues": [_queue_data(board, queue) for queue in _most_needed(board)],
        "queue_count": board.seen.queue_count,
        "worker_count": board.seen.worker_count,
        "rates": board.rates.get(""),
        "series": series,
        "failures": failures[:6],
        "schedules": soon,
    }
    shown = {
        "board": board,
        "span": span,
        "hosts": hosts(board.seen.workers),
        "failed_today": sum(group.count for group in failures),
        "listeners": listeners(board.seen.workers),
    }
    return Page("overview", _verdict(board), data, shown)


async def queue_page(desk: Desk, asked: Asked) -> Page:
    """One queue."""
    name = asked.get("name")
    board = await desk.board()
    found = await desk.queue(name)
    if found is None:
        return missing("queue", f"There is no queue “{safe_line(name, 80)}”.", "A queue is known "
                       "once a job was put into it.")  # fmt: skip
    queue, its_rates = found
    (span, series), failures, newest = await asyncio.gather(
        _line(desk, asked, name, "6h"),
        desk.failures(7, name),
        desk.jobs(Filter(queue=name).criteria(), 10, "", errors=False),
    )
    data = {
        "at": board.seen.at,
        "queue": queue,
        "rates": its_rates,
        "concerns": [concern for concern in board.concerns if concern.queue == name],
        "series": series,
        "failures": failures[:10],
        "workers": [worker for worker in board.seen.workers if name in worker.queues],
    }
    shown = {"board": board, "span": span}
    return Page("queue", name, {**data, "jobs": newest.jobs}, shown)


async def workers_page(desk: Desk, asked: Asked) -> Page:
    """All workers, those that need a person first."""
    board = await desk.board()
    wanted = asked.get("q").lower()
    workers = sorted(
        (w for w in board.seen.workers if not wanted or wanted in _worker_text(w)),
        key=lambda w: (not w.stuck, (w.heartbeat_age_s or 1e9) < 60, w.host, w.name),
    )
    at = asked.number("page", 1, 1, 1_000)
    shown = workers[(at - 1) * 100 : at * 100]
    data: dict[str, Any] = {
        "at": board.seen.at,
        "workers": shown,
        "worker_count": board.seen.worker_count,
        "fitting": len(workers),
        "page": at,
        "concerns": [c for c in board.concerns if c.kind in ("stuck", "silent", "no_worker")],
    }
    begun = await desk.begun([job for worker in shown for job in worker.jobs])
    data["elapsed_s"] = elapsed = {
        job: max(board.seen.at - began, 0.0) for job, began in begun.items()
    }
    more = {
        "q": asked.get("q"),
        "hosts": hosts(board.seen.workers),
        "pages": -(-len(workers) // 100),
        "data_page": at,
        "elapsed": elapsed,
    }
    return Page("workers", "Workers", data, more)


async def schedules_page(desk: Desk, asked: Asked) -> Page:
    """All schedules."""
    listed = await desk.schedules()
    wanted = asked.get("q").lower()
    rows = [row for row in listed.rows if wanted in f"{row.name} {row.task} {row.queue}".lower()]
    data = {
        "at": listed.at,
        "schedules": rows,
        "total": listed.total,
        "overdue": listed.overdue,
    }
    return Page("schedules", "Schedules", data, {"q": asked.get("q")})


async def failures_page(desk: Desk, asked: Asked) -> Page:
    """Failures by task and error."""
    days = asked.get("days", "7")
    if days not in DAYS:
        raise BadRequest(f"days={days[:20]}: one of {', '.join(DAYS)}.")
    queue, wanted = asked.get("queue"), asked.get("q").lower()
    groups = [
        group
        for group in await desk.failures(int(days), queue)
        if wanted in f"{group.task}\n{group.error}\n{group.queue}".lower()
    ]
    board = await desk.board()
    data = {
        "at": board.seen.at,
        "days": int(days),
        "failures": groups,
        "failed_now": board.seen.totals.get("failed", 0),
    }
    more = {"q": asked.get("q"), "queue": queue, "day": days, "days": DAYS,
            "queues": [one.name for one in board.seen.queues],
            "tasks": _by_task(groups)}  # fmt: skip
    return Page("failures", "Failures", data, more)


def missing(name: str, text: str, advice: str, status: int = 404) -> Page:
    """A page that says that there is no such thing."""
    data = {"error": text, "advice": advice}
    return Page("error", text, data, {"nav": name}, status, is_live=False)


def hosts(workers: tuple[WorkerInfo, ...]) -> list[Host]:
    """Workers by machine, the largest first."""
    by_name: dict[str, list[WorkerInfo]] = {}
    for worker in workers:
        by_name.setdefault(worker.host or "?", []).append(worker)
    found = [
        Host(
            name,
            len(group),
            sum(worker.state == "busy" for worker in group),
            sum(worker.running for worker in group),
            sum(worker.stuck for worker in group),
            sum(worker.finished for worker in group),
            sum(worker.failed for worker in group),
        )
        for name, group in by_name.items()
    ]
    return sorted(found, key=lambda host: (-host.workers, host.name))


def listeners(workers: tuple[WorkerInfo, ...]) -> Counter[str]:
    """How many workers listen to each queue."""
    return Counter(name for worker in workers for name in worker.queues)


def span_of(asked: Asked, default: str) -> str:
    """Which span of time the lines cover.

    Raises:
        BadRequest: there is no such span.
    """
    span = asked.get("span", default) or default
    if span not in SPANS:
        raise BadRequest(f"span={span[:20]}: one of {', '.join(SPANS)}.")
    return span


async def _line(desk: Desk, asked: Asked, queue: str, default: str) -> tuple[str, Series]:
    span = span_of(asked, default)
    return span, await desk.series(queue, *SPANS[span])


def _queue_data(board: Board, queue: QueueInfo) -> dict[str, Any]:
    return {"queue": queue, "rates": board.rates.get(queue.name)}


def _most_needed(board: Board) -> list[QueueInfo]:
    """Queues with something wrong first, then the fullest."""
    wrong = {concern.queue: concern.level for concern in reversed(board.concerns)}
    order = {"bad": 0, "warn": 1}
    return sorted(
        board.seen.queues,
        key=lambda q: (order.get(wrong.get(q.name, ""), 2), -q.queued, -q.started, q.name),
    )


def _verdict(board: Board) -> str:
    """The overview's title: what one sees in a tab that is not in front."""
    count = len(board.concerns)
    if not count:
        return "All is well"
    return "1 thing needs you" if count == 1 else f"{count} things need you"


def _worker_text(worker: WorkerInfo) -> str:
    return f"{worker.name} {worker.host} {worker.state} {' '.join(worker.queues)}".lower()


def _by_task(groups: list[FailureGroup]) -> list[tuple[str, int]]:
    found: Counter[str] = Counter()
    for group in groups:
        found[group.task] += group.count
    return found.most_common(8)
