"""Values of options in `[tool.taskq]` of the nearest pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from taskq.errors import ConfigError

_META = "taskq.cli.config"


class Found(NamedTuple):
    """A value in the file, and where it stands, for messages."""

    value: Any
    where: str


def lookup(ctx: click.Context, keys: Sequence[str], *, shared: bool) -> Found | None:
    """The value of an option: in `[tool.taskq.COMMAND]`, for shared ones also in `[tool.taskq]`.

    `keys` are its names with underscores; the file may write dashes.

    Raises:
        ConfigError: the file cannot be read.
    """
    table, path = _table(ctx)
    own = table.get(ctx.info_name or "")
    if isinstance(own, Mapping):
        found = _pick(own, keys)
        if found is not None:
            return Found(found[1], f"{found[0]} under [tool.taskq.{ctx.info_name}] in {path}")
    if shared:
        found = _pick(table, keys)
        if found is not None:
            return Found(found[1], f"{found[0]} under [tool.taskq] in {path}")
    return None


def refuse_unknown(ctx: click.Context, known: Sequence[str]) -> None:
    """Check the command's own table: a misspelt key must not be ignored in silence.

    Raises:
        ConfigError: a key that is no option of this command.
    """
    table, path = _table(ctx)
    own = table.get(ctx.info_name or "")
    if not isinstance(own, Mapping):
        return
    for key in own:
        if key.replace("-", "_") not in known:
            allowed = ", ".join(sorted(name.replace("_", "-") for name in known))
            raise ConfigError(
                f"{key} under [tool.taskq.{ctx.info_name}] in {path} is no option of "
                f'"taskq {ctx.info_name}". Allowed: {allowed}.'
            )


def _pick(table: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, Any] | None:
    for key, value in table.items():
        if key.replace("-", "_") in keys and not isinstance(value, Mapping):
            return key, value
    return None


def _table(ctx: click.Context) -> tuple[Mapping[str, Any], str]:
    """The whole table, read once for each run of the command line."""
    meta = ctx.find_root().meta
    if _META not in meta:
        from taskq.settings import load  # noqa: PLC0415 (--help must not read files)

        settings = load()
        meta[_META] = (settings.table, str(settings.file or "pyproject.toml"))
    table: tuple[Mapping[str, Any], str] = meta[_META]
    return table
