"""The Lua scripts: read once from `lua/*.lua`, run by their digest.

A head comment in each file says its keys, arguments, answer and cost. A first
line `-- include: lib reclaim` puts those files before the text.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_INCLUDE = "-- include:"


class Script(NamedTuple):
    """Source text and its SHA1, as EVALSHA wants it."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script `lua/NAME.lua` with what it includes.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    folder = files("taskq.broker").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text("utf-8")
    first = text.partition("\n")[0]
    if first.startswith(_INCLUDE):
        parts = [
            folder.joinpath(f"{part}.lua").read_text("utf-8")
            for part in first[len(_INCLUDE) :].split()
        ]
        text = "\n".join([*parts, text])
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 (Redis's choice)
