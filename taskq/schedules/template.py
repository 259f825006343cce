"""The job of a schedule: prepared once, and made anew for each occurrence.

All that can be wrong with a call is found when the schedule is made. A job of an
occurrence differs in its id and in the time it was made for; what is signed is signed
again for that id. So a scheduler needs no task, only the app's secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq.broker.records import NewJob
from taskq.errors import ConfigError, PayloadError
from taskq.notify import netstrings
from taskq.schedules.record import FOR, Template, from_netstrings, job_stem

if TYPE_CHECKING:
    from taskq.calls import Call
    from taskq.serializers import Codec

_CALLBACKS = {b"tq_on_success": "success", b"tq_on_failure": "failure"}


def prepare(app: Any, where: str, name: str, call: Call[Any]) -> Template:
    """Serialize a call for all occurrences of the schedule `name`.

    Raises:
        ConfigError: the call says itself when it runs or what its id is, or its task is
            another app's.
        NotSerializable: an argument cannot be carried.
    """
    opts = call.task.opts
    for option in ("delay", "at", "job_id"):
        if getattr(opts, option) is not None:
            raise ConfigError(
                f"{where}: {call.task.name} has the option {option}, but a schedule says that for "
                f"each of its jobs. Leave it out: {call.task.qualname}.options({option}=None)."
            )
    job = call.new_job(app, job_id=job_stem(name))
    return Template(
        task=call.task.name,
        queue=job.queue,
        data=job.data,
        fields=tuple(one if isinstance(one, bytes) else str(one).encode() for one in job.fields),
        at_front=job.at_front,
        unique=job.unique,
        ttl_s=job.ttl_s,
    )


def occurrence(
    codec: Codec, name: str, template: Template, job_id: str, due: tuple[int, str] | None
) -> NewJob:
    """The job of one occurrence.

    Args:
        codec: of the app whose secret signed the template.
        name: of the schedule.
        template: its prepared job.
        job_id: of the new job.
        due: milliseconds since 1970, and the name of a zone; None: of no occurrence.

    Raises:
        PayloadError: what is prepared was not signed by this app.
    """
    stem = job_stem(name)
    fields: list[Any] = []
    flat = iter(template.fields)
    for field, value in zip(flat, flat):  # one iterator, twice
        fields.append(field)
        if field in _CALLBACKS:
            fields.append(_callback(codec, value, stem, job_id, _CALLBACKS[field]))
        elif field == b"meta" and codec.is_signing:
            meta = codec.load_value(value, job_id=stem, kind="meta")
            fields.append(codec.dump_value(meta, job_id=job_id, kind="meta", name=template.task))
        else:
            fields.append(value)
    if due is not None:
        fields += [FOR, f"{due[0]} {due[1]}"]
    return NewJob(
        job_id,
        template.queue,
        codec.readdress_call(template.data, job_id=stem, to=job_id, queue=template.queue),
        fields,
        at_front=template.at_front,
        unique=template.unique,
        ttl_s=template.ttl_s,
    )


def _callback(codec: Codec, raw: bytes, stem: str, job_id: str, kind: str) -> bytes:
    """A prepared callback (see `notify`), for the job `job_id` instead of `stem`."""
    try:
        old_id, queue, place, ttl, *rest = from_netstrings(raw)
        flat = iter(rest)
        fields = dict(zip(flat, flat))
        text = codec.load_call(fields[b"data"], job_id=old_id.decode(), queue=queue.decode())
    except (ValueError, KeyError) as error:
        raise PayloadError(f"its prepared callback is broken: {error}") from None
    name, _instance, args, kwargs = text
    args = tuple({**arg, "id": job_id} if _is_about(arg, stem) else arg for arg in args)
    new_id = f"{job_id}-{kind}"
    fields[b"data"] = codec.dump_call(name, args, kwargs, job_id=new_id, queue=queue.decode())
    pairs = [part for pair in fields.items() for part in pair]
    return netstrings((new_id, queue, place, ttl, *pairs))


def _is_about(arg: Any, stem: str) -> bool:
    """Whether an argument says which job a callback is of."""
    return isinstance(arg, dict) and arg.get("id") == stem and "task" in arg
