"""A proxy between a client (a worker, a program that enqueues) and Redis that strikes at command n.

It reads the protocol: commands are counted one by one over all connections, in the order in which
they come, and so are their replies. At the n-th command that counts it does one of three things:

- ``request``: Redis never sees it; the connection breaks.
- ``reply``: Redis has carried it out, the client never hears; the connection breaks.
- ``kill``: as ``reply``, and from then on nothing of this client reaches Redis: it died there.
  What it had sent is carried out. ``on_kill`` is called, to kill a real process.

`fired` says what was struck, so that a sweep over n ends when a run has fewer commands:

    for n in count(1):
        with CrashProxy(server.port, n, "reply") as proxy:
            ...                                     # run the operation through proxy.url
        if proxy.fired is None:
            break
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import hiredis

from taskq.broker.scripts import script
from tests.support import ROOT

FAULTS = ("request", "reply", "kill")
NOT_COUNTED = frozenset({b"HELLO", b"AUTH", b"SELECT", b"PING"})
"""The handshake of a connection: a break there is the same as one at its first command."""


def name_of(command: list[Any]) -> str:
    """What a command is, in words: `settle` of our script, else Redis's own name."""
    head = bytes(command[0]).upper()
    if head == b"EVALSHA":
        digest = bytes(command[1]).decode("ascii", "replace")
        return _names().get(digest, "EVALSHA")
    return head.decode("ascii", "replace")


_known: dict[str, str] = {}


def _names() -> dict[str, str]:
    if not _known:
        for path in (ROOT / "taskq" / "broker" / "lua").glob("*.lua"):
            _known[script(path.stem).sha] = path.stem
    return _known


class CrashProxy:
    """One client's way to Redis; a context manager.

    Attributes:
        url: for the client.
        fired: name of the command that was struck, or None.
        seen: names of all commands that counted, in their order.
    """

    def __init__(
        self,
        port: int,
        at: int = 0,
        fault: str = "reply",
        only: str | None = None,
        *,
        on_kill: Callable[[], object] | None = None,
    ) -> None:
        """Strike at command number `at`, from 1; 0: never.

        Args:
            port: where Redis listens.
            at: which command, among those that count.
            fault: one of `FAULTS`.
            only: count only commands of this name (`settle`, `BLMOVE`).
            on_kill: called once with "kill", when Redis has carried out the command.
        """
        assert fault in FAULTS
        self._port, self._at, self._fault, self._only = port, at, fault, only
        self._on_kill = on_kill
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        self.fired: str | None = None
        self.seen: list[str] = []
        self.dead = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CrashProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Break all connections and accept no more."""
        self.dead = True
        with self._lock:
            sockets, self._sockets = [self._server, *self._sockets], []
        for one in sockets:
            _break(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                if self.dead:
                    _break(client)
                    continue
                redis = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            for one in (client, redis):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets += [client, redis]
            line = _Line(self, client, redis)
            for pump in (line.requests, line.replies):
                threading.Thread(target=pump, daemon=True).start()

    def count(self, command: list[Any]) -> str | None:
        """Count a command; what is to become of it."""
        if bytes(command[0]).upper() in NOT_COUNTED:
            return None
        name = name_of(command)
        if self._only is not None and name != self._only:
            return None
        with self._lock:
            self.seen.append(name)
            if len(self.seen) != self._at or self.fired:
                return None
            self.fired = name
            return self._fault

    def arm(self, at: int, fault: str, only: str | None = None) -> None:
        """Begin to count anew, from here on."""
        with self._lock:
            self.seen, self._at, self._fault, self._only = [], at, fault, only

    def died(self) -> None:
        """The client's last command was carried out: nothing more of it reaches Redis."""
        self.close()
        if self._on_kill is not None:
            self._on_kill()


class _Line:
    """One connection, both ways."""

    def __init__(self, proxy: CrashProxy, client: socket.socket, redis: socket.socket) -> None:
        self._proxy, self._client, self._redis = proxy, client, redis
        self._sent = 0
        self._struck_at = -1
        self._struck = ""

    def requests(self) -> None:
        """From the client to Redis, command by command."""
        reader = hiredis.Reader()
        with suppress(OSError, hiredis.ProtocolError):
            while data := self._client.recv(1 << 16):
                reader.feed(data)
                out = b""
                while (command := reader.gets()) is not False:
                    fate = self._proxy.count(command)
                    if fate == "request":
                        self._redis.sendall(out)
                        self._close()
                        return
                    if fate is not None:
                        self._struck, self._struck_at = fate, self._sent
                    self._sent += 1
                    out += hiredis.pack_command(tuple(command))
                if self._proxy.dead and not self._struck:
                    break
                self._redis.sendall(out)
        if not self._struck:
            self._close()

    def replies(self) -> None:
        """From Redis to the client, up to the one that is lost."""
        reader = hiredis.Reader()
        got = 0
        with suppress(OSError, hiredis.ProtocolError):
            while data := self._redis.recv(1 << 16):
                reader.feed(data)
                while reader.gets() is not False:
                    got += 1
                if self._struck and got > self._struck_at:
                    if self._struck == "kill":
                        self._proxy.died()
                    break
                self._client.sendall(data)
        self._close()

    def _close(self) -> None:
        for one in (self._client, self._redis):
            _break(one)


def _break(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
