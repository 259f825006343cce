"""From the fetcher to a runner: a reserved job is understood, or set aside with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskq.errors import PayloadError, UnknownTask
from taskq.worker import items
from taskq.worker.suspects import CRASHES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskq.worker.claim import Claim
    from taskq.worker.life import Life
    from taskq.worker.resolve import Resolver
    from taskq.worker.runners import Runners
    from taskq.worker.settle import Settler
    from taskq.worker.suspects import Suspects

_READ_BYTES = 100_000
"""What has been read begins when it was so much: large payloads take longer than a start."""


def _stands_alone(claim: Claim) -> bool:
    """Whether a coroutine needs nothing that lives on this process's event loop."""
    return claim.spec is not None and claim.spec.injection is None


class Delivery:
    """Takes reserved jobs. On the event loop, for every job."""

    def __init__(
        self,
        resolver: Resolver,
        runners: Runners,
        suspects: Suspects,
        life: Life,
        settler: Settler,
    ) -> None:
        """Know where jobs may go.

        Args:
            resolver: finds out what they call.
            runners: run them.
            suspects: are run one by one.
            life: ends those that cannot be run.
            settler: gets those that go back to Redis.
        """
        self._resolver = resolver
        self._runners = runners
        self._by_mode = runners.by_mode
        self._came = runners.came
        self._suspects = suspects
        self._life = life
        self._settler = settler

    def take(self, claims: Sequence[Claim]) -> None:
        """Resolve the jobs of one reserve call and hand them to their runners.

        All are read before the first begins: to inflate lets go of the interpreter, and threads
        with something to do would take it at each job (29 instead of 1 us for one, measured).
        """
        ready: list[Claim] = []
        size = 0
        for claim in claims:
            if self._is_understood(claim):
                ready.append(claim)
                size += len(claim.fields.get(b"data", b""))
            if size > _READ_BYTES:
                self._submit(ready)
                ready, size = [], 0
        self._submit(ready)

    def _is_understood(self, claim: Claim) -> bool:
        try:
            if not isinstance(claim.id, str):
                raise PayloadError("The job's id is not UTF-8 text.")
            self._resolver.prepare(claim)
        except UnknownTask as err:
            self._life.unknown(claim, err)
            return False
        except Exception as err:  # noqa: BLE001 (whatever bytes do, the worker goes on)
            self._life.refuse(claim, err)
            return False
        return True

    def _submit(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if claim.mode == "generator":
                self._runners.generators.hand_on(claim)
            if claim.fields.get(b"tq_cancel") == b"1":
                self._settler.add(claim, items.canceled(claim.unique))
                continue
            if claim.fields.get(b"tq_crashes", b"0") >= CRASHES:
                if claim.mode == "thread" or (claim.mode == "asyncio" and _stands_alone(claim)):
                    claim.mode = "process"  # it kills a job process then, not this one
                self._suspects.add(claim)
                continue
            runner = self._by_mode[claim.mode]
            self._came[claim.mode] = claim.reserved_mono
            runner.submit(claim)
            if claim.fields.get(b"tq_redeliver") == b"0" and runner.busy > runner.slots:
                self._runners.give_back(claim)  # at most once: never held without being run
