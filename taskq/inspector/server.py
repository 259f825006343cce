"""What the Redis server says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taskq.inspector.values import items, number, whole


@dataclass(frozen=True)
class ServerInfo:
    """The Redis server; None where it does not say.

    Attributes:
        kind: Redis, Valkey, Dragonfly or KeyDB.
        version: its version.
        memory_bytes: used memory.
        memory_limit_bytes: its `maxmemory`; 0 means none.
        eviction: its `maxmemory_policy`; anything but `noeviction` loses jobs.
        clients: connected clients.
        uptime_s: seconds since it started.
    """

    kind: str = "Redis"
    version: str = ""
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    eviction: str = ""
    clients: int | None = None
    uptime_s: int | None = None


def server_time(reply: Any) -> float:
    """Seconds since 1970 from the reply to TIME; 0.0 where Redis does not say."""
    parts = items(reply)
    if len(parts) != 2:
        return 0.0
    return (number(parts[0]) or 0.0) + (number(parts[1]) or 0.0) / 1e6


def server_info(*replies: Any) -> ServerInfo:
    """The replies to INFO, taken apart."""
    found: dict[str, str] = {}
    for reply in replies:
        if isinstance(reply, bytes):
            for line in reply.decode("utf-8", "replace").splitlines():
                name, colon, value = line.partition(":")
                if colon:
                    found[name] = value.strip()
    kind, version = "Redis", found.get("redis_version", "")
    for other in ("valkey", "dragonfly", "keydb"):
        if f"{other}_version" in found or found.get("server_name") == other:
            kind, version = other.capitalize(), found.get(f"{other}_version", version)
    return ServerInfo(
        kind=kind,
        version=version,
        memory_bytes=whole(found.get("used_memory")),
        memory_limit_bytes=whole(found.get("maxmemory")),
        eviction=found.get("maxmemory_policy", ""),
        clients=whole(found.get("connected_clients")),
        uptime_s=whole(found.get("uptime_in_seconds")),
    )
