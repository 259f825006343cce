"""`queue.schedules`: make, change, pause, resume, run and remove schedules of an app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq.future import Handle
from taskq.ids import new_id
from taskq.schedules import changes, code, declared
from taskq.schedules.asking import arun, run
from taskq.schedules.changes import Entry
from taskq.schedules.code import Synced
from taskq.schedules.declared import Declared
from taskq.schedules.template import occurrence, prepare
from taskq.schedules.terms import check_name, terms

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from taskq.broker.records import NewJob
    from taskq.calls import Call
    from taskq.schedules.record import Record
    from taskq.schedules.terms import ScheduleOptions
    from taskq.timing import When


class Schedule:
    """One schedule by its name: `queue.schedules["report"].pause()`. Each method asks Redis."""

    __slots__ = ("_all", "name")

    def __init__(self, schedules: Schedules, name: str) -> None:
        """A handle, whether there is one of that name or not."""
        self._all = schedules
        self.name = name

    def __repr__(self) -> str:
        return f"<Schedule {self.name!r}>"

    def pause(self) -> bool:
        """Stop it until `resume`; False: it was paused already."""
        return self._all.pause(self.name)

    def resume(self) -> bool:
        """Go on with the next occurrence from now; False: it was not paused."""
        return self._all.resume(self.name)

    def remove(self) -> bool:
        """Remove it; False: there was none."""
        return self._all.remove(self.name)

    def run(self) -> Handle[Any]:
        """Enqueue its job now, beside its times."""
        return self._all.run(self.name)


class Schedules:
    """The schedules of an app.

    What modules define while they are imported is kept here until a scheduler, which calls
    `sync_code`, brings it to Redis. All else is written at once.
    """

    def __init__(self, app: Any) -> None:
        """None is known yet."""
        self._app = app
        self._declared: dict[str, Declared] = {}

    def __getitem__(self, name: str) -> Schedule:
        return Schedule(self, check_name(name))

    def __repr__(self) -> str:
        return f"<Schedules of {self._app}, {len(self._declared)} defined by its code>"

    # -- what the code defines -----------------------------------------------------------

    def declare(self, name: str, call: Call[Any], when: When, options: Any, place: str) -> Schedule:
        """Note what the code defines; written when a scheduler starts.

        Raises:
            ConfigError: a wrong value, or the name is taken by another place in the code.
        """
        where = f"schedule({name!r})"
        made = Declared(check_name(name), call, terms(where, when, options), place)
        declared.add(self._declared, made)
        return Schedule(self, name)

    @property
    def owner(self) -> str:
        """The name under which the code's schedules stand in Redis."""
        return self._app.name or "app"

    @property
    def has_code(self) -> bool:
        """Whether the code defines any."""
        return bool(self._declared)

    def defined(self) -> list[Entry]:
        """What the code defines, ready to be written.

        Raises:
            NotSerializable, ConfigError: a call cannot be enqueued.
        """
        return [one.entry(self._app, self.owner) for one in self._declared.values()]

    def sync_code(self) -> Synced:
        """Bring what the code defines to Redis: new ones, changed ones, gone ones. Blocks."""
        return run(self._broker, code.sync(self._broker.keys, self.owner, self.defined()))

    async def async_code(self) -> Synced:
        """`sync_code` for asyncio programs."""
        return await arun(self._broker, code.sync(self._broker.keys, self.owner, self.defined()))

    # -- at run time ---------------------------------------------------------------------

    def set(
        self, name: str, call: Call[Any], when: When, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """Make a schedule, or change it to this, at once. Blocks for two round trips.

        One whose times stay as they are keeps its next one; one that is paused stays so.

        Raises:
            ConfigError: a wrong value.
            NotSerializable: an argument of the call cannot be carried.
            BrokerUnavailable: no answer from Redis within 5 s; again is harmless.
        """
        run(self._broker, changes.put(self._broker.keys, [self._entry(name, call, when, options)]))
        return Schedule(self, name)

    async def aset(
        self, name: str, call: Call[Any], when: When, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """`set` for asyncio programs."""
        entry = self._entry(name, call, when, options)
        await arun(self._broker, changes.put(self._broker.keys, [entry]))
        return Schedule(self, name)

    def pause(self, name: str) -> bool:
        """Stop a schedule until it is resumed; False: it was paused already.

        Raises:
            ScheduleNotFound: there is none of that name.
        """
        return run(self._broker, changes.pause(self._broker.keys, name))

    async def apause(self, name: str) -> bool:
        """`pause` for asyncio programs."""
        return await arun(self._broker, changes.pause(self._broker.keys, name))

    def resume(self, name: str) -> bool:
        """Go on with the next occurrence from now; False: it was not paused.

        What was due meanwhile is not made up for.

        Raises:
            ScheduleNotFound: there is none of that name.
        """
        return run(self._broker, changes.resume(self._broker.keys, name))

    async def aresume(self, name: str) -> bool:
        """`resume` for asyncio programs."""
        return await arun(self._broker, changes.resume(self._broker.keys, name))

    def remove(self, name: str) -> bool:
        """Remove a schedule; its jobs stay. False: there is none of that name.

        One that the code defines comes back when a scheduler starts; pause it instead.
        """
        return run(self._broker, changes.remove(name))

    async def aremove(self, name: str) -> bool:
        """`remove` for asyncio programs."""
        return await arun(self._broker, changes.remove(name))

    def run(self, name: str) -> Handle[Any]:
        """Enqueue a schedule's job now, beside its times; `scheduled_for` is None there.

        Raises:
            ScheduleNotFound: there is none of that name.
        """
        found = run(self._broker, changes.fetch(self._broker.keys, name))
        return self._handle(self._broker.enqueue((self._job(found),))[0], found)

    async def arun(self, name: str) -> Handle[Any]:
        """`run` for asyncio programs."""
        found = await arun(self._broker, changes.fetch(self._broker.keys, name))
        return self._handle((await self._broker.aenqueue((self._job(found),)))[0], found)

    # -- inside --------------------------------------------------------------------------

    @property
    def _broker(self) -> Any:
        return self._app.broker

    def _entry(self, name: str, call: Call[Any], when: When, options: Any) -> Entry:
        where = f"schedule({name!r})"
        checked = terms(where, when, options)
        return Entry(check_name(name), checked, prepare(self._app, where, name, call))

    def _job(self, found: Record) -> NewJob:
        return occurrence(self._app.codec, found.name, found.template, new_id(), None)

    def _handle(self, accepted: Any, found: Record) -> Handle[Any]:
        task = self._app.tasks.get(found.template.task)
        return Handle(self._app, accepted.id, task, accepted.created)
