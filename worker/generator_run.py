"""One generator task as it runs: its generator, what it waits for, what was sent to it.

`advance` runs it up to its next `yield`. A value that is yielded is put `out` for its stream;
a `Command` is obeyed: `begin_command` says what to wait for, `answer` ends the wait. A run that
cannot go on is parked by whoever gives it turns, and looked at again with `nudge`. A durable
one has a `journal`, and `steps` that do what is not recorded yet.

Used by one cooperative thread (`generator_turns`) and, for async generators, by the event
loop (`generator_async`); `out`, `mail` and the marks beside them are filled on one side and
emptied on the other, each by single operations that need no lock.
"""

from __future__ import annotations

import time
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from taskq import context
from taskq.commands import Command, Receive, is_group
from taskq.errors import PayloadError, StepMismatch, TaskQError
from taskq.worker.outcome import Asleep, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from taskq.tasks import Task
    from taskq.worker.claim import Claim
    from taskq.worker.journal import Journal

AHEAD = 500
"""Values that a generator may have yielded and Redis not yet confirmed."""


class Host(Protocol):
    """Whoever gives turns to a run."""

    def nudge(self, run: Run, /) -> None:
        """Look whether a parked run can go on."""
        ...


class Run:
    """One generator task in a worker process.

    Attributes:
        claim: its job.
        out: values, serialized, that are not on their way to Redis yet.
        number: how many it has yielded; the last one's number.
        confirmed: how many of them are in Redis.
        read: the number of the last one that a reader took (as far as readers say).
        mail: what was sent and not received yet: (value, None) or (None, exception).
        doom: why it is to be closed at its next turn, or None.
        is_over: its job has been settled without it: to be closed, nothing else.
        is_parked: it waits, and only `nudge` brings it back.
        journal: what is recorded of it, where it is durable; else None.
        steps: does what a durable one asks for.
    """

    __slots__ = (
        "_answer",
        "_command",
        "_due",
        "_streamed",
        "ahead_bytes",
        "bytes_confirmed",
        "bytes_out",
        "claim",
        "confirmed",
        "context",
        "doom",
        "doomed_mono",
        "dump",
        "early",
        "ended",
        "generation",
        "generator",
        "host",
        "is_dirty",
        "is_over",
        "is_parked",
        "journal",
        "keep",
        "lost",
        "mail",
        "mail_id",
        "most_ahead",
        "number",
        "out",
        "read",
        "rebuild",
        "sent",
        "steps",
        "ttl",
    )  # fmt: skip

    def __init__(self, claim: Claim, ahead_bytes: int, dump: Callable[[Run, Any], bytes]) -> None:
        """Nothing has run yet.

        Args:
            claim: the job; its `spec` is the task.
            ahead_bytes: as `AHEAD`, in bytes.
            dump: serializes what it yields.
        """
        task: Task[..., Any] | None = claim.spec
        self.claim = claim
        self.context = copy_context()
        self.generator: Generator[Any, Any, Any] | Any = None
        self.dump = dump
        self.host: Host | None = None
        self.out: deque[bytes] = deque()
        self.mail: deque[tuple[Any, Exception | None]] = deque()
        self.mail_id = b"0-0"
        self.generation: bytes = b""
        self.early: tuple[int, int] | None = None
        self.keep = 0 if task is None else task.stream_keep
        self.most_ahead = None if task is None else task.stream_ahead
        self.rebuild = None if task is None else task.rebuild_sent
        self.ahead_bytes = ahead_bytes
        self.number = self.sent = self.confirmed = self.read = 0
        self.bytes_out = self.bytes_confirmed = 0
        self.is_dirty = self.is_parked = self.is_over = self.lost = False
        self.ttl = ""
        self.ended: Callable[[], None] | None = None
        self.doom: BaseException | None = None
        self.doomed_mono = 0.0
        self._answer: tuple[Any, BaseException | None] | None = None
        self._command: Command | None = None
        self._due = 0.0
        self.journal: Journal | None = None
        self.steps: Any = None  # a `Steps`
        self._streamed = 0

    # -- one step ------------------------------------------------------------------------

    def advance(self) -> Any:
        """Run up to the next `yield`, in the run's own context; returns what was yielded.

        Raises:
            StopIteration: it has returned.
            BaseException: what its code raised.
        """
        generator = self.generator
        if generator is None:
            claim = self.claim
            context.enter(claim)
            assert claim.fn is not None
            self.generator = generator = claim.fn(*claim.args, **claim.kwargs)
            return next(generator)
        value, error = self.next_sent()
        return generator.send(value) if error is None else generator.throw(error)

    def next_sent(self) -> tuple[Any, BaseException | None]:
        """What its `yield` gives: a command's answer, else the next thing sent, else None."""
        answer = self._answer
        if answer is not None:
            self._answer = None
            return answer
        return self.mail.popleft() if self.mail else _NOTHING

    def go_on_streaming(self, generation: bytes, number: int) -> None:
        """An earlier execution has streamed so many values: they are not streamed again."""
        self.generation = generation
        self._streamed = self.number = self.sent = self.confirmed = number

    def put(self, item: Any) -> bool:
        """Take what was yielded: a value for the stream, or a command.

        Returns:
            Whether it is a value that is now in `out`.
        """
        if isinstance(item, Command):
            self.begin_command(item)
            return False
        if type(item) in _LISTS and is_group(item):
            self.begin_command(item)
            return False
        if self._streamed:
            self._streamed -= 1
            return False
        try:
            raw = self.dump(self, item)
        except Exception as err:  # noqa: BLE001 (raised at the yield, where the task can see it)
            self.answer(None, err.with_traceback(None))
            return False
        self.out.append(raw)
        self.number += 1
        self.bytes_out += len(raw)
        return True

    # -- waiting -------------------------------------------------------------------------

    def begin_command(self, command: Command | list[Command]) -> None:
        """Wait for what the command asks for; whoever obeys it calls `answer`."""
        if self.journal is not None:
            self._begin_steps(command)
        elif isinstance(command, Receive):
            self._command = command
            if command.timeout_s is not None:
                self._due = time.monotonic() + command.timeout_s
        else:
            self.answer(None, TaskQError(
                f"{command!r} was yielded by {self.claim.name}, whose steps are not recorded. "
                "Write @queue.task(durable=True)."
            ))  # fmt: skip

    def _begin_steps(self, command: Command | list[Command]) -> None:
        """What is recorded is answered at once; the rest is for `steps`, on the loop."""
        journal, steps = self.journal, self.steps
        assert journal is not None
        assert steps is not None
        if isinstance(command, Receive):
            self.answer(None, TaskQError(
                f"{self.claim.name} is durable and yielded {command!r}: what is sent to a job is "
                "no part of its records, and would be missing after a crash. Wait in a step, or "
                "for a time with sleep()."
            ))  # fmt: skip
            return
        try:
            pending = journal.next(command, steps.now())
        except (StepMismatch, PayloadError) as err:
            self.condemn(err)
        except Exception as err:  # noqa: BLE001 (no step, or a value that no longer fits its model)
            self.answer(None, err.with_traceback(None))
        else:
            if pending.is_done:
                self.answer(*pending.result())
            else:
                self._command = _STEPS
                steps.wake(lambda: steps.begin(self, pending))

    def answer(self, value: Any, error: BaseException | None = None) -> None:
        """End a command: its `yield` gives the value, or raises. From any thread; then `nudge`."""
        self._answer = (value, error)
        self._command = None

    def nudge(self) -> None:
        """Look whether it can go on: something that it waits for may have come. On the loop."""
        if self.host is not None:
            self.host.nudge(self)

    def note_read(self, generation: int, number: int) -> None:
        """A reader has come to this place, perhaps in the stream of an earlier execution.

        It may say so before Redis's answer to our first values is here, which tells the generation.
        """
        if not self.generation:
            self.early = (generation, number)
        elif generation == int(self.generation) and number > self.read:
            self.read = number
            self.nudge()

    def learn_generation(self, generation: bytes) -> None:
        """Redis has told which execution's stream this is. On the loop."""
        self.generation = generation
        if self.early is not None:
            early, self.early = self.early, None
            self.note_read(*early)

    def expire(self, now: float) -> None:
        """End a `receive` whose time is over."""
        if self.mail or not 0 < self._due <= now:  # mail first: only its thread takes it
            return
        command = self._command
        if isinstance(command, Receive):
            self._due = 0.0
            self.answer(None, command.late())
            self.nudge()

    @property
    def is_asking(self) -> bool:
        """Whether a command of it has not been answered."""
        return self._command is not None or self._answer is not None

    @property
    def timed(self) -> bool:
        """Whether a `receive` with a time limit is under way."""
        return self._due > 0

    def may_go(self) -> bool:
        """Whether it can have its next turn."""
        if self.doom is not None or self._answer is not None or self.is_over:
            return True
        if self._command is not None:
            if not self.mail or self._command is _STEPS:
                return False
            self._command, self._due = None, 0.0
            return True
        return not self.is_full

    @property
    def is_full(self) -> bool:
        """Whether Redis, or the reader, has to catch up first."""
        if self.number - self.confirmed >= AHEAD:
            return True
        if self.bytes_out - self.bytes_confirmed >= self.ahead_bytes:
            return True
        return self.most_ahead is not None and self.number - self.read >= self.most_ahead

    # -- the end -------------------------------------------------------------------------

    def condemn(self, why: BaseException) -> None:
        """Close it at its next turn, and end its job with `why`; the first reason counts."""
        if self.doom is None:
            self.doom, self.doomed_mono = why, time.monotonic()
        self.nudge()

    def close(self) -> None:
        """Raise GeneratorExit at its `yield`: its `finally` blocks run. In the run's context."""
        if self.generator is not None:
            self.generator.close()

    def may_run_again(self, error: BaseException | None) -> bool:
        """Whether the end with this error may only be that of an execution."""
        if error is None or (isinstance(error, Interrupted) and str(error) == "cancel"):
            return False
        if isinstance(error, Asleep) or (isinstance(error, Interrupted) and str(error) in _CUT):
            return True
        fields = self.claim.fields
        return fields.get(b"retries_left", b"0") > b"0" or type(error).__name__ == "RetryLater"


_NOTHING: tuple[Any, None] = (None, None)
_CUT = ("shutdown", "lost")
_STEPS = Command()
"""Stands for what `steps` does."""
_LISTS = frozenset((list, tuple))
