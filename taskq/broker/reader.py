"""Connections for blocking reads, and running a conversation on one.

Unlike `SyncLink`, a reader can give up a reply and take it in later: a caller's time is
over when it is over, though Redis ends an XREAD's BLOCK up to 100 ms late.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis import exceptions as rexc

from taskq.broker.link import PASSING, is_passing, pack_all
from taskq.broker.watch import Command, Conversation, T, converse
from taskq.errors import BrokerUnavailable

BREAKS: tuple[type[Exception], ...] = PASSING
"""The connection is of no more use; another may be. `BrokerUnavailable` is one, too (OSError)."""

READ_TIMEOUT_S = 10.0
"""A reply that is this late (on top of the block time) will not come: the server is away."""
_MIDDLE_S = 5.0
"""Longest silence in the middle of a reply."""
_LEAST_S = 0.5
"""Time that a new connection gets at least, however short the caller's own is."""


class Reader:
    """One connection, one user at a time."""

    def __init__(self, connect: Callable[..., Any], limit_s: float = _MIDDLE_S) -> None:
        """Connect.

        Args:
            connect: `Broker.connection`.
            limit_s: seconds that the server may take to greet; a frozen one accepts a
                connection and says nothing. Never less than `_LEAST_S`.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        self._connection = connect(socket_timeout_s=max(min(limit_s, _MIDDLE_S), _LEAST_S))
        self._owed = 0
        self.pid = os.getpid()

    def ask(self, commands: Sequence[Command], wait_s: float) -> list[Any]:
        """Send a pipeline and read its replies; error replies stand in the list.

        Raises:
            redis.TimeoutError: not all replies came within `wait_s` seconds; `is_usable`
                takes in the rest later.
            redis.ConnectionError: the connection is lost, or Redis cannot answer now.
        """
        until = time.monotonic() + wait_s
        connection = self._connection
        connection.send_packed_command([pack_all(commands)], check_health=False)
        self._owed = len(commands)
        replies = []
        while self._owed:
            if not connection.can_read(max(until - time.monotonic(), 0.0)):
                raise rexc.TimeoutError(f"no answer within {wait_s:g} s")
            replies.append(self._read())
        return replies

    def _read(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except rexc.ResponseError as err:
            if is_passing(err):
                raise rexc.ConnectionError(str(err)) from err
            return err
        finally:
            self._owed -= 1

    def is_usable(self) -> bool:
        """Whether the connection can take the next question: nothing owed, not closed by Redis."""
        if self.pid != os.getpid():
            return False
        try:
            while self._owed:
                if not self._connection.can_read(0):
                    return False
                self._read()
            return not self._connection.can_read(0)
        except BREAKS:
            return False

    def close(self) -> None:
        """Close the connection; in a forked child only forget it."""
        self._connection.disconnect()

    def hang_up(self) -> None:
        """End the read of another thread: it sees a lost connection and cleans up."""
        sock = getattr(self._connection, "_sock", None)
        if sock is not None and self.pid == os.getpid():
            with suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_RDWR)


class Readers:
    """Connections held for one short or blocking question after another."""

    def __init__(self, connect: Callable[..., Any], keep_at_most: int) -> None:
        """Nothing is connected yet.

        Args:
            connect: `Broker.connection`.
            keep_at_most: idle connections; further ones are closed after use.
        """
        self._connect = connect
        self._keep_at_most = keep_at_most
        self._lock = threading.Lock()
        self._idle: list[Reader] = []

    def take(self, limit_s: float = _MIDDLE_S) -> Reader:
        """A connection that can take a question; a new one is given `limit_s` to connect.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        while True:
            with self._lock:
                reader = self._idle.pop() if self._idle else None
            if reader is None:
                return Reader(self._connect, limit_s)
            if reader.is_usable():
                return reader
            reader.close()

    def give_back(self, reader: Reader | None) -> None:
        """Keep it for the next; a reply that is still to come is taken in then."""
        if reader is None:
            return
        with self._lock:
            if len(self._idle) < self._keep_at_most and reader.pid == os.getpid():
                self._idle.append(reader)
                return
        reader.close()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()

    def converse(self, conversation: Conversation[T], limit_s: float) -> T:
        """Run a short conversation.

        Raises:
            BrokerUnavailable: no answer within `limit_s` seconds.
        """
        reader = None
        until = time.monotonic() + limit_s
        try:
            used = reader = self.take(limit_s)
            found = converse(
                conversation, lambda cmds: used.ask(cmds, max(until - time.monotonic(), 0.0))
            )
        except BREAKS as err:
            discard(reader)
            raise BrokerUnavailable(f"Redis did not answer: {err}.") from err
        except BaseException:
            discard(reader)
            raise
        self.give_back(reader)
        return found


def discard(reader: Reader | None) -> None:
    """Close a connection that is of no more use."""
    if reader is not None:
        reader.close()
