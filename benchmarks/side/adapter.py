"""What every adapter shares: its settings, and the senders that the driver asks for.

An adapter is a program, run by the Python of its own environment:

    describe            what it can do, which versions
    workers             the commands that start its worker processes, and their settings
    send                reads an order (JSON) from stdin, enqueues, says how long it took
    worker              where a system has no command line of its own

The answer is the last line of stdout, behind ``ANSWER``. The rest comes through ``BENCH_*``
variables. Only the standard library is imported here.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

ANSWER = "ANSWER "
URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
VARIANT = os.environ.get("BENCH_VARIANT", "")
TASK = os.environ.get("BENCH_TASK", "noop")
RESULTS = os.environ.get("BENCH_RESULTS", "1") == "1"
PROCS = int(os.environ.get("BENCH_PROCS", "1"))


def port() -> int:
    return int(URL.rpartition(":")[2].partition("/")[0])


class Adapter:
    """One system. Subclasses fill in what they can; ``None`` and absent methods mean: cannot."""

    system = ""
    packages: tuple[str, ...] = ()
    is_async = False  # enqueue_one, enqueue_bulk, roundtrip, open and close are coroutines
    bulk: str | None = None  # "pipelined": one call for many; "gather": single calls in flight
    can_skip_results = True
    can_store_results = True
    variants: dict[str, dict[str, Any]] = {}

    def settings(self) -> dict[str, Any]:
        """Return the worker's settings for this variant and task."""
        known = self.variants[VARIANT].get("settings", {})
        chosen = {**known.get("*", {}), **known.get(TASK, {})}
        for pair in filter(None, os.environ.get("BENCH_SET", "").split(",")):
            name, _, value = pair.partition("=")
            chosen[name] = int(value) if value.lstrip("-").isdigit() else value
        return chosen

    def worker_commands(self) -> list[list[str]]:
        raise NotImplementedError

    def run_worker(self) -> None:
        raise NotImplementedError

    def open(self) -> Any:
        """Connect; called once before the clock runs."""

    def close(self) -> Any:
        """Disconnect; after the clock has stopped."""

    def enqueue_one(self, task: str, i: Any) -> Any:
        raise NotImplementedError

    def enqueue_bulk(self, task: str, ids: Iterable[Any]) -> Any:
        raise NotImplementedError

    def roundtrip(self, task: str, i: Any) -> Any:
        """Enqueue, wait for the result in the system's own way, return it."""
        raise NotImplementedError

    def bin(self, name: str) -> str:
        """Return the path of a program of this environment."""
        return os.path.join(os.path.dirname(sys.executable), name)

    def py(self, *arguments: str) -> list[str]:
        return [sys.executable, *arguments]

    def describe(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "versions": {name: metadata.version(name) for name in self.packages},
            "python": sys.version.split()[0],
            "bulk": self.bulk,
            "can_skip_results": self.can_skip_results,
            "can_store_results": self.can_store_results,
            "roundtrip": type(self).roundtrip is not Adapter.roundtrip,
            "variants": self.variants,
        }


async def gather_bounded(
    make: Callable[[Any], Any], ids: Iterable[Any], limit: int | None = None
) -> None:
    """Await ``make(i)`` for all ids, ``limit`` of them in flight (``BENCH_GATHER``, else 100)."""
    todo = iter(ids)

    async def lane() -> None:
        for i in todo:
            await make(i)

    count = limit or int(os.environ.get("BENCH_GATHER") or 100)
    await asyncio.gather(*(lane() for _ in range(count)))


def use_uvloop() -> bool:
    """Install uvloop where the environment has it (``BENCH_SET=uvloop=0`` says not to)."""
    if "uvloop=0" in os.environ.get("BENCH_SET", ""):
        return False
    try:
        import uvloop  # noqa: PLC0415 (late: only this way needs it)
    except ImportError:
        return False
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return True


class Sender:
    """Carries out one order of the driver.

    Written once for both kinds of adapter: for a plain one nothing in here ever suspends, so
    ``run`` can step the coroutine by hand, without an event loop that would be in its way.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    async def _settled(self, value: Any) -> Any:
        # Only an asyncio adapter's: what a plain one returns (a handle) may be awaitable too.
        return await value if self.adapter.is_async and inspect.isawaitable(value) else value

    async def _pause_until(self, moment: float) -> None:
        left = moment - time.perf_counter()
        if left <= 0:
            return
        if self.adapter.is_async:
            await asyncio.sleep(left)
        else:
            time.sleep(left)  # noqa: ASYNC251 - no event loop runs then

    async def carry_out(self, order: dict[str, Any]) -> Any:
        await self._settled(self.adapter.open())
        answer = await getattr(self, order.pop("do"))(**order)
        await self._settled(self.adapter.close())
        return answer

    def run(self, order: dict[str, Any]) -> Any:
        steps = self.carry_out(order)
        if self.adapter.is_async:
            use_uvloop()
            return asyncio.run(steps)
        try:
            steps.send(None)
        except StopIteration as end:
            return end.value
        raise RuntimeError("a plain adapter returned something to await")

    async def load(
        self, task: str, n: int, *, bulk: bool = False, payload_bytes: int = 0
    ) -> dict[str, Any]:
        """Enqueue n jobs as fast as it goes."""
        ids: list[Any] = list(range(n))
        if payload_bytes:
            ids = [str(i).rjust(payload_bytes, "x") for i in ids]
        one, awaits = self.adapter.enqueue_one, self.adapter.is_async
        gc.collect()
        began = time.perf_counter()
        if bulk:
            await self._settled(self.adapter.enqueue_bulk(task, ids))
        elif awaits:
            for i in ids:
                await one(task, i)
        else:
            for i in ids:
                one(task, i)
        return {"seconds": time.perf_counter() - began}

    async def paced(self, task: str, n: int, gap_s: float) -> list[float]:
        """Enqueue one job every gap_s seconds; return the clock just before each call."""
        sent = []
        due = time.perf_counter()
        for i in range(n):
            due = max(due + gap_s, time.perf_counter())
            await self._pause_until(due)
            sent.append(time.time())
            await self._settled(self.adapter.enqueue_one(task, i))
        return sent

    async def roundtrips(self, task: str, n: int, gap_s: float) -> list[float]:
        """Wait for n results, one after another; return the seconds each one took."""
        took = []
        for i in range(n):
            await self._pause_until(time.perf_counter() + gap_s)
            began = time.perf_counter()
            value = await self._settled(self.adapter.roundtrip(task, i))
            took.append(time.perf_counter() - began)
            if value != i:
                raise RuntimeError(f"job {i} gave {value!r}")
        return took

    async def timetable(self, rows: list[tuple[float, str]]) -> list[float]:
        """Enqueue row i's task at its second; return the clock just before each call."""
        sent = []
        began = time.perf_counter()
        for i, (second, task) in enumerate(rows):
            await self._pause_until(began + second)
            sent.append(time.time())
            await self._settled(self.adapter.enqueue_one(task, i))
        return sent

    async def stream(self, task: str, rate: float, seconds: float, progress: str) -> dict[str, Any]:
        """Enqueue at a steady rate in batches of 20 ms; write the count sent to a file."""
        tick_s, tick = 0.02, 0
        began = time.perf_counter()
        sent, total, worst_lag = 0, int(rate * seconds), 0.0
        with open(progress, "r+b", buffering=0) as file:  # noqa: ASYNC230 - a tmpfs, 8 bytes
            while sent < total:
                tick += 1
                await self._pause_until(began + tick * tick_s)
                elapsed = time.perf_counter() - began
                worst_lag = max(worst_lag, elapsed - tick * tick_s)
                tick = max(tick, int(elapsed / tick_s))  # late: one bigger batch, not many
                due = min(total, int(elapsed * rate))
                if due > sent:
                    await self._settled(self.adapter.enqueue_bulk(task, range(sent, due)))
                    sent = due
                    file.seek(0)
                    file.write(struct.pack("<Q", sent))
        return {"sent": sent, "seconds": time.perf_counter() - began, "worst_lag_s": worst_lag}


def main(adapter: Adapter) -> None:
    """Answer the driver."""
    wish = sys.argv[1]
    answer: Any
    if wish == "describe":
        answer = adapter.describe()
    elif wish == "workers":
        answer = {"commands": adapter.worker_commands(), "settings": adapter.settings()}
    elif wish == "send":
        answer = Sender(adapter).run(json.load(sys.stdin))
    elif wish == "worker":
        adapter.run_worker()
        return
    else:
        raise SystemExit(f"unknown wish {wish!r}")
    sys.stdout.write(f"\n{ANSWER}{json.dumps(answer)}\n")
