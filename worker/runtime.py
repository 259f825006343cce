"""One worker process: assembles its parts, and owns the order of start and stop.

Order of the stop: nothing is reserved any more; what has not begun goes back to the
head of its queue; what runs gets the grace time, is then cancelled and given back;
what ended is settled; what the process had open is closed; the worker takes its leave.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from taskq.resources import Resources
from taskq.worker import heartbeat, items
from taskq.worker.cancellations import Cancellations
from taskq.worker.cancelling import cancel_all
from taskq.worker.counting import Counting
from taskq.worker.delivery import Delivery
from taskq.worker.fetch import Fetcher
from taskq.worker.life import Life
from taskq.worker.loop_watch import LoopWatch
from taskq.worker.pace import Pace
from taskq.worker.presence import Presence
from taskq.worker.process_pool import RETIRE_S
from taskq.worker.process_route import Route
from taskq.worker.promote import Listener, Promoter
from taskq.worker.records import Records
from taskq.worker.resolve import Resolver
from taskq.worker.room import Room
from taskq.worker.rq_commands import Commands
from taskq.worker.rq_door import Door
from taskq.worker.rq_shown import Shown
from taskq.worker.runners import Runners
from taskq.worker.schedule import SchedulerService, parts_of
from taskq.worker.settings import BEAT_S, LOOKAHEAD_S, Identity
from taskq.worker.settle import Settler
from taskq.worker.strays import Hands, Strays
from taskq.worker.suspects import Suspects

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.worker.begun import BegunTable
    from taskq.worker.claim import Claim
    from taskq.worker.rq_host import Host
    from taskq.worker.runner import Runner
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.worker")

TICK_S = 0.05
PROGRESS_S = 0.3
_CANCEL_S = 1.0
"""Cancelled coroutines have so long to clean up."""
_SETTLE_AT_END_S = 10.0
_LONG_STOP_S = 3.0
_LANE_AT_END_S = 10.0
_LANE_EACH_S = 0.01


class Runtime:
    """The parts of one worker process. Make it inside its event loop, then `await run()`."""

    def __init__(
        self,
        app: TaskQ,
        settings: WorkerSettings,
        uid: str,
        begun: BegunTable | None = None,
        host: Host | None = None,
    ) -> None:
        """Assemble; nothing runs yet.

        Args:
            app: loaded app.
            settings: of this worker.
            uid: 8 characters, never used before: leases carry it.
            begun: memory shared with the supervisor, or None.
            host: the RQ worker that it works for, or None.
        """
        self._settings = settings
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._stop_why = ""
        self._services: list[asyncio.Task[None]] = []
        self._resources = Resources(app)
        me = Identity.of(settings, uid)
        self.name = me.name
        broker = app.broker
        self._links = [broker.new_alink() for _ in range(3)] + [broker.new_alink(self._link_state)]
        fetch_link, settle_link, stream_link, link = self._links

        self._door = Door(app, me, self._wake, self._out, host, self._is_crowded)
        self.settler = Settler(broker, settle_link, me, self._door, self._out)
        self._suspects = Suspects(self._runner_of)
        pace = Pace()
        self._life = Life(app, me.name, self.settler, self._door, self._suspects, pace, begun)
        self._life.watches = host is not None and host.watches
        life = self._life
        self._runners = Runners(
            settings, self.settler, life.begin, life.done, self._wake, pace, app, stream_link,
            life.follow,
        )  # fmt: skip
        life.callbacks = self._runners.callbacks
        self._records = Records(broker, link, me.name)
        resolver = Resolver(
            app, rq=settings.rq, report=self._records.report, route=Route.of(app, settings),
            host=host, result_ttl_s=settings.result_ttl_s,
        )  # fmt: skip
        delivery = Delivery(resolver, self._runners, self._suspects, life, self.settler)
        modes = _modes(app, settings)
        self._deliver = delivery.take
        self._room = Room(settings, modes, life, self._runners, self.settler)
        self._fetcher = Fetcher(broker, fetch_link, me, settings, self._room, self._take)
        self._runners.processes.attach(me.name, self._fetcher.nudge, warm="process" in modes)
        self._runners.steps.slots.processes.attach(me.name, bool, warm=False)
        self._promoter = Promoter(broker, link, me.queues, self._door.promote)
        self._scheduler = SchedulerService(parts_of(app, link) if settings.with_scheduler else ())
        self._listener = Listener(broker, me.name, self._heard)
        self._presence = Presence(broker, link, me, self._runners, self._records, self._door)
        self._presence.is_suspended = lambda: self._fetcher.suspended
        if host is not None:
            self._presence.hosted_s = host.keep_s
        self._cancellations = Cancellations(self._runners, self._presence)
        runners, records = self._runners, self._records
        self._shown = Shown(broker, link, self._presence, runners, records) if settings.rq else None
        self._commands = Commands(runners, lambda: self.stop("shutdown"))
        self._idle_since = time.monotonic()
        self._jobs_seen = 0
        self._hurried = False
        self._begun = begun
        coroutines = self._runners.coroutines
        self._watch = LoopWatch(settings.slow_loop_s, begun, lambda: coroutines.busy)
        self._counting = Counting(self.settler, self._runners)
        self._strays = Strays(broker, link, me, self._hands)

    @property
    def jobs(self) -> int:
        """How many jobs have run here."""
        return self._life.jobs

    # -- start and stop ------------------------------------------------------------------

    async def run(self, ready: Callable[[], None] | None = None) -> str:
        """Work until told to stop; `ready` is called when Redis knows this worker.

        Returns:
            Why it stopped: "asked", "shutdown", "cold", "burst", "jobs", "idle", "memory",
            "stuck", "fenced", "failed";
            "lifespan": it could not start.
        """
        try:
            return await self._live(ready)
        except Exception:  # what goes on, or is open, would keep the loop from being closed
            left = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait([self._loop.create_task(cancel_all(*left))], timeout=_CANCEL_S)
            await self._close_links()
            raise
        finally:
            self._watch.stop()

    async def _live(self, ready: Callable[[], None] | None) -> str:
        stopping = self._loop.create_task(self._stop.wait())
        if not await self._open_resources(stopping):
            await self._close_links()
            return self._stop_why
        listening = self._loop.create_task(self._listener.run())
        hello = self._loop.create_task(self._presence.hello(self._listener.ready))
        await asyncio.wait([hello, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not hello.done():  # told to stop while there is no Redis: nothing is in hand
            await cancel_all(hello, listening)
            await self._resources.stop()
            await self._close_links()
            return self._stop_why
        hello.result()
        self._watch.start()
        if ready is not None:
            ready()
        services = (
            heartbeat.every(BEAT_S, self._presence.beat, "Heartbeat"),
            heartbeat.every(BEAT_S, self._presence.sweep, "Sweep"),
            heartbeat.every(BEAT_S, self._strays.look, "Comparing what is in hand"),
            heartbeat.every(BEAT_S, self._counting.step, "Counting"),
            self._scheduler.run(),
            self._tick(),
            *([] if self._host is not None else [self._promoter.run()]),  # RQ has a scheduler
        )
        self._services = [listening, *(self._loop.create_task(one) for one in services)]
        fetching = self._loop.create_task(self._fetcher.run())
        await asyncio.wait([fetching, stopping], return_when=asyncio.FIRST_COMPLETED)
        if fetching.done() and not fetching.cancelled():
            error = fetching.exception()
            if error is not None:
                log.critical("Fetching ended", exc_info=error)
            self._stop_why = self._stop_why or ("fenced" if self._fetcher.fenced else "failed")
        stopping.cancel()
        self._room.close()
        await cancel_all(fetching)
        await self._fetcher.stop()
        await self._finish()
        return self._stop_why

    def stop(self, why: str = "asked") -> None:
        """Stop warmly. May be called more than once."""
        self._stop_why = self._stop_why or why
        self._room.close()
        self._stop.set()

    def hurry(self) -> None:
        """Stop now: running jobs have no more time. May be called before or after `stop`."""
        self._hurried = True
        self.stop("cold")

    def command(self, text: str) -> None:
        """Carry out one of RQ's commands, as it stands in a message."""
        self._commands.heard(text)

    def kill(self) -> None:
        """End all running jobs: they have failed."""
        self._commands.kill()

    @property
    def is_busy(self) -> bool:
        """Whether jobs run."""
        return bool(self._runners.running())

    async def _open_resources(self, stopping: asyncio.Task[bool]) -> bool:
        """Enter the app's lifespan; False when that fails, or there is no time for it."""
        starting = self._loop.create_task(self._resources.start())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        elif (error := starting.exception()) is None:
            return True
        else:
            log.critical("Cannot start: the app's lifespan raised %r", error, exc_info=error)
            self._stop_why = "lifespan"
            stopping.cancel()
        await self._resources.stop()
        return False

    async def _finish(self) -> None:
        """Everything after the last reserve; see the order in the module's docstring."""
        for claim in self._suspects.withdraw()[::-1]:
            self.settler.add(claim, items.GIVEN_BACK)
        self._runners.give_back_unbegun()
        self._runners.steps.closing = True
        # also what waits: a thread may just be taking it
        await self._until(
            lambda: self._hurried or not self._runners.busy, self._settings.grace_s, self._told
        )
        left = len(self._runners.running())
        if left:
            log.warning("%d jobs did not end in time: cancelled and given back", left)
            self._runners.interrupt()
            await self._until(lambda: not self._runners.closing, _CANCEL_S)
        self._runners.abandon()
        if self._begun is not None:
            self._begun.clear()  # what is left is settled here: no limit, no crash concerns it
        try:
            self.settler.flush()
            await asyncio.wait_for(self.settler.drain(), _SETTLE_AT_END_S)
        except asyncio.TimeoutError:
            log.error("Redis is away: %d ended jobs could not be settled; their leases will end "
                      "and they run again", self.settler.pending)  # fmt: skip
        door = self._door
        patience_s = _LANE_AT_END_S + _LANE_EACH_S * (len(door.inside) + door.sending)
        await self._until(lambda: not door.inside and not door.sending, patience_s)
        await self._resources.stop()
        pools = (self._runners.processes, self._runners.steps.slots.processes)
        await self._until(lambda: all(pool.all_ended for pool in pools), RETIRE_S)
        await cancel_all(*self._services)
        await self._cancellations.stop()
        self._door.close()
        await self._presence.leave()
        await self._close_links()

    async def _until(
        self, done: Callable[[], bool], limit_s: float, told: Callable[[], None] | None = None
    ) -> None:
        """Wait for a condition that ends of jobs bring about; call `told` when that takes long."""
        start = time.monotonic()
        # looked at, not signalled: no job pays for an event that only a stop awaits
        while not done() and (now := time.monotonic()) < start + limit_s:
            if told is not None and now > start + _LONG_STOP_S:
                told()
                told = None
            await asyncio.sleep(0.01)

    def _told(self) -> None:
        """Whoever waits for the end of a worker wants to know for what."""
        running = self._runners.running()
        some = ", ".join(f"{claim.name} {claim.id}" for claim in running[:5])
        log.info("Still waiting for %d jobs (%d of them not begun), among them: %s",
                 self._runners.busy, self._runners.busy - len(running), some or "none")  # fmt: skip

    async def _close_links(self) -> None:
        for link in self._links:
            await link.aclose()

    # -- while it runs -------------------------------------------------------------------

    async def _tick(self) -> None:
        """Every 50 ms: time limits, jobs that wait too long, progress, the ends of a burst."""
        last_progress = 0.0
        writing: asyncio.Task[None] | None = None
        while True:
            # what waits may have to go elsewhere soon
            await asyncio.sleep(TICK_S / 2 if self._runners.waiting else TICK_S)
            now = time.monotonic()
            try:
                self._runners.check(now)
                self._suspects.next()
                due = self._records.reports and now - last_progress > PROGRESS_S
                if due and (writing is None or writing.done()):
                    last_progress = now
                    # not awaited: time limits hold, too, while Redis is away
                    writing = self._loop.create_task(self._records.write_progress())
                if self._shown is not None:
                    self._shown.step()
                if not self._stop.is_set():
                    self._check_end()
            except Exception:  # without this loop no time limit would hold any more
                log.exception("A look at the running jobs failed; the next is in %g s", TICK_S)

    def _check_end(self) -> None:
        busy = self._runners.busy + self.settler.pending
        busy += len(self._door.inside) + self._door.sending + len(self._suspects)
        limit = self._settings.max_jobs
        if limit is not None and self.jobs >= limit and not busy:
            self.stop("jobs")
        elif self._settings.burst and self._fetcher.empty and not busy:
            self.stop("burst")
        elif self._has_idled(busy):
            self.stop("idle")
        elif self._runners.stuck > self._settings.stuck_limit:
            log.error(
                "%d threads or coroutines of this worker are stuck, more than %d (--max-stuck): "
                "it takes no more jobs and is replaced",
                self._runners.stuck, self._settings.stuck_limit,
            )  # fmt: skip
            self.stop("stuck")

    def _has_idled(self, busy: int) -> bool:
        now = time.monotonic()
        if busy or self._jobs_seen != self.jobs:
            self._idle_since, self._jobs_seen = now, self.jobs
        limit = self._settings.max_idle_s
        return limit is not None and now - self._idle_since >= limit

    def _link_state(self, err: Exception | None) -> None:
        if err is None:
            self._strays.suspect()

    def _hands(self) -> Hands:
        """All that this worker knows of, wherever it is."""
        jobs = self.settler.job_ids() | self._suspects.job_ids() | self._door.inside
        jobs.update(claim.id for claim in self._runners.in_hand())
        return Hands(jobs, self._fetcher.unanswered())

    def _is_crowded(self) -> bool:
        """Whether short jobs wait in Redis. Called in threads."""
        backlog = self._fetcher.has_backlog and not self._stop.is_set()
        return backlog and self._life.pace.average_s < LOOKAHEAD_S

    def _runner_of(self, claim: Claim) -> Runner:
        return self._runners.of(claim)

    def _out(self, claim: Claim) -> None:
        """A job is settled: it no longer concerns this worker."""
        if claim.recorded or claim.id in self._records.reports:
            self._records.forget(claim)
        self._fetcher.nudge()

    def _heard(self, channel: str, text: str) -> None:
        if channel == "wake":
            self._promoter.nudge()
            if not text:  # else of a queue
                self._scheduler.nudge()
        elif channel == "cancel" and text:
            self._cancellations.heard(text)
        elif channel == "cancel":
            self._cancellations.look()
        elif channel == "pause":
            self._fetcher.look()
        elif channel == "command":
            self.command(text)
        elif channel == "send":
            self._runners.generators.mail.heard(text)

    def _take(self, claims: list[Claim]) -> None:
        self._deliver(claims)
        self._cancellations.came(claims)

    def _wake(self, fn: Callable[[], None]) -> None:
        """Run something on the loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(fn)
        except RuntimeError:
            log.debug("The loop is closed: a thread that was abandoned has come back too late")


def _modes(app: TaskQ, settings: WorkerSettings) -> set[str]:
    """Kinds of tasks that may come: where there are none, missing slots are no limit."""
    modes: set[str] = {task.mode for task in app.tasks.values()}
    if settings.rq:
        modes |= {"asyncio", settings.default_mode}
    return modes | {"asyncio"} if "generator" in modes else modes  # there async ones run
