"""``python -m benchmarks``: taskq beside its peers. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.harness import plan, report, systems


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        default="all",
        choices=("all", "setup", "run", "report", "list"),
        help="all (the default) is setup, run and report",
    )
    parser.add_argument("--only", default="", help="systems or variants: taskq,huey,rq-simple")
    parser.add_argument("--scenarios", default="", help=f"some of {','.join(plan.SCENARIOS)}")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--append", action="store_true", help="add to the results that are there")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything work?")
    parser.add_argument("--seconds", type=float, default=600, help="length of the sustained run")
    parser.add_argument("--rate", type=float, help="jobs/s of it (default: half the drain rate)")
    parser.add_argument("--depth", type=int, default=1_000_000, help="jobs of the deep queue")
    parser.add_argument("--retries", type=int, default=0, help="repeat a run that others disturbed")
    parser.add_argument("--max-noise", type=float, default=0.2, help="cores others may use")
    parser.add_argument("--out", type=Path, default=systems.HOME, help="for results.json & co.")
    parser.add_argument("--tmp", default=os.environ.get("BENCH_TMP") or shared_memory())
    return parser.parse_args()


def shared_memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main() -> None:
    if not sys.platform.startswith("linux"):
        raise SystemExit("The benchmark reads /proc and pins CPUs: it needs Linux.")
    told = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmark: terminated"))  # clean up
    only = set(words(told.only))
    out = systems.HOME / ".bench" / "smoke" if told.smoke and told.out == systems.HOME else told.out
    scenarios = tuple(words(told.scenarios) or plan.SCENARIOS)
    if unknown := set(scenarios) - set(plan.SCENARIOS):
        raise SystemExit(f"No scenario {', '.join(unknown)}. There are: {plan.SCENARIOS}.")
    if told.command in ("all", "setup"):
        systems.set_up({word.partition("-")[0] for word in only} or None)
    if told.command == "list":
        print("\n".join(systems.discover(only or None)))
    if told.command in ("all", "run"):
        wishes = plan.Wishes(
            out=out,
            scenarios=scenarios,
            reps=1 if told.smoke else told.reps,
            append=told.append,
            smoke=told.smoke,
            seconds=told.seconds,
            rate=told.rate,
            depth=told.depth,
            max_noise=told.max_noise,
            retries=told.retries,
            tmp=told.tmp,
        )
        found = systems.discover(only or None)
        if not found:
            raise SystemExit(
                "benchmark: none of the systems can run. Their environments belong into "
                f"{systems.environments()}; make them with: python -m benchmarks setup"
                + (f" --only {told.only}" if only else "")
            )
        plan.run(found, wishes)
    if told.command in ("all", "run", "report"):
        if not (out / "results.json").exists():
            raise SystemExit(f"benchmark: no {out / 'results.json'}, so nothing to report. "
                             "It is what a run writes: python -m benchmarks run")  # fmt: skip
        report.write(out)


main()
