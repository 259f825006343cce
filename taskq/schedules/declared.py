"""Schedules that the code of an app defines: kept until a scheduler brings them to Redis."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.errors import ConfigError
from taskq.schedules.changes import Entry
from taskq.schedules.template import prepare

if TYPE_CHECKING:
    from taskq.calls import Call
    from taskq.schedules.terms import Terms


class Declared(NamedTuple):
    """One definition; serialized when it is needed, for only then the app is complete."""

    name: str
    call: Call[Any]
    terms: Terms
    place: str

    def entry(self, app: Any, owner: str) -> Entry:
        """The schedule that it stands for.

        Raises:
            NotSerializable, ConfigError: its call cannot be enqueued.
        """
        where = f"schedule({self.name!r})"
        return Entry(self.name, self.terms, prepare(app, where, self.name, self.call), owner)


def add(known: dict[str, Declared], new: Declared) -> None:
    """Note a definition; the same line of the source, run once more, replaces it.

    Raises:
        ConfigError: another place defines a schedule of that name.
    """
    before = known.get(new.name)
    if before is not None and before.place != new.place:
        raise ConfigError(
            f"Two schedules have the name {new.name!r}: at {before.place} and at {new.place}. "
            "Rename one; @queue.cron takes name=..., too."
        )
    known[new.name] = new


def place_of(frame: FrameType | None) -> str:
    """File and line of a caller, for messages."""
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def is_definition(frame: FrameType | None, call: Call[Any]) -> bool:
    """Whether the caller is code that a module runs when it is imported, or calls meanwhile.

    Then it defines: a module is imported by every process, with or without Redis. A program's
    own functions, an interactive session and a notebook mean it to be done now. In a file
    that is run as a program, what stands outside of functions defines where it is about a
    task of that file: a scheduler will import it. About another module's task it is a script.
    """
    caller = frame
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            module = frame.f_globals
            # without a spec it is run by exec(), as xdist runs tests: nobody imports it
            if module.get("__name__") != "__main__" and module.get("__spec__") is not None:
                return True
            if frame is caller:
                return "__file__" in module and call.task.fn.__module__ == "__main__"
        frame = frame.f_back
    return False
