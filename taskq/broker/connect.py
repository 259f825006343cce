"""From a URL to connections: TCP, TLS, unix socket, Sentinel; blocking or asyncio.

We use redis-py for what it does well (URLs, TLS, AUTH, Sentinel, parsing) and
keep its automatic retries off: they send a write a second time after a time-out,
which doubled jobs in trials. Our own links resend, and only what is idempotent.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import redis
import redis.asyncio as aredis
from redis import exceptions as rexc
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from taskq.broker import sentinel, tls
from taskq.errors import ConfigError
from taskq.settings import SCHEMES

# redis-py has types for some of what it exports, in some versions
_parse_url: Any = parse_url
_SentinelPool: Any = SentinelConnectionPool
_AsyncSentinelPool: Any = AsyncSentinelConnectionPool

_CONNECT_TIMEOUT_S = 5.0
_MASTER_TIMEOUT_S = 2.0
"""Sentinels may name a master that has just died: a second try fits into a caller's deadline."""


def check_url(url: str) -> None:
    """Refuse a URL that could never work, before anything is tried.

    Raises:
        ConfigError: unknown scheme, bad port or bad option, or a file that cannot be read.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        raise ConfigError(
            f"{scheme + '://...' if '://' in url else 'The text given'} is no Redis URL. "
            "Use redis://host:6379/0, rediss://... (TLS), unix:///path/to.sock?db=0 "
            "or redis+sentinel://host:26379,host:26379/service/0 (rediss+sentinel:// with TLS)."
        )
    try:
        options = sentinel.parse(url).options if _is_sentinel(url) else _parse_url(url)
        for pool in (sync_pool(url, None), async_pool(url)):
            make(pool)  # refuses options that it does not know
    except (ValueError, TypeError, rexc.RedisError) as err:
        raise ConfigError(f"The Redis URL is wrong: {_words(err)}.") from err
    tls.check_files(options)


def _words(err: Exception) -> str:
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(err))
    return f"it has an unknown option, {unknown[1]}" if unknown else str(err).rstrip(".")


def _is_sentinel(url: str) -> bool:
    return url.partition("://")[0] in sentinel.SCHEMES


def _sentinel_options(service: sentinel.Service) -> dict[str, Any]:
    options = {"socket_connect_timeout": _MASTER_TIMEOUT_S}
    if service.has_tls:
        options |= {"ssl": True, **tls.defaults(service.options)}
    return options | service.options


def sync_pool(url: str, socket_timeout_s: float | None) -> redis.ConnectionPool:
    """Settings for blocking connections; nothing is connected yet."""
    options: dict[str, Any] = {
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "max_connections": 10_000,
    }
    if _is_sentinel(url):
        service = sentinel.parse(url)
        options |= _sentinel_options(service)
        pool: redis.ConnectionPool = _SentinelPool(
            service.name, sentinel.Sentinels(service), **options
        )
        return pool
    if url.startswith("unix:"):
        del options["socket_connect_timeout"]
    if url.startswith("rediss:"):
        options |= tls.defaults(_parse_url(url))
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
    if _is_sentinel(url):
        service = sentinel.parse(url)
        options |= _sentinel_options(service)
        pool: aredis.ConnectionPool = _AsyncSentinelPool(
            service.name, sentinel.AsyncSentinels(service), **options
        )
        return pool
    if url.startswith("rediss:"):
        options |= tls.defaults(_parse_url(url))
    return aredis.ConnectionPool.from_url(url, **options)


def make(pool: Any, **override: Any) -> Any:
    """One new connection with the pool's settings, outside the pool; not yet connected."""
    kwargs = {**pool.connection_kwargs, **override}
    return pool.connection_class(**kwargs)


async def drop(connection: Any) -> None:
    """Close an asyncio connection at once, whatever is under way on it.

    With TLS an orderly end waits for the other side's farewell, for up to 30 s: a program that
    ends its event loop now would leave the socket open.
    """
    writer = getattr(connection, "_writer", None)  # redis-py has no public name for it
    # it may be broken already: then nothing is left to close
    with contextlib.suppress(OSError, RuntimeError, rexc.RedisError):
        if writer is not None:
            writer.transport.abort()
        await connection.disconnect(nowait=True)
