"""``python -m benchmarks.faults HARNESS``: put taskq into a copy of the fault harness.

HARNESS is a directory with `run.py`, `kit/` and `systems/` that may be written to. What is done
may be done again: the adapter is copied, rows are added to the registry, and environments are
made under HARNESS/venvs. Then, in HARNESS:

    REDIS_SERVER=... venvs/host/bin/python run.py -s taskq taskq-asyncio -f F1 F4

With `--rq` there is an environment of RQ, too, for comparison.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
MARK = "# rows of taskq"

ROWS = {
    "taskq": {"notes": "def tasks on threads, 1 process, 1 queue, defaults"},
    "taskq-3q": {"opts": {"queues": "q,q2,q3"}, "notes": "the same with three queues"},
    "taskq-asyncio": {"opts": {"mode": "asyncio"}, "notes": "async def tasks"},
    "taskq-generator": {"opts": {"mode": "generator"}, "notes": "generator tasks"},
    "taskq-process": {"opts": {"mode": "process"}, "notes": "process tasks"},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("harness", type=Path)
    parser.add_argument("--rq", action="store_true", help="also make an environment of RQ")
    told = parser.parse_args()
    harness: Path = told.harness.resolve()
    if not (harness / "kit" / "registry.py").exists():
        raise SystemExit(f"{harness} is no copy of the harness: it has no kit/registry.py.")
    (harness / "systems" / "taskq_sys.py").write_text((HERE / "taskq_sys.py").read_text())
    registry = harness / "kit" / "registry.py"
    text = registry.read_text().partition(MARK)[0].rstrip("\n") + "\n"
    registry.write_text(text + _rows())
    for name in ("results", "logs", "venvs"):
        (harness / name).mkdir(exist_ok=True)
    _environment(harness / "venvs" / "host", "redis", "psutil")
    _environment(harness / "venvs" / "taskq", f"{CHECKOUT}[worker,embedded]", "psutil")
    if told.rq:
        _environment(harness / "venvs" / "rq", "rq==3.0.0", "psutil")
    print(f"Ready: cd {harness} && venvs/host/bin/python run.py -s {' '.join(ROWS)}")


def _rows() -> str:
    lines = [MARK]
    for name, row in ROWS.items():
        made = {"module": "systems.taskq_sys", "venv": "taskq", **row}
        lines.append(f"SYSTEMS[{name!r}] = {made!r}")
    return "\n".join(lines) + "\n"


def _environment(home: Path, *packages: str) -> None:
    if not (home / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "--disable-pip-version-check", *packages], check=True)


if __name__ == "__main__":
    main()
