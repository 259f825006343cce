"""What tests of several folders use: waiting, what tasks note, a worker as users start it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

NOT_TRUE = "the condition did not become true"


def wait_until(
    condition: Callable[[], T],
    timeout: float = 10.0,
    *,
    interval: float = 0.005,
    message: str | Callable[[], str] = NOT_TRUE,
) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises:
        AssertionError: it was still false after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise _still_false(timeout, message, value)
        time.sleep(interval)


async def until(
    condition: Callable[[], T],
    timeout: float = 10.0,
    *,
    message: str | Callable[[], str] = NOT_TRUE,
) -> T:
    """`wait_until` that lets the event loop run."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise _still_false(timeout, message, value)
        await asyncio.sleep(0.002)


def _still_false(timeout: float, message: str | Callable[[], str], value: object) -> AssertionError:
    text = message() if callable(message) else message
    return AssertionError(f"After {timeout:g} s: {text}. Last value: {value!r}")


def random_moment(chosen: random.Random, longest: float) -> None:
    """Go on at any moment of the next `longest` seconds.

    For tests that stop, kill or cut: a condition would always strike at the same point of a
    job's life, and the point is what they search.
    """
    time.sleep(chosen.uniform(0, longest))


def time_passes(seconds: float) -> None:
    """Let time pass where its length is what the test is about, never for something to happen."""
    time.sleep(seconds)


class Ledger:
    """What the tasks of a test wrote to a file, so that no Redis has to be there for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self) -> list[str]:
        return self.path.read_text().split("\n")[:-1]

    def count(self, line: str) -> int:
        return self.lines().count(line)

    def numbers(self) -> Counter[int]:
        """How often each `n` of `note("number", n)` was written."""
        return Counter(int(line.split()[1]) for line in self.lines() if line.startswith("number "))


LEDGER = """
import os
from pathlib import Path

_ledger = os.open(Path(__file__).with_name("ledger.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(*words):
    os.write(_ledger, (" ".join(map(str, words)) + chr(10)).encode())
"""


class WorkerProcess:
    """A `taskq worker` started as a user would, in its own process group.

    Attributes:
        process: the supervisor.
        env: its environment.
        log_path: file with all that it and its children wrote.
    """

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], log_path: Path) -> None:
        self.arguments = list(arguments)
        self.env = dict(env)
        self.log_path = log_path
        self._log_from = 0
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taskq", "worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the supervisor has not ended."""
        return self.process.poll() is None

    def log(self) -> str:
        """All output so far, or since `forget_log`."""
        return self.log_path.read_text(errors="replace")[self._log_from :]

    def forget_log(self) -> None:
        """What it has said until now is of no interest."""
        self._log_from += len(self.log())

    def wait_for_log(self, text: str, timeout: float = 10.0) -> str:
        """Wait until the output contains `text`; returns the output."""
        wait_until(
            lambda: text in self.log(),
            timeout,
            message=lambda: f"{text!r} is not in the worker's output:\n{self.log()}",
        )
        return self.log()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for the end; returns the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            log = self.log()
            self.signal(signal.SIGQUIT)  # its processes write their stacks
            with suppress(AssertionError):
                wait_until(lambda: "Stack for" in self.log()[len(log) :], 2)
            raise AssertionError(
                f"The worker did not end within {timeout:g} s:\n{self.log()}"
            ) from None

    def stop(self, timeout: float = 30.0) -> int:
        """Drain it with TERM and return the exit code; an error if that takes too long.

        Longer than the default grace time: on a busy machine that is for the test's own limit.
        """
        if self.running:
            self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the supervisor and all that is left of its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class WorkerStarter:
    """Starts workers for one test and stops those that are left at its end."""

    def __init__(self, redis_url: str, tmp_path: Path, registered: Callable[[], int]) -> None:
        self._redis_url = redis_url
        self._tmp_path = tmp_path
        self._registered = registered
        self.started: list[WorkerProcess] = []

    def __call__(
        self,
        app: str | None,
        *arguments: str,
        processes: int = 1,
        env: Mapping[str, str] | None = None,
        ready: bool = True,
        timeout: float = 15.0,
    ) -> WorkerProcess:
        """Start `taskq worker APP --processes N ARGUMENTS` and wait until it is registered.

        Args:
            app: as on the command line; None leaves it out.
            arguments: further options.
            processes: worker processes.
            env: added to this process's environment.
            ready: whether to wait until all processes are in `rq:workers`.
            timeout: seconds to wait for that.
        """
        before = self._registered()
        target = [app] if app is not None else []
        worker = WorkerProcess(
            [*target, "--processes", str(processes), *arguments],
            self._environment(env or {}),
            self._tmp_path / f"worker-{len(self.started)}.log",
        )
        self.started.append(worker)
        if ready:
            wait_until(
                lambda: not worker.running or self._registered() >= before + processes,
                timeout,
                message=lambda: f"the worker did not register; its output:\n{worker.log()}",
            )
            if not worker.running and worker.process.returncode != 0:
                raise AssertionError(
                    f"The worker ended with {worker.process.returncode}:\n{worker.log()}"
                )
        return worker

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        paths = [str(self._tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "TASKQ_REDIS_URL": self._redis_url,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            **extra,
        }

    def close(self) -> None:
        """Stop what still runs. A worker that does not drain in time is an error."""
        problems = []
        for worker in self.started:
            try:
                worker.stop()
            except AssertionError as error:
                problems.append(str(error))
            print(f"--- {worker.log_path.name}: {' '.join(worker.arguments)}\n{worker.log()}")
        if problems:
            raise AssertionError("\n".join(problems))
