"""Run RQ's own test suite: with our Worker in the place of RQ's, and with both side by side.

The suite is taken from RQ's source distribution in the package registry, of the installed
version, and never committed. Prints passed / failed / skipped and each test left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

import psutil

from taskq.embedded import EmbeddedRedis

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".rq-suite"
TIMEOUT_S = 60
MODES = {
    "theirs": "stock RQ",
    "ours": "taskq.worker.Worker in the place of RQ's Worker and SimpleWorker",
    "both": "ours and RQ's own by turns, on one Redis",
}


def fetch() -> Path:
    """The folder with the suite of the installed RQ, downloaded when it is not there yet."""
    version = metadata.version("rq")
    folder = CACHE / f"rq-{version}"
    if not (folder / "tests").is_dir():
        CACHE.mkdir(exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
             f"rq=={version}", "--no-binary", "rq", "--no-deps", "--dest", str(CACHE)],
            check=True,
        )  # fmt: skip
        with tarfile.open(CACHE / f"rq-{version}.tar.gz") as archive:
            checked = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(CACHE, **checked)  # its hash is the registry's
        shutil.rmtree(folder / "rq")  # the installed one is tested
    return folder


def left_out(mode: str) -> dict[str, str]:
    """Tests by name, each with its reason."""
    known = tomllib.loads((HERE / "left_out.toml").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    if mode != "theirs":
        found.update(known["ours"])
    if mode == "both":
        found.update(known["both"])
    return found


def end_all(port: int) -> None:
    """End what a suite on the server at `port` has started and left, in sessions of its own."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RQ_SUITE_PORT") == str(port):
                process.kill()


def run(mode: str, folder: Path, more: list[str]) -> bool:
    """Run the suite once; returns whether all passed."""
    print(f"\n== {MODES[mode]}", flush=True)
    skipped = left_out(mode)
    # RQ's tests leave schedulers behind (whose worker they kill), which would hold a pipe open
    with EmbeddedRedis.start(port=0) as server, tempfile.TemporaryFile("w+") as told:
        suite = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:valkey",
             "-p", "no:taskq.testing.plugin", "-p", "no:cacheprovider", "-W", "ignore",
             "--timeout", str(TIMEOUT_S), "--tb", "short",
             *(f"--deselect={name}" for name in skipped), *more],
            cwd=folder, stdout=told,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join([str(HERE / "site"), str(folder)]),
                "RQ_SUITE_PORT": str(server.port),
                "RQ_SUITE_WORKERS": mode,
                # RQ's tests look at the order of jobs, and its workers run one at a time
                "TASKQ_THREADS": "1",
                "TASKQ_CONCURRENCY": "1",
            },
        )  # fmt: skip
        try:
            code = suite.wait()
        finally:
            end_all(server.port)
        told.seek(0)
        report = told.read()
    if code:
        print(report)
    for name, reason in skipped.items():
        print(f"left out: {name}\n    {' '.join(reason.split())}")
    last = re.search(r"\d+ (passed|failed).*", report)
    print(f"{mode}: {last[0] if last else report[-500:]}; {len(skipped)} left out by name")
    return code == 0


def main() -> int:
    """Returns the exit code: 0 when every test that is not left out has passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.rq_suite", description=__doc__)
    parser.add_argument("--mode", action="append", choices=MODES, help="default: ours and both")
    parser.add_argument("more", nargs="*", metavar="PYTEST", help="what pytest is given: files, -k")
    chosen = parser.parse_args()
    folder = fetch()
    passed = [run(mode, folder, chosen.more) for mode in chosen.mode or ("ours", "both")]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
