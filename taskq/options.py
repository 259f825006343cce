"""Options of a task or a call: one set of names, checked once, then only read.

The same names serve the decorator, `.options(...)` and the command line. A checked
`Options` also knows the fields of RQ's job hash that it stands for, so that the
enqueue path adds nothing but the data.

Invariant: whatever is inside an `Options` is valid; every wrong value was refused with
a `ConfigError` when it was given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

from taskq.errors import ConfigError
from taskq.option_checks import check_option
from taskq.retry import Retry

if TYPE_CHECKING:
    from taskq.endings import Callback

DEFAULT_TIMEOUT_S = 180
"""RQ's own: a job without the field has this limit."""

DEFAULT_RESULT_TTL_S = 500
"""RQ's own: how long a result is kept when the job does not say."""

DEFAULT_FAILURE_TTL_S = 31_536_000
"""RQ's own, one year: how long a failed job is kept when it does not say."""

BATCH_RESULT_TTL_S = 86_400
"""Jobs of a batch keep their results this long unless their task says otherwise: the
first of many must not expire while the last one still waits. Reading the batch trims it."""

_CACHED = ("fields", "batch_fields", "is_plain", "ttl_s")


class CallOptions(TypedDict, total=False):
    """The options of `@task(...)` and `.options(...)`, as the type checkers see them."""

    queue: str
    timeout: float | timedelta | None
    retry: Retry | int | None
    result_ttl: float | timedelta
    failure_ttl: float | timedelta
    ttl: float | timedelta | None
    delay: float | timedelta | None
    at: datetime | None
    at_front: bool
    unique: bool | str | Callable[..., str | None] | None
    redeliver: bool
    replicas: int
    on_success: Callback | str | None
    on_failure: Callback | str | None
    durable: bool
    job_id: str | None
    description: str | None
    meta: Mapping[str, Any] | None


@dataclass(frozen=True)
class Options:
    """Checked options. Immutable; `merge` makes another.

    Attributes:
        queue: name of the queue.
        timeout: seconds that one execution may take; None: no limit.
        retry: what to do after a failure; None: nothing.
        result_ttl: seconds the result is kept; 0: not stored; -1: for ever.
        failure_ttl: seconds a failed job is kept; 0: deleted at once; -1: for ever.
        ttl: seconds the job may wait before it is dropped; None: any time.
        delay: seconds before it may run; None: at once.
        at: time (seconds since 1970) at which it may run; None: at once.
        at_front: to the head of its queue instead of the tail.
        unique: True, a text, or a function of the arguments; None: not unique.
        redeliver: whether it runs again when its worker dies.
        replicas: replicas of Redis that must confirm it before the call returns.
        on_success: task to enqueue, or URL to call, when it has finished.
        on_failure: the same for when it has failed for good.
        durable: whether a generator task goes on after its last recorded step.
        job_id: an id of the caller's choice; None: made for each call.
        description: text for people; None: made from the call when shown.
        meta: what `job.meta` starts with.
        given: names that somebody chose, as against the defaults.
    """

    queue: str = "default"
    timeout: float | None = DEFAULT_TIMEOUT_S
    retry: Retry | None = None
    result_ttl: float = DEFAULT_RESULT_TTL_S
    failure_ttl: float = DEFAULT_FAILURE_TTL_S
    ttl: float | None = None
    delay: float | None = None
    at: float | None = None
    at_front: bool = False
    unique: bool | str | Callable[..., str | None] | None = None
    redeliver: bool = True
    replicas: int = 0
    on_success: Callback | str | None = None
    on_failure: Callback | str | None = None
    durable: bool = False
    job_id: str | None = None
    description: str | None = None
    meta: Mapping[str, Any] | None = None
    given: frozenset[str] = frozenset()

    def merge(self, where: str, changes: Mapping[str, Any]) -> Options:
        """Return these options with `changes` over them; what comes later wins.

        A later `at` replaces an earlier `delay` and the other way round; both at once
        contradict each other.

        Args:
            where: who gives them, for messages: "thumbnail.options()".
            changes: names and values as the user wrote them.

        Raises:
            ConfigError: an unknown name, a wrong value, `delay` together with `at`.
        """
        checked = {name: check_option(where, name, value) for name, value in changes.items()}
        if checked.get("at") is not None:
            if changes.get("delay") is not None:
                raise ConfigError(f"{where}: delay and at contradict each other; give one of them.")
            checked["delay"] = None
        elif checked.get("delay") is not None:
            checked["at"] = None
        merged = object.__new__(Options)
        # Not dataclasses.replace: this may happen for each call, and fifteen times
        # object.__setattr__ cost more than all the rest of it.
        state = merged.__dict__
        state.update(self.__dict__)
        for name in _CACHED:
            state.pop(name, None)
        state.update(checked)
        state["given"] = self.given | checked.keys()
        return merged

    @cached_property
    def is_plain(self) -> bool:
        """Whether a job is nothing but id, queue, payload and `fields`: most are."""
        own = (
            self.ttl, self.delay, self.at, self.unique, self.on_success, self.on_failure,
            self.job_id, self.meta,
        )  # fmt: skip
        return not self.at_front and not self.replicas and all(value is None for value in own)

    @cached_property
    def ttl_s(self) -> int | None:
        """`ttl` in whole seconds, as Redis and RQ take it."""
        return None if self.ttl is None else whole_s(self.ttl)

    @cached_property
    def fields(self) -> list[str]:
        """Fields of the job hash for a single job, flat: name, value, name, value ...

        Only what differs from RQ's defaults is written: an empty hash field still costs
        memory, and the reader knows the defaults. Shared between jobs: never change it.
        """
        return _fields(self, self.result_ttl)

    @cached_property
    def batch_fields(self) -> list[str]:
        """The same for a job of a batch, whose result waits until the batch is read."""
        kept_s = self.result_ttl
        if "result_ttl" not in self.given:
            kept_s = max(kept_s, BATCH_RESULT_TTL_S)
        return _fields(self, kept_s)


def whole_s(seconds: float) -> int:
    """Seconds for a field that RQ reads with int(); never less than was asked for."""
    return math.ceil(seconds)


def _fields(options: Options, result_ttl: float) -> list[str]:
    fields = _timeout_fields(options.timeout)
    if result_ttl != DEFAULT_RESULT_TTL_S:
        fields += ["result_ttl", str(whole_s(result_ttl))]
    if options.failure_ttl != DEFAULT_FAILURE_TTL_S:
        fields += ["failure_ttl", str(whole_s(options.failure_ttl))]
    if options.ttl_s is not None:
        fields += ["ttl", str(options.ttl_s)]
    if options.retry is not None:
        fields += _retry_fields(options.retry)
    if options.description is not None:
        fields += ["description", options.description]
    if options.at_front:
        fields += ["enqueue_at_front", "1"]
    if not options.redeliver:
        fields += ["tq_redeliver", "0"]
    if "durable" in options.given:
        fields += ["tq_durable", "1" if options.durable else "0"]
    return fields


def _timeout_fields(timeout: float | None) -> list[str]:
    if timeout is None:
        return ["timeout", "-1"]
    if timeout == DEFAULT_TIMEOUT_S:
        return []
    fields = ["timeout", str(whole_s(timeout))]
    if timeout != whole_s(timeout):  # RQ's field holds whole seconds; ours is exact
        fields += ["tq_timeout", repr(timeout)]
    return fields


def _retry_fields(retry: Retry) -> list[str]:
    fields = ["retries_left", str(retry.max)]
    intervals = retry.intervals()
    if any(intervals):  # without the field RQ retries at once
        fields += ["retry_intervals", json.dumps(intervals, separators=(",", ":"))]
    if more := retry.to_field():
        fields += ["tq_retry", more]
    return fields


DEFAULTS = Options()
"""What a call uses when nobody said anything."""
