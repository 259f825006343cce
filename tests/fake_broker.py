"""A broker that keeps what it is given: for tests that need no Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskq import TaskQ
from taskq.broker.records import Accepted, NewJob
from taskq.clock import Clock
from taskq.keys import Keys


class FakeBroker:
    """Accepts every job; of one `unique` key only the first.

    Attributes:
        jobs: all that were accepted, in order.
        trips: how many jobs each call brought.
    """

    url = "redis://fake:6379/0"
    source = "argument"

    def __init__(self) -> None:
        self.keys = Keys("rq")
        self.clock = Clock()
        self.jobs: list[NewJob] = []
        self.trips: list[int] = []
        self._holders: dict[str, str] = {}

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        self.trips.append(len(jobs))
        return [self._accept(job) for job in jobs]

    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        return self.enqueue(jobs)

    def _accept(self, job: NewJob) -> Accepted:
        holder = self._holders.setdefault(job.unique, job.id) if job.unique else job.id
        if holder == job.id:
            self.jobs.append(job)
        return Accepted(holder, holder == job.id)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def fields_of(job: NewJob) -> dict[str, Any]:
    """The flat fields of a job as a dict."""
    return dict(zip(job.fields[::2], job.fields[1::2], strict=True))


def app_with(broker: FakeBroker, **options: Any) -> TaskQ:
    """An app that enqueues into `broker`."""
    app = TaskQ("redis://fake:6379/0", **options)
    app._broker = broker  # type: ignore[assignment]
    return app
