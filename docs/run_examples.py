"""Run the examples in the documentation, as a reader would: `make docs`.

Each page gets an empty directory and an empty private Redis. In it, from top to bottom:

- a ```` ```python hello.py ```` block is written to that file; without a name it is run;
- a ```` ```console ```` block is typed, line by line. A line that begins with `$ ` is a
  command; what follows is its output, in which `...` stands for anything. Commands that
  do not end by themselves (worker, scheduler, dashboard, dev) go on to the end of the page.
- A block after `<!-- not run: REASON -->`, and any other kind of block, is left alone.

Commands that fetch things or belong to the checkout (pip, make, git) are not run either.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from taskq.embedded import EmbeddedRedis

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "ARCHITECTURE.md", "docs/**/*.md"]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?"
    r"^```(?P<kind>python|console)(?: (?P<name>\S+))?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
GOES_ON = re.compile(
    r"(\S+=\S* )*taskq (worker(?!.* --burst)|scheduler|dashboard|dev|info .*--watch)\b"
    r"(?!.*--help)"
)
NOT_OURS = re.compile(r"(pip|pipx|uv|make|git|docker|cd|sudo|apt)\b")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TIMEOUT_S = 60.0


class Command(NamedTuple):
    """A typed line, and the output that the page shows."""

    line: str
    output: str


class Page:
    """A directory with a Redis, in which one page's examples run."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.running: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TASKQ_")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "TASKQ_REDIS_URL": url,
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, command: str) -> str:
        """Run to its end; returns the output."""
        try:
            done = subprocess.run(
                command,
                shell=True,
                cwd=self.home,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"[exit code: it does not end within {TIMEOUT_S:g} s]\n"
        return done.stdout + (f"[exit code {done.returncode}]\n" if done.returncode else "")

    def start(self, command: str, expected: str) -> str:
        """Start in the background; returns the output, once it is as expected."""
        log = self.home / f".output-{len(self.running)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                f"exec env {command}",  # settings may stand before it
                shell=True,
                cwd=self.home,
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append((process, log))
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and process.poll() is None:
            if same(expected, log.read_text()):
                break
            time.sleep(0.05)
        return log.read_text()

    def close(self) -> None:
        for process, _ in self.running:
            process.terminate()
        for process, _ in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def same(expected: str, output: str) -> bool:
    """Whether the output is what the page shows; a page that shows none is content."""
    if not expected.strip():
        return "Traceback" not in output and "[exit code" not in output
    return doctest.OutputChecker().check_output(
        f"{expected.strip()}\n", f"{output.strip()}\n", FLAGS
    )


def commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        while line.endswith("\\"):
            more, _, output = output.partition("\n")
            line = line[:-1] + more
        yield Command(line, output)


def check_page(path: Path, page: Page) -> Iterator[str]:
    """Run the blocks of a page; yields what went wrong."""
    content = path.read_text(encoding="utf-8")
    for block in BLOCK.finditer(content):
        if block["reason"]:
            continue
        where = (
            f"{os.path.relpath(path, ROOT)}:{content.count(chr(10), 0, block.start('kind')) + 1}"
        )
        if block["kind"] == "python" and block["name"]:
            file = page.home / block["name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block["text"])
        elif block["kind"] == "python":
            (page.home / "example.py").write_text(block["text"])
            output = page.run(f"{sys.executable} example.py")
            if not same("", output):
                yield f"{where}: the example fails:\n{output}"
        else:
            for command in commands(block["text"]):
                if NOT_OURS.match(command.line):
                    continue
                if GOES_ON.match(command.line):
                    output = page.start(command.line, command.output)
                else:
                    output = page.run(command.line)
                if not same(command.output, output):
                    shown = command.output.strip() or "(nothing; it should succeed)"
                    yield f"{where}: $ {command.line}\n- the page:\n{shown}\n- really:\n{output}"


def main() -> int:
    """Check all pages, or those named; the exit code tells whether all is well."""
    named = [Path(name).resolve() for name in sys.argv[1:]]
    pages = named or sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    failed = 0
    for path in pages:
        if not BLOCK.search(path.read_text(encoding="utf-8")):
            continue
        with tempfile.TemporaryDirectory() as folder, EmbeddedRedis.start() as server:
            page = Page(Path(folder), server.url)
            try:
                problems = list(check_page(path, page))
            finally:
                page.close()
        print(f"{'FAILED' if problems else 'ok'}  {os.path.relpath(path, ROOT)}", flush=True)
        print("\n".join(problems), end="\n" if problems else "")
        failed += len(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
