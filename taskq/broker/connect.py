"""From a URL to connections: TCP, TLS, unix socket, Sentinel; blocking or asyncio.

We use redis-py for what it does well (URLs, TLS, AUTH, Sentinel, parsing) and
keep its automatic retries off: they send a write a second time after a time-out,
which doubled jobs in trials. Our own links resend, and only what is idempotent.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
import redis.asyncio as aredis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from taskq.errors import ConfigError

# redis-py has types for some of what it exports, in some versions
_parse_url: Any = parse_url
_Sentinel: Any = Sentinel
_AsyncSentinel: Any = AsyncSentinel

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")
_CONNECT_TIMEOUT_S = 5.0


def check_url(url: str) -> None:
    """Refuse a URL that could never work, before anything is tried.

    Raises:
        ConfigError: unknown scheme, bad port or bad option.
    """
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES or "://" not in url:
        raise ConfigError(
            f"{scheme + '://...' if '://' in url else 'The text given'} is no Redis URL. "
            "Use redis://host:6379/0, rediss://... (TLS), unix:///path/to.sock?db=0 "
            "or redis+sentinel://host:26379,host:26379/service/0."
        )
    try:
        if scheme == "redis+sentinel":
            _sentinel_parts(url)
        else:
            _parse_url(url)
    except ValueError as err:
        raise ConfigError(f"The Redis URL is wrong: {err}.") from err


def _sentinel_parts(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Hosts, service name and connection options of a redis+sentinel URL."""
    parts = urlsplit(url)
    path = [p for p in parts.path.split("/") if p]
    if not path:
        raise ValueError(
            "redis+sentinel:// needs the service: redis+sentinel://host:26379/mymaster/0"
        )
    if len(path) > 1 and not path[1].isdigit():
        raise ValueError(f"database {path[1]!r} is not a number")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    options: dict[str, Any] = {"db": int(path[1]) if len(path) > 1 else 0}
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    query = {k: v[-1] for k, v in parse_qs(parts.query).items()}
    if "sentinel_password" in query:
        options["sentinel_kwargs"] = {"password": query["sentinel_password"]}
    nodes: list[tuple[str, int]] = []
    for host in hosts.split(","):
        name, _, port = host.partition(":")
        if not name or (port and not port.isdigit()):
            raise ValueError(f"{host!r} is no host:port")
        nodes.append((name, int(port or 26379)))
    return nodes, path[0], options


def sync_pool(url: str, socket_timeout_s: float | None) -> redis.ConnectionPool:
    """Settings for blocking connections; nothing is connected yet."""
    options: dict[str, Any] = {
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "max_connections": 10_000,
    }
    if url.startswith("redis+sentinel://"):
        nodes, service, extra = _sentinel_parts(url)
        sentinel_kwargs = {"socket_timeout": _CONNECT_TIMEOUT_S, **extra.pop("sentinel_kwargs", {})}
        sentinel = _Sentinel(nodes, sentinel_kwargs=sentinel_kwargs)
        pool: redis.ConnectionPool = sentinel.master_for(
            service, **options, **extra
        ).connection_pool
        return pool
    if url.startswith("unix:"):
        del options["socket_connect_timeout"]
    return redis.ConnectionPool.from_url(url, **options)


def async_pool(url: str) -> aredis.ConnectionPool:
    """Settings for asyncio connections, without a read time-out: links keep their own deadline."""
    options: dict[str, Any] = {
        "socket_timeout": None,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "retry": None,
        "protocol": 2,
        "max_connections": 10_000,
    }
    if url.startswith("redis+sentinel://"):
        nodes, service, extra = _sentinel_parts(url)
        sentinel_kwargs = {"socket_timeout": _CONNECT_TIMEOUT_S, **extra.pop("sentinel_kwargs", {})}
        sentinel = _AsyncSentinel(nodes, sentinel_kwargs=sentinel_kwargs)
        pool: aredis.ConnectionPool = sentinel.master_for(
            service, **options, **extra
        ).connection_pool
        return pool
    return aredis.ConnectionPool.from_url(url, **options)


def make(pool: Any, **override: Any) -> Any:
    """One new connection with the pool's settings, outside the pool; not yet connected."""
    kwargs = {**pool.connection_kwargs, **override}
    return pool.connection_class(**kwargs)
