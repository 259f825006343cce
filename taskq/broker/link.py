"""A blocking link: one connection, one request at a time, a deadline, safe resends."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis import exceptions as rexc

from taskq.broker import connect, tls
from taskq.broker.scripts import Script
from taskq.errors import BrokerUnavailable

pack: Callable[[tuple[Any, ...]], bytes] = cast("Any", hiredis.pack_command)
"""A command as bytes; arguments are text, bytes and numbers."""

PASSING = (
    rexc.ConnectionError,
    rexc.TimeoutError,
    rexc.ReadOnlyError,
    rexc.TryAgainError,
    OSError,
)
"""Errors after which the same request may be sent again: they pass when Redis is back."""

FINAL = (rexc.AuthenticationError, rexc.AuthorizationError, rexc.NoPermissionError)


def is_final(err: Exception) -> bool:
    """Whether no waiting mends it: a wrong password stays wrong, and so does a certificate."""
    return isinstance(err, FINAL) or tls.certificate_error(err) is not None


_PASSING_REPLY = re.compile(
    "(?:^|: -|caused error: )"
    "(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|NOREPLICAS|READONLY|TRYAGAIN|UNBLOCKED) "
)
"""Error replies that mean: not now, or not here. Redis 6 puts those of a script's commands behind
the script's own words, redis-py those of a pipeline's behind its own."""
_PASSING_REPLIES = (rexc.ReadOnlyError, rexc.TryAgainError, rexc.ClusterDownError)


def is_passing(reply: rexc.ResponseError) -> bool:
    """Whether an error reply only means: not now, or ask the master."""
    return isinstance(reply, _PASSING_REPLIES) or _PASSING_REPLY.search(str(reply)) is not None


def is_refusal(reply: rexc.ResponseError) -> bool:
    """Whether an error reply says nothing about the request: the server takes no writes now."""
    return is_passing(reply) or "MISCONF " in str(reply)[:200]


def backoff_s(attempt: int) -> float:
    """Pause before resend number `attempt` (from 1): 20 ms doubling to 1 s, with jitter."""
    return min(0.02 * 2.0**attempt, 1.0) * random.uniform(0.5, 1.0)  # noqa: S311 (not a secret)


class SyncLink:
    """One held connection. Not thread-safe: each thread has its own."""

    def __init__(self, pool: Any, where: Callable[[Exception], str]) -> None:
        """Use the pool's settings; `where` turns a failure into a message for people."""
        self._pool = pool
        self._where = where
        self._connection: Any = None
        self._pid = 0

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.disconnect()

    def _open(self, timeout_s: float) -> Any:
        connection = self._connection
        if connection is not None and self._pid == os.getpid():
            return connection
        # after a fork the socket belongs to the parent: forget it, do not close it
        connection = connect.make(self._pool, socket_timeout=timeout_s)
        connection.connect()
        self._connection, self._pid = connection, os.getpid()
        return connection

    def ask(self, requests: Callable[[bool], bytes], replies: int, deadline_s: float) -> list[Any]:
        """Send a request (packed anew for a resend) and read its replies.

        Args:
            requests: gives the bytes to send; its argument says whether this is a resend.
            replies: how many answers to read; an error answer stands in the list.
            deadline_s: seconds until giving up.

        Raises:
            BrokerUnavailable: no answer before the deadline.
        """
        start = time.monotonic()
        attempt = 0
        while True:
            left = deadline_s - (time.monotonic() - start)
            try:
                connection = self._open(max(left, 0.05))
                connection.send_packed_command([requests(attempt > 0)])
                return [self._read(connection) for _ in range(replies)]
            except (*FINAL, *PASSING) as err:
                self.close()
                if is_final(err):
                    raise BrokerUnavailable(self._where(err)) from err
                attempt += 1
                pause = backoff_s(attempt)
                if time.monotonic() - start + pause >= deadline_s:
                    raise BrokerUnavailable(self._where(err)) from err
                time.sleep(pause)
            except BaseException:
                # Ctrl-C or a time limit between question and answer: the answer is still
                # on its way and must not be taken for that of the next question
                self.close()
                raise

    @staticmethod
    def _read(connection: Any) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except rexc.ResponseError as err:
            if is_passing(err):
                raise rexc.ConnectionError(str(err)) from err
            return err


def pack_script(script: Script, keys: Sequence[Any], args: Sequence[Any]) -> bytes:
    """The EVALSHA request of a script, as bytes."""
    return pack(("EVALSHA", script.sha, len(keys), *keys, *args))


def pack_all(commands: Sequence[Sequence[Any]]) -> bytes:
    """Several commands as one write."""
    return b"".join([pack(tuple(command)) for command in commands])
