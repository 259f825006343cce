"""What a report of a job process, or its death, says about the end of its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq.errors import PayloadError
from taskq.retry import RetryLater
from taskq.worker import process_wire as wire
from taskq.worker.outcome import Interrupted, NotHere, TimeLimit
from taskq.worker.reported import unpack

if TYPE_CHECKING:
    from taskq.worker.claim import Claim
    from taskq.worker.process_handle import ProcessHandle


def read_end(report: wire.Report) -> tuple[Any, BaseException | None]:
    """Value and error of the report that ends a job. A result stays as it is: in the body.

    Raises:
        PayloadError: it is no such report.
        ValueError: its body cannot be read.
    """
    if report.kind == wire.FINISHED:
        return None, None
    if report.kind == wire.RAISED:
        return None, unpack(report.json())
    if report.kind == wire.UNKNOWN:
        return None, NotHere(report.body.decode("utf-8", "replace"))
    if report.kind == wire.AGAIN:
        asked = report.json()
        if "later" in asked:
            return None, RetryLater(asked["later"])
        from taskq.worker.rq_again import retry_of  # noqa: PLC0415 (RQ: only where a job asks)

        return retry_of(asked), None
    raise PayloadError(f"It sent a report of kind {report.kind}.")


def end_of(one: ProcessHandle, claim: Claim) -> BaseException:
    """What the end of its process means for a job."""
    if one.why == "timeout":
        return TimeLimit(
            f"{claim.name} ran longer than its time limit of {claim.deadline:g} s and did not "
            "stop: its process was killed"
        )
    if one.why:
        return Interrupted(one.why)
    return one.crash()
