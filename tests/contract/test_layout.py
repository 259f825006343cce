"""The shape of the code: who may import whom, what is packaged, what is exported.

A new module fails here until it has its place in `INNER_FIRST`; that is the point.
"""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

INNER_FIRST = """
    errors clock states histogram settings keys ids
    serializers fingerprint exc_names retry timing
    terminal
    broker
    context commands logs
    depends held resources opened injection provider
    signature annotations definition endings targets option_checks options unique registry
    notify spec
    patience questions verdict pending progress callbacks future stream inbox waiting batch handle
    calls tasks steps schedules webhooks app finder
    inspector operations repairs
    contrib
    embedded testing demo
    cli
""".split()
"""Parts of taskq/; each imports only those before it (and, in a package, its own modules)."""

LAZY = {
    ("taskq.app", "taskq.testing.session"): "queue.testing() is where users look for it",
    ("taskq.app", "taskq.testing.eager"): "TASKQ_EAGER: the broker is made by the app",
}
"""Imports that point outward, each inside a function, with their reasons."""

REACHING_OUTWARD = {
    "cli": "starts workers and the dashboard",
    "testing": "runs jobs as a worker does, with the worker's own runners",
}
"""Who imports `taskq.worker` or `taskq.dashboard`, and why."""

FOLDERS = {"taskq": "taskq", "taskq.worker": "worker", "taskq.dashboard": "dashboard"}
"""Where the packages are in the checkout."""

REDIS = ("redis", "rq", "rq_scheduler", "hiredis", "valkey")
REDIS_IMPORTERS = {
    "taskq.broker.": "the broker is our view of Redis",
    "taskq.worker.rq_": "the lane that lets RQ's own code handle its special features",
    "taskq.testing.": "types of the clients that it hands out, as the broker does",
    "taskq.worker.watcher": "catches what its own blocking connections raise",
    "taskq.worker.promote": "the same",
}
"""Beginnings of names, each with its reason."""

EXPORTED = """
    TaskQ task Task Call Retry Depends
    Cron Every Schedule ScheduleNotFound
    Ending verify_webhook
    JobContext current_job
    Handle StreamHandle receive Step step sleep sleep_until Batch wait as_completed gather
    TaskQError BrokerUnavailable ConfigError AmbiguousApp UnknownTask InvalidArguments
    NotSerializable PayloadTooLarge PayloadError DuplicateJob NotReplicated JobNotFound
    ResultExpired ResultTimeout JobCanceled JobFailed TaskTimeout RemoteError
    StepFailed StepMismatch
""".split()
"""What `from taskq import *` gives; a change here is a change of the interface."""


class Import(NamedTuple):
    """One import statement, also inside functions and under TYPE_CHECKING."""

    importer: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer} line {self.line} imports {self.target}"


def _modules() -> dict[str, Path]:
    """All modules by their installed name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join((package, *parts))] = path
    return found


MODULES = _modules()


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports break the mapping of the folders"
        assert node.module
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in MODULES else node.module
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def _imports() -> list[Import]:
    return [
        Import(name, target, getattr(node, "lineno", 0))
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for target in _targets(node)
    ]


IMPORTS = _imports()
OWN = [
    i
    for i in IMPORTS
    if i.target.partition(".")[0] == "taskq" and i.target != i.importer
    if (i.importer, i.target) not in LAZY
]


def _part(module: str) -> str:
    """`cli` of `taskq.cli.worker`; "" for taskq itself."""
    return module.split(".")[1] if "." in module else ""


def test_each_part_has_its_place():
    parts = {_part(name) for name in MODULES} - {"", "__main__", "worker", "dashboard"}
    assert parts - set(INNER_FIRST) == set(), "write them into INNER_FIRST"
    assert set(INNER_FIRST) - parts == set(), "no such module"


def test_imports_point_inwards():
    rank = {part: place for place, part in enumerate(INNER_FIRST)}
    wrong = [
        str(i)
        for i in OWN
        if _part(i.importer) in rank and _part(i.target) in rank
        if rank[_part(i.target)] > rank[_part(i.importer)]
    ]
    assert wrong == []


def test_inside_nobody_imports_the_package_itself():
    """`taskq/__init__` leads to everything: importing it from inside would be a cycle."""
    users = ("demo",)  # a program like a user's
    inner = set(INNER_FIRST).difference(users)
    assert [str(i) for i in OWN if i.target == "taskq" and _part(i.importer) in inner] == []


def test_few_reach_outward():
    outer = ("worker", "dashboard")
    wrong = [
        str(i)
        for i in OWN
        if _part(i.target) in outer
        if _part(i.importer) not in (*outer, *REACHING_OUTWARD)
    ]
    assert wrong == []


def test_lazy_imports_are_lazy():
    for importer, target in LAZY:
        tree = ast.parse(MODULES[importer].read_text(encoding="utf-8"))
        assert target not in [name for node in tree.body for name in _targets(node)]


def test_worker_and_dashboard_never_meet():
    pairs = {(_part(i.importer), _part(i.target)) for i in OWN}
    assert ("worker", "dashboard") not in pairs
    assert ("dashboard", "worker") not in pairs


SEEN_BY_DASHBOARD = """
    taskq.errors taskq.states taskq.keys taskq.settings taskq.terminal
    taskq.inspector taskq.broker.readonly
""".split()
"""Nothing that writes: its only way to Redis refuses all but reads."""


def test_the_dashboard_touches_nothing_that_writes():
    wrong = [
        str(i)
        for i in OWN
        if _part(i.importer) == "dashboard" and _part(i.target) != "dashboard"
        if not i.target.startswith(tuple(SEEN_BY_DASHBOARD))
    ]
    assert wrong == []


def test_nobody_imports_the_command_line():
    allowed = ("cli", "__main__")
    assert [
        str(i) for i in OWN if _part(i.target) == "cli" and _part(i.importer) not in allowed
    ] == []


def test_there_is_no_cycle():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for i in OWN:
        graph[i.importer].add(i.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_who_imports_redis_and_rq():
    wrong = [
        str(i)
        for i in IMPORTS
        if i.target.partition(".")[0] in REDIS
        if not i.importer.startswith(tuple(REDIS_IMPORTERS))
    ]
    assert wrong == []


def test_folders_are_never_imported_by_their_own_names():
    assert [str(i) for i in IMPORTS if i.target.partition(".")[0] in ("worker", "dashboard")] == []


def test_what_is_imported_exists():
    assert [str(i) for i in OWN if i.target not in MODULES] == []


# --- what is packaged -----------------------------------------------------------------

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def _folder(package: str) -> Path:
    for name in ("taskq.worker", "taskq.dashboard"):
        if package == name:
            return ROOT / FOLDERS[name]
    return ROOT / package.replace(".", "/")


def test_the_listed_packages_are_those_on_disk():
    on_disk = {n for n, path in MODULES.items() if path.name == "__init__.py"}
    assert set(SETUPTOOLS["packages"]) == on_disk


def test_each_folder_with_modules_is_a_package():
    without = {
        str(path.parent.relative_to(ROOT))
        for path in MODULES.values()
        if not (path.parent / "__init__.py").exists()
    }
    assert without == set()


@pytest.mark.parametrize("folder", ["worker", "dashboard"])
def test_mapped_folders_are_flat(folder: str):
    assert [p for p in (ROOT / folder).glob("*/**/*.py") if "__pycache__" not in p.parts] == []


def test_all_data_files_are_packaged():
    listed = SETUPTOOLS["package-data"]
    packages = {_folder(package): listed.get(package, []) for package in SETUPTOOLS["packages"]}
    forgotten = []
    for folder in FOLDERS.values():
        for path in (ROOT / folder).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            owner = next(p for p in path.parents if p in packages)
            name = path.relative_to(owner).as_posix()
            if not any(fnmatch.fnmatch(name, pattern) for pattern in packages[owner]):
                forgotten.append(str(path.relative_to(ROOT)))
    assert forgotten == []


def test_each_data_pattern_matches_something():
    for package, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            assert list(_folder(package).glob(pattern)), f"{package}: {pattern}"


# --- what is exported -----------------------------------------------------------------


def test_exported_names():
    import taskq

    assert sorted(taskq.__all__) == sorted(EXPORTED)
    for name in EXPORTED:
        assert getattr(taskq, name) is not None


FRESH = """
import importlib, sys, redis, redis.asyncio, rq
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == "taskq"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""


@pytest.mark.parametrize("part", range(6))
def test_every_module_can_be_imported_first(part: int):
    """An import that only works after another one is a hidden cycle."""
    names = [name for name in sorted(MODULES) if not name.endswith("__main__")][part::6]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *names], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""
