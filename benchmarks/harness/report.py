"""results.json to RESULTS.md: medians with [minimum-maximum] of the repeats."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import goals, plots
from benchmarks.harness.arithmetic import BOUNDS_MS, Runs
from benchmarks.harness.goals import shown
from benchmarks.harness.systems import OURS

Column = tuple[str, Callable[[str], str]]
NONE = "-"


def cell(runs: Runs, variant: str, figure: str, key: str, *, spread: bool = True) -> str:
    """Return ``median [min-max]``, without the spread of a single value."""
    values = runs.values(variant, figure, key)
    if not values:
        return NONE
    middle = shown(statistics.median(values))
    if len(values) == 1 or not spread:
        return middle
    return f"{middle} [{shown(min(values))}-{shown(max(values))}]"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


class Report:
    """One run's report."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.runs = Runs(data)

    def column(self, head: str, figure: str, key: str, *, spread: bool = True) -> Column:
        return head, lambda variant: cell(self.runs, variant, figure, key, spread=spread)

    def either(self, head: str, figure: str, key: str, *, spread: bool = False) -> Column:
        """Return a column with results stored, or without where the system stores none."""

        def text(variant: str) -> str:
            stored = cell(self.runs, variant, f"{figure}/results", key, spread=spread)
            if stored != NONE:
                return stored
            return cell(self.runs, variant, f"{figure}/noresults", key, spread=spread)

        return head, text

    def first(self, head: str, figures: Sequence[str], key: str) -> Column:
        """Return a column of the first of these figures that the variant has, named."""

        def text(variant: str) -> str:
            for figure in figures:
                found = cell(self.runs, variant, figure, key)
                if found != NONE:
                    return f"{found} ({figure.rpartition('/')[2]})"
            return NONE

        return head, text

    def table(
        self, columns: Sequence[Column], order: Sequence[tuple[str, str]], *, highest: bool = True
    ) -> str:
        """Return a table of all variants with a value, sorted by the first figure found."""

        def rank(variant: str) -> float:
            for figure, key in order:
                value = self.runs.median(variant, figure, key)
                if value is not None:
                    return -value if highest else value
            return float("inf")

        rows = []
        for variant in sorted(self.runs.variants, key=rank):
            cells = [text(variant) for _, text in columns]
            if any(one != NONE for one in cells):
                ours = self.runs.system(variant) == OURS
                rows.append([f"**{variant}**" if ours else variant, *cells])
        return markdown(["system", *(head for head, _ in columns)], rows) if rows else ""

    def sections(self) -> list[tuple[str, str]]:
        """Return (heading, body); those without a body are left out by the caller."""
        rate, column, either = "jobs_per_s", self.column, self.either
        stored, bare = "drain/1p/results", "drain/1p/noresults"
        drain_order = [(stored, rate), (bare, rate)]
        return [
            ("The figures to reach", self.goals()),
            (
                "Draining no-op jobs, jobs/s",
                self.table(
                    [
                        column("1 process, results stored", stored, rate),
                        column("1 process, no results", bare, rate),
                        column("2 processes, results stored", "drain/2p/results", rate),
                        column("2 processes, no results", "drain/2p/noresults", rate),
                        column("1 process, one CPU with Redis", "drain/1p/one-cpu", rate),
                    ],
                    drain_order,
                ),
            ),
            (
                "Enqueuing, jobs/s from one process",
                self.table(
                    [
                        column("one at a time", "enqueue/single/results", rate),
                        column("the same, no results", "enqueue/single/noresults", rate),
                        column("one CPU with Redis", "enqueue/single/one-cpu", rate),
                        self.first("many", ["enqueue/pipelined", "enqueue/gather"], rate),
                        either("round trips each", "enqueue/single", "roundtrips_per_job"),
                    ],
                    [("enqueue/single/results", rate), ("enqueue/single/noresults", rate)],
                ),
            ),
            (
                "2,000 jobs that sleep 100 ms, one worker process",
                self.table(
                    [
                        column("jobs/s", "io", rate),
                        column("worker CPU s per 1,000", "io", "worker_cpu_s_per_1000"),
                        column("peak RSS of the tree, MB", "io", "peak_rss_mb", spread=False),
                    ],
                    [("io", rate)],
                ),
            ),
            (
                "Latency with an idle worker, ms",
                self.table(
                    [
                        column("enqueue to start, median", "latency", "p50_ms"),
                        column("p99", "latency", "p99_ms"),
                        column("after 0.5 s of quiet, median", "latency-after-idle", "p50_ms"),
                        column("its worst", "latency-after-idle", "max_ms"),
                        column("enqueue to result, median", "roundtrip", "p50_ms"),
                        column("p99", "roundtrip", "p99_ms"),
                    ],
                    [("latency", "p50_ms"), ("roundtrip", "p50_ms")],
                    highest=False,
                ),
            ),
            (
                "What a no-op job costs in the drain",
                self.table(
                    [
                        column("worker CPU s per 1,000", stored, "worker_cpu_s_per_1000"),
                        column("the same, no results", bare, "worker_cpu_s_per_1000"),
                        column("Redis CPU s per 1,000", stored, "redis_cpu_s_per_1000"),
                        column("the same, no results", bare, "redis_cpu_s_per_1000"),
                        either("round trips", "drain/1p", "roundtrips_per_job"),
                        either("commands", "drain/1p", "commands_per_job"),
                        either("bytes to Redis", "drain/1p", "in_bytes_per_job"),
                        either("bytes back", "drain/1p", "out_bytes_per_job"),
                    ],
                    [(stored, "worker_cpu_s_per_1000"), (bare, "worker_cpu_s_per_1000")],
                    highest=False,
                ),
            ),
            (
                "CPU-bound, about 10 ms of Python each, two processes",
                self.table([column("jobs/s", "cpu", rate)], [("cpu", rate)]),
            ),
            (
                "Redis's memory, bytes for each job",
                self.table(
                    [
                        column("queued", "memory", "bytes_per_queued_job"),
                        column("queued, argument of 80 bytes", "memory", "bytes_per_queued_job_80"),
                        column("finished, with its result", "memory", "bytes_per_finished_job"),
                    ],
                    [("memory", "bytes_per_queued_job")],
                    highest=False,
                ),
            ),
            (
                "An idle worker",
                self.table(
                    [
                        column("RSS of the worker process, MB", "resident", "worker_rss_mb"),
                        column("its PSS", "resident", "worker_pss_mb"),
                        column("RSS of the tree", "resident", "tree_rss_mb"),
                        column("processes", "resident", "processes"),
                        column("CPU, %", "resident", "idle_cpu_percent"),
                        column("Redis commands/s", "resident", "idle_commands_per_s"),
                    ],
                    [("resident", "worker_rss_mb")],
                    highest=False,
                ),
            ),
            ("Does a deep queue drain slower?", self.depth()),
            ("Fairness: jobs of 2 s and 1 ms on two workers of one slot", self.fairness()),
            ("A steady stream", self.sustained()),
            ("Did every job run exactly once?", self.exactly_once()),
            ("Commands for each job in the drain", self.commands()),
            ("Versions and settings", self.versions()),
            ("Runs that failed", self.failures()),
        ]

    def goals(self) -> str:
        words = {True: "yes", False: "**no**", None: "not measured"}
        rows = [
            [
                one.what,
                one.goal,
                one.ours,
                one.against,
                f"{one.ratio:.2f}" if one.ratio is not None else "",
                words[one.reached],
            ]
            for one in goals.verdicts(self.runs)
        ]
        return markdown(["what", "goal", "ours", "against", "ratio", "reached"], rows)

    def depth(self) -> str:
        rows = []
        for variant in self.runs.variants:
            deep = self.runs.good(variant, "depth/deep")
            if deep:
                parts = ", ".join(shown(rate) for rate in deep[0]["rates_of_tenths"])
                rows.append(
                    [
                        variant,
                        cell(self.runs, variant, "depth/shallow", "jobs_per_s"),
                        f"{deep[0]['n']:,}",
                        cell(self.runs, variant, "depth/deep", "jobs_per_s"),
                        parts,
                    ]
                )
        heads = ["system", "20,000 jobs, jobs/s", "deep", "jobs/s", "its tenths, one after another"]
        return markdown(heads, rows) if rows else ""

    def fairness(self) -> str:
        bodies = []
        for kind, heading in (
            ("steady", "A long job every 2.5 s, 100 short ones a second: one worker is free."),
            ("burst", "One long job among 200 short ones at once, every 4 s."),
        ):
            figure = f"fairness/{kind}"
            columns = [
                self.column("wait of a short job, median ms", figure, "p50_ms"),
                self.column("p90", figure, "p90_ms"),
                self.column("p99", figure, "p99_ms"),
                self.column("worst", figure, "max_ms"),
                self.column("over 100 ms", figure, "over_100_ms"),
            ]
            if kind == "burst":
                beside = "beside_idle_over_100_ms"
                columns.append(self.column("of these beside an idle worker", figure, beside))
            body = self.table(columns, [(figure, "p99_ms")], highest=False)
            if body:
                bodies += [heading, body, self.waits(figure)]
        return "\n\n".join(bodies)

    def waits(self, figure: str) -> str:
        """Return the distribution of waits, in short jobs at or under each bound."""
        heads = ["system", *(f"<= {bound} ms" for bound in BOUNDS_MS), f"> {BOUNDS_MS[-1]} ms"]
        rows = [
            [variant, *map(str, good[0]["histogram"].values())]
            for variant in self.runs.variants
            if (good := self.runs.good(variant, figure))
        ]
        return markdown(heads, rows)

    def sustained(self) -> str:
        found = [
            (variant, one)
            for variant in self.runs.variants
            for one in self.runs.good(variant, "sustained")
        ]
        rows = [
            [
                variant,
                shown(one["rate"]),
                shown(one["seconds"]),
                f"{one['n']:,}",
                f"{one['never_ran']} / {one['ran_twice']}",
                f"{one['max_backlog_s']:.2f}",
                f"{one['redis_max_mb']:,.0f}",
                f"{one['redis_growth']:.3f}",
                f"{one['workers_rss_first_mb']:.0f} to {one['workers_rss_last_mb']:.0f}",
            ]
            for variant, one in found
        ]
        heads = [
            "system", "jobs/s", "seconds", "jobs", "lost / twice", "longest backlog, s",
            "Redis, most MB", "Redis, end over beginning", "workers' RSS, MB",
        ]  # fmt: skip
        return markdown(heads, rows) if rows else ""

    def exactly_once(self) -> str:
        rows = []
        for variant in self.runs.variants:
            counted = [
                row
                for row in self.runs.rows
                if row["variant"] == variant and "ran_twice" in row and "n" in row
            ]
            if counted:
                jobs = sum(row["n"] for row in counted)
                lost = sum(row["never_ran"] for row in counted)
                twice = sum(row["ran_twice"] for row in counted)
                rows.append([variant, str(len(counted)), f"{jobs:,}", str(lost), str(twice)])
        return markdown(["system", "runs", "jobs", "never ran", "ran more than once"], rows)

    def commands(self) -> str:
        rows = []
        for variant in self.runs.variants:
            for figure in ("drain/1p/results", "drain/1p/noresults"):
                good = self.runs.good(variant, figure)
                if good:
                    text = ", ".join(f"{k} {v:.2g}" for k, v in good[0]["commands"].items())
                    rows.append([variant, text])
                    break
        return markdown(["system", "those inside MULTI and scripts included"], rows) if rows else ""

    def versions(self) -> str:
        rows = []
        for variant in self.runs.variants:
            system = self.data["systems"][variant]
            used = {}
            for task, figure in (("noop", "drain/1p/"), ("io", "io"), ("cpu", "cpu")):
                for row in self.runs.rows:
                    mine = row["variant"] == variant and row["figure"].startswith(figure)
                    if mine and "settings" in row:
                        pairs = " ".join(f"{k}={v}" for k, v in row["settings"].items())
                        used[task] = f"{task} n={row['n']:,} {pairs}"
            versions = ", ".join(f"{k} {v}" for k, v in system["versions"].items())
            rows.append([variant, versions, "; ".join(used.values())])
        return markdown(["system", "versions", "settings"], rows)

    def failures(self) -> str:
        return "\n".join(
            f"- {row['variant']} {row['figure']} repeat {row['rep']}: "
            + " ".join(row["error"].split())[-200:]
            for row in self.runs.rows
            if "error" in row
        )

    def head(self) -> str:
        machine = self.data["machine"]
        noise = sorted(row["other_cores"] for row in self.runs.rows if "other_cores" in row)
        text = (
            f"Measured on {machine['date']}: {machine['cores']} cores ({machine['cpu']}), "
            f"Linux {machine['kernel']}, Python {machine['python']}, {machine['redis']}. "
            "Medians, [lowest-highest] of the repeats; the method is in README.md."
        )
        if noise:
            text += (
                f" Meanwhile others used {statistics.median(noise):.2f} cores of the machine"
                f" (median; 90th percentile {noise[int(len(noise) * 0.9)]:.2f})."
            )
        return text

    def text(self, images: Sequence[str] = ()) -> str:
        parts = ["# taskq beside its peers", self.head()]
        parts += [f"![{Path(name).stem.replace('-', ' ')}]({name})" for name in images]
        parts += [f"## {heading}\n\n{body}" for heading, body in self.sections() if body]
        return "\n\n".join(parts) + "\n"


def write(out: Path) -> None:
    """Write RESULTS.md and plots/ beside results.json."""
    data = json.loads((out / "results.json").read_text())
    images = plots.write(Runs(data), out)
    (out / "RESULTS.md").write_text(Report(data).text(images))
