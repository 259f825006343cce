"""`taskq dev`: a script in a second terminal finds its Redis, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskq.cli.dev import _redis
from taskq.cli.dev_reload import Reloads
from taskq.settings import DEV_FILE
from tests.engine import descendants
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
    print(add.delay(2, 3).result(timeout=40), double.delay(4).result(timeout=40))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(HELLO)
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "dev", "hello.py", "--port", "0"],
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
        timeout=50,
    )


@pytest.mark.timeout(120)
def test_a_script_in_a_second_terminal_finds_it(folder: Path, dev: subprocess.Popen[str]) -> None:
    file = folder / ".taskq" / "dev.json"
    wait_until(file.exists, 20)
    socket = Path(json.loads(file.read_text())["url"].removeprefix("unix://"))
    done = _run(folder, "hello.py")
    assert done.stdout == "5 8\n", done.stderr
    second = _run(folder, "-m", "taskq", "dev", "hello.py")
    assert second.returncode == 2
    assert "taskq dev runs here already" in second.stderr
    dev.send_signal(signal.SIGINT)
    output, _ = dev.communicate(timeout=30)
    assert dev.returncode == 0, output
    assert "Traceback" not in output
    assert "\x1b" not in output  # colours are for terminals
    heads = {line.partition("|")[0].strip() for line in output.splitlines() if "|" in line}
    assert heads >= {"worker", "scheduler"}
    assert all("|" in line for line in output.splitlines()), output
    assert not file.exists()
    wait_until(lambda: not socket.exists(), 5)


def test_its_address_appears_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in a second terminal may look at any moment."""
    monkeypatch.chdir(folder)
    seen: list[tuple[bool, str]] = []
    move = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == DEV_FILE:
            seen.append((target.exists(), json.loads(self.read_text())["url"]))
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with _redis() as url:
        assert seen == [(False, url)]  # there was nothing before it was there to the last byte
        assert json.loads(DEV_FILE.read_text())["url"] == url
        assert sorted(path.name for path in DEV_FILE.parent.iterdir()) == [".gitignore", "dev.json"]
    assert not DEV_FILE.exists()


@pytest.mark.timeout(300)
def test_a_change_of_the_code_starts_it_again_and_a_broken_one_waits(
    folder: Path, dev: subprocess.Popen[str]
) -> None:
    seen: list[str] = []
    assert dev.stdout is not None
    threading.Thread(target=seen.extend, args=(dev.stdout,), daemon=True).start()

    def wait_for(text: str, times: int = 1) -> None:
        wait_until(
            lambda: sum(text in line for line in seen) >= times, 60, message=lambda: "".join(seen)
        )

    wait_for("ready (process")
    (folder / "hello.py").write_text(HELLO.replace("return a + b", "return a + b +"))
    wait_for("worker    | hello.py changed: starting again")
    wait_for("SyntaxError")
    wait_for("worker    | ended with exit code 2. Starts again when the code changes.")
    (folder / "hello.py").write_text(HELLO.replace("return a + b", "return a + b + 100"))
    wait_for("ready (process", 2)
    assert _run(folder, "hello.py").stdout == "105 8\n"
    dev.send_signal(signal.SIGTERM)
    wait_until(lambda: dev.poll() is not None, 30)
    assert dev.returncode == 0, "".join(seen)


def test_nothing_is_left_running_when_it_is_killed(
    folder: Path, dev: subprocess.Popen[str]
) -> None:
    wait_until((folder / ".taskq" / "dev.json").exists, 20)
    wait_until(lambda: len(descendants(dev.pid)) >= 4, 30)
    children = descendants(dev.pid)
    dev.kill()
    dev.wait()
    wait_until(lambda: not any(_lives(pid) for pid in children), 30)


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("polls", [True, False])
def test_changed_files_are_found(tmp_path: Path, polls: bool) -> None:
    if not polls:
        pytest.importorskip("watchfiles")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "package").mkdir()
    one = tmp_path / "package" / "one.py"
    one.write_text("1")
    reloads = Reloads(tmp_path, polls=polls)
    try:
        number = 1

        def change() -> set[Path]:  # again and again: the other one's watch may not stand yet
            nonlocal number
            number += 1
            one.write_text("1" * number)
            (tmp_path / "text.txt").write_text(str(number))
            (tmp_path / "venv" / "library.py").write_text(str(number))
            return reloads.wait(0.7)

        assert wait_until(change, 15) == {one}
        one.unlink()
        wait_until(lambda: one in reloads.wait(0.5), 15)
    finally:
        reloads.close()


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
