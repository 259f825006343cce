"""The processes of `taskq dev`: started, read line by line, restarted, ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from taskq.cli.output import colored

STOP_S = 8.0
"""A part gets so long after TERM: more than the worker's grace of 5 s."""
_PDEATHSIG = 1


@dataclass(frozen=True)
class Plan:
    """One part as it is to be started.

    Attributes:
        name: what its lines begin with.
        color: of that, on a terminal.
        arguments: of `taskq`.
        reloads: whether a change of the code restarts it.
    """

    name: str
    color: str
    arguments: tuple[str, ...]
    reloads: bool = True


class Screen:
    """Writes whole lines of several parts, each behind its name."""

    def __init__(self, names: Sequence[str]) -> None:
        """Make room for the longest of these names."""
        self._width = max(map(len, names), default=0)
        self._lock = threading.Lock()

    def line(self, name: str, color: str, text: str) -> None:
        """One line of a part."""
        has_color = colored(sys.stdout)
        head = f"{name:<{self._width}} | "
        with self._lock, suppress(OSError, ValueError):  # the terminal is gone
            click.echo((click.style(head, fg=color) if has_color else head) + text, color=has_color)


class Part:
    """One part: a child process with a session of its own, so that Ctrl-C reaches only us."""

    def __init__(self, plan: Plan, env: Mapping[str, str], screen: Screen) -> None:
        """Start nothing yet.

        Args:
            plan: what to start.
            env: of the process.
            screen: where its lines go.
        """
        self.plan = plan
        self._env = env
        self._screen = screen
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._told = False

    def say(self, text: str) -> None:
        """A line of ours about it."""
        self._screen.line(self.plan.name, self.plan.color, text)

    def start(self) -> None:
        """Start it."""
        self._told = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "taskq", *self.plan.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self._env),
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (see there)
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.say(line.rstrip("\n"))

    def ended(self) -> int | None:
        """Its exit code, told once, where it has ended by itself."""
        code = None if self._process is None else self._process.poll()
        if code is None or self._told:
            return None
        self._told = True
        if self._reader is not None:
            self._reader.join(1.0)  # its last words come before ours about it
        return code

    def ask_to_stop(self) -> None:
        """TERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, until: float) -> None:
        """Wait for its end until that moment (monotonic); then kill it."""
        if self._process is None:
            return
        self._told = True
        self.ask_to_stop()
        try:
            self._process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join(1.0)

    def kill(self) -> None:
        """End it and all that it has started."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Stop it warmly, start it again."""
        self.stop(time.monotonic() + STOP_S)
        self.start()


def stop_all(parts: Sequence[Part]) -> None:
    """End all parts together."""
    for part in parts:
        part.ask_to_stop()
    until = time.monotonic() + STOP_S
    for part in parts:
        part.stop(until)


# found here: in a fork of a program with threads, nothing may be loaded
_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """TERM when the process that started us dies, however it does. Runs between fork and exec."""
    _prctl(_PDEATHSIG, signal.SIGTERM)
