"""`taskq dashboard`: the read-only page, served for this machine or, with a secret, for others."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskq import logs
from taskq.cli.options import Duration, command, setting
from taskq.cli.output import complain, say
from taskq.errors import ConfigError

if TYPE_CHECKING:
    from taskq.dashboard import DashboardSettings

_HELP = """Serve the dashboard: queues, jobs, workers, schedules, failures, live. It only reads.

\b
Examples:
  taskq dashboard                                    http://127.0.0.1:8899, for this machine
  taskq dashboard --host 0.0.0.0 --token-file /run/secrets/dashboard
  taskq dashboard --host 0.0.0.0 --behind-proxy --root-path /taskq
  TASKQ_DASHBOARD_TOKEN=... taskq dashboard --host :: --port 80 --allowed-host jobs.example.org

\b
On another address than loopback it wants a token (a bearer token for programs, the password
of the browser's dialog for people, with any user name), or --user and a password, or the
word that a proxy in front of it decides who may look: --behind-proxy.
Secrets are better in a file or in the environment than in a command line.
"""

_SECRETS = ("token", "password")


@command("dashboard", text=_HELP, summary="Serve the read-only page.")
@setting("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
         help="Address to listen on.")  # fmt: skip
@setting("--port", type=click.IntRange(0, 65535), default=8899, show_default=True,
         help="Port; 0: any that is free.")  # fmt: skip
@click.option("--redis-url", "--url", "redis_url", metavar="URL", help="Where Redis is, instead of "
              "the configured place.  [TASKQ_REDIS_URL, REDIS_URL]")  # fmt: skip
@setting("--token", metavar="TEXT", help="Who knows it may look.")
@setting("--token-file", type=click.Path(dir_okay=False), metavar="FILE",
         help="The token's file.")  # fmt: skip
@setting("--user", metavar="NAME", help="Name for basic auth, with a password.")
@setting("--password", metavar="TEXT", help="Password for basic auth.")
@setting("--password-file", type=click.Path(dir_okay=False), metavar="FILE",
         help="The password's file.")  # fmt: skip
@setting("--behind-proxy", is_flag=True, help="Something in front of it decides who may look.")
@setting("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
         help='Further name by which browsers call it; may be repeated; "*": any.')  # fmt: skip
@setting("--root-path", default="", metavar="PATH",
         help="Path below which a proxy shows it: /taskq.")  # fmt: skip
@setting("--refresh", type=Duration(), default=2.0, show_default="2s",
         help="How often what is watched is looked at again.")  # fmt: skip
@setting("--redact", multiple=True, metavar="WORD",
         help="Hide arguments with this in their name, too; may be repeated.")  # fmt: skip
@setting("--hide-arguments", is_flag=True, help="Show no arguments, results or meta at all.")
@setting("--title", default="", metavar="TEXT", help="Name of this installation, on each page.")
@setting("--log-level", default="info", shared=True, help="What is logged.", type=click.Choice(
         ["debug", "info", "warning", "error"], case_sensitive=False))  # fmt: skip
@setting("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
         shared=True, help="How it is logged.")  # fmt: skip
@click.pass_context
def dashboard_command(ctx: click.Context, /, **options: Any) -> None:
    """Check everything that can be wrong, then serve until told to stop."""
    _refuse_secrets_in_file(ctx)
    try:
        from taskq.dashboard import server  # noqa: PLC0415 (an extra, and late as everywhere)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}") from error
    settings = _settings(options)
    logs.configure(options["log_level"], options["log_format"])
    with server.bound(settings.host, options["port"]) as listener:
        if options["log_format"] == "text":
            _announce(settings, server.address(listener, settings))
        server.serve(settings, listener)
    sys.exit(0)


def _settings(options: dict[str, Any]) -> DashboardSettings:
    from taskq.dashboard import DashboardSettings  # noqa: PLC0415 (late: a command imports what it needs)

    secrets = {name: _secret(name, options) for name in _SECRETS}
    return DashboardSettings(
        redis_url=options["redis_url"] or "",
        host=options["host"],
        token=secrets["token"],
        user=options["user"] or "",
        password=secrets["password"],
        behind_proxy=options["behind_proxy"],
        allowed_hosts=tuple(options["allowed_hosts"]),
        root_path=options["root_path"],
        refresh_s=options["refresh"],
        redact=tuple(options["redact"]),
        hide_arguments=options["hide_arguments"],
        title=options["title"],
    ).checked()


def _secret(name: str, options: dict[str, Any]) -> str:
    """The token or password, from its option or from its file.

    Raises:
        ConfigError: both are given, or the file cannot be read or is empty.
    """
    given, file = options[name] or "", options[f"{name}_file"]
    if not file:
        return str(given)
    if given:
        raise ConfigError(f"--{name} and --{name}-file are both given: use one.")
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"Cannot read --{name}-file {file}: {error}") from error
    if not text:
        raise ConfigError(f"--{name}-file {file} is empty.")
    return text


def _refuse_secrets_in_file(ctx: click.Context) -> None:
    """A secret does not belong into pyproject.toml: as in the settings of the library."""
    for param in ctx.command.params:
        found = getattr(param, "found_in", "")
        if param.name in _SECRETS and "[tool.taskq" in found:
            raise ConfigError(
                f"{found}: a secret does not belong into a file that is shared. "
                f"Use TASKQ_DASHBOARD_{str(param.name).upper()} or --{param.name}-file."
            )


def _announce(settings: DashboardSettings, address: str) -> None:
    from taskq.settings import redact, redis_url  # noqa: PLC0415 (late: a command imports what it needs)

    url, source = redis_url(settings.redis_url or None)
    say(f"    redis  {redact(url)}" + (f" (from {source})" if source != "argument" else ""))
    say(f"dashboard  {address}")
    if settings.behind_proxy and not settings.has_credentials:
        complain("--behind-proxy: whoever reaches this address directly sees all jobs.")
    logging.getLogger("taskq.dashboard").debug("Refresh every %g s", settings.refresh_s)
