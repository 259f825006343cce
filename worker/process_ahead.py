"""Jobs that were sent to a busy job process before their turn: whose they are.

A process that ends a job finds the next one in its socket, and does not wait for a round trip.
So that such a job can be taken back from behind a long one, a pipe has one byte for each:
whoever reads the byte has the job. The job process reads it just before it begins the job, the
worker process to take it back, and the kernel gives it to one of them only.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.worker.claim import Claim

AT_ONCE = 0
"""Number of an order that needs no byte: it is sent to a process that has nothing else."""
_NUMBERS = 255
MOST = 16
"""Jobs ahead of one process, far fewer than there are numbers."""


class Ahead:
    """The worker process's side, for one job process.

    Attributes:
        claims: jobs that were sent ahead, in their order. The first may have begun already, but
            then the report on the job before it is in the socket.
        fd: the end to read from, for the job process too.
    """

    def __init__(self) -> None:
        """Make the pipe.

        Raises:
            OSError: no more files.
        """
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        self.claims: deque[tuple[int, Claim]] = deque()
        self._last = 0
        self._begun = AT_ONCE

    def number(self, claim: Claim) -> int:
        """Count a job as sent ahead; returns the number for its order, which is sent after this."""
        self._last = self._last % _NUMBERS + 1
        os.write(self._write, bytes((self._last,)))
        self.claims.append((self._last, claim))
        return self._last

    def next(self) -> Claim | None:
        """The job before has ended: the one that begins now, or None."""
        if not self.claims:
            self._begun = AT_ONCE
            return None
        self._begun, claim = self.claims.popleft()
        return claim

    def recall(self) -> tuple[list[Claim], bool]:
        """Take back whatever has not begun.

        Returns:
            Those jobs, in their order; and whether the job of which `next` said that it begins
            has not, and now does not: it is to be ordered again.
        """
        try:
            got = os.read(self.fd, _NUMBERS)
        except BlockingIOError:
            return [], False
        back = [claim for number, claim in self.claims if number in got]
        again = self._begun != AT_ONCE and self._begun in got
        self.claims = deque(one for one in self.claims if one[0] not in got)
        if again:
            self._begun = AT_ONCE
        return back, again

    def close(self) -> None:
        """Close the pipe."""
        for fd in (self.fd, self._write):
            with suppress(OSError):
                os.close(fd)


class Turns:
    """The job process's side."""

    def __init__(self, fd: int) -> None:
        """Read the bytes from `fd`."""
        self._fd = fd
        self._got = AT_ONCE

    def has(self, number: int) -> bool:
        """Whether the job of an order is ours; asked once for each order, in their order."""
        if number == AT_ONCE:
            return True
        if self._got == AT_ONCE:
            try:
                self._got = os.read(self._fd, 1)[0]
            except (BlockingIOError, IndexError):  # taken back; or the other end is closed
                return False
        if self._got != number:  # this one was taken back, and the byte is that of a later one
            return False
        self._got = AT_ONCE
        return True
