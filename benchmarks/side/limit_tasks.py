"""Tasks of ``python -m benchmarks.limits``; they write when they begin and end into shared memory.

LIMITS_MARKS names a file of 32 bytes for each job: begun, ended (epoch, f64), process id,
times begun (u64).
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

from benchtask import spin as rounds

from taskq import TaskQ

queue = TaskQ()
LIMIT_S = 1.0
MARK = struct.Struct("=ddQQ")

_path = os.environ.get("LIMITS_MARKS", "")
_map: Any = None
if _path:
    with Path(_path).open("r+b") as _file:
        _map = mmap.mmap(_file.fileno(), 0)


def spin(_n: int) -> int:
    """About 10 ms of Python."""
    return rounds()


def begin(n: int) -> None:
    *_, times = MARK.unpack_from(_map, n * MARK.size)
    MARK.pack_into(_map, n * MARK.size, time.time(), 0.0, os.getpid(), times + 1)


def end(n: int) -> None:
    struct.pack_into("=d", _map, n * MARK.size + 8, time.time())


@queue.task
async def sleeper(n: int, seconds: float) -> None:
    begin(n)
    await asyncio.sleep(seconds)
    end(n)


@queue.task
def thread_sleeper(n: int, seconds: float) -> None:
    begin(n)
    time.sleep(seconds)
    end(n)


@queue.task
async def asyncio_noop(n: int) -> None:
    begin(n)


@queue.task
def thread_noop(n: int) -> None:
    begin(n)


@queue.task(mode="process")
def process_noop(n: int) -> None:
    begin(n)


@queue.task(mode="process")
def process_spin(n: int) -> int:
    begin(n)
    return spin(n)


# -- what does not end ---------------------------------------------------------------------------


@queue.task(timeout=LIMIT_S)
def python_loop(n: int) -> None:
    begin(n)
    while True:
        pass


@queue.task(timeout=LIMIT_S)
def time_sleep(n: int) -> None:
    begin(n)
    time.sleep(60)


@queue.task(timeout=LIMIT_S)
def swallows_exception(n: int) -> None:
    begin(n)
    while True:
        try:
            time.sleep(0.01)
        except Exception:  # noqa: BLE001 (the case)
            pass


@queue.task(timeout=LIMIT_S)
def swallows_base_exception(n: int) -> None:
    begin(n)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:  # noqa: BLE001 (the case)
            pass


@queue.task(timeout=LIMIT_S)
async def awaits(n: int) -> None:
    begin(n)
    await asyncio.sleep(60)


@queue.task(timeout=LIMIT_S)
async def swallows_cancellation(n: int) -> None:
    begin(n)
    while True:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass


@queue.task(timeout=LIMIT_S)
async def blocks_the_loop(n: int) -> None:
    begin(n)
    time.sleep(60)  # noqa: ASYNC251 (the case)


@queue.task(timeout=LIMIT_S)
async def loops_on_the_loop(n: int) -> None:
    begin(n)
    while True:
        pass


@queue.task(timeout=LIMIT_S)
async def keeps_the_interpreter(n: int) -> None:
    begin(n)
    ctypes.PyDLL(None).sleep(60)


# -- how a job can end ---------------------------------------------------------------------------


def _end_by(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    if how == "_exit(1)":
        os._exit(1)
    if how == "SystemExit":
        sys.exit(3)
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if how == "MemoryError":
        bytearray(1 << 62)
    if how == "RecursionError":
        _end_by_recursion(0)


def _end_by_recursion(n: int) -> int:
    return _end_by_recursion(n + 1) + 1


@queue.task(redeliver=False, queue="ends")
def thread_end(n: int, how: str) -> None:
    begin(n)
    _end_by(how)


@queue.task(redeliver=False, queue="ends")
async def asyncio_end(n: int, how: str) -> None:
    begin(n)
    _end_by(how)
