"""What needs a person, in words: the first line of the dashboard.

Judged from what `overview` and `rates` say, without a further question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from taskq.inspector.overview import Overview, QueueInfo, WorkerInfo
from taskq.inspector.rates import Rates
from taskq.terminal import safe_line

WAIT_WARN_S, WAIT_BAD_S = 300.0, 1800.0
"""Age of the job that is next: five minutes are worth a look, half an hour is an incident."""
STALE_S = 60.0
"""A worker silent for this long is worth a look: ours beat every 5 s, RQ's within 60 s at work."""
FAILURES_LEAST = 5
"""Fewer failures in the window are no trend."""
SHARE_WARN, SHARE_BAD = 0.05, 0.25
MEMORY_WARN, MEMORY_BAD = 0.8, 0.95
GROWS_LEAST = 200
"""A queue shorter than this may grow as it likes."""


@dataclass(frozen=True)
class Concern:
    """One thing that needs a person.

    Attributes:
        level: "bad" (work is lost, late or standing still) or "warn" (it may soon be).
        kind: one word, stable: no_worker, waiting, failing, growing, paused, suspended,
            memory, eviction, stuck, silent, overdue.
        text: what is so, with its numbers.
        advice: what to do.
        queue: the queue it is about, or "".
    """

    level: str
    kind: str
    text: str
    advice: str = ""
    queue: str = ""


def concerns(
    seen: Overview, rates: Mapping[str, Rates] | None = None, overdue: int = 0
) -> tuple[Concern, ...]:
    """What needs a person, the worst first.

    Args:
        seen: queues, workers and the server.
        rates: by queue, as `rates` gives them; without them nothing is said of trends.
        overdue: schedules that should have fired.
    """
    found = [*_everywhere(seen), *_server(seen), *_workers(seen.workers)]
    if overdue:
        verb = "is" if overdue == 1 else "are"
        text = f"{_plural(overdue, 'schedule')} {verb} overdue: no scheduler fires them."
        found.append(Concern("bad", "overdue", text, "taskq scheduler APP"))
    served = {name for worker in seen.workers for name in worker.queues}
    for queue in seen.queues:
        found += _queue(queue, served, seen)
        if rates is not None and queue.name in rates:
            found += _trend(queue, rates[queue.name])
    return tuple(sorted(found, key=lambda concern: concern.level != "bad"))


def _everywhere(seen: Overview) -> Iterator[Concern]:
    if seen.suspended:
        yield Concern(
            "bad", "suspended", "All workers are suspended.", "Resume them with: rq resume"
        )


def _server(seen: Overview) -> Iterator[Concern]:
    used, limit = seen.server.memory_bytes, seen.server.memory_limit_bytes
    if not used or not limit:
        return
    share = used / limit
    if share >= MEMORY_WARN:
        level = "bad" if share >= MEMORY_BAD else "warn"
        text = f"Redis uses {share:.0%} of its memory limit."
        yield Concern(level, "memory", text, "Raise maxmemory, or keep results for less time.")
    if seen.server.eviction not in ("", "noeviction"):
        text = f"Redis may evict jobs: its maxmemory-policy is {safe_line(seen.server.eviction)}."
        yield Concern("warn", "eviction", text, "Set maxmemory-policy to noeviction.")


def _workers(workers: tuple[WorkerInfo, ...]) -> Iterator[Concern]:
    stuck = sum(worker.stuck for worker in workers)
    if stuck:
        text = f"{_plural(stuck, 'execution')} ran on past the time limit and cannot be stopped."
        yield Concern("warn", "stuck", text, "Look which workers hold them, and at their stacks.")
    silent = [w for w in workers if w.heartbeat_age_s is None or w.heartbeat_age_s > STALE_S]
    if silent:
        names = ", ".join(safe_line(worker.name, 40) for worker in silent[:2])
        more = f" and {len(silent) - 2} more" if len(silent) > 2 else ""
        text = f"{_plural(len(silent), 'worker')} silent for over a minute: {names}{more}."
        yield Concern("warn", "silent", text, "Its jobs are given back when its lease ends.")


def _queue(queue: QueueInfo, served: set[str], seen: Overview) -> Iterator[Concern]:
    if not queue.queued:
        return
    name = safe_line(queue.name, 60)
    jobs = _plural(queue.queued, "job")
    if queue.paused:
        yield Concern(
            "warn", "paused", f"“{name}” is paused; {jobs} wait.",
            f"taskq resume {name}", queue.name,
        )  # fmt: skip
        return
    if queue.name not in served:
        if seen.worker_count > len(seen.workers) and len(seen.workers) >= 500:
            return  # one of those that were not read may serve it
        yield Concern(
            "bad", "no_worker", f"No worker listens to “{name}”; {jobs} wait.",
            f"taskq worker APP -q {name}", queue.name,
        )  # fmt: skip
    elif (queue.oldest_waiting_s or 0.0) >= WAIT_WARN_S:
        level = "bad" if (queue.oldest_waiting_s or 0.0) >= WAIT_BAD_S else "warn"
        text = f"The next job of “{name}” has waited {_long(queue.oldest_waiting_s or 0.0)}."
        yield Concern(level, "waiting", text, "More workers, or shorter jobs.", queue.name)


def _trend(queue: QueueInfo, rates: Rates) -> Iterator[Concern]:
    name = safe_line(queue.name, 60)
    share, failed = rates.failure_share, rates.failed_per_s
    if share is not None and share >= SHARE_WARN and failed * 300 >= FAILURES_LEAST:
        level = "bad" if share >= SHARE_BAD else "warn"
        text = f"{share:.0%} of the jobs of “{name}” fail ({failed * 60:,.0f} a minute)."
        yield Concern(level, "failing", text, "See what they have in common.", queue.name)
    depths = [depth for depth in rates.depth if depth is not None][-15:]
    if len(depths) >= 10 and queue.queued >= GROWS_LEAST and not queue.paused:
        half = len(depths) // 2
        early, late = sum(depths[:half]) / half, sum(depths[half:]) / (len(depths) - half)
        if queue.queued > 2 * max(depths[0], 1) and late > 1.3 * early:
            text = f"“{name}” grows: {depths[0]:,} a while ago, {queue.queued:,} now."
            yield Concern("warn", "growing", text, "More arrives than is worked off.", queue.name)


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _long(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.0f} days"
