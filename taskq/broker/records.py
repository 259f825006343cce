"""What goes over the broker's boundary: a job to be accepted, and the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(slots=True)
class NewJob:
    """One call, serialized and checked, about to be enqueued.

    Attributes:
        id: made by us (22 random characters), or the caller's `job_id`.
        queue: name of the queue it waits in.
        data: the payload, as it is stored.
        fields: further hash fields, flat: name, value, name, value ...
        at_front: to the head of the queue instead of its end.
        delay_s: run this many seconds later (Redis's clock), or None.
        at: run at this epoch second, or None.
        unique: lock to hold until the job ends, or "".
        ttl_s: how long it may wait before it is dropped, or None.
        token: tells a resend from another job with the same id; "" where the id is random.
        replicas: replicas of Redis that must confirm it before the call returns.
        options: what its caller chose, for who looks at calls (`taskq.testing`); never sent.
    """

    id: str
    queue: str
    data: bytes
    fields: list[Any] = field(default_factory=list)
    at_front: bool = False
    delay_s: float | None = None
    at: float | None = None
    unique: str = ""
    ttl_s: int | None = None
    token: str = ""
    options: Any = None
    replicas: int = 0

    def place(self) -> str:
        """Where the enqueue script puts it: b, f, +SECONDS or @EPOCH."""
        if self.delay_s is not None:
            return f"+{self.delay_s:.6f}"
        if self.at is not None:
            return f"@{self.at:.6f}"
        return "f" if self.at_front else "b"

    def append_to(self, args: list[Any]) -> None:
        """Add this job's part of the enqueue script's arguments."""
        args += (
            self.id,
            self.queue,
            self.token,
            self.place(),
            self.unique,
            "" if self.ttl_s is None else self.ttl_s,
            len(self.fields) + 2,
            "data",
            self.data,
            *self.fields,
        )


class Accepted(NamedTuple):
    """Answer to one `NewJob`: the id to follow, and whether this call created it."""

    id: str
    created: bool
