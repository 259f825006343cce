"""Both checkers, strict, on right calls (all accepted) and on wrong ones (each refused)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        importlib.util.find_spec("mypy") is None or importlib.util.find_spec("pyright") is None,
        reason="needs mypy and pyright: make dev",
    ),
]

RIGHT = sorted((ROOT / "tests" / "typing").glob("right_*.py"))

WRONG = """
from __future__ import annotations
from collections.abc import Generator
from collections.abc import AsyncIterator, Iterator
from taskq import Batch, Cron, Depends, Every, Handle, Task, TaskQ, sleep, sleep_until, step, task

queue = TaskQ()

@queue.task
def thumbnail(path: str, size: int = 256) -> str:
    return path

@queue.task(queue="web")
async def fetch(url: str, *, tries: int = 1) -> bytes:
    return b""

@task
def resize(path: str) -> int:
    return 1

thumbnail.options(on_success=thumbnail)  # WRONG
thumbnail.options(on_success=3)  # WRONG
@queue.task
def rows(path: str) -> Generator[int, str, bytes]:
    yield 1
    return b""

rows.delay(3)  # WRONG
rows.delay("a").send(3)  # WRONG
rows.delay("a").throw("b")  # WRONG
row: str = next(iter(rows.delay("a").stream()))  # WRONG
thumbnail.delay("a.png").stream()  # WRONG
step(thumbnail, 3)  # WRONG
step(thumbnail, "a", sice=3)  # WRONG
step(fetch, "a", 3)  # WRONG
step(len)  # WRONG
step(thumbnail, "a").options(queue="x")  # WRONG
step(thumbnail, "a").options(timeout="x")  # WRONG
sleep("3")  # WRONG
sleep_until(3)  # WRONG
thumbnail.delay("a.png", sice=64)  # WRONG
thumbnail.delay(3)  # WRONG
thumbnail.delay()  # WRONG
thumbnail.call("a.png", size="big")  # WRONG
thumbnail.options(queue="high").delay("a.png", 1, 2)  # WRONG
thumbnail.options(quue="high")  # WRONG
thumbnail.options(timeout="30")  # WRONG
thumbnail.options(mode="thread")  # WRONG
number: int = thumbnail.delay("a.png").result()  # WRONG
text: str = fetch.delay("x").result()  # WRONG
size: str = resize.delay("x").result()  # WRONG
fetch.delay("x", 3)  # WRONG
thumbnail.handle(3)  # WRONG
thumbnail.map(["a"], sice=3)  # WRONG
thumbnail.map(3)  # WRONG
queue.enqueue([thumbnail])  # WRONG
queue.enqueue([thumbnail.call(3)])  # WRONG
numbers: Batch[int] = thumbnail.map(["a"])  # WRONG
other: Task[[int], str] = thumbnail  # WRONG
TaskQ(3)  # WRONG
TaskQ(serialiser="json")  # WRONG

@queue.task(quue="high")  # WRONG
def misspelled() -> None: ...

async def program() -> None:
    await thumbnail.adelay("a.png", sice=64)  # WRONG
    wrong: Handle[str] = await fetch.adelay("x")  # WRONG
    result: str = await fetch("x")  # WRONG

queue.task(3)  # WRONG

def yields() -> Iterator[str]:
    yield "x"

async def yields_async() -> AsyncIterator[str]:
    yield "x"

@queue.task
def depends(
    *,
    a: int = Depends(yields),  # WRONG
    b: int = Depends(yields_async),  # WRONG
    d: str = Depends(yields, scope="app"),  # WRONG
) -> None: ...

Depends("x")  # WRONG
queue.schedule("x", thumbnail, Every(5))  # WRONG
queue.schedule("x", thumbnail.call("a"), "0 7 * * *")  # WRONG
queue.schedule("x", thumbnail.call("a"), Every(5), missed="never")  # WRONG
queue.schedule("x", thumbnail.call("a"), Every(5), overlaps="skip")  # WRONG
queue.cron("@daily")(3)  # WRONG
Cron("@daily", 5)  # WRONG
Every("5s")  # WRONG

@queue.lifespan  # WRONG
def lifespan() -> int:
    return 1
"""

ONLY_PYRIGHT = """
from taskq import TaskQ
queue = TaskQ()

@queue.task
def thumbnail(path: str, size: int = 256) -> str:
    return path

thumbnail.map([1, 2], size=3)  # WRONG
"""

Check = Callable[[Path], set[int]]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed: neither checker follows the mapping of its folders."""
    folder = tmp_path_factory.mktemp("types")
    package = folder / "taskq"
    package.mkdir()
    for path in (ROOT / "taskq").iterdir():
        (package / path.name).symlink_to(path)
    for name in ("worker", "dashboard"):
        (package / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def mypy(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Check:
    cache = tmp_path_factory.mktemp("mypy_cache")

    def check(file: Path) -> set[int]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--output=json"),
                *("--python-version", "3.10", "--cache-dir", str(cache)),
                *("--follow-imports=silent", "--namespace-packages", "--explicit-package-bases"),
                str(file),
            ],
            cwd=file.parent,
            env={**os.environ, "MYPYPATH": str(packages)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        print(done.stdout)
        return {one["line"] for one in found if one["severity"] == "error"}

    return check


@pytest.fixture(scope="module")
def pyright(packages: Path) -> Check:
    def check(file: Path) -> set[int]:
        config = file.with_name("pyrightconfig.json")
        settings = {
            "include": [str(file)],
            "extraPaths": [str(packages)],
            "typeCheckingMode": "strict",
            "pythonVersion": "3.10",
            "reportUnusedCallResult": False,
        }
        config.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(config)]
        command += ["--pythonpath", sys.executable]
        done = subprocess.run(
            command, cwd=file.parent, capture_output=True, text=True, check=False, timeout=200
        )
        if not done.stdout.startswith("{"):  # it fetches itself from npm when first run
            pytest.skip(f"pyright cannot run here: {(done.stderr or done.stdout)[-300:]}")
        found = json.loads(done.stdout)["generalDiagnostics"]
        print(done.stdout)
        return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}

    return check


def marked(source: str) -> set[int]:
    return {n for n, line in enumerate(source.splitlines(), 1) if line.endswith("# WRONG")}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("page", RIGHT, ids=lambda page: page.stem)
def test_right_calls_are_accepted(checker, page, request, tmp_path):
    file = tmp_path / page.name
    file.write_text(page.read_text())
    assert request.getfixturevalue(checker)(file) == set()


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_wrong_calls_are_refused(checker, request, tmp_path):
    file = tmp_path / "wrong_calls.py"
    file.write_text(WRONG)
    assert request.getfixturevalue(checker)(file) == marked(WRONG)


def test_the_items_of_map_are_checked_by_pyright(pyright, tmp_path):
    file = tmp_path / "wrong_map.py"
    file.write_text(ONLY_PYRIGHT)
    assert pyright(file) == marked(ONLY_PYRIGHT)
