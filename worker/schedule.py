"""Schedules, served: brings what the code defines to Redis, fires what is due, sleeps until then.

Any number of these may run beside each other; none is the leader.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import backoff_s, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.schedules import code
from taskq.schedules.asking import arun
from taskq.schedules.firing import Firing
from taskq.worker.rq_entries import Entries, usual_zone

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.schedules.changes import Entry
    from taskq.schedules.code import Synced

log = logging.getLogger("taskq.scheduler")

CHECK_S = 15.0
"""Look at least this often: a connection may be gone without a word, and with it what it said."""
_PATIENCE_S = 10.0


class Part(Protocol):
    """Something that has its times: our schedules, and other sets of them."""

    async def step(self) -> float:
        """Do what is due; returns seconds until the next look.

        Raises:
            BrokerUnavailable, BrokerError: not possible now.
        """
        ...

    async def stop(self) -> None:
        """Let go; called once at the end."""
        ...


def parts_of(app: TaskQ, link: AsyncLink) -> list[Part]:
    """All that a scheduler of this app serves.

    Raises:
        ConfigError, NotSerializable: a schedule in the code cannot be.
    """
    return [Schedules(app, link), Entries(app.broker, link, usual_zone())]


class Schedules:
    """Our own schedules."""

    def __init__(self, app: TaskQ, link: AsyncLink) -> None:
        """Nothing is done yet.

        Args:
            app: loaded app.
            link: carries the scripts.

        Raises:
            ConfigError, NotSerializable: a schedule in the code cannot be.
        """
        self._broker: Broker = app.broker
        self._link = link
        self._owner = app.schedules.owner
        self._defined: list[Entry] | None = app.schedules.defined()
        self._firing = Firing(app.codec, app.broker.clock)
        self.fired = 0

    async def step(self) -> float:
        """Fire what is due; the first time after bringing the code's schedules to Redis."""
        if self._defined is not None:
            done = await arun(
                self._broker,
                code.sync(self._broker.keys, self._owner, self._defined),
                self._script,
            )
            _tell(len(self._defined), done)
            self._defined = None
        asked = time.monotonic()
        look = await arun(self._broker, self._firing.look(), self._script)
        self.fired += look.fired
        if look.fired:
            log.debug("Fired %d", look.fired)
        if look.pause_s is None:
            return CHECK_S
        if not look.pause_s:
            return 0.0
        # the look's time is a whole millisecond, rounded down
        return min(max(look.pause_s - (time.monotonic() - asked), 0.0) + 0.001, CHECK_S)

    async def stop(self) -> None:
        """Nothing is held."""

    async def _script(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        chosen = script(name)
        return await run_script(
            self._link, chosen, lambda _resend: pack_script(chosen, keys, args), _PATIENCE_S
        )


class SchedulerService:
    """Runs parts, each in an asyncio task of its own, so that none holds up another."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Nothing runs yet."""
        self._parts = list(parts)
        self._wakes = [asyncio.Event() for _ in self._parts]

    def nudge(self) -> None:
        """Something was scheduled earlier than all else."""
        for wake in self._wakes:
            wake.set()

    async def run(self) -> None:
        """Serve for ever; when it is cancelled, the parts let go."""
        try:
            await asyncio.gather(*map(self._serve, self._parts, self._wakes))
        finally:
            for part in self._parts:
                with suppress(BrokerUnavailable, BrokerError):
                    await part.stop()

    async def _serve(self, part: Part, wake: asyncio.Event) -> None:
        attempt = 0
        while True:
            wake.clear()
            try:
                pause = await part.step()
                if attempt:
                    log.info("Redis is back: schedules go on")
                attempt = 0
            except (BrokerUnavailable, BrokerError) as err:
                attempt += 1
                if attempt == 1:
                    log.warning("Schedules wait: %s", err)
                pause = backoff_s(attempt)
            except Exception:  # what is due must not wait for ever because of one surprise
                attempt += 1
                pause = backoff_s(attempt)
                log.exception("A look at the schedules failed; the next is in %.1f s", pause)
            if pause > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(wake.wait(), pause)
            else:
                await asyncio.sleep(0)


def _tell(count: int, done: Synced) -> None:
    """Say what has changed with this release of the code."""
    if count or done.removed:
        log.info(
            "Schedules of the code: %d, %d of them new, %d changed; %d removed",
            count, len(done.added), len(done.changed), len(done.removed),
        )  # fmt: skip
    for names, what in ((done.added, "new"), (done.changed, "changed"), (done.removed, "removed")):
        for name in names:
            log.debug("Schedule %r: %s", name, what)
