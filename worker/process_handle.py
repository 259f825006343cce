"""A job process as its worker process sees it: started, fed, listened to, killed, mourned."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from taskq.worker import process_wire as wire
from taskq.worker.outcome import Crashed
from taskq.worker.process_ahead import Ahead

if TYPE_CHECKING:
    from taskq.worker.claim import Claim
    from taskq.worker.settings import WorkerSettings

_RECEIVE_BYTES = 262_144
_TRACE_BYTES = 20_000


class ProcessHandle:
    """One job process.

    Attributes:
        claim: the job that it runs, or None.
        ready: it has loaded the app.
        retired: it was asked to end.
        why: what it was killed for: "" (nothing), "timeout", "cancel" or "shutdown".
        struck_mono: when the job was asked to end because of its time limit, or 0.
        kill_mono: it is killed then unless its job has ended, or 0; `kill_why` says what for.
        is_open: reports may still come.
        ahead: jobs that it begins when that one has ended, unless they are taken back.
        has_spare: orders that were taken back lie in its socket: it gets no more of them.
    """

    def __init__(self, settings: WorkerSettings, worker: str) -> None:
        """Start it. Call in the main thread: on Linux it dies with the thread that made it.

        Raises:
            OSError: no more processes, files or memory.
        """
        self.claim: Claim | None = None
        self.ready = self.retired = False
        self.why = self.kill_why = ""
        self.struck_mono = self.kill_mono = 0.0
        self.started_mono = time.monotonic()
        self.is_open = True
        self.has_spare = False
        self.exit_code: int | None = None
        self._peak_mb = 0.0
        self._reports = wire.Reports()
        self._unsent = b""
        self._trace = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self.socket, theirs = socket.socketpair()
        self._control, their_control = socket.socketpair()
        self.ahead = Ahead()
        fds = (theirs.fileno(), their_control.fileno(), self._trace.fileno(), self.ahead.fd)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "taskq.worker.process_child",
                 *map(str, fds), str(os.getpid())],
                pass_fds=fds, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            self.close()
            raise
        finally:
            theirs.close()
            their_control.close()
        self.pid = self._process.pid
        self.socket.setblocking(False)
        self._control.setblocking(False)
        told = {"worker": worker, "settings": settings.to_json()}
        self.send(wire.pack_text(json.dumps(told).encode()))

    def ended_job(self) -> bool:
        """Its job has ended, and the next that was sent ahead begins; returns whether it may.

        Not if it was struck: the code may have ended before the strike came, which would then
        hit the next job. (So none is ahead when it is struck.)
        """
        struck = self.struck_mono > 0
        self.claim = self.ahead.next()
        self.has_spare = False
        self.struck_mono = self.kill_mono = 0.0
        self.kill_why = ""
        return not struck

    @property
    def takes_more(self) -> bool:
        """Whether jobs may be sent ahead of the end of its own."""
        if self.claim is None or self.has_spare or self._unsent:
            return False
        return not (self.retired or self.why or self.struck_mono or self.kill_mono)

    def order(self, claim: Claim) -> bool:
        """Send a job to a process that has none; False when it is gone."""
        self.claim = claim
        if self.send(wire.pack_text(wire.pack_order(claim))):
            return True
        self.claim = None
        return False

    def order_ahead(self, orders: list[tuple[Claim, bytes]]) -> None:
        """Send jobs that are to begin when its own has ended."""
        number = self.ahead.number
        self.send(b"".join([wire.pack_text(text, number(claim)) for claim, text in orders]))

    def recall(self) -> list[Claim]:
        """Take back what was sent ahead and has not begun."""
        back, again = self.ahead.recall()
        self.has_spare = self.has_spare or bool(back) or again
        if again and self.claim is not None:
            self.send(wire.pack_text(wire.pack_order(self.claim)))
        return back

    # -- talking -------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """Whether the socket did not take all: call `send` again when it can be written to."""
        return bool(self._unsent)

    def send(self, data: bytes = b"") -> bool:
        """Send an order, as much of it as the socket takes now; False when it is closed."""
        data = self._unsent + data if self._unsent else data
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._unsent = b""
            return False
        self._unsent = data[sent:] if sent < len(data) else b""
        return True

    def hear(self) -> list[wire.Report]:
        """Reports that have come; sets `is_open` to False when no more can come.

        Raises:
            PayloadError: it sends garbage.
        """
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            self.is_open = False
            return []
        return list(self._reports.feed(data))

    def ask_to_cancel(self, claim: Claim) -> None:
        """Let the job's code know that somebody wants it to end."""
        with suppress(OSError):
            self._control.send(wire.CANCEL + claim.id.encode() + b"\n")

    # -- its end -------------------------------------------------------------------------

    def strike(self) -> None:
        """Raise `Overrun` in the job's code."""
        self.struck_mono = time.monotonic()
        with suppress(OSError):
            os.kill(self.pid, wire.STRIKE)

    def retire(self) -> None:
        """Let it end by itself; it has nothing to do."""
        self.retired = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def kill(self, why: str = "") -> None:
        """Kill it, and what its jobs have started; the first reason counts."""
        self.why = self.why or why
        if self.has_ended():
            return
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(OSError):  # it may not have a group of its own yet
            os.kill(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether it is gone; then `exit_code` says how, negative: by that signal."""
        if self.exit_code is not None:
            return True
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:  # the app's own code has reaped it
            self.exit_code = self._process.returncode = 0
            return True
        if pid == 0:
            return False
        self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        self._peak_mb = usage.ru_maxrss * unit / 1e6
        return True

    def crash(self) -> Crashed:
        """How it died, as the error of the job that it ran."""
        how = f"Its process died: {told_exit(self.exit_code or 0)}; at most it used "
        return Crashed(f"{how}{self._peak_mb:.0f} MB of memory.", self._last_words())

    def _last_words(self) -> str:
        """The stack that faulthandler wrote; "" where it could not."""
        try:
            size = os.fstat(self._trace.fileno()).st_size
            raw = os.pread(self._trace.fileno(), _TRACE_BYTES, max(0, size - _TRACE_BYTES))
        except (OSError, ValueError):
            return ""
        return raw.decode("utf-8", "replace")

    def close(self) -> None:
        """Let go of what belonged to it."""
        self.socket.close()
        self._control.close()
        self._trace.close()
        self.ahead.close()


def told_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"its code ended it with exit code {code}"
    number = -code
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"killed by signal {number}"
    if number == signal.SIGKILL:
        return f"killed by signal {number} ({name}): by somebody, or because memory ran out"
    return f"killed by signal {number} ({name}: {signal.strsignal(number) or 'no text'})"
