"""One cooperative thread for all `def` generators of a process: each `yield` ends a turn.

Round robin: who has yielded goes to the end of the line. Who cannot go on (waits for
something, or is too far ahead of Redis) is parked until `nudge`. A generator that does not
yield holds up the others; at its time limit `Overrun` is raised in it, and where that does
not help the thread is left to it alone and another gives turns to the rest.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from taskq.worker.outcome import Overrun, overran

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.claim import Claim
    from taskq.worker.generator_run import Run
    from taskq.worker.yields import Yields

log = logging.getLogger("taskq.worker")

End = tuple["Run", Any, "BaseException | None"]


class Lane:
    """One thread and whose turn it is. `lock` orders the end of a turn against a strike."""

    __slots__ = ("abandoned", "current", "fired", "lock", "thread")

    def __init__(self) -> None:
        """No thread yet."""
        self.lock = threading.Lock()
        self.current: Run | None = None
        self.fired = False
        self.abandoned = False
        self.thread: threading.Thread | None = None


class Turns:
    """Gives turns to generators, in a thread of its own that starts with the first."""

    def __init__(
        self,
        begin: Callable[[Claim], None],
        yields: Yields,
        ended: Callable[[Run, Any, BaseException | None], None],
        wake: Callable[[Callable[[], None]], None],
    ) -> None:
        """Start nothing yet.

        Args:
            begin: called in the thread just before a job's code.
            yields: takes what is yielded.
            ended: called on the event loop with (run, value, error).
            wake: runs a function on the event loop, from any thread.
        """
        self._begin = begin
        self._yields = yields
        self._on_ended = ended
        self._wake = wake
        self._line: deque[Run] = deque()
        self._parking = threading.Lock()
        self._bell = threading.Event()
        self._is_idle = False
        self._ended: deque[End] = deque()
        self._is_woken = False
        self._lane: Lane | None = None
        self._unbegun: set[Run] = set()
        self.stuck = 0

    # -- on the event loop ---------------------------------------------------------------

    def add(self, run: Run) -> None:
        """Let a run have turns."""
        run.host = self
        self._unbegun.add(run)
        self._line.appendleft(run)  # else the first ones would be far ahead of the last
        self._ring()
        if self._lane is None:
            self._start()

    def take_back(self, run: Run) -> bool:
        """Withdraw a run whose code has not begun; False when it is too late."""
        return self._is_first(run)

    @property
    def current(self) -> Run | None:
        """Whose turn it is."""
        return self._lane.current if self._lane is not None else None

    def strike(self, run: Run) -> bool:
        """Raise `Overrun` in a run if it has the turn; once."""
        lane = self._lane
        if lane is None or lane.thread is None:
            return False
        with lane.lock:
            if lane.current is not run or lane.fired:
                return False
            lane.fired = True
            _raise_in(lane.thread, Overrun)
            return True

    def abandon(self, run: Run) -> bool:
        """Leave the thread to a run that does not stop; False if it has stopped."""
        lane = self._lane
        if lane is None:
            return False
        with lane.lock:
            if lane.current is not run:
                return False
            lane.abandoned = True
        self.stuck += 1
        self._start()
        return True

    def stop(self) -> None:
        """Let the thread end; what still has turns is forgotten."""
        lane, self._lane = self._lane, None
        self._line.clear()
        if lane is not None:
            lane.abandoned = True
            self._ring()

    def _start(self) -> None:
        lane = self._lane = Lane()
        lane.thread = threading.Thread(
            target=self._work, args=(lane,), name="taskq-generators", daemon=True
        )
        lane.thread.start()

    def _flush(self) -> None:
        self._is_woken = False
        ended = self._ended
        while ended:
            self._on_ended(*ended.popleft())

    def _unstick(self) -> None:
        self.stuck -= 1

    # -- from any thread -----------------------------------------------------------------

    def nudge(self, run: Run) -> None:
        """Look whether a parked run can go on."""
        with self._parking:
            if not run.is_parked or not run.may_go():
                return
            run.is_parked = False
        self._line.append(run)
        self._ring()

    def _ring(self) -> None:
        if self._is_idle:
            self._bell.set()

    def _is_first(self, run: Run) -> bool:
        """Whether nobody has begun it or taken it back before; the answer is True once."""
        try:
            self._unbegun.remove(run)  # atomic: the thread and the loop ask, one is too late
        except KeyError:
            return False
        return True

    # -- in the thread -------------------------------------------------------------------

    def _work(self, lane: Lane) -> None:
        line = self._line
        while True:
            try:
                run = line.popleft()
            except IndexError:
                if not self._rest(lane):
                    return
                continue
            end = self._turn(lane, run)
            if lane.abandoned:
                if run.is_over:
                    self._wake(self._unstick)
                return
            if end is None:
                if run.is_over:
                    continue
                if run.may_go():
                    line.append(run)
                else:
                    self._park(run)
            elif not run.is_over:
                self._ended.append((run, *end))
                if not self._is_woken:
                    self._is_woken = True
                    self._wake(self._flush)
            # the frames of a traceback refer to this one: what a failed job held would stay
            del run, end

    def _rest(self, lane: Lane) -> bool:
        """Wait until somebody has something to do; False at the end."""
        self._is_idle = True
        if not self._line and not lane.abandoned:
            self._bell.wait()
        self._bell.clear()
        self._is_idle = False
        return not lane.abandoned

    def _park(self, run: Run) -> None:
        with self._parking:
            if not run.may_go():
                run.is_parked = True
                return
        self._line.append(run)

    def _turn(self, lane: Lane, run: Run) -> tuple[Any, BaseException | None] | None:
        """One turn; returns how the job ended, or None if it goes on."""
        end: tuple[Any, BaseException | None] | None = None
        struck: BaseException | None = None
        try:
            lane.current = run
            if run.doom is None and not run.is_over:
                self._advance(run)
            else:
                end = (None, run.doom)
                self._unbegun.discard(run)
                run.context.run(run.close)
        except StopIteration as stop:
            end = (stop.value, None)
        except Overrun as err:
            struck = err
        except BaseException as err:  # noqa: BLE001 (SystemExit in a task ends the job, not the worker)
            if end is None:  # else: while it was closed; why it was closed is what counts
                end = (None, err)
            else:
                log.warning("%s (job %s) raised %r while it was closed",
                            run.claim.name, run.claim.id, err)  # fmt: skip
        fired, struck = self._end_turn(lane, struck)
        if struck is not None or (fired and end is not None):
            end = (None, overran(run.claim, struck or (end and end[1])))
        elif fired and run.doom is None:  # it swallowed that and has yielded: closed next
            run.doom = overran(run.claim, None)
        try:
            return end
        finally:
            del run, end, struck  # as in _work

    @staticmethod
    def _end_turn(lane: Lane, struck: BaseException | None) -> tuple[bool, BaseException | None]:
        """Take the turn back, and whatever strike is still on its way to it."""
        fired = False
        while True:
            try:
                with lane.lock:
                    lane.current = None
                    fired, lane.fired = fired or lane.fired, False
                if fired and struck is None:
                    _raise_in(threading.current_thread(), None)  # it shall not hit the next one
            except Overrun as err:
                struck = err
            else:
                return fired, struck

    def _advance(self, run: Run) -> None:
        """One step of a generator, and what it yields."""
        if run.generator is None:
            if not self._is_first(run):
                run.is_over = True  # given back meanwhile
                return
            run.context.run(self._begin, run.claim)
        item = run.context.run(run.advance)
        if not run.is_over and run.put(item):
            self._yields.mark(run)


def _raise_in(thread: threading.Thread, kind: type[BaseException] | None) -> None:
    """Raise an exception in a thread; None: take back one that has not arrived yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), None if kind is None else ctypes.py_object(kind)
    )
