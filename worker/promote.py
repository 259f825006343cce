"""Moves delayed jobs and retries to their queue when they are due, and hears of changes.

Every worker does it; one atomic script, so any number may. It sleeps until the next
due time and is woken over pub/sub when something earlier is scheduled. Where a stock
RQ scheduler has a queue's lock it is left to that, unless it is late (promote.lua).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis import exceptions as rexc

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import backoff_s, pack, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable

if TYPE_CHECKING:
    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink

log = logging.getLogger("taskq.worker")

CHECK_S = 0.5
"""Look at least this often: stock RQ schedules without a word to anybody, and a message over
pub/sub may be lost with its connection. One look is one round trip (30 us of Redis)."""
_LIMIT = 500
_PATIENT = 4
"""So many failures in a row, and people are told: a worker takes no jobs before it listens."""
_PATIENCE_S = 10.0


class Promoter:
    """Watches the scheduled registries of this worker's queues."""

    def __init__(
        self,
        broker: Broker,
        link: AsyncLink,
        queues: list[str],
        special: Callable[[list[tuple[str, str]]], None],
    ) -> None:
        """`special` gets (queue, id) of due jobs that RQ's own code must enqueue."""
        self._broker = broker
        self._link = link
        self._queues = queues
        self._special = special
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """Something was scheduled that is due earlier than all else."""
        self._wake.set()

    async def run(self) -> None:
        """Promote for ever."""
        attempt = 0
        while True:
            self._wake.clear()
            try:
                pause = await self.step()
                attempt = 0
            except (BrokerUnavailable, BrokerError) as err:
                attempt += 1
                log.debug("Promoting not possible now: %s", err)
                pause = backoff_s(attempt)
            if pause > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)

    async def step(self) -> float:
        """Move what is due; returns seconds until the next look.

        Raises:
            BrokerUnavailable: no answer.
        """
        args = [self._broker.clock.iso(), _LIMIT, *self._queues]
        keys = [self._broker.keys.prefix, self._broker.keys.own]
        chosen = script("promote")
        asked = time.monotonic()
        now, _moved, due, special = await run_script(
            self._link, chosen, lambda _resend: pack_script(chosen, keys, args), _PATIENCE_S
        )
        if special:
            pairs = [text.decode("utf-8", "replace") for text in special]
            self._special(list(zip(pairs[::2], pairs[1::2], strict=True)))
        if not due:
            return CHECK_S
        took = time.monotonic() - asked
        return min(max(float(due) - float(now) - took + 0.001, 0.0), CHECK_S)


class Listener:
    """Subscribes to our channels: what was scheduled earlier, what is to be canceled or paused.

    Attributes:
        ready: Redis has confirmed it once, or does not allow it.
    """

    def __init__(self, broker: Broker, worker: str, heard: Callable[[str, str], None]) -> None:
        """`heard` gets (channel, text): "wake", "cancel", "pause"; for it alone "send", "command".

        Without a text: something may have been said while nobody listened.
        """
        self._broker = broker
        self._worker = worker
        self._heard = heard
        self.ready = asyncio.Event()
        self._command = f"{broker.keys.prefix}:pubsub:{worker}"  # RQ's

    async def run(self) -> None:
        """Listen for ever; reconnects. Where ACLs forbid it, say so once and end."""
        own = self._broker.keys.own
        channels = [f"{own}{name}" for name in ("wake", "cancel", "pause", f"send:{self._worker}")]
        channels.append(self._command)
        attempt = 0
        while True:
            connection: Any = None
            try:
                connection = await self._broker.aconnection()
                await connection.send_packed_command(pack(("SUBSCRIBE", *channels)))
                attempt = 0
                while True:
                    message = await connection.read_response(disable_decoding=True)
                    self._hear(message)
            except rexc.ResponseError as err:
                log.warning("Cannot subscribe (%s): delayed jobs are looked for every %g s",
                            err, CHECK_S)  # fmt: skip
                self.ready.set()
                return
            except (rexc.RedisError, BrokerUnavailable, OSError) as err:
                attempt += 1
                if not self.ready.is_set() and (attempt == _PATIENT or attempt % 20 == 0):
                    log.warning("Cannot listen to what is said to this process: %s", err)
                self._heard("wake", "")
                await asyncio.sleep(backoff_s(attempt))
            finally:
                if connection is not None:
                    await connection.disconnect(nowait=True)

    def _hear(self, message: Any) -> None:
        if not isinstance(message, list) or len(message) != 3:
            return
        channel = message[1].decode("utf-8", "replace")
        kind = channel.removeprefix(self._broker.keys.own).partition(":")[0]
        if channel == self._command:
            kind = "command"
            self.ready.set()  # the last one that was asked for
        if message[0] == b"message":
            self._heard(kind, message[2].decode("utf-8", "replace"))
        elif kind in (
            "send",
            "cancel",
            "pause",
        ):  # subscribed, perhaps again: what was said is looked up
            self._heard(kind, "")
