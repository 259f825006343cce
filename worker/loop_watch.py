"""Notices what holds up the event loop: no coroutine of this process goes on meanwhile.

A callback marks the loop's turns; a thread looks at the marks four times a second. Where
there was none for a while, it reads the stack of the loop's thread: the same code found
there twice holds it up. It is logged once, with its stack, and again when the loop goes on.
Both tell the supervisor that they live, and which job it is (`begun.py`): it kills a process
whose loop is held up past the time limit of that job. Nothing is done for single jobs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import traceback
from contextvars import Context
from typing import TYPE_CHECKING, Any

from taskq import context

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from taskq.worker.begun import BegunTable
    from taskq.worker.claim import Claim

log = logging.getLogger("taskq.worker")

TURN_S = 0.1
LOOK_S = 0.2
"""Seconds between the looks of the thread."""
_STACK_LINES = 30
_BUSY_AGAIN_S = 60.0
"""A loop that has too much to do is not news every second."""
_CHILD = __file__.replace("loop_watch", "child")


class LoopWatch:
    """The marks, and the thread that looks at them. Make it on the event loop."""

    def __init__(self, slow_s: float, table: BegunTable | None, in_hand: Callable[[], int]) -> None:
        """Watch nothing yet.

        Args:
            slow_s: what holds up the loop for longer is logged; 0: nothing is.
            table: memory shared with the supervisor, or None.
            in_hand: how many jobs run on the loop.
        """
        self._slow_s = slow_s
        self._table = table
        self._in_hand = in_hand
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._turned_at = time.monotonic()
        self._looks = 0
        self._told = ""
        self._seen = 0
        self._said_busy_at = -_BUSY_AGAIN_S
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="taskq-watch", daemon=True)

    def start(self) -> None:
        """Mark and look from now on. Call it on the event loop."""
        self._turned_at = time.monotonic()
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    # -- on the event loop -------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        held_s = now - self._turned_at
        self._turned_at = now
        if self._table is not None:
            self._table.turned(now)
        if 0 < self._slow_s < held_s - TURN_S:
            self._say_over(now, held_s)
        self._told = ""
        self._looks = 0
        self._timer = self._loop.call_later(TURN_S, self._turn)

    def _say_over(self, now: float, held_s: float) -> None:
        if self._told:
            log.warning("The event loop goes on: %s held it up for %.1f s", self._told, held_s)
        elif self._looks * LOOK_S < held_s / 3:
            log.warning(
                "Nothing of this process ran for %.1f s: C code kept the interpreter (a long "
                "regular expression?), or the process was stopped, or the machine is overloaded",
                held_s,
            )
        elif now - self._said_busy_at > _BUSY_AGAIN_S:
            self._said_busy_at = now
            log.warning(
                "The event loop took %.1f s for one turn, with %d async jobs in hand: "
                "they do too much between their awaits, or are too many", held_s, self._in_hand(),
            )  # fmt: skip

    # -- in the thread -----------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            now = time.monotonic()
            self._looks += 1
            culprit = -1
            try:
                if now - self._turned_at > 2 * TURN_S:
                    culprit = self._look(now)
                else:
                    self._seen = 0
            except Exception:
                log.exception("A look at the event loop failed")
            if self._table is not None and not self._ended.is_set():
                self._table.watched(now, culprit)

    def _look(self, now: float) -> int:
        """Find out who holds up the loop; returns the slot of that job, or -1."""
        since = self._turned_at
        stacks = sys._current_frames()  # noqa: SLF001 (Python documents it)
        frames = _users_frames(stacks.get(self._loop_thread))
        seen, self._seen = self._seen, id(frames[-1]) if frames else 0
        if not frames or seen != self._seen:
            return -1  # nobody, or not the same as at the last look: many, each for a short time
        task = asyncio.current_task(self._loop)
        job: Any = context.job_in(_context_of(task)) if task is not None else None
        if self._turned_at != since:
            return -1  # it went on while we looked
        held_s = now - since
        if self._slow_s and held_s > self._slow_s and not self._told:
            self._say_held(job, task, frames, held_s)
        return job.slot if job is not None else -1

    def _say_held(
        self,
        job: Claim | None,
        task: asyncio.Task[Any] | None,
        frames: list[FrameType],
        held_s: float,
    ) -> None:
        extra: dict[str, Any] = {}
        if job is not None:
            who = f"{job.name} (job {job.id})"
            extra = {"job_id": job.id, "task": job.name, "queue": job.queue, "attempt": job.attempt}
        else:
            who = f"a callback ({frames[-1].f_code.co_name})" if task is None else task.get_name()
        self._told = who
        lines = traceback.format_list(_stack(frames)[-_STACK_LINES:])
        log.warning(
            "%s has held up the event loop for %.1f s: no other async job of this worker goes on. "
            "Await there, call it with asyncio.to_thread, or make the task a plain function. "
            "It is at\n%s", who, held_s, "".join(lines).rstrip(), extra=extra,
        )  # fmt: skip


def _users_frames(frame: FrameType | None) -> list[FrameType]:
    """Frames of what the event loop runs now, innermost first; empty where it only waits."""
    found: list[FrameType] = []
    while frame is not None and not _is_ground(frame):
        found.append(frame)
        frame = frame.f_back
    if found and found[0].f_globals.get("__name__") == "selectors":
        return []
    return found


def _is_ground(frame: FrameType) -> bool:
    """Whether a frame belongs to what runs jobs, and not to a job."""
    name = str(frame.f_globals.get("__name__", ""))
    if name.startswith("taskq.worker.") or name in ("asyncio.events", "asyncio.base_events"):
        return True
    return frame.f_code.co_filename == _CHILD  # it is "__main__"


def _stack(frames: list[FrameType]) -> traceback.StackSummary:
    lines = ((frame, frame.f_lineno) for frame in reversed(frames))
    return traceback.StackSummary.extract(lines)


def _context_of(task: asyncio.Task[Any]) -> Context:
    """The context that a task runs in."""
    get: Callable[[], Context] | None = getattr(task, "get_context", None)
    if get is not None:
        return get()
    # before Python 3.12 there is no other way to it from outside
    return next(one for one in gc.get_referents(task) if isinstance(one, Context))
