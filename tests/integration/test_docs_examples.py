"""`make docs` finds examples that do not run, and runs those that do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

GOOD = """
```python hello.py
from taskq import TaskQ

queue = TaskQ()

@queue.task
def add(a: int, b: int) -> int:
    return a + b

if __name__ == "__main__":
    print(add.delay(1, 2).result(timeout=10))
```

```console
$ taskq worker hello.py --processes 1
...tasks  hello.add...
$ python hello.py
3
$ pip install something-that-is-not-there
```

```python
print("on its own")
```

<!-- not run: needs a network -->
```python
raise SystemExit(1)
```

```text
$ false
```
"""


def run(page: Path, text: str) -> subprocess.CompletedProcess[str]:
    page.write_text(text)
    return subprocess.run(
        [sys.executable, ROOT / "docs" / "run_examples.py", page],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


def test_a_page_that_is_right(page: Path):
    done = run(page, GOOD)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok  ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nraise KeyError(3)\n```\n", "page.md:1: the example fails:"),
        ("\n```console\n$ echo 1\n2\n```\n", "page.md:2: $ echo 1\n- the page:\n2\n- really:\n1"),
        ("```console\n$ false\n```\n", "(nothing; it should succeed)"),
        ("```console\n$ taskq worker nothing.py\n...ready...\n```\n", "- the page:\n...ready..."),
    ],
)
def test_a_page_that_is_wrong(page: Path, text: str, message: str):
    done = run(page, text)
    assert done.returncode == 1
    assert done.stdout.startswith("FAILED  ")
    assert message in done.stdout
