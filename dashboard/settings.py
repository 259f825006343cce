"""What the dashboard is told: where it listens, who may look, what is hidden."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from taskq.errors import ConfigError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True)
class DashboardSettings:
    """How one dashboard behaves; `checked` refuses what is unsafe.

    Attributes:
        redis_url: Redis; "": where the settings of taskq say.
        host: address to listen on.
        token: whoever knows it may look: as a bearer token, or as the password of basic auth.
        user: name for basic auth with `password`.
        password: its password.
        behind_proxy: somebody in front of it decides who may look.
        allowed_hosts: further names for the Host header; `*`: any.
        root_path: path below which it is found.
        refresh_s: how often what is watched is looked at again.
        redact: further names of arguments whose values are hidden: parts of names.
        hide_arguments: show no arguments, results, meta or stream values at all.
        title: name of this installation, shown on each page.
    """

    redis_url: str = field(default="", repr=False)
    host: str = "127.0.0.1"
    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    behind_proxy: bool = False
    allowed_hosts: tuple[str, ...] = ()
    root_path: str = ""
    refresh_s: float = 2.0
    redact: tuple[str, ...] = ()
    hide_arguments: bool = False
    title: str = ""

    @property
    def has_credentials(self) -> bool:
        """Whether a visitor must know something."""
        return bool(self.token or self.password)

    def checked(self) -> DashboardSettings:
        """Return these settings.

        Raises:
            ConfigError: they contradict each other, or would show the jobs to anybody.
        """
        if bool(self.user) != bool(self.password):
            raise ConfigError("Basic auth needs both a user and a password.")
        for name, value in (("token", self.token), ("password", self.password)):
            if value and len(value) < 8:
                raise ConfigError(f"The dashboard's {name} is shorter than 8 characters.")
        if not is_loopback(self.host) and not self.has_credentials and not self.behind_proxy:
            raise ConfigError(
                f"The dashboard would show all jobs to anybody who reaches {self.host}. Set a "
                "token (--token-file) or a user and password, or say --behind-proxy if something "
                "in front of it decides who may look."
            )
        if not _PREFIX.fullmatch(self.root_path):
            raise ConfigError(
                f"The root path is {self.root_path!r}: write it as /taskq, without a / at its end."
            )
        if not 0.2 <= self.refresh_s <= 3600:
            raise ConfigError(f"The refresh is {self.refresh_s:g} s: between 0.2 s and an hour.")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host in _LOOPBACK:
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name in a Host header, without its port, in small letters."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") <= 1 else text


def is_allowed_host(header: str, allowed: Sequence[str]) -> bool:
    """Whether a Host header may have come from our own address bar.

    Another site whose name leads to our address (DNS rebinding) has a name: so an IP
    address is always good, and of names only those that we know.
    """
    name = host_name(header)
    if "*" in allowed or name in ("localhost", *(host.lower() for host in allowed)):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
