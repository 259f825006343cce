"""What the code of an app defines, brought to Redis when a scheduler of it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskq.schedules.asking import Run, Steps
from taskq.schedules.changes import PAGE, Entry, put
from taskq.schedules.record import ScheduleKeys

if TYPE_CHECKING:
    from taskq.keys import Keys


@dataclass
class Synced:
    """What became of the schedules that the code of an app defines.

    Attributes:
        added: names of new ones.
        changed: those whose definition has changed since.
        removed: those that the code no longer has.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def sync(
    keys: Keys, app: str, entries: Sequence[Entry], now_ms: int | None = None
) -> Steps[Synced]:
    """Bring what the code of an app defines to Redis: new ones, changed ones, gone ones.

    One whose definition is that of the last time is left alone, so what was changed at run
    time stays until the code changes.

    Args:
        keys: names of keys.
        app: name of the app.
        entries: all that its code defines.
        now_ms: for tests; else Redis's time.
    """
    done = Synced()
    names = ScheduleKeys(keys)
    (members,) = yield [("SMEMBERS", names.code(app))]
    known = {raw.decode("utf-8", "replace") for raw in members}
    fresh: list[Entry] = []
    for start in range(0, len(entries), PAGE):
        page = entries[start : start + PAGE]
        found = yield [("HMGET", names.one(entry.name), "app", "code") for entry in page]
        for entry, values in zip(page, found):
            owner, code = values if isinstance(values, list) else (None, None)
            if owner is None or owner.decode("utf-8", "replace") != app or entry.name not in known:
                done.added.append(entry.name)
            elif code != entry.code.encode():
                done.changed.append(entry.name)
            else:
                continue
            fresh.append(entry)
    yield from put(keys, fresh, now_ms)
    gone = sorted(known - {entry.name for entry in entries})
    for start in range(0, len(gone), PAGE):
        page_names = gone[start : start + PAGE]
        args = [part for name in page_names for part in (name, "remove", "*", "*")]
        answers = yield Run("schedule_set", args)
        done.removed += [name for name, answer in zip(page_names, answers) if answer == 1]
    return done
