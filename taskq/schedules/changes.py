"""Changes to schedules: made, changed, paused, resumed, removed.

Each is read first and then written by a script only if it is still as it was read, so
nothing is lost between a change and a firing at the same time. A schedule whose times
stay as they are keeps its next one.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.errors import ScheduleNotFound, TaskQError
from taskq.schedules import occurrences, record
from taskq.schedules.asking import Run, Steps
from taskq.schedules.record import Record, ScheduleKeys, State, Template, definition
from taskq.schedules.terms import Terms

if TYPE_CHECKING:
    from taskq.keys import Keys

PAGE = 200
"""Changes in one call of the script."""
_TRIES = 20
"""Somebody else may change a schedule at the same time; not so often."""
_FORGOTTEN = (
    "tz", "window", "jitter", "start", "end", "max_runs", "unique", "ttl", "task", "fields",
    "error",
)  # fmt: skip
"""Fields of a definition that may be absent in the next one. Not `app` and `code`: what the code
defines stays its own when it is changed at run time, and is left so until the code changes."""


class Entry(NamedTuple):
    """A schedule to be: name, times, job, and whose code defines it ("": made at run time)."""

    name: str
    terms: Terms
    template: Template
    app: str = ""

    @property
    def code(self) -> str:
        """Digest of the definition in the code; "" for one made at run time."""
        if not self.app:
            return ""
        parts = [part if isinstance(part, bytes) else str(part).encode()
                 for part in definition(self.terms, self.template)]  # fmt: skip
        # a signature differs from time to time only with the key, and then all is written again
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def put(keys: Keys, entries: Sequence[Entry], now_ms: int | None = None) -> Steps[None]:
    """Make these schedules, or change them to this; one that is paused stays so.

    Args:
        keys: names of keys.
        entries: the definitions.
        now_ms: for tests; else Redis's time.

    Raises:
        TaskQError: a schedule is changed all the time by somebody else.
    """
    for start in range(0, len(entries), PAGE):
        left = list(entries[start : start + PAGE])
        for _ in range(_TRIES):
            if not left:
                break
            now, hashes = yield from _read(keys, [entry.name for entry in left], now_ms)
            args: list[Any] = []
            for entry, flat in zip(left, hashes):
                args += _put(entry, flat, now)
            answers = yield Run("schedule_set", args)
            left = [entry for entry, answer in zip(left, answers) if answer != 1]
        if left:
            raise _restless(left[0].name)


def pause(keys: Keys, name: str) -> Steps[bool]:
    """Stop a schedule until it is resumed; False: it was paused already.

    Raises:
        ScheduleNotFound: there is none of that name.
    """
    version = _version()
    for _ in range(_TRIES):
        _now, flat = yield from _one(keys, name)
        if flat.get(b"paused") == b"1":
            return flat.get(b"v") == version.encode()  # it was us, and the answer was lost
        args = _set(name, flat, "inf", [], ["paused", "1"], version)
        (answer,) = yield Run("schedule_set", args)
        if answer == 1:
            return True
    raise _restless(name)


def resume(keys: Keys, name: str, now_ms: int | None = None) -> Steps[bool]:
    """Let a paused schedule go on with its next occurrence from now; False: it was not paused.

    Occurrences during the pause are not missed ones: they are not made up for.

    Raises:
        ScheduleNotFound: there is none of that name.
        TaskQError: it cannot be read.
    """
    version = _version()
    for _ in range(_TRIES):
        now, flat = yield from _one(keys, name, now_ms)
        if flat.get(b"paused") != b"1":
            return flat.get(b"v") == version.encode()
        try:
            terms, state = record.read_terms(flat)
        except ValueError as error:
            raise TaskQError(f"The schedule {name!r} cannot be read: {error}.") from None
        following = None if state.ended else occurrences.first(terms, now, state.anchor_ms)
        score, fields = _next_fields(name, terms, following)
        gone = ["paused"] if following is not None else ["paused", "next"]
        (answer,) = yield Run("schedule_set", _set(name, flat, score, gone, fields, version))
        if answer == 1:
            return True
    raise _restless(name)


def remove(name: str) -> Steps[bool]:
    """Remove a schedule; its jobs stay. False: there is none of that name."""
    (answer,) = yield Run("schedule_set", [name, "remove", "*", "*"])
    return bool(answer == 1)


def park(name: bytes, version: bytes, error: str) -> Steps[bool]:
    """Set a schedule aside that cannot be fired, with the reason; a change of it brings it back.

    An occurrence of it that waited is dropped. Where its hash was gone, it has one again.
    """
    fields = ["error", error[:500], "v", _version()]
    args = [name, "set", version, "*", "inf", 1, "held", len(fields), *fields]
    (answer,) = yield Run("schedule_set", args)
    return bool(answer == 1)


def fetch(keys: Keys, name: str) -> Steps[Record]:
    """Read a schedule.

    Raises:
        ScheduleNotFound: there is none of that name.
        TaskQError: it cannot be read.
    """
    _now, flat = yield from _one(keys, name)
    try:
        return record.read(name, flat)
    except ValueError as error:
        raise TaskQError(f"The schedule {name!r} cannot be read: {error}.") from None


# -- one change --------------------------------------------------------------------------


def _put(entry: Entry, flat: dict[bytes, bytes], now_ms: int) -> list[Any]:
    """Arguments of the script that make a schedule what `entry` says, from what it is."""
    name, terms = entry.name, entry.terms
    fields = definition(terms, entry.template)
    if entry.app:
        fields += ["app", entry.app, "code", entry.code]
    given = {str(one) for one in fields[::2]}
    gone = [one for one in _FORGOTTEN if one not in given]
    try:
        old, state = record.read_terms(flat) if flat else (None, State())
    except ValueError:  # broken, or a later version's: it begins anew
        old, state = None, State(paused=flat.get(b"paused") == b"1")
    if old is not None and not state.error and _same_times(old, terms, state):
        return _set(name, flat, "", gone, fields)
    anchor = terms.start_ms
    if anchor is None:
        anchor = now_ms if old is None else (state.last_ms or state.anchor_ms or now_ms)
    following = occurrences.first(terms, now_ms, anchor)
    if terms.max_runs is not None and state.runs >= terms.max_runs:
        following = None
    score, more = _next_fields(name, terms, following)
    fields += ["anchor", anchor, *more]
    if following is None:
        gone.append("next")
    else:
        gone.append("ended")
    if old is None:
        fields += ["created", now_ms]
    return _set(name, flat, "inf" if state.paused else score, gone, fields)


def _same_times(old: Terms, new: Terms, state: State) -> bool:
    """Whether the next occurrence stays what it is."""
    same = (old.when, old.start_ms, old.end_ms, old.jitter_ms) == (
        new.when, new.start_ms, new.end_ms, new.jitter_ms,
    )  # fmt: skip
    if old.max_runs == new.max_runs:
        return same
    reached = new.max_runs is not None and state.runs >= new.max_runs
    return same and not reached and not state.ended


def _next_fields(name: str, terms: Terms, following: int | None) -> tuple[str, list[Any]]:
    """The score, and the fields, of a schedule whose next occurrence is `following`."""
    if following is None:
        return "inf", ["ended", "1"]
    return str(occurrences.fires_at(name, terms, following)), ["next", following]


def _set(
    name: str,
    flat: dict[bytes, bytes],
    score: str,
    gone: list[str],
    fields: list[Any],
    becomes: str = "",
) -> list[Any]:
    """Arguments of one change of a schedule that was read as `flat`."""
    version = flat.get(b"v", b"") if flat else b""
    due = flat.get(b"next", b"") if flat and score not in ("", "inf") else b"*"
    fields = [*fields, "v", becomes or _version()]
    return [name, "set", version, due, score, len(gone), *gone, len(fields), *fields]


def _version() -> str:
    return secrets.token_hex(5)


def _one(keys: Keys, name: str, now_ms: int | None = None) -> Steps[tuple[int, dict[bytes, bytes]]]:
    now, (flat,) = yield from _read(keys, [name], now_ms)
    if not flat:
        raise ScheduleNotFound(f"There is no schedule {name!r}. taskq schedules lists them.")
    return now, flat


def _read(
    keys: Keys, names: Sequence[str], now_ms: int | None
) -> Steps[tuple[int, list[dict[bytes, bytes]]]]:
    """Redis's time, and hashes of schedules; empty where there is none."""
    where = ScheduleKeys(keys)
    answers = yield [("TIME",), *(("HGETALL", where.one(name)) for name in names)]
    seconds, micros = answers[0]
    now = int(seconds) * 1000 + int(micros) // 1000
    return (now if now_ms is None else now_ms), [as_dict(answer) for answer in answers[1:]]


def as_dict(answer: Any) -> dict[bytes, bytes]:
    """HGETALL's answer; empty where the key is no hash."""
    if isinstance(answer, dict):
        return answer
    if not isinstance(answer, (list, tuple)):
        return {}
    flat = iter(answer)
    return dict(zip(flat, flat))


def _restless(name: str) -> TaskQError:
    return TaskQError(f"The schedule {name!r} is changed by somebody else all the time. Try again.")
