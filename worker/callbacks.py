"""Jobs that are callbacks: what they are told of the end of the job before them."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from taskq.clock import parse_iso
from taskq.endings import Ending
from taskq.errors import PayloadError
from taskq.notify import DELIVER

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.claim import Claim

_MOST_TEXT = 1_000_000


def signed_as(claim: Claim) -> str:
    """The id that a job's payload was signed for: its own, or as a callback was called at first.

    A job that ends twice may have two callbacks at the same time; the second one's id is
    the first one's with a number behind it.
    """
    raw = claim.fields.get(b"tq_signed_as")
    if raw:
        base = raw.decode("utf-8", "replace")
        head, _, number = claim.id.rpartition("-")
        if head == base and number.isdigit():
            return base
    return claim.id


def deliver() -> Callable[..., Any]:
    """The task that sends webhooks."""
    from taskq.webhooks import deliver as found  # noqa: PLC0415 (late: ssl and http.client)

    return found


def tell(claim: Claim, app: TaskQ) -> None:
    """Put the `Ending` in the place of the argument that the caller prepared.

    Raises:
        PayloadError: the record does not say how the job ended.
    """
    try:
        ending = _ending(claim, app)
    except PayloadError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, zlib.error, binascii.Error) as err:
        raise PayloadError(
            f"What this callback is to be told is broken: {type(err).__name__}: {err}."
        ) from err
    if claim.name == DELIVER:
        claim.args = (claim.args[0], ending, app.webhook_keys)
    else:
        claim.args = (ending,)


def _ending(claim: Claim, app: TaskQ) -> Ending:
    fields = claim.fields
    (*_, about) = claim.args
    if isinstance(about, Ending):  # made from the annotation already
        about = {"id": about.id, "task": about.task, "queue": about.queue}
    job_id, name, queue = str(about["id"]), str(about["task"]), str(about["queue"])
    kind, message, attempts = "", "", int(claim.number(b"tq_of_tries", 0))
    if fields.get(b"tq_of_error"):
        kind, message, attempts = json.loads(fields[b"tq_of_error"])
    meta: dict[str, Any] = {}
    if fields.get(b"tq_of_meta"):
        meta = app.codec.load_value(fields[b"tq_of_meta"], job_id=job_id, kind="meta")
    ended_at = parse_iso(fields[b"tq_of_at"].decode())
    return Ending(
        id=job_id,
        task=name,
        queue=queue,
        status=fields[b"tq_of_status"].decode(),
        result=_result(fields.get(b"tq_of_result"), job_id, name, app),
        exc_type=str(kind),
        message=str(message),
        traceback=_text(fields.get(b"tq_of_trace")),
        attempts=int(attempts),
        ended_at=datetime.fromtimestamp(ended_at, timezone.utc),
        meta=meta,
    )


def _result(raw: bytes | None, job_id: str, name: str, app: TaskQ) -> Any:
    """What the job returned, as its handle would give it."""
    if not raw:
        return None
    value = app.codec.load_value(base64.b64decode(raw), job_id=job_id, kind="result")
    task = app.tasks.get(name)
    if task is not None and task.rebuild_result is not None:
        value = task.rebuild_result(value)
    return value


def _text(raw: bytes | None) -> str:
    """A traceback as RQ stores it, as text."""
    if not raw:
        return ""
    text = zlib.decompressobj().decompress(base64.b64decode(raw), _MOST_TEXT)
    return text.decode("utf-8", "replace").rstrip()
