"""A job in the hands of a worker, from reserve to settle."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.context import JobContext

PLAIN_FIELDS = 5
"""status, created_at, enqueued_at, origin, data."""
YEAR_S = 31_536_000
DEFAULT_TIMEOUT_S = 180.0
DEFAULT_RESULT_TTL_S = 500

RQ_FEATURES = (
    b"success_callback_name",
    b"failure_callback_name",
    b"stopped_callback_name",
    b"group_id",
    b"repeats_left",
    b"webhooks",
    b"rate_limit_key",
    b"dependency_ids",
    b"dependency_id",
    b"number_of_retries",
)
_FEATURES = frozenset(RQ_FEATURES)
"""Hash fields of jobs whose end only RQ's own code settles: dependents, callbacks, groups ..."""


class Claim:
    """One execution: the job's fields, what runs it, and how far it is.

    `begun_at` (epoch) and `begun_mono` are 0 until its code runs. `why` says who
    cancelled it: "" (nobody), "timeout", "cancel" or "shutdown".
    """

    __slots__ = (
        "args",
        "attempt",
        "begun_at",
        "begun_mono",
        "context",
        "deadline",
        "exec_id",
        "fields",
        "fn",
        "id",
        "is_async",
        "kwargs",
        "name",
        "outcome",
        "pickled",
        "position",
        "queue",
        "recorded",
        "reserved_mono",
        "slot",
        "special",
        "task",
        "timer",
        "why",
    )

    def __init__(
        self, position: int, queue: str, job_id: str, exec_id: str, flat: list[bytes], now: float
    ) -> None:
        """Take a job as the reserve script gives it (flat: field, value, field, value ...)."""
        it = iter(flat)
        self.fields: dict[bytes, bytes] = dict(zip(it, it))  # one iterator, twice
        self.position = position
        self.queue = queue
        self.id = job_id
        self.exec_id = exec_id
        self.reserved_mono = now
        self.begun_at = 0.0
        self.begun_mono = 0.0
        self.deadline = 0.0
        self.attempt = 1
        self.name = ""
        self.fn: Callable[..., Any] | None = None
        self.args: Any = ()
        self.kwargs: dict[str, Any] = {}
        self.is_async = False
        self.special = False
        self.recorded = False
        self.pickled = False
        self.outcome: tuple[Any, BaseException | None] = (None, None)
        self.slot = -1
        self.why = ""
        self.context: JobContext | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def number(self, name: bytes, default: float) -> float:
        """A numeric field, or the default where it is absent.

        Raises:
            ValueError: the field holds something else; the text names it.
        """
        raw = self.fields.get(name)
        if not raw:
            return default
        try:
            number = float(raw)
            if not -1e12 < number < 1e12:  # false for NaN, too; int() and Redis refuse the rest
                raise ValueError
        except ValueError:
            raise ValueError(
                f"field {name.decode()!r} of the job's record is {raw[:40]!r}, "
                "not a number that makes sense"
            ) from None
        return number

    def is_special(self) -> bool:
        """Whether RQ's own code has to settle this job."""
        fields = self.fields
        return not _FEATURES.isdisjoint(fields) and any(fields.get(name) for name in RQ_FEATURES)

    @property
    def is_plain(self) -> bool:
        """Whether the record has only what every job has: all else is RQ's default."""
        return len(self.fields) == PLAIN_FIELDS

    @property
    def timeout_s(self) -> float:
        """Time limit of this execution in seconds; 0 means none."""
        raw = self.fields.get(b"tq_timeout") or self.fields.get(b"timeout")
        if not raw:
            return DEFAULT_TIMEOUT_S
        seconds = self.number(b"tq_timeout" if b"tq_timeout" in self.fields else b"timeout", 0.0)
        return seconds if seconds > 0 else 0.0

    @property
    def attempt_by_record(self) -> int:
        """Which execution of the job this is, counted from 1."""
        return 1 + int(self.number(b"tq_attempts", 0) + self.number(b"tq_crashes", 0))

    @property
    def result_ttl_s(self) -> int:
        """How long the result is kept; 0: not at all, -1: for ever."""
        return int(self.number(b"result_ttl", DEFAULT_RESULT_TTL_S))

    @property
    def failure_ttl_s(self) -> int:
        """How long the job is kept when it fails; negative: for ever."""
        return int(self.number(b"failure_ttl", YEAR_S))

    @property
    def unique(self) -> str:
        """The lock it holds, or ""."""
        return self.fields.get(b"tq_unique", b"").decode("utf-8", "replace")

    def begin(self) -> None:
        """Its code runs from now on."""
        self.begun_at = time.time()
        self.begun_mono = time.monotonic()
