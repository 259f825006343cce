"""The systems under test: their environments, their adapters, how to call them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import processes

HOME = Path(__file__).resolve().parents[1]
CHECKOUT = HOME.parent
SIDE = HOME / "side"
ANSWER = "ANSWER "  # as in side/adapter.py
CALL_S = 300
OURS = "taskq"


def environments() -> Path:
    """Return the directory of the virtual environments (BENCH_VENVS, else .bench/venvs)."""
    return Path(os.environ.get("BENCH_VENVS") or HOME / ".bench" / "venvs")


def set_up(only: set[str] | None = None) -> None:
    """Make the missing environments: the newest version of every system that runs with them."""
    uv = shutil.which("uv")
    for wanted in sorted((HOME / "requirements").glob("*.txt")):
        name, target = wanted.stem, environments() / wanted.stem
        stamp = target / "made-from.txt"
        if only and name not in only:
            continue
        if stamp.exists() and stamp.read_text() == wanted.read_text():
            continue
        print(f"benchmark: making the environment of {name}", flush=True)
        python = str(target / "bin" / "python")
        if uv:
            make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(target)]
            install = [uv, "pip", "install", "--quiet", "--python", python]
        else:
            make = [sys.executable, "-m", "venv", "--clear", str(target)]
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(make, check=True)
        subprocess.run([*install, "-r", str(wanted)], check=True, cwd=CHECKOUT)
        stamp.write_text(wanted.read_text())


@dataclass(frozen=True)
class Variant:
    """One system with one set of settings: a line of the tables."""

    name: str
    system: str
    adapter: Path
    described: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        return self.described["variants"][self.name]  # type: ignore[no-any-return]

    @property
    def bulk(self) -> str | None:
        kind: str | None = self.meta.get("bulk") or self.described["bulk"]
        return kind

    @property
    def stores(self) -> list[bool]:
        """Return the result settings it can run with, storing first."""
        able = {
            True: self.described["can_store_results"],
            False: self.described["can_skip_results"],
        }
        return [results for results in (True, False) if able[results]]

    @property
    def sends_as(self) -> str:
        """Return the variant whose enqueuing is the same."""
        return str(self.meta.get("enqueue_of", self.name))


def python_of(system: str) -> Path:
    return environments() / system / "bin" / "python"


def environment(**settings: Any) -> dict[str, str]:
    """Return what an adapter is told, in a clean environment."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
    search = os.pathsep.join(str(p) for p in (SIDE, HOME, HOME / "adapters"))
    told = {f"BENCH_{name.upper()}": str(value) for name, value in settings.items()}
    return {**kept, "PYTHONPATH": search, "PYTHONWARNINGS": "ignore", **told}


def ask(
    variant: Variant | Path,
    wish: str,
    env: dict[str, str],
    order: dict[str, Any] | None = None,
    cpus: set[int] | None = None,
    limit_s: float = CALL_S,
) -> Any:
    """Run an adapter and return its answer."""
    adapter = variant if isinstance(variant, Path) else variant.adapter
    system = adapter.stem.removesuffix("_adapter")
    pipe = subprocess.PIPE
    process = processes.start(
        [str(python_of(system)), str(adapter), wish],
        cpus,
        env=env,
        cwd=adapter.parent,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    try:
        out, err = process.communicate(json.dumps(order) if order else "", timeout=limit_s)
    finally:
        processes.end(process)
    for line in reversed(out.splitlines()):
        if line.startswith(ANSWER):
            return json.loads(line[len(ANSWER) :])
    raise RuntimeError(f"{adapter.name} {wish}: {err[-1500:]}")


def discover(only: set[str] | None = None) -> dict[str, Variant]:
    """Return the variants of every adapter whose environment exists, ours first."""
    found = {}
    for adapter in [*HOME.glob("*_adapter.py"), *sorted((HOME / "adapters").glob("*_adapter.py"))]:
        system = adapter.stem.removesuffix("_adapter")
        if only and system not in {word.partition("-")[0] for word in only}:
            continue
        if not python_of(system).exists():
            print(f"benchmark: {system} left out, no environment (run: setup)", flush=True)
            continue
        try:
            described = ask(adapter, "describe", environment())
        except RuntimeError as error:
            print(f"benchmark: {system} left out, its adapter fails: {error}", flush=True)
            continue
        for name in described["variants"]:
            if not only or name in only or system in only:
                found[name] = Variant(name, system, adapter, described)
    return found
