"""Callbacks of jobs, prepared when the job is enqueued.

A callback is a job like any other. All of it but how the first job ended is known from
the beginning, so it is built, checked and signed then, and lies in the field
`tq_on_success` or `tq_on_failure` of the first one. The script that records the end
only has to add what became of the job and to enqueue it: in the same step, so that
no crash can come between, whoever ends the job.

The field is a row of netstrings (`5:hello`): id, queue, place, ttl or "", then names and
values of the hash's fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from taskq.broker.records import NewJob
from taskq.errors import ConfigError
from taskq.options import DEFAULTS
from taskq.retry import Retry

if TYPE_CHECKING:
    from taskq.options import Options

DELIVER = "taskq.webhooks.deliver"
"""Name of the task that sends webhooks; every worker has it."""

TIME_LIMIT_S = 30
"""Of one try to send a webhook."""

RETRY = Retry(
    10,
    backoff="exponential",
    base=5,
    cap=3600,
    jitter=True,
    never_on=("taskq.webhooks.WebhookRefused",),
)
"""A receiver that is down for an hour misses nothing."""


def callback_fields(app: Any, name: str, job_id: str, opts: Options) -> list[Any]:
    """Return the hash fields of the callbacks of a job, flat.

    Args:
        app: the `TaskQ`; its codec signs.
        name: name of the job's task.
        job_id: of the job; the callbacks are called "ID-success" and "ID-failure".
        opts: of the job.

    Raises:
        ConfigError: a callback belongs to another app.
    """
    about = {"id": job_id, "task": name, "queue": opts.queue}
    found: list[Any] = []
    for kind, target in (("success", opts.on_success), ("failure", opts.on_failure)):
        if target is not None:
            job = _prepared(app, target, f"{job_id}-{kind}", about)
            found += [f"tq_on_{kind}", packed(job)]
    return found


def _prepared(app: Any, target: Any, job_id: str, about: dict[str, str]) -> NewJob:
    if isinstance(target, str):
        queue = about["queue"]  # somebody takes jobs from there
        data = app.codec.dump_call(DELIVER, (target, about), {}, job_id=job_id, queue=queue)
        return NewJob(job_id, queue, data, _WEBHOOK.fields)
    if target.is_bound and target.app is not app:
        raise ConfigError(
            f"{target.name} belongs to {target.app}, not to {app}, and cannot be a callback of "
            f"{about['task']}: its workers do not know it. Nothing was enqueued."
        )
    job: NewJob = target.build(app, (about,), {}, job_id=job_id)
    return job


def packed(job: NewJob) -> bytes:
    """Write a prepared job as the scripts read it."""
    ttl: Any = "" if job.ttl_s is None else job.ttl_s
    return netstrings((job.id, job.queue, job.place(), ttl, "data", job.data, *job.fields))


def netstrings(parts: Iterable[Any]) -> bytes:
    """Write texts, bytes or numbers one after the other, each with its length before it."""
    raw = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"".join(b"%d:%s" % (len(part), part) for part in raw)


_WEBHOOK = DEFAULTS.merge("webhooks", {"timeout": TIME_LIMIT_S, "retry": RETRY, "result_ttl": 500})
