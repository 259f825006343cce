"""The root of the command line: lazy commands, and one place where errors become exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from taskq.cli.output import complain
from taskq.errors import ConfigError, InvalidArguments, TaskQError, UnknownTask
from taskq.terminal import safe_line

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Entry(NamedTuple):
    """One command: its name, the module that holds it under the same name, and its help line."""

    name: str
    module: str
    summary: str
    section: str


class Root(click.Group):
    """A group that imports a command's module only when that command is used."""

    def __init__(self, *, entries: Sequence[Entry], **settings: Any) -> None:
        """Take the table of commands; the order of `entries` is the order in the help."""
        super().__init__(
            context_settings={
                "auto_envvar_prefix": "TASKQ",
                "help_option_names": ["-h", "--help"],
                "max_content_width": 100,
            },
            **settings,
        )
        self.entries = {entry.name: entry for entry in entries}
        self.params.append(
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_print_version,
                help="Show the versions of taskq and Python.",
            )
        )

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Names of all commands, without importing any."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (as in click)
        """Import the command; None where there is no such command."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command in the message."""
        if args and args[0] not in self.entries and not args[0].startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 (only for this message)

            near = get_close_matches(args[0], self.entries, n=1)
            hint = f' Did you mean "taskq {near[0]}"?' if near else ' "taskq --help" lists them.'
            raise click.UsageError(f'No command "{args[0]}".{hint}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (as in click)
        """Write the commands by section, from the table: nothing is imported."""
        width = max(map(len, self.entries))
        for section in dict.fromkeys(entry.section for entry in self.entries.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (entry.name.ljust(width), entry.summary)
                        for entry in self.entries.values()
                        if entry.section == section
                    ]
                )

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "taskq",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and leave with one clear line on stderr and a documented exit code."""
        os.environ["TASKQ_EAGER"] = (
            "0"  # that is for programs: commands, and workers, talk to Redis
        )
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except (click.exceptions.Abort, KeyboardInterrupt):
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            # The reader of our output (`| head`) has gone. Python would complain once
            # more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_FAILED
        except Exception as error:  # noqa: BLE001 (the outermost frame: everything ends here)
            code = report(error)
        sys.exit(code if isinstance(code, int) else 0)


def report(error: Exception) -> int:
    """Print `error` as one line on stderr; return the exit code that goes with it."""
    if _debugging():
        import traceback  # noqa: PLC0415 (7 ms, rarely)

        traceback.print_exception(type(error), error, error.__traceback__)
    if isinstance(error, click.UsageError):
        message = error.format_message()
        if error.ctx is not None and error.ctx.command_path and not message.endswith("?"):
            message = f'{message.rstrip(".")}. See "{error.ctx.command_path} --help".'
        code = EXIT_USAGE
    elif isinstance(error, click.ClickException):
        message, code = error.format_message(), error.exit_code
    elif isinstance(error, (ConfigError, InvalidArguments, UnknownTask)):
        message, code = str(error), EXIT_USAGE
    elif isinstance(error, (TaskQError, OSError)):
        message, code = str(error), EXIT_FAILED
    else:
        where = "" if _debugging() else " TASKQ_DEBUG=1 shows where."
        message, code = f"Unexpected {type(error).__name__}: {error}.{where}", EXIT_FAILED
    complain(message, label="Error:")
    return code


def _debugging() -> bool:
    return os.environ.get("TASKQ_DEBUG", "") not in ("", "0")


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 (25 ms)

    try:
        ours = version("taskq")
    except PackageNotFoundError:
        ours = '(not installed: run "make dev")'
    python = sys.version.split()[0]
    click.echo(f"taskq {safe_line(ours)} (Python {python})")
    ctx.exit()
