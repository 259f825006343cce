"""The way into the RQ lane. RQ itself is imported only when the first job needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskq.worker.outcome import result_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.worker.claim import Claim
    from taskq.worker.rq_host import Host
    from taskq.worker.rq_lane import Lane
    from taskq.worker.settings import Identity


class Door:
    """Opens the lane at its first use, and knows who is inside. Used on the event loop.

    Attributes:
        inside: ids of jobs that have ended, and whose end RQ's own code records.
        sending: jobs whose end is recorded, and whose webhooks are to be sent.
    """

    def __init__(
        self,
        app: TaskQ,
        me: Identity,
        wake: Callable[[Callable[[], None]], None],
        out: Callable[[Claim], None],
        host: Host | None = None,
        is_busy: Callable[[], bool] = bool,
    ) -> None:
        """The lane stays closed.

        Args:
            app: with its Redis and its codec.
            me: as RQ's records name this worker.
            wake: runs a function on the event loop, from any thread.
            out: called on the event loop when a job is out of the lane's hands.
            host: the RQ worker that the engine works for, if there is one.
            is_busy: whether other jobs want all the time there is.
        """
        self._is_busy = is_busy
        self._host = host
        self._app = app
        self._me = me
        self._wake = wake
        self._out = out
        self._lane: Lane | None = None
        self.inside: set[str] = set()
        self.sending = 0

    def enter(self, claim: Claim, counted: bool = False) -> None:
        """Let RQ's own code settle a job; `counted`: the worker's counters have seen it."""
        self.inside.add(claim.id)
        if claim.ready:  # from a job process
            try:
                claim.outcome = (result_value(claim, self._app), None)
            except Exception as err:  # noqa: BLE001 (unpickling runs the app's own code)
                claim.outcome = (None, err)
        self._open().submit(claim, counted=counted)

    def send(self, claim: Claim, *, sure: bool) -> None:
        """Send the webhooks of a job whose end was recorded; where it is not sure, look."""
        self.sending += 1
        self._open().send(claim, lambda: self._wake(self._sent), sure=sure)

    def _sent(self) -> None:
        self.sending -= 1

    def promote(self, jobs: list[tuple[str, str]]) -> None:
        """Enqueue due jobs (queue, id) that only RQ may enqueue: those with a rate limit."""
        self._open().promote(jobs)

    def maintain(self) -> None:
        """Finish what a worker that died in the middle of RQ's steps has left."""
        self._open().maintain()

    def close(self) -> None:
        """End the lane's threads after what they have."""
        if self._lane is not None:
            self._lane.stop()

    def _open(self) -> Lane:
        if self._lane is None:
            from taskq.worker.rq_lane import Lane  # noqa: PLC0415 (RQ: only where a job needs it)

            me = self._me
            self._lane = Lane(
                self._app.broker,
                me.name,
                me.queues,
                self._app,
                self._left,
                self._host,
                self._is_busy,
            )
        return self._lane

    def _left(self, claim: Claim) -> None:
        """Called from the lane's thread."""

        def out() -> None:
            self.inside.discard(claim.id)
            self._out(claim)

        self._wake(out)
