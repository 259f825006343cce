"""The runtime: what runs on every server (import taskq.worker)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskq.worker.rq_scheduler import RQScheduler
    from taskq.worker.rq_worker import Worker

__all__ = ["RQScheduler", "Worker"]


def __getattr__(name: str) -> Any:
    """Import RQ and rq-scheduler only for who asks for their subclasses."""
    if name == "RQScheduler":
        from taskq.worker.rq_scheduler import RQScheduler  # noqa: PLC0415 (the line above)

        return RQScheduler
    if name == "Worker":
        from taskq.worker.rq_worker import Worker  # noqa: PLC0415 (the same)

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
