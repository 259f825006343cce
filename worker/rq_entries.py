"""Serves the entries of rq-scheduler: due ones are enqueued, periodic ones get their next time.

One part of the scheduler service. Any number may run: each entry is fired and put to
its next time in one step (entries_fire.lua). They hold rq-scheduler's lock together, so
that stock `rqscheduler` processes skip; while one of those has it, they wait. Users'
functions are never imported here: only ids move.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import timezone
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from taskq.broker.client import run_script
from taskq.broker.link import pack_script
from taskq.broker.scripts import script
from taskq.errors import ConfigError
from taskq.ids import new_id
from taskq.settings import load
from taskq.worker.crontab_times import host_zone
from taskq.worker.rq_plan import Plan, plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import tzinfo

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink

log = logging.getLogger("taskq.worker")

CHECK_S = 1.0
"""Look at least this often: stock rq-scheduler adds entries without a word to anybody."""
HELD_S = 5.0
"""While a stock scheduler has the lock, ask at least this often."""
LIMIT = 500
_PATIENCE_S = 10.0
_LEAVE_S = 2.0


class Entries:
    """Fires what is due in rq-scheduler's set."""

    def __init__(self, broker: Broker, link: AsyncLink, usual_zone: tzinfo = timezone.utc) -> None:
        """Nothing is asked yet.

        Args:
            broker: with its keys.
            link: of the scheduler.
            usual_zone: for cron expressions of entries that name none.
        """
        self._link = link
        self._keys = [broker.keys.prefix, broker.keys.own]
        self._uid = new_id()
        self._zone = usual_zone
        self._held = False

    async def step(self) -> float:
        """Fire what is due; returns seconds until the next look.

        Raises:
            BrokerUnavailable: no answer.
            BrokerError: the set or the lock is of another type.
        """
        asked = time.monotonic()
        answer = await self._ask("entries_due", [self._uid, LIMIT])
        if answer[1] == b"held":
            return self._wait_for_lock(int(answer[2]))
        self._held = False
        now, _ok, _fired, due, periodic, aside, dropped = answer
        report(aside, dropped)
        if periodic:
            args = fire_args(periodic, float(now), self._zone)
            outcomes = await self._ask("entries_fire", [self._uid, *args])
            if outcomes and outcomes[0] == b"held":
                return self._wait_for_lock(int(outcomes[1]))
            report_fired(args, outcomes)
            return 0.0  # what it was put to may be due before the head of the rest
        if not due:
            return CHECK_S
        took = time.monotonic() - asked
        return min(max(float(due) - float(now) - took + 0.001, 0.0), CHECK_S)

    async def stop(self) -> None:
        """Give rq-scheduler's lock back, if no other scheduler of ours is at work."""
        await self._ask("entries_leave", [self._uid])

    async def _ask(self, name: str, args: list[Any]) -> Any:
        chosen = script(name)
        patience = _LEAVE_S if name == "entries_leave" else _PATIENCE_S
        return await run_script(
            self._link, chosen, lambda _resend: pack_script(chosen, self._keys, args), patience
        )

    def _wait_for_lock(self, left_ms: int) -> float:
        if not self._held:
            self._held = True
            tell_held(self._keys[0], left_ms)
        return HELD_S if left_ms < 0 else min(left_ms / 1000 + 0.01, CHECK_S)


class Aside(NamedTuple):
    """An entry that could not be fired: id of its job, why, when it was due, since when."""

    id: str
    reason: str
    due: float
    since: float


def read_asides(flat: Mapping[bytes, bytes]) -> list[Aside]:
    """The hash `taskq:aside`, the oldest first."""
    found = [Aside(text(raw), *json.loads(value)) for raw, value in flat.items()]
    return sorted(found, key=lambda one: one.since)


def asides(broker: Broker) -> list[Aside]:
    """Entries that were set aside. Blocks; one round trip."""
    flat = broker.call("HGETALL", f"{broker.keys.own}aside")
    return read_asides(dict(zip(flat[::2], flat[1::2])))


def usual_zone() -> tzinfo:
    """The zone of cron expressions that name none: the setting `rq_scheduler_tz`, else UTC.

    Raises:
        ConfigError: there is no such zone.
    """
    name = load().rq_scheduler_tz
    if name == "local":
        return host_zone()
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as err:
        raise ConfigError(
            f"TASKQ_RQ_SCHEDULER_TZ (or rq-scheduler-tz) is {name!r}: give a zone as "
            '"Europe/Berlin", or "local".'
        ) from err


def tell_held(prefix: str, left_ms: int) -> None:
    """Log that a stock scheduler has the lock."""
    until = "for ever: it has no expiry, delete it" if left_ms < 0 else f"{left_ms / 1000:.0f} s"
    log.info("%s:scheduler_lock is held by a stock rqscheduler; its entries wait (at most %s)",
             prefix, until)  # fmt: skip


def fire_args(periodic: Sequence[bytes], now: float, zone: tzinfo) -> list[Any]:
    """What entries_fire.lua wants, for what entries_due.lua handed out."""
    args: list[Any] = []
    for n in range(0, len(periodic), 4):
        job_id, seen, meta, first_due = periodic[n : n + 4]
        chosen = _plan(meta, first_due or seen, now, zone)
        args += (job_id, seen, chosen.next_due, chosen.meta, chosen.reason)
    return args


def _plan(meta: bytes, due: bytes, now: float, zone: tzinfo) -> Plan:
    try:
        return plan(meta, float(due), now, zone)
    except Exception as err:  # whatever its bytes lead to: those behind it must not wait
        log.exception("An entry of rq-scheduler cannot be planned")
        return Plan("", reason=f"It cannot be planned: {err!r}.")


def report(aside: Sequence[bytes], dropped: Sequence[bytes]) -> None:
    """Log what was not fired, and why."""
    for n in range(0, len(aside), 2):
        tell_aside(text(aside[n]), text(aside[n + 1]))
    if dropped:
        log.info("%d entries of rq-scheduler removed: canceled, or enqueued by somebody else",
                 len(dropped))  # fmt: skip


def report_fired(args: Sequence[Any], outcomes: Sequence[bytes]) -> None:
    """Log what became of periodic entries, where that is not simply: fired."""
    for n, outcome in enumerate(outcomes):
        job_id, reason = text(args[5 * n]), str(args[5 * n + 4])
        if outcome == b"aside":
            tell_aside(job_id, reason or "its job is gone or broken")
        elif outcome == b"waiting":
            log.info("Entry %s of rq-scheduler is due while its last run waits in the queue: "
                     "it runs once", job_id)  # fmt: skip
        elif outcome == b"canceled":
            log.info("Entry %s of rq-scheduler removed: its job was canceled", job_id)


def tell_aside(job_id: str, reason: str) -> None:
    """Log that an entry was set aside."""
    log.error('Entry %s of rq-scheduler is set aside: %s "taskq schedules aside" lists it',
              job_id, reason)  # fmt: skip


def text(raw: bytes | str) -> str:
    """An id for people."""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
