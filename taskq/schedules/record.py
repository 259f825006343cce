"""A schedule as it stands in Redis: the hash `taskq:schedule:NAME`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taskq.errors import ConfigError
from taskq.notify import netstrings
from taskq.schedules.terms import Terms
from taskq.timing import Cron, Every, When

if TYPE_CHECKING:
    from taskq.keys import Keys

FOR = "tq_for"
"""Field of a job: the occurrence it was made for, "MILLISECONDS ZONE"."""


_MOST_FIELDS = 400
"""Of a prepared job. Ours have a dozen; a script cannot take thousands."""


class ScheduleKeys:
    """Names of the keys of schedules."""

    def __init__(self, keys: Keys) -> None:
        """Below the prefix of `keys`."""
        self.due = f"{keys.own}schedules"
        self.held = f"{keys.own}schedules:held"
        self._own = keys.own

    def one(self, name: str) -> str:
        """Hash of a schedule."""
        return f"{self._own}schedule:{name}"

    def code(self, app: str) -> str:
        """Set of the names that the code of an app defines."""
        return f"{self._own}schedules:code:{app}"


@dataclass(frozen=True)
class Template:
    """The job of a schedule, prepared for all its occurrences.

    Its payload is signed for the id `job_stem(name)`; `template.occurrence` makes the job.

    Attributes:
        task: name of the task.
        queue: where the jobs go.
        data: the payload.
        fields: further fields of the job's hash, flat.
        at_front: to the head of the queue.
        unique: lock to hold until the job ends, or "".
        ttl_s: how long it may wait, or None.
    """

    task: str
    queue: str
    data: bytes
    fields: tuple[bytes, ...] = ()
    at_front: bool = False
    unique: str = ""
    ttl_s: int | None = None


@dataclass(frozen=True)
class State:
    """How far a schedule is.

    Attributes:
        version: changes with each change of the definition, and when it is paused or resumed.
        anchor_ms: what intervals are counted from.
        next_ms: when the next occurrence is due (without jitter); None: none comes.
        last_ms: the last occurrence that was enqueued.
        last_job: its job's id.
        runs: occurrences enqueued so far.
        skipped: those dropped because the one before had not ended.
        dropped: those that were missed and did not run.
        held_ms: the occurrence that waits for the one before.
        paused: somebody said so.
        ended: no occurrence comes any more.
        error: why it cannot be fired.
    """

    version: str = ""
    anchor_ms: int = 0
    next_ms: int | None = None
    last_ms: int | None = None
    last_job: str = ""
    runs: int = 0
    skipped: int = 0
    dropped: int = 0
    held_ms: int | None = None
    paused: bool = False
    ended: bool = False
    error: str = ""


@dataclass(frozen=True)
class Record:
    """One schedule, read from its hash.

    Attributes:
        app: whose code defines it; "" for one made at run time.
        code: digest of that definition.
    """

    name: str
    terms: Terms
    template: Template
    state: State = field(default_factory=State)
    app: str = ""
    code: str = ""


def job_stem(name: str) -> str:
    """What the ids of all jobs of a schedule begin with: `cron-` and 16 hex digits."""
    return f"cron-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def job_id(name: str, due_ms: int) -> str:
    """The id of the job of one occurrence."""
    return f"{job_stem(name)}-{due_ms}"


def definition(terms: Terms, template: Template) -> list[Any]:
    """The fields that say what a schedule is, flat; empty ones left out."""
    when = terms.when
    text = f"cron {when.expression}" if isinstance(when, Cron) else f"every {when.interval_ms}"
    pairs: list[tuple[str, Any]] = [
        ("when", text),
        ("tz", when.tz if isinstance(when, Cron) else ""),
        ("missed", terms.missed),
        ("window", terms.window_ms),
        ("overlap", terms.overlap),
        ("jitter", terms.jitter_ms or None),
        ("start", terms.start_ms),
        ("end", terms.end_ms),
        ("max_runs", terms.max_runs),
        ("task", template.task),
        ("queue", template.queue),
        ("data", template.data),
        ("fields", netstrings(template.fields)),
        ("place", "f" if template.at_front else "b"),
        ("unique", template.unique),
        ("ttl", template.ttl_s),
    ]
    return [part for name, value in pairs if value not in (None, "", b"") for part in (name, value)]


def read(name: str, flat: Mapping[bytes, bytes]) -> Record:
    """Read a schedule's hash.

    Raises:
        ValueError: it is broken, or names a zone that this machine does not know.
    """
    try:
        fields = tuple(from_netstrings(flat.get(b"fields", b"")))
        if len(fields) > _MOST_FIELDS:
            raise ValueError(f"its prepared job has {len(fields) // 2} fields")
        return Record(
            name,
            _terms(flat),
            Template(
                task=_text(flat, b"task"),
                queue=_text(flat, b"queue") or _missing(b"queue"),
                data=flat.get(b"data") or _missing(b"data"),
                fields=fields,
                at_front=flat.get(b"place") == b"f",
                unique=_text(flat, b"unique"),
                ttl_s=_number(flat, b"ttl"),
            ),
            _state(flat),
            app=_text(flat, b"app"),
            code=_text(flat, b"code"),
        )
    except ConfigError as error:  # an expression or a zone
        raise ValueError(str(error)) from None


def read_terms(flat: Mapping[bytes, bytes]) -> tuple[Terms, State]:
    """Read what a schedule says of times, without its job.

    Raises:
        ValueError: as `read`.
    """
    try:
        return _terms(flat), _state(flat)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _terms(flat: Mapping[bytes, bytes]) -> Terms:
    return Terms(
        _when(_text(flat, b"when"), _text(flat, b"tz")),
        missed=_text(flat, b"missed") or "run_once",
        window_ms=_number(flat, b"window"),
        overlap=_text(flat, b"overlap") or "allow",
        jitter_ms=_number(flat, b"jitter") or 0,
        start_ms=_number(flat, b"start"),
        end_ms=_number(flat, b"end"),
        max_runs=_number(flat, b"max_runs"),
    )


def _state(flat: Mapping[bytes, bytes]) -> State:
    return State(
        version=_text(flat, b"v"),
        anchor_ms=_number(flat, b"anchor") or 0,
        next_ms=_number(flat, b"next"),
        last_ms=_number(flat, b"last"),
        last_job=_text(flat, b"last_job"),
        runs=_number(flat, b"runs") or 0,
        skipped=_number(flat, b"skipped") or 0,
        dropped=_number(flat, b"dropped") or 0,
        held_ms=_number(flat, b"held"),
        paused=flat.get(b"paused") == b"1",
        ended=flat.get(b"ended") == b"1",
        error=_text(flat, b"error"),
    )


def _when(text: str, tz: str) -> When:
    kind, _, rest = text.partition(" ")
    if kind == "cron":
        return Cron(rest, tz=tz or "UTC")
    if kind == "every" and rest.isascii() and rest.isdigit():
        return Every(seconds=int(rest) / 1000)
    raise ValueError(f"its time is {text[:60]!r}, which this version cannot read")


def _text(flat: Mapping[bytes, bytes], name: bytes) -> str:
    return flat.get(name, b"").decode("utf-8", "replace")


def _number(flat: Mapping[bytes, bytes], name: bytes) -> int | None:
    raw = flat.get(name)
    if not raw:
        return None
    try:
        found = int(raw)
    except ValueError:
        raise ValueError(f"its field {name.decode()!r} is {raw[:40]!r}, not a number") from None
    if not -1 << 62 < found < 1 << 62:
        raise ValueError(f"its field {name.decode()!r} is out of range")
    return found


def _missing(name: bytes) -> Any:
    raise ValueError(f"its field {name.decode()!r} is missing")


def from_netstrings(raw: bytes) -> Iterable[bytes]:
    """The texts in a row of netstrings.

    Raises:
        ValueError: it is none.
    """
    at = 0
    while at < len(raw):
        colon = raw.index(b":", at)
        end = colon + 1 + int(raw[at:colon])
        if end > len(raw):
            raise ValueError("its prepared job is cut short")
        yield raw[colon + 1 : end]
        at = end
