"""What is recorded of one durable job, beside what its task asks for now.

The generator's thread asks with each command that is yielded (`next`); what is recorded is
answered at once, the rest becomes a `Pending` for `steps`. Nothing here talks to Redis.

A record's body is `[place, kind, name, hash, content]` through the app's codec, bound to the
job and, by its first part, to its place: with a secret nobody can swap two of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq.errors import NotSerializable, PayloadError, PayloadTooLarge, StepFailed, StepMismatch
from taskq.steps import Sleep, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskq.serializers import Codec
    from taskq.worker.claim import Claim

VALUE, ERROR, TIMER, TRYING, BEGUN = "v", "x", "t", "a", "b"
"""Kinds of records; the first three are final."""
FINAL = frozenset((VALUE, ERROR, TIMER))


class Part:
    """One command, and what became of it.

    Attributes:
        place: "7", or "7.0" of several at once.
        command: the step or timer.
        name: of it.
        hash: of its arguments; "" for a timer.
        is_done: whether its outcome is recorded.
        value: then what its `yield` gives, unless
        error: it is this, to be raised.
        due: it waits until then (seconds since 1970); 0: it does not.
        tries: how often the step was run.
        crashes: how many job processes died of it.
        has_begun: an execution that is gone has run it, to an end that nobody knows.
        began: when it was run last (seconds since 1970).
        claim: while it runs.
        at_work: it runs, or its record is on its way.
    """

    __slots__ = (
        "at_work", "began", "claim", "command", "crashes", "due", "error", "has_begun", "hash",
        "is_done", "name", "place", "tries", "value",
    )  # fmt: skip

    def __init__(self, place: str, command: Step[Any] | Sleep) -> None:
        """Nothing has become of it."""
        self.place = place
        self.command = command
        self.name = command.name
        self.hash = command.hash if isinstance(command, Step) else ""
        self.is_done = self.has_begun = self.at_work = False
        self.value: Any = None
        self.error: Exception | None = None
        self.due = self.began = 0.0
        self.tries = self.crashes = 0
        self.claim: Claim | None = None

    def finish(self, value: Any, error: Exception | None = None) -> None:
        """Its outcome is recorded."""
        self.is_done, self.value, self.error, self.due = True, value, error, 0.0


class Pending:
    """What one `yield` asks for."""

    __slots__ = ("_first", "is_group", "parts", "timers")

    def __init__(self, parts: list[Part], *, is_group: bool) -> None:
        """Several at once, or one."""
        self.parts = parts
        self.is_group = is_group
        self.timers: list[Any] = []
        self._first = 0

    @property
    def first_open(self) -> Part | None:
        """The first part whose outcome is not recorded; looked for again after each record."""
        while self._first < len(self.parts):
            part = self.parts[self._first]
            if not part.is_done:
                return part
            self._first += 1
        return None

    @property
    def is_done(self) -> bool:
        """Whether all outcomes are recorded."""
        return self.first_open is None

    def result(self) -> tuple[Any, Exception | None]:
        """What the `yield` gives, or raises: the first error, in the order of the list."""
        for part in self.parts:
            if part.error is not None:
                return None, part.error
        return ([part.value for part in self.parts] if self.is_group else self.parts[0].value), None


class Journal:
    """The records of one durable job.

    Attributes:
        position: of the last command that the task has yielded, from 1.
        last: of the last one that is recorded.
    """

    def __init__(self, claim: Claim, codec: Codec) -> None:
        """Nothing is known yet: see `fill`."""
        self._claim = claim
        self._codec = codec
        self._bodies: dict[str, bytes] = {}
        self._places: dict[str, list[str]] = {}  # by position
        self._timer = claim.fields.get(b"tq_timer", b"").decode("ascii", "replace")
        self.position = 0
        self.last = 0

    def is_stale(self, stored: Mapping[bytes, bytes]) -> bool:
        """Whether the job was put into its queue again, by others, after its steps had failed.

        Our own scripts forget those steps in that moment; RQ's requeue knows nothing of them.
        """
        failed, fields = stored.get(b"x", b""), self._claim.fields
        if not failed or fields.get(b"tq_unknown"):
            return False
        here = failed.partition(b",")[0].partition(b".")[0].decode("ascii", "replace")
        if here == self._timer.partition(".")[0]:
            return False  # it was put away for another step beside it
        return stored.get(b"xe", b"") != fields.get(b"enqueued_at", b"")

    def fill(self, stored: Mapping[bytes, bytes], forgotten: int = 0) -> None:
        """Take the records as they stand in Redis, `forgotten` fewer than when it was reserved.

        Raises:
            StepMismatch: some are gone.
        """
        final = 0
        for raw, body in stored.items():
            place = raw.decode("ascii", "replace")
            if not place[:1].isdigit() or place.endswith("h"):
                continue
            self._bodies[place] = body
            self._places.setdefault(place.partition(".")[0], []).append(place)
            if stored.get(raw + b"h", b"")[:1].decode("ascii", "replace") in FINAL:
                final += 1
            self.last = max(self.last, int(place.partition(".")[0]))
        counted = int(self._claim.number(b"tq_steps", 0)) - forgotten
        if final < counted:
            raise StepMismatch(
                f"{counted} steps of {self._claim.name} were recorded, and Redis has only {final} "
                "of them: evicted, expired, or deleted. The job is not run from its beginning "
                "again, because those steps have been done."
            )

    # -- replay --------------------------------------------------------------------------

    def next(self, item: Any, now: float) -> Pending:
        """What the task asks for now, with what is recorded of it.

        Args:
            item: a step, a timer, or a list of steps.
            now: seconds since 1970.

        Raises:
            StepMismatch: something else is recorded in its place.
            PayloadError: the record cannot be read.
            TypeError: it is none of these.
        """
        is_group = isinstance(item, (list, tuple))
        commands: Sequence[Any] = item if is_group else (item,)
        allowed = (Step,) if is_group else (Step, Sleep)
        for command in commands:
            if not isinstance(command, allowed):
                what = "A list of a durable task" if is_group else "A durable task"
                raise TypeError(f"{what} cannot yield {command!r}: only what step() gives.")
        self.position += 1
        here = str(self.position)
        places = [f"{here}.{n}" for n in range(len(commands))] if is_group else [here]
        self._check_shape(places, commands)
        parts = [Part(place, command) for place, command in zip(places, commands)]
        for part in parts:
            self._recall(part, now)
            if not part.is_done and self.position < self.last:
                raise self._mismatch(f"it is not recorded, and step {self.last} is", part)
        return Pending(parts, is_group=is_group)

    def _check_shape(self, places: list[str], commands: Sequence[Any]) -> None:
        """One and several are not the same, whatever they are called."""
        position, _, _ = places[0].partition(".")
        there = set(self._places.get(position, ())).difference(places)
        if there:
            names = ", ".join(str(self._open(place)[2]) for place in sorted(there))
            raise StepMismatch(
                f"{self._where()} is {', '.join(c.name for c in commands)} now, and beside or "
                f"instead of that {names} was recorded. {_ADVICE}"
            )

    def _recall(self, part: Part, now: float) -> None:
        if part.place not in self._bodies:
            return
        _place, kind, name, known, content = self._open(part.place)
        if name != part.name:
            raise self._mismatch(f"{name} was recorded", part)
        if known != part.hash and isinstance(part.command, Step):
            raise self._mismatch(f"it was recorded with other arguments (hash {known})", part)
        is_over = part.place == self._timer or self.position < self.last
        if kind == VALUE and isinstance(part.command, Step):
            part.finish(part.command.rebuild(content))
        elif kind == ERROR:
            names, message, tries = content
            part.finish(None, StepFailed(part.name, names[0], message, tries, tuple(names)))
        elif kind == TIMER and (is_over or content <= now):
            part.finish(None)
        elif kind == TIMER:
            part.due = content
        elif kind == TRYING:
            part.tries, due = content
            part.due = 0.0 if is_over or due <= now else due
        elif kind == BEGUN:
            part.has_begun = True

    def check_end(self) -> StepMismatch | None:
        """What is wrong where the task returns now; None: nothing."""
        if self.position >= self.last:
            return None
        return StepMismatch(
            f"{self._claim.name} has returned after {self.position} steps, and "
            f"{self.last} were recorded. {_ADVICE}"
        )

    def _open(self, place: str) -> Any:
        body = self._codec.load_value(self._bodies[place], job_id=self._claim.id, kind="step")
        if not isinstance(body, list) or len(body) != 5 or body[0] != place:
            raise PayloadError(f"The record of step {place} is not what belongs there.")
        return body

    def _where(self) -> str:
        return f"Step {self.position} of {self._claim.name}"

    def _mismatch(self, what: str, part: Part) -> StepMismatch:
        now = f"{part.name} (hash {part.hash})" if part.hash else part.name
        return StepMismatch(f"{self._where()} is {now} now: {what}. {_ADVICE}")

    # -- writing -------------------------------------------------------------------------

    def pack(self, part: Part, kind: str, content: Any) -> bytes:
        """The body of a record.

        Raises:
            NotSerializable, PayloadTooLarge: a value that cannot be recorded.
        """
        body = [part.place, kind, part.name, part.hash, content]
        job_id = self._claim.id
        try:
            return self._codec.dump_value(body, job_id=job_id, kind="step", name=part.name)
        except (NotSerializable, PayloadTooLarge):
            # once more without the rest, so that the message says where in it
            self._codec.dump_value(content, job_id=job_id, kind="step", name=part.name)
            raise

    def unpack(self, body: bytes) -> Any:
        """The content of a body that `pack` has made."""
        return self._codec.load_value(body, job_id=self._claim.id, kind="step")[4]


_ADVICE = (
    "The code between steps must do the same each time; after a change of it, let jobs that have "
    "begun end under the old one, or give the task a new name."
)
