"""The measurements: each method takes one variant and returns one run's figures."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import arithmetic, processes
from benchmarks.harness.processes import PLACES, Workers
from benchmarks.harness.recorder import Recorder
from benchmarks.harness.server import Server, Usage
from benchmarks.harness.systems import Variant, ask, environment

LIMIT_S = 180
SIZES = {"noop": 20_000, "io": 2_000, "cpu": 400, "enqueue": 10_000, "roundtrip": 200}
SMOKE_SIZES = {"noop": 200, "io": 60, "cpu": 20, "enqueue": 200, "roundtrip": 10}
RUN_S = {"long": 2.0, "short": 0.001}  # as in side/benchtask.py

Figures = dict[str, Any]


@dataclass
class Snapshot:
    """A loaded queue, saved, so that each run starts from the very same one."""

    path: Path
    bytes_per_job: float


@dataclass
class Reading:
    """What everybody has used up to one moment."""

    redis: Usage
    workers_cpu_s: float
    own_cpu_s: float
    busy_s: float
    at: float


class Bench:
    """Measures in a directory of its own; a context manager."""

    def __init__(self, directory: str | None, *, smoke: bool = False) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="taskq-bench-", dir=directory))
        self.smoke = smoke
        self._snapshots: dict[tuple[Any, ...], Snapshot] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def size(self, variant: Variant, what: str) -> int:
        usual = int(variant.meta.get(f"n_{what}", SIZES[what]))
        return min(usual, SMOKE_SIZES[what]) if self.smoke else usual

    def _env(self, variant: Variant, server: Server, **told: Any) -> dict[str, str]:
        told.setdefault("results", 1)
        told["wid"] = variant.meta.get("wid", "pid")
        return environment(redis_url=server.url, variant=variant.name, **told)

    def _warm(self, variant: Variant, server: Server, env: dict[str, str]) -> None:
        """Enqueue once and throw it away: files are cached and scripts loaded."""
        ask(variant, "send", env, {"do": "load", "task": "noop", "n": 1})
        server.command("FLUSHALL")

    @contextlib.contextmanager
    def _workers(
        self, variant: Variant, env: dict[str, str], cpus: set[int] | None = None
    ) -> Iterator[tuple[Workers, Figures]]:
        told = ask(variant, "workers", env)
        workers = Workers(told["commands"], env, self.work / "worker.log", cpus)
        try:
            yield workers, told["settings"]
        finally:
            workers.stop()

    def _read(self, server: Server, workers: Workers | None = None) -> Reading:
        own = sum(os.times()[:4])
        cpu = workers.cpu_s() if workers else 0.0
        return Reading(server.usage(), cpu, own, processes.machine_busy_s(), time.time())

    def snapshot(
        self, variant: Variant, task: str, *, results: bool, n: int, payload_bytes: int = 0
    ) -> Snapshot:
        """Queue n jobs once for each way of sending, and keep the dump."""
        key = (variant.sends_as, task, results, n, payload_bytes)
        if key in self._snapshots:
            return self._snapshots[key]
        sender = variant.sends_as
        with Server(self.work) as server:
            env = environment(redis_url=server.url, variant=sender, task=task, results=int(results))
            self._warm(variant, server, env)
            server.forget_latencies()
            before = server.memory_alone()
            order = {"do": "load", "task": task, "n": n, "payload_bytes": payload_bytes}
            bulk = bool(variant.described["bulk"])
            ask(variant, "send", env, {**order, "bulk": bulk}, limit_s=900)
            used = server.memory_alone() - before
            server.command("SAVE")
            path = self.work / f"{len(self._snapshots)}.rdb"
            shutil.move(server.directory / "dump.rdb", path)
        self._snapshots[key] = Snapshot(path, used / n)
        return self._snapshots[key]

    def drain(
        self,
        variant: Variant,
        task: str = "noop",
        *,
        results: bool = True,
        procs: int = 1,
        place: str = "split",
        n: int | None = None,
        for_memory: bool = False,
    ) -> Figures:
        """Start workers on a loaded queue and take the rate at which jobs start.

        The clock runs from the moment at which every worker process had begun its first job
        to the start of the last job: start-up is not counted. Sleeping and CPU-bound jobs are
        few and long, so there the whole span counts.
        """
        n = n or self.size(variant, task)
        loaded = self.snapshot(variant, task, results=results, n=n)
        recorder = Recorder(self.work, n)
        cpus = PLACES[place]
        with contextlib.closing(recorder), Server(self.work, loaded.path, cpus.redis) as server:
            env = self._env(
                variant, server, task=task, results=int(results), procs=procs,
                rec=recorder.path, scenario="drain",
            )  # fmt: skip
            if for_memory:
                server.forget_latencies()
            with self._workers(variant, env, cpus.client) as (workers, used_settings):
                if task == "io":
                    workers.watch_memory()
                recorder.wait(recorder.any, workers.check, LIMIT_S)
                before = self._read(server, workers)
                recorder.wait(lambda: recorder.reached() == n, workers.check, LIMIT_S)
                time.sleep(0.3)  # the last jobs are settled
                after = self._read(server, workers)
                marks = recorder.marks()
            left_bytes = server.memory_alone() if for_memory else 0
        figures = arithmetic.drain_rate(marks, task)
        done = sum(1 for mark in marks if mark.started_at > before.at)
        figures |= self._cost(before, after, max(1, done))
        figures |= {
            "n": n,
            "settings": used_settings,
            "never_ran": sum(1 for mark in marks if not mark.times),
            "ran_twice": sum(1 for mark in marks if mark.times > 1),
        }
        if for_memory:
            figures["bytes_per_finished_job"] = (left_bytes - self._empty_bytes()) / n
        if task == "io":
            figures["peak_rss_mb"] = workers.peak_rss_bytes / 2**20
            figures["peak_pss_mb"] = workers.peak_pss_bytes / 2**20
        return figures

    def _empty_bytes(self) -> int:
        with Server(self.work) as server:
            server.forget_latencies()
            return server.memory_alone()

    def _cost(self, before: Reading, after: Reading, jobs: int) -> Figures:
        """Return what each job cost between two readings."""
        first, last = before.redis, after.redis
        workers_s = after.workers_cpu_s - before.workers_cpu_s
        redis_s = last.cpu_s - first.cpu_s
        others_s = after.busy_s - before.busy_s - workers_s - redis_s
        others_s -= after.own_cpu_s - before.own_cpu_s
        calls = {
            name: round((count - first.calls.get(name, 0)) / jobs, 3)
            for name, count in last.calls.items()
            if name != "info"
        }
        return {
            "worker_cpu_s_per_1000": workers_s / jobs * 1000,
            "redis_cpu_s_per_1000": redis_s / jobs * 1000,
            "roundtrips_per_job": (last.reads - first.reads - 1) / jobs,  # 1: our own INFO
            "in_bytes_per_job": (last.in_bytes - first.in_bytes) / jobs,
            "out_bytes_per_job": (last.out_bytes - first.out_bytes) / jobs,
            "commands_per_job": sum(calls.values()),
            "commands": {k: v for k, v in sorted(calls.items(), key=lambda c: -c[1]) if v >= 0.01},
            "other_cores": max(0.0, others_s) / (after.at - before.at),
        }

    def enqueue(
        self, variant: Variant, *, results: bool, bulk: bool, place: str = "split"
    ) -> Figures:
        """Take the rate at which one process enqueues."""
        n = self.size(variant, "enqueue")
        cpus = PLACES[place]
        with Server(self.work, None, cpus.redis) as server:
            env = self._env(variant, server, results=int(results), scenario="enqueue")
            self._warm(variant, server, env)
            before = self._read(server)
            order = {"do": "load", "task": "noop", "n": n, "bulk": bulk}
            took = ask(variant, "send", env, order, cpus.client)["seconds"]
            cost = self._cost(before, self._read(server), n)
        keep = ("roundtrips_per_job", "redis_cpu_s_per_1000", "commands", "other_cores")
        return {"n": n, "jobs_per_s": n / took} | {name: cost[name] for name in keep}

    @contextlib.contextmanager
    def _idle_worker(
        self, variant: Variant, n: int, **told: Any
    ) -> Iterator[tuple[Server, Workers, Recorder, dict[str, str]]]:
        """Give a worker that has run one job and waits for more."""
        recorder = Recorder(self.work, max(n, 1))
        with contextlib.closing(recorder), Server(self.work) as server:
            env = self._env(variant, server, rec=recorder.path, **told)
            with self._workers(variant, env) as (workers, _):
                ask(variant, "send", env, {"do": "load", "task": "noop", "n": 1})
                recorder.wait(recorder.any, workers.check, 60)
                time.sleep(0.7)  # settled, and waiting for the next
                yield server, workers, recorder, env

    def latency(self, variant: Variant, n: int, gap_s: float) -> Figures:
        """Take the time from the call that enqueues to the job's first line, worker idle."""
        results = int(variant.stores[0])
        told = {"results": results, "scenario": "latency"}
        with self._idle_worker(variant, n, **told) as (_, workers, recorder, env):
            recorder.clear()
            order = {"do": "paced", "task": "noop", "n": n, "gap_s": gap_s}
            sent = ask(variant, "send", env, order)
            recorder.wait(lambda: recorder.reached() == n, workers.check, 30)
            marks = recorder.marks()
        waits_ms = [(m.started_at - s) * 1000 for m, s in zip(marks, sent, strict=True)]
        return {"n": n} | arithmetic.distribution(waits_ms, "ms")

    def roundtrip(self, variant: Variant) -> Figures:
        """Take the time from the call that enqueues to the result in the caller's hand."""
        n = self.size(variant, "roundtrip")
        with self._idle_worker(variant, n, scenario="roundtrip") as (_, _, _, env):
            order = {"do": "roundtrips", "task": "noop", "n": n, "gap_s": 0.02}
            took_ms = [second * 1000 for second in ask(variant, "send", env, order)]
        return {"n": n} | arithmetic.distribution(took_ms, "ms")

    def resident(self, variant: Variant, watch_s: float = 5.0) -> Figures:
        """Take the memory of an idle worker process, and what idling costs."""
        with self._idle_worker(variant, 1, scenario="idle") as (server, workers, recorder, _):
            worker_pid = recorder.mark(0).pid
            time.sleep(0 if self.smoke else 2)
            watch_s = 1.0 if self.smoke else watch_s
            before = self._read(server, workers)
            time.sleep(watch_s)
            after = self._read(server, workers)
            seen = workers.processes()
            if worker_pid not in seen:  # a child that has gone; its parent counts
                worker_pid = workers.started[0].pid
            return {
                "worker_rss_mb": seen[worker_pid].rss_bytes / 2**20,
                "worker_pss_mb": processes.pss_bytes(worker_pid) / 2**20,
                "tree_rss_mb": sum(one.rss_bytes for one in seen.values()) / 2**20,
                "tree_pss_mb": sum(map(processes.pss_bytes, seen)) / 2**20,
                "processes": len(seen),
                "idle_cpu_percent": (after.workers_cpu_s - before.workers_cpu_s) / watch_s * 100,
                "idle_commands_per_s": (after.redis.commands - before.redis.commands) / watch_s,
            }

    def memory(self, variant: Variant) -> Figures:
        """Take Redis's bytes for a job: queued, with an argument of 80 bytes, finished."""
        n = self.size(variant, "enqueue")
        results = variant.stores[0]
        small = self.snapshot(variant, "noop", results=results, n=n)
        large = self.snapshot(variant, "noop", results=results, n=n, payload_bytes=80)
        figures: Figures = {
            "n": n,
            "bytes_per_queued_job": small.bytes_per_job,
            "bytes_per_queued_job_80": large.bytes_per_job,
        }
        if results:
            n = min(n, self.size(variant, "noop"))
            drained = self.drain(variant, "noop", n=n, for_memory=True)
            figures["bytes_per_finished_job"] = drained["bytes_per_finished_job"]
        return figures

    def depth(self, variant: Variant, n: int) -> Figures:
        """Drain a very long queue; also in tenths, to see whether the rate depends on depth.

        Enqueued, not loaded from a dump: that has its keys in the random order of Redis's table,
        so that jobs which run one after another lie anywhere in memory, as in no queue that grew.
        """
        recorder = Recorder(self.work, n)
        cpus = PLACES["split"]
        with contextlib.closing(recorder), Server(self.work, None, cpus.redis) as server:
            env = self._env(variant, server, rec=recorder.path, scenario="depth")
            self._warm(variant, server, env)
            order = {"do": "load", "task": "noop", "n": n, "bulk": bool(variant.described["bulk"])}
            ask(variant, "send", env, order, limit_s=900)
            with self._workers(variant, env, cpus.client) as (workers, _):
                limit_s = LIMIT_S + n / 500
                recorder.wait(recorder.any, workers.check, limit_s)
                before = self._read(server, workers)
                # Looking at every slot would cost the CPU that is measured: the last ones do.
                recorder.wait(lambda: bool(recorder.times(n - 1)), workers.check, limit_s)
                recorder.wait(lambda: recorder.reached() == n, workers.check, limit_s)
                time.sleep(0.3)
                after = self._read(server, workers)
                marks = recorder.marks()
        done = sum(1 for mark in marks if mark.started_at > before.at)
        return (
            {"n": n, "never_ran": 0, "ran_twice": sum(1 for mark in marks if mark.times > 1)}
            | arithmetic.drain_rate(marks, "noop")
            | {"rates_of_tenths": arithmetic.rates_of_parts(marks, 10)}
            | self._cost(before, after, max(1, done))
        )

    def fairness(self, variant: Variant, *, seconds: float, burst: bool) -> Figures:
        """Mix jobs of 2 s and of 1 ms on two workers with one slot each.

        Steady: a long job every 2.5 s and 100 short ones a second, so one worker is always
        free. Burst: every 4 s one long job among 200 short ones, all at once.
        """
        rows = arithmetic.timetable(seconds, burst=burst)
        recorder = Recorder(self.work, len(rows))
        with contextlib.closing(recorder), Server(self.work) as server:
            env = self._env(
                variant, server, task="fair", procs=2, rec=recorder.path,
                results=int(variant.stores[0]), scenario="fairness",
            )  # fmt: skip
            with self._workers(variant, env) as (workers, settings):
                self._both_up(variant, env, workers, recorder)
                recorder.clear()
                order = {"do": "timetable", "rows": rows}
                sent = ask(variant, "send", env, order, limit_s=seconds + LIMIT_S)
                recorder.wait(lambda: recorder.reached() == len(rows), workers.check, LIMIT_S)
                time.sleep(0.1)
                marks = recorder.marks()
        tasks = [task for _, task in rows]
        return {"settings": settings} | arithmetic.waits(tasks, sent, marks, RUN_S)

    def _both_up(
        self, variant: Variant, env: dict[str, str], workers: Workers, recorder: Recorder
    ) -> None:
        """Send short jobs until two processes have run some."""
        give_up = time.monotonic() + 60
        seen: set[int] = set()
        n = min(20, recorder.n)
        while len(seen) < 2 and time.monotonic() < give_up:
            recorder.clear()
            ask(variant, "send", env, {"do": "load", "task": "short", "n": n})
            recorder.wait(lambda: recorder.reached() == n, workers.check, 60)
            seen |= {recorder.mark(i).pid for i in range(n)}

    def sustained(self, variant: Variant, *, seconds: float, rate: float) -> Figures:
        """Keep a steady stream going with result_ttl=60 and sample once a second."""
        recorder = Recorder(self.work, int(rate * seconds))
        samples: list[Figures] = []
        progress = self.work / "progress"
        progress.write_bytes(bytes(8))
        with contextlib.closing(recorder), Server(self.work) as server:
            env = self._env(variant, server, rec=recorder.path, scenario="sustained", result_ttl=60)
            with self._workers(variant, env) as (workers, _):
                order = {
                    "do": "stream", "task": "noop", "rate": rate,
                    "seconds": seconds, "progress": str(progress),
                }  # fmt: skip
                began = time.time()
                sending = self._in_background(variant, env, order, seconds)
                while not sending.done():
                    workers.check()
                    samples.append(self._sample(server, workers, recorder, progress, began))
                    time.sleep(max(0.0, began + len(samples) - time.time()))
                sent = sending.result()
                recorder.wait(lambda: recorder.reached() == recorder.n, workers.check, LIMIT_S)
                samples.append(self._sample(server, workers, recorder, progress, began))
                marks = recorder.marks()
        return arithmetic.sustained(samples, marks, sent, rate)

    def _in_background(
        self, variant: Variant, env: dict[str, str], order: Figures, seconds: float
    ) -> Any:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (late: only this way needs it)

        pool = ThreadPoolExecutor(1)
        future = pool.submit(ask, variant, "send", env, order, None, seconds + LIMIT_S)
        pool.shutdown(wait=False)
        return future

    def _sample(
        self, server: Server, workers: Workers, recorder: Recorder, progress: Path, began: float
    ) -> Figures:
        sent = struct.unpack("<Q", progress.read_bytes())[0]
        started = recorder.reached()
        usage = server.usage()
        return {
            "second": round(time.time() - began, 1),
            "sent": sent,
            "backlog": max(0, sent - started),
            "redis_mb": round(usage.memory_bytes / 2**20, 1),
            "keys": int(server.command("DBSIZE")),
            "workers_rss_mb": round(
                sum(processes.own_bytes(pid) for pid in workers.processes()) / 2**20, 1
            ),
            "redis_cpu_s": round(usage.cpu_s, 2),
            "workers_cpu_s": round(workers.cpu_s(), 2),
        }
