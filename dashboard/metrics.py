"""Figures for Prometheus, in its text format; rq-exporter's names as well, for boards that exist.

Gauges, and quantiles as summaries without sums: what is counted lives in Redis and expires, so
rates are given as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from taskq.dashboard.desk import Board
from taskq.inspector import Percentiles

STATUSES = ("queued", "started", "scheduled", "deferred", "finished", "failed", "canceled")

Labels = Sequence[tuple[str, object]]
Sample = tuple[Labels, "float | int | None"]
_Add = Callable[..., None]


def metrics(board: Board) -> str:
    """All figures as text. No question to Redis."""
    lines: list[str] = []

    def add(name: str, text: str, samples: Iterable[Sample], kind: str = "gauge") -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))
            lines.extend(f"{name}{_labels(labels)} {value}" for labels, value in known)

    _queues(board, add)
    _workers(board, add)
    seen = board.seen
    add("taskq_concerns", "Things that need a person.", [
        ((("level", level),), sum(one.level == level for one in board.concerns))
        for level in ("bad", "warn")
    ])  # fmt: skip
    add("taskq_suspended", "Whether all workers are suspended.", [((), int(seen.suspended))])
    add("taskq_redis_memory_bytes", "Memory used by Redis.", [((), seen.server.memory_bytes)])
    add("taskq_redis_memory_limit_bytes", "Its maxmemory, 0: none.",
        [((), seen.server.memory_limit_bytes)])  # fmt: skip
    add("taskq_redis_clients", "Connected clients.", [((), seen.server.clients)])
    return "\n".join(lines) + "\n"


def _queues(board: Board, add: _Add) -> None:
    queues = board.seen.queues
    counts: list[Sample] = [
        ((("queue", queue.name), ("status", status)), getattr(queue, status))
        for queue in queues
        for status in STATUSES
    ]
    add("taskq_jobs", "Jobs by queue and status.", counts)
    add("rq_jobs", "Jobs by queue and status, as rq-exporter names them.", counts)
    add("taskq_queue_oldest_waiting_seconds", "Age of the job that is next.",
        [((("queue", queue.name),), queue.oldest_waiting_s) for queue in queues])  # fmt: skip
    add("taskq_queue_paused", "Whether workers leave the queue alone.",
        [((("queue", queue.name),), int(queue.paused)) for queue in queues])  # fmt: skip
    known = [(queue.name, board.rates[queue.name]) for queue in queues if queue.name in board.rates]
    for event in ("enqueued", "finished", "failed"):
        add(f"taskq_{event}_per_second", f"Jobs {event} a second over five minutes.",
            [(_of(name), getattr(one, f"{event}_per_s")) for name, one in known])  # fmt: skip
    add("taskq_queue_empty_in_seconds", "Time to empty at the present rate; absent: it grows.",
        [((("queue", name),), one.to_empty_s) for name, one in known])  # fmt: skip
    for what, text in (("wait", "Time waited"), ("run", "Time run")):
        add(f"taskq_job_{what}_seconds", f"{text} over five minutes, by quantile.", [
            sample
            for name, one in known
            for sample in _quantiles(name, one.wait if what == "wait" else one.run)
        ], "summary")  # fmt: skip


def _of(queue: str) -> Labels:
    return (("queue", queue),)


def _quantiles(queue: str, found: Percentiles) -> list[Sample]:
    return [
        ((("queue", queue), ("quantile", quantile)), value)
        for quantile, value in (("0.5", found.p50), ("0.95", found.p95), ("0.99", found.p99))
    ]


def _workers(board: Board, add: _Add) -> None:
    workers = board.seen.workers
    each: list[tuple[Labels, int]] = [
        ((("name", w.name), ("state", w.state), ("queues", ",".join(w.queues))), 1) for w in workers
    ]
    add("rq_workers", "Workers, as rq-exporter names them.", each)
    named = [((("name", w.name), ("queues", ",".join(w.queues))), w) for w in workers]
    add("rq_workers_success_total", "Jobs that a worker finished.",
        [(labels, w.finished) for labels, w in named], "counter")  # fmt: skip
    add("rq_workers_failed_total", "Jobs that failed on a worker.",
        [(labels, w.failed) for labels, w in named], "counter")  # fmt: skip
    add("rq_workers_working_time_total", "Seconds that a worker worked.",
        [(labels, w.working_s) for labels, w in named], "counter")  # fmt: skip
    add("taskq_workers", "Workers by state.", [
        ((("state", state),), sum(w.state == state for w in workers))
        for state in sorted({w.state for w in workers})
    ])  # fmt: skip
    add("taskq_workers_stuck", "Executions that ran on past their limit.",
        [((), sum(w.stuck for w in workers))])  # fmt: skip
    add("taskq_worker_heartbeat_age_seconds", "Time since a worker's last heartbeat.",
        [((("name", w.name),), w.heartbeat_age_s) for w in workers])  # fmt: skip


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels)
    return "{" + inner + "}"


def _escaped(value: str) -> str:
    text = value.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
