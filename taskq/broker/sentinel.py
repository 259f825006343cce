"""redis+sentinel:// URLs, and the way from the sentinels to the master.

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
from redis.connection import Connection, parse_url
from redis.sentinel import MasterNotFoundError

SCHEME = "redis+sentinel"
_PORT = 26379
_PATIENCE_S = 1.0
"""For one sentinel to answer. The one of the dead machine must leave time for the others."""
_OWN_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}

# redis-py has types for some of what it exports, in some versions
_parse_url: Any = parse_url
_Connection: Any = Connection
_AsyncConnection: Any = AsyncConnection
_MasterNotFoundError: Any = MasterNotFoundError

Address = tuple[str, int]


class Service(NamedTuple):
    """What a URL says.

    Attributes:
        sentinels: where they are.
        name: of the service; `sentinel monitor NAME ...` in their configuration.
        options: for connections to the data servers, as redis-py has them from a redis:// URL.
        login: for connections to the sentinels.
    """

    sentinels: list[Address]
    name: str
    options: dict[str, Any]
    login: dict[str, Any]


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
    options = _parse_url(f"redis://{user}{at}host/{database or 0}?{others}")
    del options["host"]
    return Service([_address(host) for host in hosts.split(",")], name, options, login)


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
        problems: list[str] = []
        for sentinel in self._order:
            connection = _Connection(**_connection_options(self._service, sentinel))
            try:
                connection.connect()
                connection.send_command("SENTINEL", "MASTER", name)
                master = _master(connection.read_response(disable_decoding=True))
            except (rexc.RedisError, OSError) as err:
                problems.append(_problem(sentinel, err))
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
        problems: list[str] = []
        for sentinel in self._order:
            connection = _AsyncConnection(**_connection_options(self._service, sentinel))
            try:
                await connection.connect()
                await connection.send_command("SENTINEL", "MASTER", name)
                master = _master(await connection.read_response(disable_decoding=True))
            except (rexc.RedisError, OSError) as err:
                problems.append(_problem(sentinel, err))
            else:
                self._order = _first(sentinel, self._order)
                return master
            finally:
                await connection.disconnect(nowait=True)
        raise _not_found(name, problems)


def _connection_options(service: Service, sentinel: Address) -> dict[str, Any]:
    host, port = sentinel
    return {
        "host": host,
        "port": port,
        "socket_timeout": _PATIENCE_S,
        "socket_connect_timeout": _PATIENCE_S,
        "protocol": 2,
        **service.login,
    }


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


def _problem(sentinel: Address, err: Exception) -> str:
    host, port = sentinel
    return f"{host}:{port} {_words(err)}"


def _words(err: Exception) -> str:
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


def _not_found(name: str, problems: list[str]) -> Exception:
    error: Exception = _MasterNotFoundError(
        f"no sentinel names a working master of {name!r} ({', '.join(problems)})"
    )
    return error
