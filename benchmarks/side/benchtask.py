"""The jobs of the benchmark, and the marks that prove they ran.

Every system's worker imports this file, so it uses nothing but the standard library. A job
takes a small integer: its own index into a memory-mapped file (``BENCH_REC``), where it
leaves how often it ran, in which process and when. That costs about half a microsecond and
no system call, the same for every system, and lets the driver check each job of each run.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time

SLOT = struct.Struct("<dII")  # wall clock at the start, process id, times run

_marks: mmap.mmap | None = None
_own_id = os.getpid


def _map_marks() -> mmap.mmap:
    global _marks, _own_id  # noqa: PLW0603 - one mapping for each process, made by its first job
    if os.environ.get("BENCH_WID") == "ppid":
        _own_id = os.getppid  # a worker that forks for each job counts as its parent
    with open(os.environ["BENCH_REC"], "r+b") as file:
        made = mmap.mmap(file.fileno(), 0)
    _marks = made  # last, because other threads look at it without a lock
    return made


def mark(index: int) -> None:
    """Record that job ``index`` starts now, in this process."""
    marks = _marks or _map_marks()
    at = index * SLOT.size
    times = SLOT.unpack_from(marks, at)[2]
    SLOT.pack_into(marks, at, time.time(), _own_id(), times + 1)


LONG_S = 2.0
SHORT_S = 0.001
IO_S = 0.1
CPU_ROUNDS = int(os.environ.get("BENCH_CPU_ROUNDS") or 130_000)  # about 10 ms


def spin(rounds: int = CPU_ROUNDS) -> int:
    """Hold one core with pure Python."""
    value = 7
    for step in range(rounds):
        value = (value * 33 + step) % 65_521
    return value


def noop_sync(i: int) -> int:
    mark(i)
    return i


def io_sync(i: int) -> int:
    mark(i)
    time.sleep(IO_S)
    return i


def cpu_sync(i: int) -> int:
    mark(i)
    spin()
    return i


def long_sync(i: int) -> int:
    mark(i)
    time.sleep(LONG_S)
    return i


def short_sync(i: int) -> int:
    mark(i)
    time.sleep(SHORT_S)
    return i


async def noop_async(i: int) -> int:
    mark(i)
    return i


async def io_async(i: int) -> int:
    mark(i)
    await asyncio.sleep(IO_S)
    return i


async def cpu_async(i: int) -> int:
    mark(i)
    spin()
    return i


async def long_async(i: int) -> int:
    mark(i)
    await asyncio.sleep(LONG_S)
    return i


async def short_async(i: int) -> int:
    mark(i)
    await asyncio.sleep(SHORT_S)
    return i


SYNC = {
    "noop": noop_sync,
    "io": io_sync,
    "cpu": cpu_sync,
    "long": long_sync,
    "short": short_sync,
}
ASYNC = {
    "noop": noop_async,
    "io": io_async,
    "cpu": cpu_async,
    "long": long_async,
    "short": short_async,
}
