"""What all runners have in common: jobs wait for a slot, run, and end.

A runner is the way to run tasks of one mode: threads, coroutines on the event loop ...
All its methods are called on the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from taskq.worker.claim import Claim


class Runner(Protocol):
    """Runs the tasks of one mode.

    Attributes:
        waiting: jobs in hand that have not begun, in the order in which they came.
        running: jobs that were handed to a slot and have not ended, in the order of their begin.
    """

    waiting: dict[str, Claim]
    running: dict[str, Claim]

    @property
    def slots(self) -> int:
        """Jobs at the same time."""
        ...

    @property
    def busy(self) -> int:
        """Jobs in hand: begun and waiting."""
        ...

    def submit(self, claim: Claim) -> None:
        """Run a job as soon as a slot is free."""
        ...

    def take_back(self, claim: Claim) -> bool:
        """Withdraw a job whose code has not begun; False when it is too late."""
        ...

    def check_limits(self, now: float) -> None:
        """Hold jobs to their time limits. Called every 25 or 50 ms."""
        ...

    def request_cancel(self, claim: Claim) -> None:
        """Somebody asked for a running job to be canceled."""
        ...

    def end_now(self, claim: Claim, why: str) -> None:
        """Somebody ends a running job by a command ("stop" or "kill"), whatever it does."""
        ...

    def interrupt(self, claim: Claim) -> None:
        """The grace time of a shutdown is over: a running job should end now."""
        ...

    def abandon(self) -> list[Claim]:
        """Forget what does not end, at the very end, and return it."""
        ...
