"""Which figures a run takes, in which order, how often."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import server, systems
from benchmarks.harness.bench import Bench, Figures
from benchmarks.harness.systems import OURS, Variant

Step = tuple[str, Callable[[], Figures]]
WORD = {True: "results", False: "noresults"}

# Scenarios that need minutes, or whose answer hardly varies, are taken once.
ONCE = {"idle", "resident", "memory", "fairness", "sustained"}
# Long ones are taken for ours and for the peers people know.
FAIRNESS_PEERS = {"rq-simple", "huey", "dramatiq", "saq", "taskiq-list", "celery-threads"}


@dataclass(frozen=True)
class Wishes:
    """What the command line asked for."""

    out: Path
    scenarios: tuple[str, ...]
    reps: int = 3
    append: bool = False
    smoke: bool = False
    seconds: float = 600.0
    rate: float | None = None
    depth: int = 1_000_000
    max_noise: float = 0.2
    retries: int = 0
    tmp: str | None = None


def enqueue(bench: Bench, variant: Variant) -> Iterator[Step]:
    if variant.sends_as != variant.name:
        return
    run = partial(bench.enqueue, variant)
    for results in variant.stores:
        yield f"enqueue/single/{WORD[results]}", partial(run, results=results, bulk=False)
    best = variant.stores[0]
    yield "enqueue/single/one-cpu", partial(run, results=best, bulk=False, place="one")
    if variant.bulk:
        yield f"enqueue/{variant.bulk}", partial(run, results=best, bulk=True)


def noop(bench: Bench, variant: Variant) -> Iterator[Step]:
    run = partial(bench.drain, variant)
    for results in variant.stores:
        yield f"drain/1p/{WORD[results]}", partial(run, results=results)
    yield "drain/1p/one-cpu", partial(run, results=variant.stores[0], place="one")
    for results in variant.stores:
        yield f"drain/2p/{WORD[results]}", partial(run, results=results, procs=2, place="free")


def io(bench: Bench, variant: Variant) -> Iterator[Step]:
    yield "io", lambda: bench.drain(variant, "io", results=variant.stores[0])


def cpu(bench: Bench, variant: Variant) -> Iterator[Step]:
    best = variant.stores[0]
    yield "cpu", lambda: bench.drain(variant, "cpu", results=best, procs=2, place="free")


def latency(bench: Bench, variant: Variant) -> Iterator[Step]:
    n = 10 if bench.smoke else 300
    yield "latency", lambda: bench.latency(variant, n, 0.02)


def idle(bench: Bench, variant: Variant) -> Iterator[Step]:
    n = 2 if bench.smoke else 20
    yield "latency-after-idle", lambda: bench.latency(variant, n, 0.47)


def roundtrip(bench: Bench, variant: Variant) -> Iterator[Step]:
    if variant.described["roundtrip"]:
        yield "roundtrip", lambda: bench.roundtrip(variant)


def resident(bench: Bench, variant: Variant) -> Iterator[Step]:
    yield "resident", lambda: bench.resident(variant)


def memory(bench: Bench, variant: Variant) -> Iterator[Step]:
    if variant.sends_as == variant.name:
        yield "memory", lambda: bench.memory(variant)


def depth(bench: Bench, variant: Variant, deep: int) -> Iterator[Step]:
    if variant.system == OURS:
        yield "depth/shallow", lambda: bench.depth(variant, min(20_000, deep))
        yield "depth/deep", lambda: bench.depth(variant, deep)


def fairness(bench: Bench, variant: Variant) -> Iterator[Step]:
    if variant.system == OURS or variant.name in FAIRNESS_PEERS:
        steady, burst = (5.0, 4.0) if bench.smoke else (30.0, 24.0)
        yield "fairness/steady", lambda: bench.fairness(variant, seconds=steady, burst=False)
        yield "fairness/burst", lambda: bench.fairness(variant, seconds=burst, burst=True)


SIMPLE = {
    step.__name__: step
    for step in (enqueue, noop, io, latency, idle, roundtrip, cpu, memory, resident, fairness)
}
SCENARIOS = (*SIMPLE, "depth", "sustained")


def steps(
    bench: Bench, variant: Variant, scenario: str, wishes: Wishes, done: list[Figures]
) -> Iterator[Step]:
    """Yield (figure, measurement) of one scenario for one variant."""
    if scenario not in variant.meta.get("scenarios", SCENARIOS):
        return
    if scenario == "depth":
        yield from depth(bench, variant, 2_000 if bench.smoke else wishes.depth)
    elif scenario == "sustained":
        if variant.system == OURS:
            rate = wishes.rate or half_rate(variant, done)
            seconds = min(wishes.seconds, 8.0) if bench.smoke else wishes.seconds
            yield "sustained", lambda: bench.sustained(variant, seconds=seconds, rate=rate)
    else:
        yield from SIMPLE[scenario](bench, variant)


def half_rate(variant: Variant, done: list[Figures]) -> float:
    """Return half the drain rate measured in this run, or a careful guess."""
    rates = [
        row["jobs_per_s"]
        for row in done
        if row["variant"] == variant.name
        and row["figure"] == "drain/1p/results"
        and "jobs_per_s" in row
    ]
    return statistics.median(rates) / 2 if rates else 5_000.0


def machine() -> dict[str, Any]:
    """Return what the figures depend on, without the machine's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "redis": server.version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def described(variants: Mapping[str, Variant]) -> dict[str, Any]:
    keep = ("system", "versions", "python")
    return {
        name: {key: variant.described[key] for key in keep} | {"bulk": variant.bulk}
        for name, variant in variants.items()
    }


def run(variants: Mapping[str, Variant], wishes: Wishes) -> dict[str, Any]:
    """Measure; repeats are interleaved over the systems, so that slow minutes hit all."""
    path = wishes.out / "results.json"
    data: dict[str, Any] = {"runs": [], "systems": {}}
    if wishes.append and path.exists():
        data = json.loads(path.read_text())
    data["machine"] = machine()
    data["systems"] |= described(variants)
    wishes.out.mkdir(parents=True, exist_ok=True)
    with Bench(wishes.tmp, smoke=wishes.smoke) as bench:
        try:
            for scenario in wishes.scenarios:
                for rep in range(1 if scenario in ONCE else wishes.reps):
                    for variant in variants.values():
                        for figure, measure in steps(
                            bench, variant, scenario, wishes, data["runs"]
                        ):
                            row = attempt(measure, wishes)
                            row = {"variant": variant.name, "figure": figure, "rep": rep, **row}
                            data["runs"].append(row)
                            tell(row)
                            save(path, data)
        finally:
            keep_log(bench)
    return data


def attempt(measure: Callable[[], Figures], wishes: Wishes) -> Figures:
    """Measure; once more (``retries`` times) while others used the machine."""
    row: Figures = {}
    for number in range(1 + wishes.retries):
        began = time.monotonic()
        try:
            row = measure()
        except Exception as error:  # noqa: BLE001 - whatever a peer does, the run goes on
            row = {"error": anonymous(f"{type(error).__name__}: {error}")[-800:]}
        row |= {"attempt": number + 1, "took_s": round(time.monotonic() - began, 1)}
        if row.get("other_cores", 0) <= wishes.max_noise:
            break
    return row


def anonymous(text: str) -> str:
    """Leave this machine's directories out of what is written down."""
    for place in (systems.environments(), systems.CHECKOUT, Path.home()):
        text = text.replace(str(place), "...")
    return text


def tell(row: Figures) -> None:
    shown = (
        "jobs_per_s", "p50_ms", "p99_ms", "max_ms", "bytes_per_queued_job",
        "bytes_per_finished_job", "worker_rss_mb", "never_ran", "ran_twice", "other_cores", "error",
    )  # fmt: skip
    row = {**row, "error": row["error"].strip().splitlines()[-1]} if "error" in row else row
    values = {
        key: round(row[key], 2) if isinstance(row[key], float) else row[key]
        for key in shown
        if key in row
    }
    clock = time.strftime("%H:%M:%S")
    print(
        clock, row["variant"], row["figure"], row["rep"], values, f"{row['took_s']} s", flush=True
    )


def save(path: Path, data: Mapping[str, Any]) -> None:
    """Write one line for each run, so that a diff of two results can be read."""
    head = {key: value for key, value in data.items() if key != "runs"}
    text = json.dumps(head, indent=1)[:-2]
    rows = ",\n".join(json.dumps(rounded(row)) for row in data["runs"])
    fresh = path.with_suffix(".new")
    fresh.write_text(f'{text},\n "runs": [\n{rows}\n]\n}}\n')
    fresh.replace(path)


def rounded(value: Any) -> Any:
    """Keep five significant digits of every number."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return value


def keep_log(bench: Bench) -> None:
    """Keep what the workers said where git does not look, for the case that one failed."""
    log = bench.work / "worker.log"
    if log.exists():
        with contextlib.suppress(OSError):
            kept = systems.HOME / ".bench"
            kept.mkdir(exist_ok=True)
            (kept / "worker.log").write_bytes(log.read_bytes()[-5_000_000:])
            print(f"what the workers said: {kept.name}/worker.log", file=sys.stderr)
