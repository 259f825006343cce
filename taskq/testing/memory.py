"""A Redis in this process: fakeredis, which runs our real scripts, on a clock of ours.

Used only through `ask`, one request at a time, so what fakeredis does otherwise than a
server (blocking commands that return at once, no INFO) is never met.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskq.broker import connect
from taskq.broker.link import pack
from taskq.errors import ConfigError

if TYPE_CHECKING:
    import redis

    from taskq.clock import Clock

_MISSING = (
    'testing() and TASKQ_EAGER need fakeredis with Lua: pip install "taskq[testing]" ({why}).'
)
_STRANGE = (
    "fakeredis {version} does not take a clock from outside, so no time can be set. Install "
    'another: pip install -U "taskq[testing]".'
)


class MemoryRedis:
    """One server in memory. Safe to use from any thread."""

    def __init__(self, clock: Clock) -> None:
        """Start empty.

        Args:
            clock: what TIME and the expiry of keys go by.

        Raises:
            ConfigError: fakeredis or Lua is not installed.
        """
        try:
            self._fakeredis: Any = import_module("fakeredis")
            import_module("lupa")
        except ImportError as error:
            raise ConfigError(_MISSING.format(why=error)) from error
        self._clock = clock
        self._server = self._fakeredis.FakeServer(version=(7,))
        self._server.dbs[0] = _on_clock(type(self._server.dbs[0]), clock)(self._server.lock)
        self._pool: Any = self.client().connection_pool
        self._lock = threading.RLock()
        self._connection = self.connect()
        self._check()

    def client(self) -> redis.Redis:
        """A client of redis-py, bytes in and out; its own TIME is the real one."""
        made: redis.Redis = self._fakeredis.FakeStrictRedis(server=self._server, protocol=2)
        return made

    def connect(self) -> Any:
        """A connection of its own whose TIME is the clock's; for reads that block."""
        connection = connect.make(self._pool)
        connection.connect()
        connection._sock.time = self._time  # noqa: SLF001 (what runs the command TIME, also in scripts)
        return connection

    def ask(self, packed: bytes, replies: int) -> list[Any]:
        """Carry out packed commands; error replies stand in the list. Atomic: nothing between."""
        with self._lock:
            self._connection.send_packed_command([packed])
            return [self._read() for _ in range(replies)]

    def _read(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except Exception as err:  # noqa: BLE001 (fakeredis raises what Redis would reply)
            return err

    def _time(self) -> list[bytes]:
        micros = round(self._clock.time() * 1e6)
        return [b"%d" % (micros // 1_000_000), b"%d" % (micros % 1_000_000)]

    def _check(self) -> None:
        """Whether this fakeredis, whose inside we use in two places, still fits.

        Raises:
            ConfigError: it does not.
        """
        asked = pack(("EVAL", "return redis.call('TIME')", 0))
        seen = self.ask(asked + pack(("SET", "k", "1", "EX", 1)) + pack(("TTL", "k")), 3)
        self.ask(pack(("FLUSHALL",)), 1)
        if isinstance(seen[0], Exception):
            raise ConfigError(_MISSING.format(why=seen[0]))
        if abs(int(seen[0][0]) - self._clock.time()) > 1.5 or seen[2] != 1:
            raise ConfigError(_STRANGE.format(version=self._fakeredis.__version__))


def _on_clock(base: Any, clock: Clock) -> Any:
    """The database class of fakeredis, with its `time` (set before each command) from `clock`."""

    class OnClock(base):  # type: ignore[misc]
        @property
        def time(self) -> float:
            return clock.time()

        @time.setter
        def time(self, _real: float) -> None: ...

    return OnClock
