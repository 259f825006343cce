"""`taskq ping`: where Redis is, who says so, and whether it answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from taskq.cli.connect import open_broker
from taskq.cli.options import command, json_option, redis_option
from taskq.cli.output import print_json, say
from taskq.terminal import safe_line

if TYPE_CHECKING:
    from taskq.broker.client import Broker

_HELP = """Say where Redis is, where that is configured, and how fast it answers.

\b
Examples:
  taskq ping
  taskq ping --redis-url redis://cache.internal/1
  taskq ping --json          {"url", "source", "kind", "version", "round_trip_ms"}

Exit code 1 where there is no Redis.
"""

_PINGS = 5
_SOURCES = {"argument": "--redis-url", "default": "the default"}


@command("ping", text=_HELP, summary="Say where Redis is and whether it answers.")
@redis_option
@json_option
def ping_command(redis_url: str | None, as_json: bool) -> None:
    """Ask, and show the answer."""
    from taskq.inspector.server import server_info  # noqa: PLC0415 (late: a command imports what it needs)
    from taskq.settings import redact  # noqa: PLC0415 (late: a command imports what it needs)

    with open_broker(redis_url) as broker:
        round_trip_ms = _round_trip_ms(broker)
        server = server_info(*broker.pipe([("INFO", "server")]))
        url, source = redact(broker.url), broker.source
    if as_json:
        print_json(
            {
                "url": url,
                "source": source,
                "kind": server.kind,
                "version": server.version,
                "round_trip_ms": round(round_trip_ms, 3),
            }
        )
        return
    version = safe_line(f"{server.kind} {server.version}".strip())
    where = _SOURCES.get(source, source)
    say(f"{version} at {safe_line(url)} ({where}) answers in {round_trip_ms:.2f} ms.")


def _round_trip_ms(broker: Broker) -> float:
    """The fastest of a few, after the connection is made: what the network costs."""
    broker.call("PING")
    fastest = float("inf")
    for _ in range(_PINGS):
        start = time.perf_counter()
        broker.call("PING")
        fastest = min(fastest, time.perf_counter() - start)
    return fastest * 1000
