"""Options of the commands, and where their values come from: flag, environment, file, default.

An option `--log-level` of `taskq worker` is `TASKQ_WORKER_LOG_LEVEL` or `log-level`
in `[tool.taskq.worker]`. The options that belong to an installation rather than to
one command (`shared=True`) are also `TASKQ_LOG_LEVEL` and `log-level` in
`[tool.taskq]`; the longer name wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from taskq.cli import config

if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
    _Moment = click.ParamType[datetime]
else:  # not generic before click 8.2
    _Seconds = _Moment = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?"
)
_UNITS_S = (86400, 3600, 60, 1)


class Setting(click.Option):
    """An option with a value from the flag, the environment, pyproject.toml, or its default."""

    def __init__(self, *args: Any, shared: bool = False, **settings: Any) -> None:
        """`shared`: the short names, without the command's, count as well."""
        super().__init__(*args, **settings)
        self.shared = shared
        self.found_in = ""

    @property
    def keys(self) -> list[str]:
        """Names of this option in the file and, in capitals, the environment: `queue`, `queues`."""
        long = [name[2:].replace("-", "_") for name in self.opts if name.startswith("--")]
        return [*long, *([str(self.name)] if self.multiple and self.name not in long else [])]

    def variables(self, ctx: click.Context) -> list[str]:
        """Environment variables that set this option, the strongest first."""
        own = [f"{ctx.auto_envvar_prefix}_{key.upper()}" for key in self.keys]
        return own + ([f"TASKQ_{key.upper()}" for key in self.keys] if self.shared else [])

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The first of `variables` that is set and not empty."""
        for variable in self.variables(ctx):
            value = os.environ.get(variable)
            if value:
                self.found_in = variable
                return value
        return None

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """As click; several values are separated by commas or blanks."""
        if self.multiple:
            text = self.resolve_envvar_value(ctx)
            return None if text is None else tuple(re.split(r"[,\s]+", text.strip(", \t\n")))
        return super().value_from_envvar(ctx)

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, ParameterSource]:
        """As click, with pyproject.toml between the environment and the default."""
        self.found_in = ""
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.DEFAULT and not ctx.resilient_parsing:
            found = config.lookup(ctx, self.keys, shared=self.shared)
            if found is not None:
                self.found_in = found.where
                return found.value, ParameterSource.DEFAULT_MAP
        return value, source

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """As click; a wrong value that was not typed here says where it stands."""
        try:
            return super().process_value(ctx, value)
        except click.BadParameter as error:
            if not self.found_in:
                raise
            message = f"{error.message.rstrip('.')} (from {self.found_in})."
            raise click.BadParameter(message, ctx, self) from error

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As click, with the shortest environment variable behind the text."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        names, text = record
        shown = self.variables(ctx)[len(self.keys) if self.shared else 0]
        return names, f"{text}  [{shown}]"


def setting(*names: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` for a `Setting`."""
    return click.option(*names, cls=Setting, **settings)


class Duration(_Seconds):
    """Seconds, or `90s`, `5m`, `2h`, `1d`, also together: `1h30m`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds as a float."""
        if isinstance(value, (int, float)):
            return float(value)
        parts = _DURATION.fullmatch(value.strip().lower())
        if parts is None or not any(parts.groups()):
            self.fail(
                f"{value!r} is no duration: write seconds, or 90s, 5m, 2h, 1d, 1h30m", param, ctx
            )
        return sum(float(part) * unit for part, unit in zip(parts.groups(), _UNITS_S) if part)


class Moment(_Moment):
    """A date with its zone, `2026-11-22T18:00:00Z` or `2026-11-22 18:00+01:00`."""

    name = "date"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """An aware datetime."""
        moment = value
        if not isinstance(value, datetime):
            # Python 3.10 reads neither the Z nor a date without a time of day as we do
            text = re.sub(r"[zZ]$", "+00:00", str(value).strip())
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                self.fail(f"{value!r} is no date: write 2026-11-22T18:00:00Z", param, ctx)
        if moment.tzinfo is None:
            here = moment.astimezone().isoformat(timespec="minutes")
            self.fail(
                f"{value!r} has no time zone: add Z for UTC, or the zone ({here} here)", param, ctx
            )
        assert isinstance(moment, datetime)
        return moment


class Since(_Seconds):
    """A duration back from now, or a date with its zone."""

    name = "since"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds since 1970."""
        if isinstance(value, str) and re.match(r"\s*\d{4}-", value):
            return Moment().convert(value, param, ctx).timestamp()
        back = Duration().convert(value, param, ctx)
        return datetime.now(timezone.utc).timestamp() - back


class Command(click.Command):
    """A command that knows the table of the file that belongs to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click; then a key of the file that is no option is an error."""
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            config.refuse_unknown(
                ctx, [key for each in self.params if isinstance(each, Setting) for key in each.keys]
            )
        return rest


def command(name: str, *, text: str, summary: str, **settings: Any) -> Callable[[Any], Command]:
    """`click.command` with our class; `text` is the long help."""
    return click.command(name, cls=Command, help=text, short_help=summary, **settings)


class AppArgument(click.Argument):
    """APP, else TASKQ_APP, else `app` under `[tool.taskq]`."""

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, ParameterSource]:
        """As click, with pyproject.toml behind the environment."""
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.DEFAULT and not ctx.resilient_parsing:
            found = config.lookup(ctx, ["app"], shared=True)
            if found is not None:
                return found.value, ParameterSource.DEFAULT_MAP
        return value, source


def app_argument(command: F) -> F:
    """APP of commands that load an app."""
    return click.argument("app", required=False, envvar="TASKQ_APP", cls=AppArgument)(command)


def redis_option(command: F) -> F:
    """`--redis-url` of commands that only talk to Redis."""
    return click.option(
        "--redis-url",
        metavar="URL",
        help="Where Redis is, instead of the configured place.  [TASKQ_REDIS_URL, REDIS_URL]",
    )(command)


def json_option(command: F) -> F:
    """`--json` of commands that print."""
    return setting("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")(command)


def log_options(command: F) -> F:
    """What a service logs, and how."""
    for decorate in (
        setting(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            shared=True,
            help="How it is logged.",
        ),
        setting(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
            default="info",
            show_default=True,
            shared=True,
            help="What is logged.",
        ),
    ):
        command = decorate(command)
    return command
