"""A step as the runners see it: a claim like a job's, whose end is no end of a job."""

from __future__ import annotations

import functools
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

from taskq.worker.async_runner import AsyncRunner
from taskq.worker.claim import Claim

if TYPE_CHECKING:
    from taskq.context import JobContext
    from taskq.serializers import Codec
    from taskq.worker.generator_run import Run
    from taskq.worker.journal import Part

_numbers = itertools.count(1)
"""A job may be here twice, after a lost lease."""
_NOTHING = [b"", b"", b""]
"""What a plain job's record has."""


class StepClaim(Claim):
    """One try of a step.

    Attributes:
        run: the durable job.
        part: the step.
    """

    def __init__(self, run: Run, part: Part) -> None:
        """Make it ready for its runner; see `to_process` for one that runs elsewhere."""
        job = run.claim
        super().__init__(
            job.position, job.queue, f"{job.id}.{part.place}.{next(_numbers)}", job.exec_id,
            _NOTHING, time.monotonic(),
        )  # fmt: skip
        step: Any = part.command
        self.run = run
        self.part = part
        self.name = part.name
        self.mode = step.mode
        self.fn = step.fn
        self.args, self.kwargs = step.args, step.kwargs
        self.deadline = step.timeout or 0.0
        self.attempt = part.tries
        self.report = self._report
        if self.mode == "thread":  # there `current_job()` and the like are those of the job
            self.fn = functools.partial(run.context.copy().run, step.fn)

    @property
    def context(self) -> JobContext:
        """That of the job."""
        return self.run.claim.context

    def _report(self, _place: str, done: float, total: float | None, note: str) -> None:
        job = self.run.claim
        if job.report is not None:
            job.report(job.id, done, total, note)

    def to_process(self, codec: Codec) -> None:
        """Write it as a job's record, which is what a job process reads.

        Raises:
            NotSerializable, PayloadTooLarge: its arguments cannot be sent there.
        """
        data = codec.dump_call(self.name, self.args, self.kwargs, job_id=self.id, queue=self.queue)
        job = self.run.claim
        self.is_plain = False
        self.fields = {
            b"data": data,
            b"enqueued_at": job.fields.get(b"enqueued_at", b""),
            b"timeout": b"%d" % (math.ceil(self.deadline) or -1),
            b"tq_timeout": repr(self.deadline or -1).encode(),
            b"tq_attempts": b"%d" % (job.attempt - 1),
            b"tq_step_of": job.id.encode(),
            b"tq_for": job.fields.get(b"tq_for", b""),
        }


class StepCoroutines(AsyncRunner):
    """Runs `async def` steps, each in a copy of its job's context."""

    def _start(self, claim: Claim) -> None:
        assert isinstance(claim, StepClaim)
        self.running[claim.id] = claim
        context = claim.run.context.copy()
        claim.task = context.run(self._loop.create_task, self._run(claim))
