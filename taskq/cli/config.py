"""Values of options in `[tool.taskq]` of the nearest pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Found(NamedTuple):
    """A value in the file, and where it stands, for messages."""

    value: Any
    where: str


def lookup(command: str, keys: Sequence[str], *, shared: bool) -> Found | None:
    """The value of an option: in `[tool.taskq.COMMAND]`, for shared ones also in `[tool.taskq]`.

    `keys` are its names with underscores; the file may write dashes.
    """
    table, path = _table()
    own = table.get(command)
    if isinstance(own, Mapping):
        found = _pick(own, keys)
        if found is not None:
            return Found(found[1], f"{found[0]} under [tool.taskq.{command}] in {path}")
    if shared:
        found = _pick(table, keys)
        if found is not None:
            return Found(found[1], f"{found[0]} under [tool.taskq] in {path}")
    return None


def _pick(table: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, Any] | None:
    for key, value in table.items():
        if key.replace("-", "_") in keys:
            return key, value
    return None


def _table() -> tuple[Mapping[str, Any], str]:
    return {}, "pyproject.toml"
