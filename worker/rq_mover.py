"""Fires rq-scheduler's entries over a redis-py connection: `RQScheduler`'s twin of rq_entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq.broker.scripts import script
from taskq.ids import new_id
from taskq.worker.rq_entries import (
    CHECK_S,
    HELD_S,
    LIMIT,
    fire_args,
    report,
    report_fired,
    tell_held,
)

if TYPE_CHECKING:
    from datetime import tzinfo

    import redis

    from taskq.keys import Keys


class Mover:
    """Runs the scripts on entries. Blocks; one round trip for each.

    Attributes:
        holds: whether rq-scheduler's lock was ours at the last look.
    """

    def __init__(self, connection: redis.Redis, keys: Keys, zone: tzinfo) -> None:
        """Ask nothing yet; `zone`: of cron expressions that name none."""
        self._connection = connection
        self._keys = keys
        self._zone = zone
        self._uid = new_id()
        self.holds = False

    def hold(self) -> bool:
        """Take or renew the lock, if no stock scheduler has it."""
        self.holds = self._run("entries_due", 0)[1] == b"ok"
        return self.holds

    def leave(self) -> None:
        """Give the lock back, if no other scheduler of ours is at work."""
        self._run("entries_leave")
        self.holds = False

    def fire_due(self) -> tuple[int, float]:
        """Fire all that is due; how many, and seconds until the next is."""
        total = 0
        while True:
            answer = self._run("entries_due", LIMIT)
            if answer[1] == b"held":
                return total, self._held(int(answer[2]))
            self.holds = True
            now, _ok, fired, due, periodic, aside, dropped = answer
            total += int(fired)
            report(aside, dropped)
            if periodic:
                outcomes = self._fire(fire_args(periodic, float(now), self._zone))
                total += outcomes.count(b"fired")
            elif not due or float(due) > float(now):
                return total, float(due) - float(now) if due else CHECK_S

    def fire(self, job_id: str) -> None:
        """Fire one entry, due or not; nothing where it is not there."""
        keys = self._keys
        seen = self._connection.zscore(f"{keys.prefix}:scheduler:scheduled_jobs", job_id)
        if seen is None:
            return
        first: Any
        meta: Any
        first, meta = self._connection.hmget(keys.job(job_id), "tq_due", "meta")
        seconds, micros = self._connection.time()
        entry: list[bytes] = [job_id.encode(), repr(seen).encode(), meta or b"", first or b""]
        self._fire(fire_args(entry, seconds + micros / 1e6, self._zone))

    def _fire(self, args: list[Any]) -> list[bytes]:
        outcomes: list[bytes] = self._run("entries_fire", *args)
        if outcomes and outcomes[0] == b"held":
            self._held(int(outcomes[1]))
            return []
        report_fired(args, outcomes)
        return outcomes

    def _held(self, left_ms: int) -> float:
        if self.holds is not False:
            tell_held(self._keys.prefix, left_ms)
        self.holds = False
        return HELD_S if left_ms < 0 else left_ms / 1000 + 0.01

    def _run(self, name: str, *args: Any) -> Any:
        chosen = script(name)
        run = self._connection.register_script(chosen.text)
        return run(keys=[self._keys.prefix, self._keys.own], args=[self._uid, *args])
