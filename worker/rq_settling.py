"""How far the end of one job is, and what to do next: RQ's own code, until it is recorded once."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from redis import exceptions as rexc
from rq.exceptions import NoSuchJobError

from taskq.broker.link import backoff_s, is_refusal
from taskq.worker.rq_fence import Fence, LeaseLost

if TYPE_CHECKING:
    from taskq.worker.claim import Claim
    from taskq.worker.rq_desk import Desk

log = logging.getLogger("taskq.worker")

_OUTAGES = (
    rexc.ConnectionError, rexc.TimeoutError, rexc.ReadOnlyError, rexc.OutOfMemoryError, OSError,
)  # fmt: skip
_TRIES = 3
"""An error that is no outage is worth so many tries."""


def settle(desk: Desk, claim: Claim, seconds: float, *, counting: bool) -> None:
    """Settle one job; returns when it is settled, or lost.

    Args:
        desk: of this thread.
        claim: the job, with its outcome.
        seconds: for how long its code ran.
        counting: whether the worker's counters have not seen it yet.
    """
    fence = desk.fence(claim)
    settling = _Settling(desk, claim, fence, seconds, counting=counting)
    outages = 0
    try:
        while True:
            try:
                if settling.step():
                    return
            except _OUTAGES as err:
                outages += 1
                if outages in (1, 2, 5) or outages % 20 == 0:
                    log.warning("The end of job %s cannot be recorded now (%s); trying again",
                                claim.id, err)  # fmt: skip
                time.sleep(backoff_s(outages))
    finally:
        desk.connection.fence = None


class _Settling:
    """The end of one job."""

    def __init__(
        self, desk: Desk, claim: Claim, fence: Fence, seconds: float, *, counting: bool
    ) -> None:
        self._desk = desk
        self._claim = claim
        self._fence = fence
        self._counting = counting
        self._end = desk.end(claim, seconds)
        self._problems = 0
        self._problem: Exception = RuntimeError()
        self._sent = False

    def step(self) -> bool:
        """Go on from where it stands; True when there is nothing left to do."""
        if self._committed():
            self._follow()
            return True
        try:
            return self._try()
        except LeaseLost:
            if self._committed():
                self._follow()
                return True
            return False  # looks at the lease again
        except _OUTAGES:
            raise
        except Exception as err:
            _raise_if_refused(err)
            if self._committed():
                log.warning("RQ's code after the end of job %s: %s", self._claim.id, err)
                return False  # the next step does what follows
            if isinstance(err, rexc.WatchError):
                return False
            self._problems += 1
            self._problem = err
            if self._problems == _TRIES:
                log.exception("RQ's code cannot settle job %s: recorded without its dependents",
                              self._claim.id)  # fmt: skip
            return False

    def _try(self) -> bool:
        desk, claim, fence, end = self._desk, self._claim, self._fence, self._end
        fields = desk.take_lease(fence, claim)
        if fields is None:
            log.warning(
                "Job %s no longer belongs to this worker: its end was not recorded", claim.id
            )
            return True
        if self._problems > 2 * _TRIES:
            desk.fail(fence, claim, self._problem)
            self._tidy()
            return True
        try:
            end.load(fields)  # again after a failed try, which has changed it
        except NoSuchJobError:
            desk.drop(fence, claim)
            self._tidy()
            return True
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            desk.fail(fence, claim, err)
            self._tidy()
            return True
        end.call()
        self._sent = True
        if self._problems >= _TRIES:
            end.plain(fence, desk.own, counting=self._counting)
        else:
            end.persist(fence, desk.own, counting=self._counting)
        if not fence.committed:  # RQ logs errors of a failure's transaction and goes on
            raise fence.error or RuntimeError("RQ's code wrote nothing")
        self._tidy()
        end.tell()
        return True

    def _committed(self) -> bool:
        """Whether the transaction was carried out, also when its answer was lost."""
        if not self._fence.committed and self._sent:
            self._fence.committed = bool(self._desk.connection.exists(self._fence.mark))
        return self._fence.committed

    def _follow(self) -> None:
        try:
            self._end.follow()
        except _OUTAGES:
            raise
        except Exception as err:
            _raise_if_refused(err)
            log.exception("RQ's code after the end of job %s failed", self._claim.id)
        self._tidy()
        self._end.tell()

    def _tidy(self) -> None:
        self._desk.used.append(self._fence.mark)


def _raise_if_refused(err: Exception) -> None:
    """A server that takes no writes (full disk, no replicas) is an outage, not the job's fault."""
    if isinstance(err, rexc.ResponseError) and is_refusal(err):
        raise rexc.ConnectionError(str(err)) from err
