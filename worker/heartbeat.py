"""Heartbeats, the worker's record in RQ's format, and sweeps for jobs of dead workers."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import pack, pack_all, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable
from taskq.worker.settings import LEASE_S, MAX_CRASHES

if TYPE_CHECKING:
    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.settings import Identity

log = logging.getLogger("taskq.worker")

KEEP_S = 60
"""Seconds for which Redis keeps a worker's record after its last heartbeat."""
_PATIENCE_S = 10.0
_HELLO_S, _BYE_S = 2.0, 2.0
"""Shorter at both ends of a worker's life: it says soon what it waits for, and leaves in time."""
_PAGE = 1000


class Beat(NamedTuple):
    """One worker as a heartbeat reports it; `begun` is flat: job id, execution id, ..."""

    uid: str
    name: str
    queues: str
    state: str
    begun: Sequence[str] = ()


async def beat(
    broker: Broker, link: AsyncLink, workers: Sequence[Beat], keep_s: int = KEEP_S
) -> None:
    """Tell Redis that these workers live, and measure its clock.

    Raises:
        BrokerUnavailable: no answer.
    """
    args: list[Any] = [broker.clock.iso(), keep_s]
    for one in workers:
        args += (one.uid, one.name, one.queues, one.state, len(one.begun) // 2, *one.begun)
    await _run(broker, link, "beat", args)


async def sweep(broker: Broker, link: AsyncLink, story: bytes) -> tuple[int, int]:
    """Take back what dead workers hold; returns (requeued, failed).

    Raises:
        BrokerUnavailable: no answer.
    """
    args = [LEASE_S, broker.clock.iso(), MAX_CRASHES, story, _PAGE]
    _now, state, requeued, failed, extended = await _run(broker, link, "recover", args)
    if requeued or failed:
        log.warning("Recovered from dead workers: %d jobs queued again, %d failed",
                    requeued, failed)  # fmt: skip
    if extended:
        log.debug("Extended %d leases", extended)
    if state == b"holding":
        log.debug("Not sweeping yet: waiting for heartbeats after a gap")
    return int(requeued), int(failed)


async def release(
    broker: Broker, link: AsyncLink, uid: str, what: str, story: bytes, begun: Sequence[str] = ()
) -> tuple[int, int]:
    """Give back what one worker holds ("dead": for good, "bye": at its clean end).

    Raises:
        BrokerUnavailable: no answer.
    """
    args = [uid, what, broker.clock.iso(), MAX_CRASHES, story, *begun]
    patience_s = _BYE_S if what == "bye" else _PATIENCE_S
    _now, requeued, failed = await _run(broker, link, "release", args, patience_s)
    return int(requeued), int(failed)


async def _run(
    broker: Broker, link: AsyncLink, name: str, args: list[Any], patience_s: float = _PATIENCE_S
) -> Any:
    chosen = script(name)
    keys = [broker.keys.prefix, broker.keys.own]
    return await run_script(
        link, chosen, lambda _resend: pack_script(chosen, keys, args), patience_s
    )


async def reach(link: AsyncLink) -> None:
    """Have an answer of Redis.

    Raises:
        BrokerUnavailable: there is none.
    """
    await link.ask(lambda _resend: pack(("PING",)), 1, _HELLO_S)


async def register(broker: Broker, link: AsyncLink, me: Identity, version: str) -> None:
    """Write the worker's record as RQ does, so that `rq info` shows it.

    Raises:
        BrokerUnavailable: no answer.
    """
    keys, now = broker.keys, broker.clock.iso()
    key = keys.worker(me.name)
    commands: list[Sequence[Any]] = [
        ("HSET", key, "birth", now, "last_heartbeat", now, "queues", ",".join(me.queues),
         "pid", os.getpid(), "hostname", me.host, "ip_address", "", "version", version,
         "python_version", sys.version, "state", "idle",
         "tq_kind", platform.system(), "tq_slots", me.slots),
        ("EXPIRE", key, KEEP_S),
        ("SADD", keys.workers, key),
        *(("SADD", f"{keys.prefix}:workers:{queue}", key) for queue in me.queues),
    ]  # fmt: skip
    packed = pack_all(commands)
    await link.ask(lambda _resend: packed, len(commands), _HELLO_S)


async def unregister(broker: Broker, link: AsyncLink, me: Identity) -> None:
    """Remove the worker from RQ's sets, as RQ does at a worker's end.

    Raises:
        BrokerUnavailable: no answer.
    """
    keys = broker.keys
    key = keys.worker(me.name)
    commands: list[Sequence[Any]] = [
        ("SREM", keys.workers, key),
        *(("SREM", f"{keys.prefix}:workers:{queue}", key) for queue in me.queues),
        ("HSET", key, "death", broker.clock.iso()),
        ("EXPIRE", key, 60),
        ("DEL", f"{key}:executions"),
    ]
    packed = pack_all(commands)
    await link.ask(lambda _resend: packed, len(commands), _BYE_S)


async def every(period_s: float, step: Callable[[], Any], what: str) -> None:
    """Await `step()` every `period_s` seconds, with jitter, for ever; outages are waited out."""
    while True:
        try:
            await step()
        except (BrokerUnavailable, BrokerError) as err:
            log.warning("%s not possible now: %s", what, err)
        except Exception:
            log.exception("%s failed; it is tried again", what)
        await asyncio.sleep(period_s * random.uniform(0.8, 1.0))  # noqa: S311 (not a secret)
