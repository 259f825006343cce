"""`taskq demo`: brings its own Redis, checks its own results, says so by its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskq.demo import run as demo
from tests.support import ROOT


def _demo(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskq", "demo", *arguments],
        capture_output=True,
        check=False,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        timeout=50,
    )


@pytest.mark.timeout(60)  # on a busy machine; else 3
def test_all_results_are_right_and_the_exit_code_says_so() -> None:
    done = _demo("--files", "40", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] == 40
    assert told["jobs"] == 3 * 40 + demo.FLAKY_COUNT + 2
    assert told["retries"] == 2 * demo.FLAKY_COUNT
    assert told["wrong"] == []
    assert told["checked"] > 3 * 40
    assert 0 <= told["delayed_job_late_s"] < 1
    assert len(told["largest"]) == demo.LARGEST


@pytest.mark.timeout(60)  # on a busy machine; else 3
def test_an_explicit_redis_comes_first(redis_url: str) -> None:
    done = _demo("--files", "20", env={"TASKQ_REDIS_URL": redis_url})
    assert done.returncode == 0, done.stderr
    assert "(from TASKQ_REDIS_URL)" in done.stdout
    assert "largest modules" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(60)  # on a busy machine; else 6: five workers, one after another
def test_every_way_gives_the_results_of_plain_python(tmp_path: Path) -> None:
    chart = tmp_path / "ways.svg"
    done = _demo("--ways", "--files", "20", "--svg", str(chart), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == 0
    assert told["jobs"] == {"pages": 20, "files": 20, "mixed": 20}
    names = ["plain Python", "process", "thread", "generator", "asyncio", "two workers"]
    assert list(told["ways"]) == names
    for loads in told["ways"].values():
        assert all(one["seconds"] > 0 and one["memory_mb"] > 10 for one in loads.values())
    pages = {name: loads["pages"]["seconds"] for name, loads in told["ways"].items()}
    assert pages["asyncio"] < pages["plain Python"]  # twenty waits at once, not in turn
    drawn = chart.read_text()
    assert drawn.startswith("<svg") and all(name in drawn for name in names)


def test_a_wrong_result_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = demo.Outcome(files=1)
    check = demo._Check(outcome)
    check.each("digest", ["a.py"], ["not its hash"], lambda _path: "its hash")
    assert outcome.checked == 2
    assert outcome.wrong == ["digest a.py: got 'not its hash', expected 'its hash'"]


def test_the_input_is_over_a_thousand_real_files() -> None:
    files = demo.standard_library()
    assert len(files) > 500  # some distributions package the standard library's tests apart
    assert all(path.suffix == ".py" for path in files)
    assert not any("site-packages" in path.parts for path in files)
