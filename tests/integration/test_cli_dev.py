"""`taskq dev`: a script in a second terminal finds its Redis, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, wait_until

HELLO = """
from taskq import TaskQ

queue = TaskQ()

@queue.task
def add(a: int, b: int) -> int:
    return a + b

@queue.task(queue="other")
async def double(n: int) -> int:
    return 2 * n

if __name__ == "__main__":
    print(add.delay(2, 3).result(timeout=10), double.delay(4).result(timeout=10))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(HELLO)
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "dev", "hello.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
        timeout=15,
    )


def test_a_script_in_a_second_terminal_finds_it(folder: Path, dev: subprocess.Popen[str]) -> None:
    file = folder / ".taskq" / "dev.json"
    wait_until(file.exists, 10)
    socket = Path(json.loads(file.read_text())["url"].removeprefix("unix://"))
    done = _run(folder, "hello.py")
    assert done.stdout == "5 8\n", done.stderr
    second = _run(folder, "-m", "taskq", "dev", "hello.py")
    assert second.returncode == 2
    assert "taskq dev runs here already" in second.stderr
    dev.send_signal(signal.SIGINT)
    output, _ = dev.communicate(timeout=10)
    assert dev.returncode == 0, output
    assert "Traceback" not in output
    assert not file.exists()
    wait_until(lambda: not socket.exists(), 5)


def test_an_app_that_names_its_own_redis_is_refused(folder: Path) -> None:
    source = HELLO.replace("TaskQ()", "TaskQ('redis://127.0.0.1:1/0')")
    (folder / "hello.py").write_text(source)
    done = _run(folder, "-m", "taskq", "dev", "hello.py")
    assert done.returncode == 2
    assert "names a Redis itself" in done.stderr
    assert not (folder / ".taskq" / "dev.json").exists()


def test_it_needs_an_app(folder: Path) -> None:
    done = _run(folder, "-m", "taskq", "dev")
    assert done.returncode == 2
    assert "taskq dev" in done.stderr
