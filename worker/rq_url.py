"""The URL of a redis-py client: the engine opens connections of its own to the same server.

It holds the password, as the client does: it is passed through pipes, and shown nowhere.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from redis.connection import SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelConnectionPool

from taskq.errors import ConfigError

if TYPE_CHECKING:
    import redis

_TLS_OPTIONS = (
    "ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ca_path", "ssl_check_hostname",
    "ssl_password",
)  # fmt: skip


def url_of(client: redis.Redis) -> str:
    """Where a client is connected to, as the URL that `TaskQ(url)` takes.

    Raises:
        ConfigError: a URL cannot say it (credentials that come from an object).
    """
    pool = client.connection_pool
    options = pool.connection_kwargs
    if options.get("credential_provider") is not None:
        raise ConfigError(
            "This Redis connection gets its password from a credential_provider, which "
            "taskq.worker.Worker cannot pass on to its own connections. Give it username and "
            "password, or run these jobs with `taskq worker --rq` and TASKQ_REDIS_URL."
        )
    tls = issubclass(pool.connection_class, SSLConnection) or bool(options.get("ssl"))
    query = _tls(options) if tls else {}
    database = int(options.get("db") or 0)
    if isinstance(pool, SentinelConnectionPool):
        return _sentinel(pool, options, query, database, tls=tls)
    login = _login(options)
    if issubclass(pool.connection_class, UnixDomainSocketConnection):
        return f"unix://{login}{quote(options['path'])}?{urlencode({'db': database, **query})}"
    host = str(options.get("host") or "localhost")
    address = f"[{host}]" if ":" in host else host
    where = f"{login}{address}:{int(options.get('port') or 6379)}/{database}"
    return f"{'rediss' if tls else 'redis'}://{where}{_question(query)}"


def _login(options: dict[str, Any]) -> str:
    user, password = options.get("username") or "", options.get("password") or ""
    if not user and not password:
        return ""
    return f"{quote(str(user), safe='')}:{quote(str(password), safe='')}@"


def _question(query: dict[str, Any]) -> str:
    return f"?{urlencode(query)}" if query else ""


def _tls(options: dict[str, Any]) -> dict[str, Any]:
    query = {name: options[name] for name in _TLS_OPTIONS if options.get(name) is not None}
    required = options.get("ssl_cert_reqs")
    if isinstance(required, ssl.VerifyMode):
        required = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional"}.get(required, "required")
    if "ssl_cert_reqs" in options:
        query["ssl_cert_reqs"] = required or "none"
    return query


def _sentinel(
    pool: Any, options: dict[str, Any], query: dict[str, Any], database: int, *, tls: bool
) -> str:
    sentinels = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    hosts = ",".join(f"{one['host']}:{one['port']}" for one in sentinels)
    for name, ours in (("username", "sentinel_username"), ("password", "sentinel_password")):
        if sentinels and sentinels[0].get(name):
            query[ours] = sentinels[0][name]
    scheme = "rediss+sentinel" if tls else "redis+sentinel"
    where = f"{_login(options)}{hosts}/{quote(str(pool.service_name), safe='')}/{database}"
    return f"{scheme}://{where}{_question(query)}"
