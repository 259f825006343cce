"""A connection that only reads: all that the dashboard has of Redis.

What is not on the list is refused before anything is sent, and so is a read whose answer
grows with the number of jobs. The list fits a Redis user of
`+@read -keys +ping +select +info +time`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskq.broker.client import Broker

ALLOWED = frozenset(
    {
        "PING",
        "TIME",
        "INFO",
        "EXISTS",
        "TYPE",
        "TTL",
        "PTTL",
        "GET",
        "MGET",
        "STRLEN",
        "HGET",
        "HMGET",
        "HGETALL",
        "HKEYS",
        "HLEN",
        "HSTRLEN",
        "HEXISTS",
        "LLEN",
        "LRANGE",
        "LINDEX",
        "LPOS",
        "SCARD",
        "SISMEMBER",
        "SRANDMEMBER",
        "ZCARD",
        "ZCOUNT",
        "ZSCORE",
        "ZRANK",
        "ZREVRANK",
        "ZRANGE",
        "XLEN",
        "XRANGE",
        "XREVRANGE",
    }
)
MOST = 5_000
"""Elements that one command may ask for."""

_DEADLINE_S = 2.0
"""A page that waits longer shows that Redis is away."""


class ReadOnly:
    """Pipelines of read commands, over one connection of each event loop.

    Attributes:
        keys: names of keys.
        url: where Redis is; it may hold a password.
        sent: commands sent so far.
    """

    def __init__(self, url: str, source: str = "argument") -> None:
        """Remember where Redis is; connects when first used.

        Raises:
            ConfigError: the URL is none.
        """
        self._broker = Broker(url, source, deadline_s=_DEADLINE_S)
        self.keys = self._broker.keys
        self.url = url
        self.sent = 0

    async def apipe(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Ask several things in one round trip, not atomic; error answers stand in the list.

        Raises:
            PermissionError: a command that writes, or asks for more than a bounded part.
            BrokerUnavailable: no answer within two seconds.
        """
        for command in commands:
            check(command)
        if not commands:
            return []
        self.sent += len(commands)
        return await self._broker.apipe(commands)

    async def aclose(self) -> None:
        """Close this event loop's connection."""
        await self._broker.aclose()


def check(command: Sequence[Any]) -> None:
    """Refuse what is not a bounded read.

    Raises:
        PermissionError: it is none; names the command.
    """
    name = str(command[0])
    if name not in ALLOWED:
        raise PermissionError(f"{name} is not among the commands of a read-only connection.")
    if name in ("LRANGE", "ZRANGE", "SRANDMEMBER", "XRANGE", "XREVRANGE") and not _bounded(command):
        raise PermissionError(f"{name} may ask for at most {MOST:,} elements: {command[1:]!r}.")


def _bounded(command: Sequence[Any]) -> bool:
    """Whether the answer has at most `MOST` elements, whatever there is."""
    words = [word.upper() if isinstance(word, str) else word for word in command]
    for word, offset in (("COUNT", 1), ("LIMIT", 2)):
        if word in words[3:]:
            place = words.index(word, 3) + offset
            return len(words) > place and 0 <= int(words[place]) <= MOST
    if words[0] == "SRANDMEMBER":
        return len(words) == 2 or 0 <= int(words[2]) <= MOST
    if words[0] in ("XRANGE", "XREVRANGE") or "BYSCORE" in words or "BYLEX" in words:
        return False
    start, stop = int(words[2]), int(words[3])
    return (start < 0) == (stop < 0) and stop - start < MOST
