"""Settings of the library: the environment (TASKQ_*), then [tool.taskq] of pyproject.toml.

The file is the nearest pyproject.toml at or above the working directory; its keys may be
written with dashes or underscores. Options of single commands are the command line's own
business; it finds the whole table in `Settings.table`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from taskq.errors import ConfigError

DEFAULT_REDIS_URL = "redis://localhost:6379/0"
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
SERIALIZERS = ("json", "pickle")
DEV_FILE = Path(".taskq") / "dev.json"
"""Written by `taskq dev`: `{"url": "unix:///...", "pid": 123}`."""

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False, "false": False, "no": False, "off": False, "": False,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the environment and the file say, checked.

    Attributes:
        app: `package.module:app`, or "".
        redis_url: Redis according to the file, or "" (see `redis_url` for the whole order).
        serializer: what arguments and results are written with.
        accept: what is read.
        secret: keys of the signature, the first one signs; empty: no signatures.
        max_bytes: limit of a payload, and of a result.
        webhook_secret: keys that sign webhooks, the first one first; empty: made from `secret`.
        webhook_http: hosts to which webhooks may go by plain http.
        webhook_private: whether webhooks may go to private networks.
        rq_scheduler_tz: zone of rq-scheduler's cron entries that name none, or "local".
        eager: whether `.delay()` runs the task at once, in the caller.
        file: the pyproject.toml that was read, or None.
        table: its whole [tool.taskq], unchecked.
    """

    app: str = ""
    redis_url: str = field(default="", repr=False)
    serializer: str = "json"
    accept: tuple[str, ...] = ("json",)
    secret: tuple[str, ...] = field(default=(), repr=False)
    max_bytes: int = 1_000_000
    webhook_secret: tuple[str, ...] = field(default=(), repr=False)
    webhook_http: tuple[str, ...] = ()
    webhook_private: bool = True
    rq_scheduler_tz: str = "UTC"
    eager: bool = False
    file: Path | None = None
    table: Mapping[str, Any] = field(default_factory=dict, repr=False)


def load(path: Path | str | None = None) -> Settings:
    """Read the environment and the file. Reads the disk; nothing is cached.

    Args:
        path: the pyproject.toml to read; by default the nearest one, if there is any.

    Raises:
        ConfigError: a bad value; names the variable or the file, the value (but for a
            secret's), what is allowed.
    """
    file = Path(path) if path is not None else _nearest(Path("pyproject.toml"))
    table = _table(file) if file is not None else {}
    given = {key.replace("-", "_"): value for key, value in table.items()}
    for name in ("secret", "webhook_secret"):
        if name in given:
            raise ConfigError(
                f"{name} under [tool.taskq] in {file}: a secret does not belong into a file that "
                f"is shared. Set TASKQ_{name.upper()} instead."
            )

    def read(key: str, check: Callable[[str, Any], Any], default: Any) -> Any:
        variable = f"TASKQ_{key.upper()}"
        if os.environ.get(variable):
            return check(variable, os.environ[variable])
        if key in given:
            return check(f"{key} under [tool.taskq] in {file}", given[key])
        return default

    defaults = Settings()
    return Settings(
        app=read("app", _text, defaults.app),
        redis_url=_url(f"redis_url under [tool.taskq] in {file}", given["redis_url"])
        if "redis_url" in given
        else "",
        serializer=read("serializer", _serializer, defaults.serializer),
        accept=read("accept", _serializers, defaults.accept),
        secret=_secrets("TASKQ_SECRET", os.environ.get("TASKQ_SECRET")),
        max_bytes=read("max_bytes", _size, defaults.max_bytes),
        webhook_secret=_secrets("TASKQ_WEBHOOK_SECRET", os.environ.get("TASKQ_WEBHOOK_SECRET")),
        webhook_http=read("webhook_http", _names, defaults.webhook_http),
        webhook_private=read("webhook_private", _boolean, defaults.webhook_private),
        rq_scheduler_tz=read("rq_scheduler_tz", _text, defaults.rq_scheduler_tz),
        eager=read("eager", _boolean, defaults.eager),
        file=file,
        table=table,
    )


def redis_url(explicit: str | None = None) -> tuple[str, str]:
    """Return the URL of Redis and where it came from.

    The first of: the argument, TASKQ_REDIS_URL, REDIS_URL, pyproject.toml, the server of a
    `taskq dev` that runs in this directory or above, redis://localhost:6379/0.

    Returns:
        The URL, with its password if it has one, and "argument", "TASKQ_REDIS_URL",
        "REDIS_URL", "pyproject.toml", ".taskq/dev.json" or "default".

    Raises:
        ConfigError: the URL is none that we know, or the file is broken.
    """
    if explicit is not None:
        return _url("The URL given", explicit), "argument"
    for variable in ("TASKQ_REDIS_URL", "REDIS_URL"):
        if os.environ.get(variable):
            return _url(variable, os.environ[variable]), variable
    configured = load().redis_url
    if configured:
        return configured, "pyproject.toml"
    started = _dev_server()
    if started:
        return started, DEV_FILE.as_posix()
    return DEFAULT_REDIS_URL, "default"


def redact(url: str) -> str:
    """Return `url` without its passwords, for messages and logs. Any text goes in."""
    # Up to the last @: a password with a stray @ or / in it must not show either.
    head, mark, tail = url.rpartition("@")
    if mark:
        scheme, slashes, login = head.partition("://") if "://" in head else ("", "", head)
        user, colon, _ = login.partition(":")
        head = f"{scheme}{slashes}{user}:***" if colon else f"{scheme}{slashes}***"
    return re.sub(r"(?i)(password=)[^&#]*", r"\1***", f"{head}{mark}{tail}")


def _nearest(name: Path) -> Path | None:
    """The nearest file of that name at or above the working directory."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory was deleted
        return None
    return next((d / name for d in (here, *here.parents) if (d / name).is_file()), None)


def _table(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 (only where there is a file to read)
    else:
        import tomli as tomllib  # noqa: PLC0415 (the same)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read {file}: {error}") from error
    table = content.get("tool", {}).get("taskq", {})
    if not isinstance(table, dict):
        raise ConfigError(f"tool.taskq in {file} is {table!r}, not a table.")
    return table


def _dev_server() -> str:
    """URL of a running `taskq dev`; "" where there is none.

    The file counts only if it is ours, leads to this machine, and somebody answers there: a
    file from a crashed run, or from a downloaded project, must not choose our Redis.
    """
    file = _nearest(DEV_FILE)
    try:
        if file is None or (os.name == "posix" and file.stat().st_uid != os.getuid()):
            return ""
        url = str(json.loads(file.read_text(encoding="utf-8"))["url"])
        parts = urlsplit(url)
        if parts.scheme == "unix":
            place = unquote(parts.path)
            status = Path(place).stat()
            if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.getuid():
                return ""
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(0.5)
                connection.connect(place)
            return url
        if parts.scheme == "redis" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
            socket.create_connection((parts.hostname, parts.port or 6379), 0.5).close()
            return url
    except (OSError, ValueError, TypeError, KeyError):
        pass  # stale or damaged: as if it were not there
    return ""


def _url(where: str, value: Any) -> str:
    text = _text(where, value)
    scheme, mark, _ = text.partition("://")
    if not mark or scheme not in SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"{where} is {redact(text)!r}, no Redis URL. It begins with: {allowed}.")
    return text


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}, not a text.")
    return value.strip()


def _names(where: str, value: Any) -> tuple[str, ...]:
    """A list, or in one text separated by commas."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{where} is {value!r}, not a list of texts.")
    names = tuple(item.strip() for item in items)
    if not all(names):
        raise ConfigError(f"{where} is {value!r}, which has an empty part.")
    return names


def _secrets(where: str, value: str | None) -> tuple[str, ...]:
    """The keys of the signature; never shown in a message.

    Unlike other variables, an empty one is not as if unset: a mistake of a deployment must
    not switch signatures off.
    """
    if value is None:
        return ()
    keys = tuple(item.strip() for item in value.split(","))
    if not all(keys):
        raise ConfigError(
            f"{where} is empty or has an empty part. Unset it for no signatures, or set one "
            "text, or several separated by commas (the first signs)."
        )
    return keys


def _serializers(where: str, value: Any) -> tuple[str, ...]:
    return tuple(_serializer(where, name) for name in _names(where, value))


def _serializer(where: str, value: Any) -> str:
    text = _text(where, value)
    if text not in SERIALIZERS:
        raise ConfigError(f"{where} is {text!r}. Allowed: {', '.join(SERIALIZERS)}.")
    return text


def _size(where: str, value: Any) -> int:
    try:
        size = int(value)
    except (TypeError, ValueError):
        size = 0
    if size <= 0 or isinstance(value, (bool, float)):
        raise ConfigError(f"{where} is {value!r}, not a number of bytes above 0.")
    return size


def _boolean(where: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.strip().lower() not in _BOOLEANS:
        raise ConfigError(f"{where} is {value!r}. Allowed: 1, true, yes, on, 0, false, no, off.")
    return _BOOLEANS[value.strip().lower()]
