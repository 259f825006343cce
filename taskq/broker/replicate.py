"""Enqueueing that waits for replicas: the script, then WAIT on the same connection.

Replication is asynchronous: what a master has accepted is lost when it dies before a replica
heard of it. WAIT counts the replicas that have, up to this connection's last write; after a
resend that found its jobs there this would be no write at all, so one of a small key goes
between. It is no consensus: a replica that had confirmed may still not be the one promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from taskq.broker.alink import AsyncLink
from taskq.broker.answers import ask_script, ask_script_blocking, value_of
from taskq.broker.link import SyncLink, pack_all
from taskq.broker.records import Accepted, NewJob
from taskq.broker.scripts import Script
from taskq.errors import NotReplicated

WAIT_MS = 1_000
"""How long a replica may take. One beside its master needs less than a millisecond."""
_REPLIES = 3

Make = Callable[[bool], bytes]


def wanted(jobs: Iterable[NewJob]) -> int:
    """Replicas that have to confirm these jobs: the most that one of them asks for."""
    return max((job.replicas for job in jobs), default=0)


def with_wait(make: Make, own: str, replicas: int) -> Make:
    """The request of the enqueue script, followed by a write and a WAIT: three replies."""
    more = pack_all([("SET", f"{own}replicated", "1", "PX", 10_000), ("WAIT", replicas, WAIT_MS)])
    return lambda resend: make(resend) + more


def run(link: SyncLink, chosen: Script, both: Make, deadline_s: float) -> tuple[Any, int]:
    """The script's answer, and how many replicas confirmed. Blocks.

    Raises:
        BrokerUnavailable: no answer before the deadline.
        BrokerError: the script refused.
    """
    answers = ask_script_blocking(link, chosen, both, deadline_s, _REPLIES)
    return value_of(answers[0]), _confirmed(answers)


async def arun(link: AsyncLink, chosen: Script, both: Make, deadline_s: float) -> tuple[Any, int]:
    """`run` for asyncio programs, on a link of its own: WAIT holds up what comes behind it."""
    answers = await ask_script(link, chosen, both, deadline_s, _REPLIES)
    return value_of(answers[0]), _confirmed(answers)


def _confirmed(answers: Sequence[Any]) -> int:
    return answers[2] if isinstance(answers[2], int) else 0


def check(got: Sequence[Accepted], replicas: int, confirmed: int) -> None:
    """Say so where fewer confirmed than were asked for.

    Raises:
        NotReplicated: the jobs are enqueued all the same.
    """
    if confirmed < replicas:
        raise NotReplicated([one.id for one in got], replicas, confirmed, WAIT_MS / 1000)
