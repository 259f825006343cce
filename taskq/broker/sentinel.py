"""redis+sentinel:// URLs (rediss+sentinel:// with TLS), and the way to the master.

Sentinels are asked anew for each connection to the master, each time on a connection of its
own: nothing that is kept could be stale, or belong to another thread, event loop or process.
redis-py's `Sentinel` keeps its connections, so that a second event loop met those of the
first, and tries each dead sentinel for seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis import exceptions as rexc
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.connection import Connection, SSLConnection, parse_url
from redis.sentinel import MasterNotFoundError

from taskq.broker import tls

SCHEMES = ("redis+sentinel", "rediss+sentinel")
_PORT = 26379
_PATIENCE_S = 1.0
"""For one sentinel to answer. The one of the dead machine must leave time for the others."""
_OWN_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}

# redis-py has types for some of what it exports, in some versions
_parse_url: Any = parse_url
_CONNECTIONS: tuple[Any, Any] = (Connection, SSLConnection)
_ASYNC_CONNECTIONS: tuple[Any, Any] = (AsyncConnection, AsyncSSLConnection)
_MasterNotFoundError: Any = MasterNotFoundError

Address = tuple[str, int]


class Service(NamedTuple):
    """What a URL says.

    Attributes:
        sentinels: where they are.
        name: of the service; `sentinel monitor NAME ...` in their configuration.
        options: for connections to the data servers, as redis-py has them from a redis:// URL.
        login: for connections to the sentinels.
        has_tls: whether sentinels and data servers speak TLS.
    """

    sentinels: list[Address]
    name: str
    options: dict[str, Any]
    login: dict[str, Any]
    has_tls: bool


def parse(url: str) -> Service:
    """Read redis+sentinel://user:password@host:26379,host/service/0?option=value.

    Raises:
        ValueError: says what is wrong.
    """
    parts = urlsplit(url)
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError(
            "redis+sentinel:// needs the service: redis+sentinel://host:26379/mymaster/0"
        )
    if database and not database.isdigit():
        raise ValueError(f"database {database!r} is not a number")
    query = parse_qsl(parts.query)
    login = {_OWN_OPTIONS[key]: value for key, value in query if key in _OWN_OPTIONS}
    others = urlencode([(key, value) for key, value in query if key not in _OWN_OPTIONS])
    user, at, hosts = parts.netloc.rpartition("@")
    has_tls = parts.scheme == SCHEMES[1]
    scheme = "rediss" if has_tls else "redis"
    options = _parse_url(f"{scheme}://{user}{at}host/{database or 0}?{others}")
    del options["host"]
    options.pop("connection_class", None)
    nodes = [_address(host) for host in hosts.split(",")]
    return Service(nodes, name, options, login, has_tls)


def _address(text: str) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise ValueError(f"{text!r} is no host:port")
    return host, port or _PORT


class Sentinels:
    """What a pool of redis-py asks for the master; blocks. Safe to use from any thread."""

    def __init__(self, service: Service) -> None:
        """Nothing is asked yet."""
        self._service = service
        self._order = service.sentinels

    def discover_master(self, name: str) -> Address:
        """Ask one after the other; the first one that sees a working master decides.

        Raises:
            MasterNotFoundError: none does; says what each of them said.
        """
        problems: list[tuple[Address, Exception]] = []
        for sentinel in self._order:
            connection = _connection(_CONNECTIONS, self._service, sentinel)
            try:
                connection.connect()
                connection.send_command("SENTINEL", "MASTER", name)
                master = _master(connection.read_response(disable_decoding=True))
            except (rexc.RedisError, OSError) as err:
                problems.append((sentinel, err))
            else:
                self._order = _first(sentinel, self._order)
                return master
            finally:
                connection.disconnect()
        raise _not_found(name, problems)


class AsyncSentinels:
    """`Sentinels` for asyncio programs. Safe to use from any event loop."""

    def __init__(self, service: Service) -> None:
        """Nothing is asked yet."""
        self._service = service
        self._order = service.sentinels

    async def discover_master(self, name: str) -> Address:
        """Ask one after the other; the first one that sees a working master decides.

        Raises:
            MasterNotFoundError: none does; says what each of them said.
        """
        problems: list[tuple[Address, Exception]] = []
        for sentinel in self._order:
            connection = _connection(_ASYNC_CONNECTIONS, self._service, sentinel)
            try:
                await connection.connect()
                await connection.send_command("SENTINEL", "MASTER", name)
                master = _master(await connection.read_response(disable_decoding=True))
            except (rexc.RedisError, OSError) as err:
                problems.append((sentinel, err))
            else:
                self._order = _first(sentinel, self._order)
                return master
            finally:
                await connection.disconnect(nowait=True)
        raise _not_found(name, problems)


def _connection(kinds: tuple[Any, Any], service: Service, sentinel: Address) -> Any:
    options: dict[str, Any] = {}
    if service.has_tls:
        given = service.options
        options = {**tls.defaults(given), **{k: v for k, v in given.items() if k[:4] == "ssl_"}}
    return kinds[service.has_tls](
        host=sentinel[0],
        port=sentinel[1],
        socket_timeout=_PATIENCE_S,
        socket_connect_timeout=_PATIENCE_S,
        protocol=2,
        **options,
        **service.login,
    )


def _master(reply: Any) -> Address:
    """The address in the reply of SENTINEL MASTER, if the sentinel takes the master for alive."""
    state = dict(zip(reply[::2], reply[1::2], strict=True))
    address = state[b"ip"].decode(), int(state[b"port"])
    if b"down" in state[b"flags"]:
        raise rexc.ConnectionError(f"says that {address[0]}:{address[1]} is down")
    return address


def is_refused(err: Exception) -> bool:
    """Whether nobody listens where we connected to; in redis-py's words, or asyncio's."""
    text = str(err)
    return (
        "Connection refused" in text
        or "Connect call failed" in text
        or isinstance(err.__context__ or err, ConnectionRefusedError)
    )


def _words(err: Exception) -> str:
    refused = tls.certificate_error(err)
    if refused is not None:
        return tls.refusal(refused)
    text = str(err).strip().rstrip(".")
    if isinstance(err, rexc.TimeoutError):
        return f"does not answer within {_PATIENCE_S:g} s"
    if isinstance(err, rexc.ResponseError):
        unknown = text.startswith(("ERR No such master", "No such master"))
        return "does not know it" if unknown else f"refuses ({text})"
    if isinstance(err, rexc.AuthenticationError):
        return f"refuses ({text})"
    if is_refused(err):
        return "is not there"
    return text


def _first(sentinel: Address, order: list[Address]) -> list[Address]:
    """The next search begins with the one that answered."""
    return [sentinel, *[other for other in order if other != sentinel]]


def _not_found(name: str, problems: list[tuple[Address, Exception]]) -> Exception:
    said = ", ".join(f"{host}:{port} {_words(err)}" for (host, port), err in problems)
    error: Exception = _MasterNotFoundError(
        f"no sentinel names a working master of {name!r} ({said})"
    )
    if all(tls.certificate_error(err) is not None for _sentinel, err in problems):
        error.__cause__ = problems[0][1]  # which no waiting mends
    return error
