"""How fast each queue goes at present, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskq.inspector.counts import ALL, MINUTE_S, Counts, Percentiles, Sum, depths
from taskq.inspector.query import Query
from taskq.inspector.server import server_time
from taskq.inspector.statistics import open_minutes
from taskq.inspector.values import count, moment, raw, text
from taskq.keys import Keys

MAX_QUEUES = 500


@dataclass(frozen=True)
class Rates:
    """One queue (or all together) in the last minutes.

    Attributes:
        queue: its name, "" for all together.
        window_s: for how long was counted: whole minutes and the present one.
        counts: what happened in it.
        enqueued_per_s: jobs that came.
        finished_per_s: jobs that ended, whatever way.
        failed_per_s: those among them that failed.
        failure_share: failed ones of finished and failed; None where none ended.
        depth: jobs that waited, by the minute, the oldest first; None where nobody looked. The
            last one is now.
        waiting: jobs that wait now.
        oldest_waiting_s: age of the job that is next.
        to_empty_s: time until none waits, if it goes on like this; 0.0 where none waits, None
            where it does not get less.
    """

    queue: str
    window_s: float
    counts: Counts
    enqueued_per_s: float
    finished_per_s: float
    failed_per_s: float
    failure_share: float | None
    wait: Percentiles
    run: Percentiles
    depth: tuple[int | None, ...]
    waiting: int
    oldest_waiting_s: float | None
    to_empty_s: float | None


def rates(
    keys: Keys, queues: Sequence[str], *, window_s: int = 300, depth_minutes: int = 60
) -> Query[dict[str, Rates]]:
    """Ask how fast these queues go; "" in the answer has them all together.

    Four round trips. Commands: queues x (minutes of the window + hours of the depths + 4), at
    most `MAX_QUEUES` queues. Of the present minute so much is counted as has passed.

    Args:
        keys: names of keys.
        queues: their names, from `overview` or `queue_names`.
        window_s: how far back is counted, 60 to 3600.
        depth_minutes: how many samples of depth, 1 to 1440.
    """
    names = list(queues)[:MAX_QUEUES]
    (reply,) = yield [("TIME",)]
    now = server_time(reply)
    present = int(now // MINUTE_S)
    frame = _Frame(
        now,
        range(present - min(max(window_s // MINUTE_S, 1), 60), present + 1),
        range(present - min(max(depth_minutes, 1), 1440) + 1, present + 1),
    )
    rolling = yield from open_minutes(keys)
    commands: list[Any] = []
    for name in [ALL, *names]:
        commands += [("HGETALL", raw(keys.stats(name, number))) for number in frame.numbers]
        commands += [("HGETALL", raw(keys.depth(name, hour))) for hour in frame.hours]
        commands += [("LLEN", raw(keys.queue(name))), ("LINDEX", raw(keys.queue(name)), 0)]
    replies = yield commands
    width = len(commands) // (len(names) + 1)
    of_all, *rows = (replies[at : at + width] for at in range(0, len(replies), width))
    heads = [raw(keys.job(text(row[-1]))) for row in rows]
    dates = (yield [("HGET", key, "enqueued_at") for key in heads]) if heads else []
    found, total = {}, frame.sum(of_all)
    for name, row, date in zip(names, rows, dates):
        since = moment(date)
        age = None if since is None else max(now - since, 0.0)
        found[name] = frame.rates(name, frame.sum(row), row, count(row[-2]), age)
        if rolling.get(name) in frame.numbers:  # what is not in the sum of all yet
            total.add(row[frame.numbers.index(rolling[name])])
    waiting = sum(one.waiting for one in found.values())
    ages = [one.oldest_waiting_s for one in found.values() if one.oldest_waiting_s is not None]
    found[ALL] = frame.rates(ALL, total, of_all, waiting, max(ages, default=None))
    return found


@dataclass(frozen=True)
class _Frame:
    """What is asked for: minutes of the counters, minutes of the depths. Reads a queue's row."""

    now: float
    numbers: range
    wanted: range

    @property
    def hours(self) -> range:
        return range(self.wanted[0] // 60, self.wanted[-1] // 60 + 1)

    def sum(self, row: list[Any]) -> Sum:
        total = Sum()
        for reply in row[: len(self.numbers)]:
            total.add(reply)
        return total

    def rates(
        self, queue: str, total: Sum, row: list[Any], waiting: int, age: float | None
    ) -> Rates:
        counts, window = total.counts, max(self.now - self.numbers[0] * MINUTE_S, 1.0)
        sampled = depths(zip(self.hours, row[len(self.numbers) : -2]))
        came, left = counts.enqueued / window, counts.ended / window
        to_empty: float | None = 0.0
        if waiting:
            to_empty = waiting / (left - came) if left > came else None
        return Rates(
            queue=queue,
            window_s=window,
            counts=counts,
            enqueued_per_s=came,
            finished_per_s=left,
            failed_per_s=counts.failed / window,
            failure_share=counts.failure_share,
            wait=total.wait,
            run=total.run,
            depth=(*(sampled.get(minute) for minute in self.wanted[:-1]), waiting),
            waiting=waiting,
            oldest_waiting_s=age,
            to_empty_s=to_empty,
        )
