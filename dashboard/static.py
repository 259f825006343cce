"""Files that the pages need: read once, packed once, kept by browsers for ever.

An address has the hash of its content, so a new version has a new address.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from typing import NamedTuple

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class File(NamedTuple):
    """One file: its content, the same packed, its type, and a hash of it."""

    content: bytes
    packed: bytes
    type: str
    digest: str


class Static:
    """All files of the folder `static`, by name; there are no others to ask for."""

    def __init__(self) -> None:
        """Read and pack them."""
        self.files: dict[str, File] = {}
        for entry in resources.files("taskq.dashboard").joinpath("static").iterdir():
            kind = _TYPES.get("." + entry.name.rpartition(".")[2])
            if kind is not None:
                content = entry.read_bytes()
                digest = hashlib.sha256(content).hexdigest()[:16]
                self.files[entry.name] = File(content, gzip.compress(content, 9), kind, digest)

    def address(self, name: str) -> str:
        """The address of a file, below the root of the dashboard."""
        return f"/static/{name}?{self.files[name].digest}"
