"""Serving the dashboard with uvicorn: the socket, the address, an end without delay."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from taskq.dashboard.app import Dashboard
from taskq.dashboard.settings import DashboardSettings
from taskq.errors import ConfigError

_BACKLOG = 128
_GRACE_S = 2


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, closed at the end.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}."
        ) from error
    with listener:
        yield listener


def address(listener: socket.socket, settings: DashboardSettings) -> str:
    """The address to type into a browser."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{settings.root_path}/"


def serve(settings: DashboardSettings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM. Blocks."""
    config = uvicorn.Config(
        Dashboard(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # they may be made up; nothing here depends on them
        timeout_graceful_shutdown=_GRACE_S,  # live pages never end by themselves
        lifespan="on",
    )
    # At its end uvicorn sends itself the signal once more: being told to stop is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    uvicorn.Server(config).run(sockets=[listener])
