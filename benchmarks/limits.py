"""``python -m benchmarks.limits``: what jobs that do not end, that kill, or that are many cost.

    python -m benchmarks.limits                      all of it, two minutes or so
    python -m benchmarks.limits sleepers             10,000 async jobs of 1 s at once
    python -m benchmarks.limits sleepers --seconds 30    the same for long, through heartbeats
    python -m benchmarks.limits flat                 memory over 100,000 jobs of each mode
    python -m benchmarks.limits cpu                  two processes, against ProcessPoolExecutor(2)
    python -m benchmarks.limits times                what a time limit of 1 s comes to
    python -m benchmarks.limits ends                 jobs that kill their process, or try to

Prints each figure beside its goal; the exit code is 1 where one is missed. Needs what ``make dev``
installs, and a quiet machine: whatever else runs is part of the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import redis

from benchmarks.harness import processes
from taskq import JobFailed, TaskTimeout
from taskq.embedded import EmbeddedRedis

SIDE = Path(__file__).resolve().parent / "side"
WAIT_S = 90.0
MISSED: list[str] = []


class Mark(NamedTuple):
    begun_at: float
    ended_at: float
    pid: int
    times: int


class Run:
    """A Redis, the marks of its jobs, and workers on it."""

    def __init__(self, home: Path, url: str, jobs: int) -> None:
        self.home = home
        self.client = redis.Redis.from_url(url)
        self.env = {
            **os.environ, "TASKQ_REDIS_URL": url, "LIMITS_MARKS": str(home / "marks"),
            "PYTHONPATH": str(SIDE),
        }  # fmt: skip
        self.tasks = importlib.import_module("limit_tasks")  # now that its environment is set
        self._size = self.tasks.MARK.size
        with (home / "marks").open("w+b") as file:
            file.truncate(jobs * self._size)
            self._marks = mmap.mmap(file.fileno(), 0)

    def mark(self, n: int) -> Mark:
        return Mark(*self.tasks.MARK.unpack_from(self._marks, n * self._size))

    def marks(self) -> list[Mark]:
        return [self.mark(n) for n in range(len(self._marks) // self._size)]

    def until_each(self, condition: Callable[[Mark], Any]) -> None:
        """Wait until it holds for the mark of each job, and stay off the CPUs meanwhile."""
        for n in range(len(self._marks) // self._size):
            until(lambda n=n: condition(self.mark(n)))

    @contextlib.contextmanager
    def worker(self, *options: str, name: str = "worker", look: bool = True) -> Iterator[Worker]:
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "taskq", "worker", "limit_tasks:queue", "--processes", "1",
                 *options],
                env=self.env, cwd=SIDE, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        worker = Worker(process, self.home / f"{name}.log", look=look)
        try:
            until(lambda: worker.log().count("ready (process") or process.poll() is not None)
            yield worker
        finally:
            worker.stop()


class Worker:
    """A server's worker with one process that runs jobs.

    With `look` its memory is looked at all the time, which costs CPU.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, *, look: bool) -> None:
        self.process = process
        self._log = log
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        if look:
            self._thread.start()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def resident_bytes(self) -> int:
        """Resident memory of the process that runs jobs."""
        found = processes.tree(self.process.pid)
        return max((one.rss_bytes for pid, one in found.items() if pid != self.process.pid),
                   default=0)  # fmt: skip

    def cpu_s(self) -> float:
        """CPU of the supervisor and the process that runs jobs."""
        return sum(one.cpu_s for one in processes.tree(self.process.pid).values())

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self.peak_bytes = max(self.peak_bytes, self.resident_bytes())

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)
            return
        self.process.terminate()  # twice is now: what is left does not end
        self.process.wait(30)


@contextlib.contextmanager
def run(jobs: int) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as home, EmbeddedRedis.start() as server:
        os.environ["TASKQ_REDIS_URL"] = server.url
        sys.modules.pop("limit_tasks", None)  # its app is bound to the Redis of the last run
        made = Run(Path(home), server.url, jobs)
        try:
            yield made
        finally:
            made.tasks.queue.close()
            made.client.close()


def until(condition: Any, limit_s: float = WAIT_S) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not reached within {limit_s:g} s")
        time.sleep(0.01)


def say(what: str, figure: str, goal: str = "", *, good: bool = True) -> None:
    print(f"{what:58} {figure:>26}  {goal}{'' if good else '  MISSED'}", flush=True)
    if not good:
        MISSED.append(what)


# -- many at once ----------------------------------------------------------------------------------


def sleepers(told: argparse.Namespace) -> None:
    """All of them at once in one process: from the first begin to the last end."""
    n, seconds = told.jobs, told.seconds
    with run(n) as made, made.worker("--concurrency", str(n)) as worker:
        made.client.set("rq:suspended", 1)
        time.sleep(1.5)  # the worker looks once a second while it is suspended
        calls = [made.tasks.sleeper.call(i, seconds) for i in range(n)]
        handles = made.tasks.queue.enqueue(calls)
        idle = worker.resident_bytes()
        cpu = worker.cpu_s()
        redis_cpu = cpu_of(made.client)
        made.client.delete("rq:suspended")
        made.until_each(lambda mark: mark.times)
        to_begin = worker.cpu_s() - cpu, cpu_of(made.client) - redis_cpu
        made.until_each(lambda mark: mark.ended_at)
        marks = made.marks()
        begun = [mark.begun_at for mark in marks]
        until(lambda: not made.client.exists("rq:wip:default", "rq:queue:default"))
        settled_at = time.time()
        took = max(mark.ended_at for mark in marks) - min(begun)
        what = f"{n:,} async jobs of {seconds:g} s, one process"
        good = took <= 1.15 * seconds
        say(what, f"{took:.2f} s, {took / seconds - 1:.0%} over", "within 15 %", good=good)
        say("  all begun within", f"{max(begun) - min(begun):.2f} s")
        say(
            "  CPU until then, of the worker / of Redis", f"{to_begin[0]:.2f} / {to_begin[1]:.2f} s"
        )
        say(
            "  all settled after the last end",
            f"{settled_at - max(m.ended_at for m in marks):.2f} s",
        )
        peak = worker.peak_bytes / 2**20
        say("  resident memory, highest", f"{peak:.0f} MB", "under 300 MB", good=peak < 300)
        say("  of that for each job", f"{(worker.peak_bytes - idle) / n / 1024:.1f} kB")
        cpu, redis_cpu = worker.cpu_s() - cpu, cpu_of(made.client) - redis_cpu
        say("  CPU in all, of the worker / of Redis", f"{cpu:.2f} / {redis_cpu:.2f} s")
        twice = sum(mark.times > 1 for mark in marks)
        say("  run twice / crashes", f"{twice} / {worker.log().count('died')}", good=not twice)
        for line in worker.log().splitlines():
            if "event loop" in line or "Nothing of this" in line:
                say("  said", line[12:80])
        del handles


def cpu_of(client: Any) -> float:
    told = client.info("cpu")
    return float(told["used_cpu_sys"] + told["used_cpu_user"])


# -- memory ----------------------------------------------------------------------------------------


def flat(told: argparse.Namespace) -> None:
    """Memory after a fifth of the jobs, and after all."""
    n = 10 * told.jobs
    for mode in told.modes.split(","):
        with run(n) as made, made.worker() as worker:
            task = getattr(made.tasks, f"{mode}_noop").options(result_ttl=0)
            sizes = []
            for start in range(0, n, n // 5):
                made.tasks.queue.enqueue([task.call(i) for i in range(start, start + n // 5)])
                until(lambda start=start: made.mark(start + n // 5 - 1).times
                      and not made.client.exists("rq:wip:default", "rq:queue:default"))  # fmt: skip
                time.sleep(1.0)
                sizes.append(worker.resident_bytes() / 2**20)
            # the file of the marks is mapped: its pages are the task's, not the worker's
            grown = sizes[-1] - sizes[0] - 0.8 * n * 32 / 2**20
            say(
                f"{mode}: memory after {n // 5:,} and after {n:,} jobs",
                f"{sizes[0]:.1f} and {sizes[-1]:.1f} MB", "flat (3 MB)", good=grown < 3,
            )  # fmt: skip


# -- processes -------------------------------------------------------------------------------------


def cpu(told: argparse.Namespace) -> None:
    """400 jobs of 10 ms: here, and in the executor of the standard library, in turn."""
    n = 400
    ways = {
        "2 worker processes of 1 job process": ("--processes", "2", "--pool", "1"),
        "1 worker process of 2 job processes": ("--processes", "1", "--pool", "2"),
    }
    took: dict[str, list[float]] = {"executor": [], **{way: [] for way in ways}}
    for _ in range(told.rounds):
        with run(n) as made:
            with ProcessPoolExecutor(2) as pool:
                list(pool.map(made.tasks.spin, range(100)))
                began = time.monotonic()
                list(pool.map(made.tasks.spin, range(n)))
                took["executor"].append(time.monotonic() - began)
            for way, options in ways.items():
                with made.worker(*options, look=False):
                    task = made.tasks.process_spin
                    task.map(range(100)).results(timeout=WAIT_S)  # both have loaded the app
                    began = time.monotonic()
                    task.map(range(n)).results(timeout=WAIT_S)
                    took[way].append(time.monotonic() - began)
    executor = statistics.median(took["executor"])
    say(f"{n} jobs of {executor / n * 2000:.1f} ms in ProcessPoolExecutor(2)", f"{executor:.2f} s")
    for way in ways:
        seconds = statistics.median(took[way])
        say(f"  {way}, with results", f"{seconds:.2f} s, {executor / seconds:.1%}", "95 %",
            good=executor / seconds >= 0.95)  # fmt: skip


# -- time limits -----------------------------------------------------------------------------------

CASES = (
    "python_loop", "time_sleep", "swallows_exception", "swallows_base_exception", "awaits",
    "swallows_cancellation", "blocks_the_loop", "loops_on_the_loop", "keeps_the_interpreter",
)  # fmt: skip


def times(_told: argparse.Namespace) -> None:
    """How long after its limit a job is settled, and when its neighbours run again."""
    for case in CASES:
        with run(3) as made, made.worker(name="one"):
            made.tasks.sleeper.delay(0, 4.0)
            made.tasks.thread_sleeper.delay(1, 4.0)
            until(lambda: made.mark(0).times and made.mark(1).times)
            handle = getattr(made.tasks, case).delay(2)
            with contextlib.suppress(TaskTimeout):
                handle.result(timeout=30)
            entry = made.client.xrevrange(f"rq:results:{handle.id}", count=1)[0][0]
            settled_at = int(entry.split(b"-")[0]) / 1000
            late = settled_at - made.mark(2).begun_at - made.tasks.LIMIT_S
            again, good = "", True
            if not isinstance(handle.exception(), TaskTimeout):
                again, good = " not as timed out", False
            elif "killed" in handle.exception().message:
                until(lambda: made.mark(0).times == 2 and made.mark(1).times == 2)
                began = max(made.mark(0).begun_at, made.mark(1).begun_at)
                again, good = f", others {began - settled_at:.2f} s", began - settled_at < 2
            elif made.mark(0).times > 1 or made.mark(1).times > 1:
                again, good = ", others again", False
            say(f"limit of 1 s: {case}", f"+{late:.2f} s{again}", "+1 s (others 2 s)",
                good=good and late < 1)  # fmt: skip


# -- ends ------------------------------------------------------------------------------------------

ENDS = (
    "segfault", "_exit(1)", "SystemExit", "KeyboardInterrupt", "MemoryError", "RecursionError",
)  # fmt: skip


def ends(_told: argparse.Namespace) -> None:
    """What becomes of a job that ends so, of its process, and of those beside it."""
    for mode in ("thread", "asyncio"):
        for how in ENDS:
            with run(3) as made, made.worker("-q", "default", "-q", "ends") as worker:
                near = [made.tasks.sleeper.delay(0, 1.0), made.tasks.thread_sleeper.delay(1, 1.0)]
                until(lambda: made.mark(0).times and made.mark(1).times)
                handle = getattr(made.tasks, f"{mode}_end").delay(2, how)
                until(handle.done, 30)
                error = handle.exception()
                died = made.mark(2).begun_at
                for one in near:
                    one.result(timeout=30)
                reason = (
                    error.message if error is not None and how not in str(error.exc_type) else how
                )
                good = isinstance(error, JobFailed)
                figure = "same process"
                if made.mark(0).times > 1:
                    late = max(made.mark(0).begun_at, made.mark(1).begun_at) - died
                    figure, good = f"others again {late:.2f} s", good and late < 2
                if how in ("segfault", "_exit(1)"):
                    good = good and made.mark(0).times == 2
                else:
                    good = good and made.mark(0).times == 1 and "died" not in worker.log()
                say(f"{mode}: {how}: {reason[:34]}", figure, "2 s", good=good)


KINDS = {"sleepers": sleepers, "flat": flat, "cpu": cpu, "times": times, "ends": ends}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.limits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", default=list(KINDS), choices=[*KINDS, []],
                        metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=10_000, help="at once; ten times that for flat")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a sleeper sleeps")
    parser.add_argument("--modes", default="thread,asyncio,process", help="of flat")
    parser.add_argument("--rounds", type=int, default=3, help="of cpu")
    told = parser.parse_args()
    sys.path.insert(0, str(SIDE))
    for kind in told.kinds:
        KINDS[kind](told)
    return 1 if MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
