"""The arithmetic behind benchmarks/RESULTS.md."""

from __future__ import annotations

import json
import math
import xml.dom.minidom
from pathlib import Path

import pytest

from benchmarks.harness import arithmetic, goals, plan, plots, report
from benchmarks.harness.arithmetic import Runs
from benchmarks.harness.recorder import Mark


def marks(*times_and_pids: tuple[float, int]) -> list[Mark]:
    return [Mark(at, pid, 1) for at, pid in times_and_pids]


def row(variant: str, figure: str, **figures: object) -> dict[str, object]:
    return {"variant": variant, "figure": figure, "rep": 0, "took_s": 1.0, "attempt": 1, **figures}


def results(*rows: dict[str, object]) -> dict[str, object]:
    systems = {"taskq-async": "taskq", "huey": "huey", "repid": "repid", "rq-simple": "rq"}
    return {
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "kernel": "6.1",
            "python": "3.11.7",
            "redis": "Redis 7.0.15",
            "date": "2026-01-02",
        },
        "systems": {
            name: {"system": system, "versions": {system: "1.0"}, "python": "3.11.7"}
            for name, system in systems.items()
        },
        "runs": list(rows),
    }


class TestDrainRate:
    def test_the_clock_runs_from_the_last_process_to_begin(self):
        early = [(float(k), 1) for k in range(10)]
        late = [(10.0 + k / 10, 1 + k % 2) for k in range(101)]
        figures = arithmetic.drain_rate(marks(*early, *late), "noop")
        # Process 2 began at 10.1; 99 jobs started in the 9.9 s after that.
        assert figures["jobs_per_s"] == pytest.approx(99 / 9.9)
        assert figures["worker_processes"] == 2
        assert figures["shares"] == [50, 61]

    def test_a_process_that_came_too_late_does_not_leave_a_tiny_window(self):
        ran = marks(*[(k / 10, 1) for k in range(100)], (9.95, 2))
        assert arithmetic.drain_rate(ran, "noop")["jobs_per_s"] == pytest.approx(100 / 9.95)

    def test_sleeping_jobs_count_to_the_end_of_the_last_sleep(self):
        ran = marks(*[(0.0, 1)] * 100, *[(0.1, 1)] * 100)
        assert arithmetic.drain_rate(ran, "io")["jobs_per_s"] == pytest.approx(1000)

    def test_jobs_that_never_ran_do_not_count(self):
        ran = [*marks((1.0, 1), (2.0, 1), (3.0, 1)), Mark(0.0, 0, 0)]
        assert arithmetic.drain_rate(ran, "noop")["jobs_per_s"] == pytest.approx(1)


def test_rates_of_parts_see_a_queue_that_slows_down():
    fast = [k / 100 for k in range(500)]
    slow = [5 + k / 10 for k in range(501)]
    rates = arithmetic.rates_of_parts(marks(*[(at, 1) for at in fast + slow]), 2)
    assert rates == pytest.approx([100, 10], rel=0.01)


def test_distribution():
    figures = arithmetic.distribution([float(k) for k in range(1, 101)], "ms")
    assert figures == {"min_ms": 1, "p50_ms": 50.5, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}


class TestFairness:
    def test_a_short_job_behind_a_long_one_beside_an_idle_worker_is_seen(self):
        tasks = ["long", "short", "short"]
        ran = marks((10.0, 1), (12.0, 1), (10.0, 2))  # process 2 idles from 10.001
        figures = arithmetic.waits(tasks, [10.0] * 3, ran, {"long": 2.0, "short": 0.001})
        assert figures["over_1000_ms"] == 1
        assert figures["beside_idle_over_100_ms"] == 1
        assert figures["beside_idle_max_ms"] == pytest.approx(1999, abs=1)

    def test_waiting_for_workers_that_are_all_busy_is_no_fault(self):
        tasks = ["long", "long", "short"]
        ran = marks((10.0, 1), (10.0, 2), (12.0, 1))
        figures = arithmetic.waits(tasks, [10.0] * 3, ran, {"long": 2.0, "short": 0.001})
        assert figures["over_1000_ms"] == 1
        assert figures["beside_idle_over_100_ms"] == 0

    def test_a_worker_that_never_got_a_job_was_idle(self):
        spans = arithmetic.idle_spans(["short"], marks((5.0, 1)), {"short": 0.001})
        assert spans == [(4.0, math.inf)]

    def test_the_timetable_is_the_same_every_time(self):
        table = arithmetic.timetable(24, burst=True)
        assert table == arithmetic.timetable(24, burst=True)
        assert [task for _, task in table].count("long") == 6
        assert len(table) == 6 * 201


def test_histogram_counts_every_value_once():
    counts = arithmetic.histogram([0.5, 1.0, 1.1, 70.0, 9000.0])
    assert counts["<=1"] == 2
    assert counts["<=2"] == 1
    assert counts["<=100"] == 1
    assert counts[">2000"] == 1
    assert sum(counts.values()) == 5


def test_sustained_compares_the_end_with_the_beginning():
    samples = [
        {"second": k, "sent": k, "backlog": 10, "redis_mb": mb, "workers_rss_mb": 40.0}
        for k, mb in enumerate([1.0] * 10 + [100.0] * 10 + [100.0] * 10 + [110.0] * 11)
    ]
    sent = {"seconds": 40.0, "worst_lag_s": 0.1}
    figures = arithmetic.sustained(samples, marks((1.0, 1)), sent, 20.0)
    assert figures["redis_growth"] == pytest.approx(1.1)
    assert figures["max_backlog_s"] == pytest.approx(0.5)


class TestRuns:
    def test_the_best_peer_leaves_ours_out_and_failed_runs(self):
        runs = Runs(
            results(
                row("taskq-async", "io", jobs_per_s=99.0),
                row("huey", "io", jobs_per_s=10.0),
                row("huey", "io", jobs_per_s=30.0),
                row("huey", "io", jobs_per_s=11.0),
                row("repid", "io", jobs_per_s=1000.0, error="it fell over"),
                row("rq-simple", "io", jobs_per_s=9.0),
            )
        )
        assert runs.best("io", "jobs_per_s", ours="taskq") == ("huey", 11.0)
        assert runs.best("io", "jobs_per_s", highest=False) == ("rq-simple", 9.0)
        assert runs.best("cpu", "jobs_per_s") is None

    def test_a_cell_is_the_median_with_its_spread(self):
        values = [row("huey", "io", jobs_per_s=n) for n in (3000.0, 1234.5, 2000.0)]
        assert report.cell(Runs(results(*values)), "huey", "io", "jobs_per_s") == (
            "2,000 [1,234-3,000]"
        )


class TestGoals:
    def verdict(self, what: str, *rows: dict[str, object]) -> goals.Verdict:
        found = [one for one in goals.verdicts(Runs(results(*rows))) if one.what == what]
        return found[0]

    @pytest.mark.parametrize(("ours", "reached"), [(590.0, False), (600.0, True)])
    def test_more_is_better(self, ours: float, reached: bool):
        one = self.verdict(
            "drain, results stored",
            row("taskq-async", "drain/1p/results", jobs_per_s=ours),
            row("huey", "drain/1p/results", jobs_per_s=100.0),
        )
        assert one.reached is reached
        assert one.against == "huey 100/s"

    def test_less_is_better_and_the_lowest_peer_counts(self):
        one = self.verdict(
            "enqueue to start, median",
            row("taskq-async", "latency", p50_ms=1.1),
            row("huey", "latency", p50_ms=1.2),
            row("repid", "latency", p50_ms=1.0),
        )
        assert one.reached is False
        assert one.ratio == pytest.approx(1.1)

    def test_bulk_is_compared_with_the_fastest_way_of_any_peer(self):
        one = self.verdict(
            "enqueue in bulk",
            row("taskq-async", "enqueue/pipelined", jobs_per_s=80_000.0),
            row("rq-simple", "enqueue/pipelined", jobs_per_s=12_000.0),
            row("repid", "enqueue/gather", jobs_per_s=15_000.0),
        )
        assert one.against == "repid 15,000/s"
        assert one.reached is True

    def test_what_was_not_measured_says_so(self):
        assert self.verdict("round trips for a job").reached is None

    def test_nothing_lost_is_a_goal_that_zero_reaches(self):
        one = self.verdict("sustained: jobs lost", row("taskq-async", "sustained", never_ran=0))
        assert one.reached is True

    def test_memory_over_the_peers(self):
        one = self.verdict(
            "idle worker process over RQ's SimpleWorker",
            row("taskq-async", "resident", worker_rss_mb=45.0),
            row("rq-simple", "resident", worker_rss_mb=36.0),
        )
        assert one.reached is True


def test_report_and_charts_are_written(tmp_path: Path):
    drained = {
        "n": 10, "never_ran": 0, "ran_twice": 0, "settings": {"workers": 4}, "commands": {"get": 1},
    }  # fmt: skip
    data = results(
        row("taskq-async", "drain/1p/results", jobs_per_s=30_000.0, **drained),
        row("huey", "drain/1p/results", jobs_per_s=3_000.0, **drained),
        row("huey", "cpu", error="Traceback\nIt fell over"),
    )
    plan.save(tmp_path / "results.json", data)
    assert json.loads((tmp_path / "results.json").read_text())["runs"] == data["runs"]
    report.write(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "![drain](plots/drain.svg)" in text
    assert "| drain, results stored | at least 6 x | taskq-async 30,000/s | huey 3,000/s |" in text
    assert "| **taskq-async** | 30,000 |" in text
    assert "huey cpu repeat 0: Traceback It fell over" in text
    xml.dom.minidom.parse(str(tmp_path / "plots" / "drain.svg"))


def test_numbers_are_kept_short():
    assert plan.rounded({"a": [1.23456789], "b": 123456.789, "c": 7}) == {
        "a": [1.2346],
        "b": 123460.0,
        "c": 7,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.012"), (1.5, "1.50"), (12.34, "12.3"), (12345.6, "12,346")],
)
def test_numbers_are_shown_as_people_read_them(value: float, text: str):
    assert goals.shown(value) == text


def test_an_axis_ends_at_a_round_number():
    assert [plots.nice(value) for value in (0.9, 31_000, 41_000)] == [1.0, 40_000, 50_000]
