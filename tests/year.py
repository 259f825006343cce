"""A simulated stretch of time: thousands of schedules, and an oracle that walks minute by minute.

The oracle looks at what clocks show at each minute of UTC; expressions come with the sets
they mean, so it parses nothing and knows nothing of how the next time is computed.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import redis

from taskq import Call, Cron, TaskQ
from taskq.schedules import changes
from taskq.schedules.asking import Run, run
from taskq.schedules.changes import Entry
from taskq.schedules.firing import Firing, Look
from taskq.schedules.record import job_id
from taskq.schedules.template import prepare
from taskq.schedules.terms import Terms

MINUTE = timedelta(minutes=1)


class Means(NamedTuple):
    """An expression and its meaning; weekdays: 0 is Sunday."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    weekdays: frozenset[int]

    @property
    def fixed(self) -> bool:
        minute, hour, *_ = self.text.split()
        return not minute.startswith("*") and not hour.startswith("*")

    def fits_day(self, day: date) -> bool:
        return day.day in self.days and day.isoweekday() % 7 in self.weekdays


ALL_DAYS, ALL_WEEKDAYS, ALL_HOURS = (
    frozenset(range(1, 32)),
    frozenset(range(7)),
    frozenset(range(24)),
)


def some_expression(chosen: random.Random, dense: bool) -> Means:
    """A made-up expression: most come once a week or a month, dense ones every day or more."""
    minute, hour = chosen.randrange(60), chosen.choice([0, 1, 2, 2, 2, 3, 3, 7, 12, 23])
    if not dense and chosen.random() < 0.5:
        day = chosen.randrange(1, 29)
        return Means(f"{minute} {hour} {day} * *", frozenset([minute]), frozenset([hour]),
                     frozenset([day]), ALL_WEEKDAYS)  # fmt: skip
    if not dense:
        weekday = chosen.randrange(7)
        return Means(f"{minute} {hour} * * {weekday}", frozenset([minute]), frozenset([hour]),
                     ALL_DAYS, frozenset([weekday]))  # fmt: skip
    kind = chosen.randrange(4)
    if kind == 0:
        return Means(f"{minute} {hour} * * *", frozenset([minute]), frozenset([hour]), ALL_DAYS,
                     ALL_WEEKDAYS)  # fmt: skip
    if kind == 1:
        return Means(f"{minute} * * * *", frozenset([minute]), ALL_HOURS, ALL_DAYS, ALL_WEEKDAYS)
    if kind == 2:
        return Means("*/20 1-3 * * *", frozenset([0, 20, 40]), frozenset([1, 2, 3]), ALL_DAYS,
                     ALL_WEEKDAYS)  # fmt: skip
    return Means("0,30 1-3 * * 1-5", frozenset([0, 30]), frozenset([1, 2, 3]), ALL_DAYS,
                 frozenset(range(1, 6)))  # fmt: skip


class Walked:
    """What the clocks of a zone show, minute by minute, from `start` to `end`."""

    def __init__(self, zone: str, start: datetime, end: datetime) -> None:
        tz = ZoneInfo(zone)
        self._shown: dict[tuple[int, int], list[tuple[int, date, int]]] = defaultdict(list)
        seen: set[datetime] = set()
        before: datetime | None = None
        at = start - timedelta(days=2)
        while at <= end:
            wall = at.astimezone(tz).replace(tzinfo=None, fold=0)
            second = round(at.timestamp())
            if before is not None and wall - before > MINUTE:  # clocks have gone over these
                gone = before + MINUTE
                while gone < wall:
                    self._note(gone, second, at >= start, None)
                    gone += MINUTE
            self._note(wall, second, at >= start, wall not in seen)
            seen.add(wall)
            before = wall
            at += MINUTE

    def _note(self, wall: datetime, second: int, counts: bool, first: bool | None) -> None:
        """`first`: whether clocks show it for the first time; None: they have gone over it."""
        if counts:
            kind = 2 if first is None else int(first)
            self._shown[wall.hour, wall.minute].append((second, wall.date(), kind))

    def times(self, means: Means) -> list[int]:
        """When it is time, by the rule: fixed ones once, or after a gap; others in real time."""
        found = set()
        for hour in means.hours:
            for minute in means.minutes:
                for second, day, kind in self._shown.get((hour, minute), ()):
                    if (kind if means.fixed else kind != 2) and means.fits_day(day):
                        found.add(second)
        return sorted(found)


class Simulation:
    """Schedules of one app from `start` to `end`, fired by several schedulers at once."""

    def __init__(
        self, app: TaskQ, client: redis.Redis, start: datetime, end: datetime, seed: int = 1
    ) -> None:
        self._app, self._client = app, client
        self._start, self._end = start, end
        self._chosen = random.Random(seed)
        self.expected: dict[str, list[int]] = {}
        self.fired: Counter[str] = Counter()
        self.occurrences = 0

    def make(self, count: int, zones: list[str], call: Call[Any], dense_share: float) -> None:
        """Make `count` schedules and find out by the oracle when each is due."""
        walked = {zone: Walked(zone, self._start, self._end) for zone in zones}
        known: dict[tuple[str, str], list[int]] = {}
        entries = []
        for n in range(count):
            means = some_expression(self._chosen, self._chosen.random() < dense_share)
            zone = self._chosen.choice(zones)
            if (means.text, zone) not in known:
                known[means.text, zone] = walked[zone].times(means)
            name = f"s{n}"
            self.expected[name] = known[means.text, zone]
            terms = Terms(Cron(means.text, tz=zone))
            entries.append(Entry(name, terms, prepare(self._app, "test", name, call)))
        self.occurrences = sum(map(len, self.expected.values()))
        before = round(self._start.timestamp() * 1000) - 1
        run(self._app.broker, changes.put(self._app.broker.keys, entries, before))

    def go(self, schedulers: int = 2) -> None:
        """Let the time pass, from due time to due time; all schedulers look at the same moment."""
        firings = [Firing(self._app.codec, self._app.broker.clock) for _ in range(schedulers)]
        now, end = round(self._start.timestamp() * 1000), round(self._end.timestamp() * 1000)
        while now <= end:
            pauses = [look.pause_s for look in self._together(firings, now)]
            self._collect()
            assert all(pause is not None for pause in pauses)
            now += round(min(pause for pause in pauses if pause is not None) * 1000)

    def _together(self, firings: list[Firing], now: int) -> Iterator[Look]:
        """One look of each, step by step side by side: all read before the first one fires."""
        broker = self._app.broker
        keys = [broker.keys.prefix, broker.keys.own]
        looks = [firing.look(now) for firing in firings]
        asks = [next(look) for look in looks]
        left = list(range(len(looks)))
        while left:
            answers = {n: broker.script(asks[n].name, keys, asks[n].args) for n in left
                       if isinstance(asks[n], Run)}  # fmt: skip
            for n in list(left):
                try:
                    asks[n] = looks[n].send(answers[n])
                except StopIteration as stop:
                    left.remove(n)
                    yield stop.value

    def _collect(self) -> None:
        """Count what was enqueued, and take it away: a year would not fit into memory."""
        ids = [raw.decode() for raw in self._client.lrange("rq:queue:default", 0, -1)]
        if len(ids) >= 5_000 or not self._client.zcard("taskq:schedules"):
            self.take(ids)

    def take(self, ids: list[str]) -> None:
        self.fired.update(ids)
        pipe = self._client.pipeline(transaction=False)
        pipe.delete("rq:queue:default")
        for start in range(0, len(ids), 500):
            pipe.unlink(*(f"rq:job:{one}" for one in ids[start : start + 500]))
        pipe.execute()

    def check(self) -> None:
        """Each occurrence of the oracle was enqueued once, and none more."""
        self.take([raw.decode() for raw in self._client.lrange("rq:queue:default", 0, -1)])
        wanted = Counter(
            job_id(name, second * 1000) for name, times in self.expected.items() for second in times
        )
        assert self.fired == wanted


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
