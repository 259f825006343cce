"""Jobs that Redis says this worker holds, and that nobody here knows.

A failover to a replica that had not heard of everything, or a restart from an older file, takes
back the last moments: jobs whose end was recorded are "started" again, in the name of a worker
that has forgotten them. As it lives, so would their leases, for ever. After each lost connection
a worker compares what Redis has with what is in its hands, for a minute.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.broker.client import run_script
from taskq.broker.link import pack_script
from taskq.broker.scripts import script
from taskq.worker.settings import MAX_CRASHES
from taskq.worker.traces import NO_TRACEBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.settings import Identity

log = logging.getLogger("taskq.worker")

_LOOKS = 12
"""One at each sweep. The end that a master has just forgotten may be news to the next one: a
connection to a replaced master may live some seconds longer than the others."""
_PATIENCE_S = 10.0


class Hands(NamedTuple):
    """What a worker knows of.

    Attributes:
        jobs: ids of jobs that it runs, or that have ended and are not settled.
        calls: execution ids of reserves that were not answered yet.
    """

    jobs: set[str]
    calls: set[str]


class Strays:
    """Looks for them; `suspect` when a connection was lost, `look` every few seconds."""

    def __init__(
        self, broker: Broker, link: AsyncLink, me: Identity, hands: Callable[[], Hands]
    ) -> None:
        """Suspect nothing; `hands` says what the worker knows of at this moment."""
        self._broker = broker
        self._link = link
        self._me = me
        self._hands = hands
        self._looks = 0
        self._story = NO_TRACEBACK

    def suspect(self) -> None:
        """Redis was away: it may have forgotten something."""
        self._looks = _LOOKS

    async def look(self) -> None:
        """Give back what Redis says is ours and is not. Settled meanwhile, it is left alone.

        Raises:
            BrokerUnavailable: no answer.
            BrokerError: the script refused.
        """
        if not self._looks:
            return
        before = self._hands()
        *_, found = await self._run()
        after = self._hands()
        strays = [
            part
            for position, member in zip(found[::2], found[1::2], strict=True)
            if not _known(member, before) and not _known(member, after)
            for part in (position, member)
        ]
        if strays:
            _now, requeued, failed, _found = await self._run(*strays)
            log.warning("Redis has forgotten how jobs of this worker ended (a failover, or an "
                        "older file): %d run again, %d failed", requeued, failed)  # fmt: skip
        self._looks -= 1

    async def _run(self, *members: Any) -> Any:
        queues = self._me.queues
        keys = [self._broker.keys.prefix, self._broker.keys.own]
        args = [
            self._me.uid, self._broker.clock.iso(), MAX_CRASHES, self._story,
            len(queues), *queues, *members,
        ]  # fmt: skip
        chosen = script("strays")
        return await run_script(
            self._link, chosen, lambda _resend: pack_script(chosen, keys, args), _PATIENCE_S
        )


def _known(member: bytes, hands: Hands) -> bool:
    job_id, _, exec_id = member.rpartition(b":")
    return (
        job_id.decode("utf-8", "surrogateescape") in hands.jobs or exec_id.decode() in hands.calls
    )
