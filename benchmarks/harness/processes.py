"""Processes of a run: where they are placed, what they cost, how they end. Linux only (/proc).

Only processes that a run started itself are ever signalled, by their id, and a descendant only
while its start time is the one that was seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


class Place(NamedTuple):
    """The CPUs of the redis-server and of the other side; ``None``: where the kernel likes."""

    redis: set[int] | None
    client: set[int] | None


PLACES = {
    "free": Place(None, None),
    "split": Place({CPUS[-1]}, {CPUS[0]}),
    "one": Place({CPUS[0]}, {CPUS[0]}),
}


class Stat(NamedTuple):
    parent: int
    session: int
    cpu_s: float  # its own and that of the children it has reaped
    started: str
    rss_bytes: int


def stat(pid: int) -> Stat | None:
    """Read one process; ``None`` if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    cpu_s = sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S
    rss_bytes = int(fields[21]) * PAGE_BYTES
    return Stat(int(fields[1]), int(fields[3]), cpu_s, fields[19], rss_bytes)


def everything() -> dict[int, Stat]:
    """Return every process of the machine that can be read."""
    ids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return {pid: one for pid in ids if (one := stat(pid))}


def tree(root: int) -> dict[int, Stat]:
    """Return the process and all its descendants."""
    found = everything()
    children: dict[int, list[int]] = {}
    for pid, one in found.items():
        children.setdefault(one.parent, []).append(pid)
    todo, mine = [root], {}
    while todo:
        pid = todo.pop()
        if pid in found:
            mine[pid] = found[pid]
            todo.extend(children.get(pid, ()))
    return mine


def pss_bytes(pid: int) -> int:
    """Return the proportional set size: shared pages divided among those who share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def own_bytes(pid: int) -> int:
    """Return the resident memory that is no file's: the recorder's file grows with the jobs."""
    try:
        _size, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * PAGE_BYTES


def machine_busy_s() -> float:
    """Return the CPU seconds that the whole machine has worked since it started."""
    numbers = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(numbers) - numbers[3] - numbers[4]) / TICKS_PER_S  # without idle and iowait


def start(
    command: Sequence[str], cpus: set[int] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start a process in a session of its own, bound to these CPUs."""
    if not cpus:
        return subprocess.Popen(list(command), start_new_session=True, **options)
    os.sched_setaffinity(0, cpus)  # of this thread; the child inherits it
    try:
        return subprocess.Popen(list(command), start_new_session=True, **options)
    finally:
        os.sched_setaffinity(0, CPUS)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill the process, what descends from it and what is left in its session; reap it."""
    mine = tree(process.pid) if process.poll() is None else {}
    process.kill()
    process.wait()
    # An id is not given out again while it names a session: what is in there is ours.
    mine |= {pid: one for pid, one in everything().items() if one.session == process.pid}
    for pid, seen in mine.items():
        now = stat(pid)
        if now and now.started == seen.started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Workers:
    """The worker processes of one run, and all that descends from them."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        env: Mapping[str, str],
        log: Path,
        cpus: set[int] | None = None,
    ) -> None:
        self.log: IO[bytes] = log.open("ab")
        self.started = [
            start(
                command,
                cpus,
                env=dict(env),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
            )
            for command in commands
        ]
        self.peak_rss_bytes = self.peak_pss_bytes = 0
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None

    def processes(self) -> dict[int, Stat]:
        return {pid: one for root in self.started for pid, one in tree(root.pid).items()}

    def cpu_s(self) -> float:
        return sum(one.cpu_s for one in self.processes().values())

    def check(self) -> None:
        """Raise if one of the started processes has ended."""
        for process in self.started:
            if process.poll() is not None:
                raise RuntimeError(f"a worker ended with {process.returncode}: see worker.log")

    def watch_memory(self) -> None:
        """Keep the highest sum over all processes, looking ten times a second."""

        def look() -> None:
            while not self._over.wait(0.1):
                seen = self.processes()
                rss = sum(one.rss_bytes for one in seen.values())
                self.peak_rss_bytes = max(self.peak_rss_bytes, rss)
                self.peak_pss_bytes = max(self.peak_pss_bytes, sum(map(pss_bytes, seen)))

        self._watcher = threading.Thread(target=look, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        self._over.set()
        if self._watcher:
            self._watcher.join()
        for process in self.started:
            end(process)
        self.log.close()
