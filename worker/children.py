"""A worker process as its supervisor sees it: started, listened to, asked to stop."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskq.worker.begun import Begun, BegunTable

if TYPE_CHECKING:
    from taskq.worker.settings import WorkerSettings

SILENT_S = 0.5
"""An event loop that turns 20 times a second and was not heard of for so long is held up."""
HARD_S = 0.5
"""A child is killed when the job that holds it up is this long past its time limit."""
BYSTANDER_S = 5.0
"""The same for a job that is past its limit because another one holds up the child: that other
one is within its own limit and may end soon, and all that run beside it would begin again."""
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def new_uid() -> str:
    """8 random letters and digits: the name of one worker process in leases."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(8))


class Child:
    """One worker process and what we know of it.

    Attributes:
        index: its place among the processes of this server; its replacement gets the same.
        name: in RQ's records; "" until it is ready.
        stopping: it was asked to stop.
        ending: it has closed its end of the socket.
        cut_off: it was killed in a hurry.
        killed_for: jobs past their time limit for which it was killed.
        summary: what it said at its end; empty if it could not.
    """

    def __init__(self, settings: WorkerSettings, index: int) -> None:
        """Start it.

        Raises:
            OSError: no more processes, files or memory.
        """
        self.index = index
        self.uid = new_uid()
        self.name = ""
        self.started_mono = time.monotonic()
        self.stopping = False
        self.ending = False
        self.cut_off = False
        self.killed_for: list[Begun] = []
        self.summary: dict[str, Any] = {}
        slots = settings.threads + 2 * settings.concurrency + settings.pool + 64
        self.table = BegunTable(slots)
        ours, theirs = socket.socketpair()
        self.control = ours
        self.control.setblocking(False)
        self._text = b""
        os.set_inheritable(self.table.fd, True)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taskq.worker.child",
                 str(theirs.fileno()), str(self.table.fd), str(slots)],
                pass_fds=(theirs.fileno(), self.table.fd), stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            self.close()
            raise
        finally:
            theirs.close()
        settings = replace(settings, with_scheduler=settings.with_scheduler and index == 0)
        first = {"uid": self.uid, "settings": settings.to_json()}
        self.control.sendall(json.dumps(first).encode() + b"\n")

    @property
    def title(self) -> str:
        """What to call it in a message."""
        return f"{self.name or self.uid} (process {self.process.pid})"

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started_mono

    def drain(self) -> None:
        """Ask it to stop warmly."""
        self.stopping = True
        with suppress(OSError):  # it is gone already
            self.control.send(b"drain\n")

    def hear(self) -> list[dict[str, Any]]:
        """Messages that have come.

        Raises:
            EOFError: it has closed its end.
        """
        try:
            data = self.control.recv(65536)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            raise EOFError
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        return [json.loads(line) for line in lines if line]

    def overdue(self) -> list[Begun]:
        """Jobs past their time limit that the child itself cannot stop: its loop stands still."""
        now = time.monotonic()
        pulse = self.table.pulse()
        if not pulse.loop_at or now - pulse.loop_at < SILENT_S:
            return []  # it holds them to their limits itself; and thousands are not looked at here
        late = [job for job in self.table.read() if job.deadline and now > job.deadline + HARD_S]
        if not late:
            return []
        if now - pulse.watch_at < SILENT_S and not self.is_frozen():
            # its other threads live: it is known who holds it up, or will be at the next look
            culprit = self.table.at(pulse.culprit) if pulse.culprit >= 0 else None
            if culprit in late:
                return late
        elif not self.is_frozen():
            return late  # C code that never lets go of the interpreter
        return late if any(now > job.deadline + BYSTANDER_S for job in late) else []

    def is_frozen(self) -> bool:
        """Whether it is stopped (SIGSTOP, a debugger): it cannot be counted on."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_bytes()
            return stat.rpartition(b")")[2].split()[0] in (b"T", b"t")
        except (OSError, IndexError):
            return False

    def close(self) -> None:
        """Let go of what belonged to it."""
        self.control.close()
        self.table.close()
