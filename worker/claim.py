"""A job in the hands of a worker, from reserve to settle."""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from taskq.context import JobContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PLAIN = 3
"""Values that the reserve script gives for a plain job: data, enqueued_at, result_ttl."""
AS_RQ_WROTE: tuple[bytes, ...] = (
    b"data",
    b"enqueued_at",
    b"result_ttl",
    b"timeout",
    b"created_at",
    b"description",
)
"""The same for a plain job of stock RQ; behind them one that is empty, so that their number is odd:
field, value, field ... are even."""
_RQ_PLAIN = len(AS_RQ_WROTE) + 1
YEAR_S = 31_536_000
DAY_S = 86_400
DEFAULT_TIMEOUT_S = 180.0
DEFAULT_RESULT_TTL_S = 500

_BY_RQ = (
    b"success_callback_name",
    b"failure_callback_name",
    b"stopped_callback_name",
    b"repeats_left",
    b"webhooks",
    b"rate_limit_key",
    b"number_of_retries",
)
"""Hash fields of jobs whose end asks for more than a record: callbacks, repeats, limits ..."""
_IF_DELETED = (b"group_id", b"dependency_ids", b"dependency_id")
"""Its code also deletes a job that others know of; while a job is kept, these ask for nothing."""
_FEATURES = frozenset((*_BY_RQ, *_IF_DELETED))


@lru_cache(maxsize=64)  # most jobs of a queue have the same time limit and TTLs
def _number(raw: bytes) -> float:
    number = float(raw)
    if not -1e12 < number < 1e12:  # false for NaN, too; int() and Redis refuse the rest
        raise ValueError
    return number


class Claim:
    """One execution: the job's fields, what runs it, and how far it is.

    Made for each job: what most jobs leave as it is belongs to the class.

    Attributes:
        fields: of its record, as they were before it was handed out; of a plain one only
            `data`, `enqueued_at` (and `result_ttl`), or `AS_RQ_WROTE`.
        is_plain: the record has only what every job of ours, or of stock RQ, has: all else
            is the default.
        result_ttl_s: how long the result is kept; 0: not at all, -1: for ever.
        begun_at: epoch, 0 until its code runs.
        begun_mono: the same on the monotonic clock.
        tells: somebody may be told of its end (`on_success`, `on_failure`).
        counted: its begin is in the statistics, before its end is.
        durable: its steps are recorded.
        overwrites: a job of RQ's: as there, its end counts even if `job.cancel()` came before it.
        dependents_by_rq: only RQ's own code may enqueue it again, and its dependents: somebody has
            a Queue class of his own.
        recorded: when RQ's execution record of it was last written (monotonic), 0 if never.
        ready: the result as it stands in Redis, where a job process wrote it.
        why: who cancelled it: "" (nobody), "timeout", "cancel", "shutdown", or by RQ's commands
            "stop" and "kill".
        rq_job: the `rq.job.Job` that RQ's own code ran, if it did.
        job: the one that its code gets by RQ's `get_current_job()`, where it has RQ's features.
        rq_context: where that failed: integrations keep there what they know of the job.
        stopped: by RQ's `stop-job` or `stop-execution`.
        called: which of its callbacks was called last, and is not to be called again by RQ's code:
            "success", "failure"; "" where none was.
        callback_s: the time limit of that one.
        sends: webhooks of it are to be sent once its end is recorded.
        ended: (value, error) of a coroutine, while a thread calls what follows.
    """

    is_plain = False
    result_ttl_s = DEFAULT_RESULT_TTL_S
    unique = ""
    begun_at = 0.0
    begun_mono = 0.0
    deadline = 0.0
    attempt = 1
    name = ""
    fn: Callable[..., Any] | None = None
    args: Any = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})
    mode = "thread"
    special = False
    recorded = 0.0
    counted = False
    pickled = False
    tells = False
    durable = False
    overwrites = False
    dependents_by_rq = False
    spec: Any = None  # its task, where it is one of the app
    outcome: tuple[Any, BaseException | None] = (None, None)
    ready = b""
    slot = -1
    why = ""
    rq_job: Any = None
    job: Any = None
    rq_context: Context | None = None
    stopped = False
    called = ""
    callback_s = 0
    sends = False
    ended: tuple[Any, BaseException | None] | None = None
    meta: dict[str, Any] | None = None
    report: Callable[[str, float, float | None, str], None] | None = None
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    _context: JobContext | None = None

    def __init__(
        self, position: int, queue: str, job_id: str, exec_id: str, flat: list[bytes], now: float
    ) -> None:
        """Take a job as the reserve script gives it: three values, or field, value, field ..."""
        self.position = position
        self.queue = queue
        self.id = job_id
        self.exec_id = exec_id
        self.reserved_mono = now
        if len(flat) == PLAIN:
            self.is_plain = True
            data, enqueued, result_ttl = flat
            self.fields = {b"data": data, b"enqueued_at": enqueued}
            if result_ttl:
                self.fields[b"result_ttl"] = result_ttl
        elif len(flat) == _RQ_PLAIN:
            self.is_plain = True
            self.fields = dict(zip(AS_RQ_WROTE, flat))  # without the empty one
        else:
            it = iter(flat)
            self.fields = dict(zip(it, it))  # one iterator, twice
            raw = self.fields.get(b"tq_unique")
            if raw:
                self.unique = raw.decode("utf-8", "replace")
            self.tells = b"tq_on_success" in self.fields or b"tq_on_failure" in self.fields

    @property
    def context(self) -> JobContext:
        """What `current_job()` gives; made when it is asked for."""
        made = self._context
        if made is None:
            job_id = self.fields.get(b"tq_step_of", b"").decode() or self.id
            made = self._context = JobContext(
                job_id, self.name, self.queue, self.attempt, self.fields.get(b"enqueued_at"),
                self.meta, self.report, self.fields.get(b"tq_for"),
            )  # fmt: skip
        return made

    def number(self, name: bytes, default: float) -> float:
        """A numeric field, or the default where it is absent.

        Raises:
            ValueError: the field holds something else; the text names it.
        """
        raw = self.fields.get(name)
        if not raw:
            return default
        try:
            return _number(raw)
        except ValueError:
            raise ValueError(
                f"field {name.decode()!r} of the job's record is {raw[:40]!r}, "
                "not a number that makes sense"
            ) from None

    def is_special(self) -> bool:
        """Whether RQ's own code may have to settle this job (see rq_items.py)."""
        fields = self.fields
        if _FEATURES.isdisjoint(fields):
            return False
        if any(fields.get(name) for name in _BY_RQ):
            return True
        return not self._is_kept() and any(fields.get(name) for name in _IF_DELETED)

    def _is_kept(self) -> bool:
        try:
            return self.result_ttl_s != 0 and self.failure_ttl_s != 0
        except ValueError:
            return False

    @property
    def waited(self) -> bool:
        """Whether it was a dependent of other jobs."""
        return bool(self.fields.get(b"dependency_ids") or self.fields.get(b"dependency_id"))

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
    def failure_ttl_s(self) -> int:
        """How long the job is kept when it fails; negative: for ever."""
        return int(self.number(b"failure_ttl", YEAR_S))

    def read_result_ttl(self) -> None:
        """Look for a `result_ttl` of its own.

        Raises:
            ValueError: it is no number.
        """
        if self.fields.get(b"result_ttl"):
            self.result_ttl_s = int(self.number(b"result_ttl", self.result_ttl_s))

    def begin(self) -> None:
        """Its code runs from now on."""
        self.begun_at = time.time()
        self.begun_mono = time.monotonic()
