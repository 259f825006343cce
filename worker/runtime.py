"""One worker process: assembles its parts, and owns the order of start and stop.

Order of the stop: nothing is reserved any more; what has not begun goes back to the
head of its queue; what runs gets the grace time, is then cancelled and given back;
what ended is settled; the worker takes its leave.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import pack_all, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable, PayloadError, UnknownTask
from taskq.worker import execute, heartbeat, items
from taskq.worker.async_runner import AsyncRunner
from taskq.worker.execute import Interrupted, Resolver, TimeLimit
from taskq.worker.fetch import Fetcher, Pace
from taskq.worker.items import Item
from taskq.worker.promote import Listener, Promoter
from taskq.worker.settings import BEAT_S, SETTLE_BYTES
from taskq.worker.settle import Settler
from taskq.worker.thread_runner import ThreadRunner

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.worker.begun import BegunTable
    from taskq.worker.claim import Claim
    from taskq.worker.rq_lane import Lane
    from taskq.worker.settings import WorkerSettings

log = logging.getLogger("taskq.worker")
job_log = logging.getLogger("taskq.job")

TICK_S = 0.05
UNBEGUN_S = 0.15
"""A job that waited this long in a worker without a free slot goes back to its queue."""
RECORD_S = 1.0
"""Jobs that run longer get RQ's execution record; shorter ones never pay for it."""
SUSPECT_CRASHES = b"2"
SUSPECT_S = 10.0
PROGRESS_S = 0.3
_SETTLE_AT_END_S = 10.0
_LANE_AT_END_S = 10.0
_RECORD_KEEP_S = 60


class Runtime:
    """The parts of one worker process. Make it inside its event loop, then `await run()`."""

    def __init__(
        self, app: TaskQ, settings: WorkerSettings, uid: str, begun: BegunTable | None = None
    ) -> None:
        """Assemble; nothing runs yet.

        Args:
            app: loaded app.
            settings: of this worker.
            uid: 8 characters, never used before: leases carry it.
            begun: memory shared with the supervisor, or None.
        """
        self.app = app
        self.broker = app.broker
        self.settings = settings
        self.uid = uid
        self.host = execute.short_worker_name(settings.name or socket.gethostname())
        self.name = f"{self.host}.{uid}"
        self.queue_names = [name for name, _weight in settings.queues]
        self._loop = asyncio.get_running_loop()
        self._begun = begun
        self._resolver = Resolver(app, rq=settings.rq, report=self._progress)
        self.pace = Pace()
        self.threads = ThreadRunner(settings.threads, self._begin, self._done, self._wake)
        self.coroutines = AsyncRunner(settings.concurrency, self._begin, self._done)
        self._links = [self.broker.new_alink() for _ in range(3)]
        fetch_link, settle_link, self.link = self._links
        self.settler = Settler(
            self.broker, settle_link, self.name, self.queue_names,
            self._enter_lane, self._out,
        )
        self._story = execute.lost_text()
        self.fetcher = Fetcher(
            self.broker, fetch_link, uid, self.name, list(settings.queues), self._room,
            self._deliver, self.pace, self._story,
        )  # fmt: skip
        self.promoter = Promoter(self.broker, self.link, self.queue_names, self._promote_special)
        self.listener = Listener(self.broker, self._heard)
        self._lane: Lane | None = None
        self._in_lane: set[str] = set()
        self._suspects: list[Claim] = []
        self._suspect: Claim | None = None
        self._progress_of: dict[str, str] = {}
        self._stop = asyncio.Event()
        self._stop_why = ""
        self._services: list[asyncio.Task[None]] = []
        self.jobs = 0
        self._modes = {task.mode for task in app.tasks.values()}
        if settings.rq:
            self._modes |= {"asyncio", "thread"}

    # -- life ----------------------------------------------------------------------------

    async def run(self, ready: Any = None) -> str:
        """Work until told to stop; returns why it stopped: "asked", "burst", "jobs", "fenced"."""
        stopping = self._loop.create_task(self._stop.wait())
        hello = self._loop.create_task(self._register())
        await asyncio.wait([hello, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not hello.done():  # told to stop while there is no Redis: nothing is in hand
            hello.cancel()
            await asyncio.gather(hello, return_exceptions=True)
            for link in self._links:
                await link.aclose()
            return self._stop_why
        hello.result()
        if ready is not None:
            ready()
        services: Sequence[Coroutine[Any, Any, Any]] = (
            heartbeat.every(BEAT_S, self._beat, "Heartbeat"),
            heartbeat.every(BEAT_S, self._sweep, "Sweep"),
            self.promoter.run(),
            self.listener.run(),
            self._tick(),
        )
        self._services = [self._loop.create_task(one) for one in services]
        fetching = self._loop.create_task(self.fetcher.run())
        await asyncio.wait([fetching, stopping], return_when=asyncio.FIRST_COMPLETED)
        if fetching.done() and not fetching.cancelled():
            error = fetching.exception()
            if error is not None:
                log.critical("Fetching ended", exc_info=error)
            self._stop_why = self._stop_why or ("fenced" if self.fetcher.fenced else "failed")
        stopping.cancel()
        await self.fetcher.stop()
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        await self._finish()
        return self._stop_why

    def stop(self, why: str = "asked") -> None:
        """Stop warmly. May be called more than once."""
        self._stop_why = self._stop_why or why
        self._stop.set()

    async def _register(self) -> None:
        try:
            version = metadata.version("taskq")
        except metadata.PackageNotFoundError:
            version = "0"
        attempt = 0
        while not self._stop.is_set():
            try:
                await heartbeat.register(
                    self.broker, self.link, self.name, self.queue_names, version, self.host
                )
                await self._beat()
            except (BrokerUnavailable, BrokerError) as err:
                attempt += 1
                if attempt <= 3 or attempt % 10 == 0:
                    log.warning("%s Waiting for it", err)
                await asyncio.sleep(min(0.2 * 2**attempt, 2.0) * random.uniform(0.7, 1.0))  # noqa: S311
            else:
                return

    async def _finish(self) -> None:
        """Everything after the last reserve; see the order in the module's docstring."""
        unbegun = [
            *[c for c in self.coroutines.running.values() if not c.begun_mono],
            *self.coroutines.waiting.values(),
            *self.threads.waiting.values(),
        ]
        for claim in self._suspects[::-1]:
            self.settler.add(claim, items.GIVEN_BACK)
        self._suspects.clear()
        # each goes to the head of its queue: the last one first
        for claim in sorted(unbegun, key=lambda c: c.reserved_mono)[::-1]:
            self._give_back(claim)
        await self._until(lambda: not self._running(), self.settings.grace_s)
        left = self._running()
        if left:
            log.warning("%d jobs did not end within %g s: cancelled and given back",
                        len(left), self.settings.grace_s)  # fmt: skip
            for claim in left:
                self.coroutines.cancel(claim, "shutdown")
                self.threads.request_cancel(claim)
            await self._until(lambda: not self.coroutines.running, 1.0)
            for claim in list(self.threads.running.values()):
                if self.threads.running.pop(claim.id, None) is not None:
                    self.settler.add(claim, self._cut_short(claim))
        self.threads.stop()
        try:
            await asyncio.wait_for(self.settler.drain(), _SETTLE_AT_END_S)
        except asyncio.TimeoutError:
            log.error("Redis is away: %d ended jobs could not be settled; their leases will end "
                      "and they run again", self.settler.pending)  # fmt: skip
        await self._until(lambda: not self._in_lane, _LANE_AT_END_S)
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        if self._lane is not None:
            self._lane.stop()
        try:
            await heartbeat.release(self.broker, self.link, self.uid, "bye", self._story)
            await heartbeat.unregister(self.broker, self.link, self.name, self.queue_names)
        except BrokerUnavailable as err:
            log.warning("Could not take leave: %s", err)
        for link in self._links:
            await link.aclose()

    def _running(self) -> list[Claim]:
        return [*self.threads.running.values(), *self.coroutines.running.values()]

    async def _until(self, done: Any, limit_s: float) -> None:
        """Wait for a condition that ends of jobs bring about."""
        end = time.monotonic() + limit_s
        while not done() and time.monotonic() < end:
            await asyncio.sleep(0.01)

    # -- room and delivery ---------------------------------------------------------------

    def _room(self) -> int:
        """Jobs that this process wants now."""
        if self.settler.bytes > SETTLE_BYTES or self._stop.is_set():
            return 0
        left = self._jobs_left()
        room = PAGE_ROOM
        for mode, runner in (("thread", self.threads), ("asyncio", self.coroutines)):
            if mode in self._modes:
                room = min(room, runner.slots - runner.busy + self._ahead(runner.slots))
        return min(room, left)

    def _ahead(self, slots: int) -> int:
        """Jobs to take before there is a slot for them.

        Only where the last reserve found more than it took: from a queue that was empty a
        moment ago a job could find a long one begun before it, while another worker is free.
        """
        if not self.fetcher.backlog:
            return 0
        return self.pace.lookahead(slots, self._longest_running())

    def _jobs_left(self) -> int:
        limit = self.settings.max_jobs
        if limit is None:
            return PAGE_ROOM
        return limit - self.jobs - self.threads.busy - self.coroutines.busy

    def _longest_running(self) -> float:
        """Seconds since the oldest running job of each kind began; the greater of the two."""
        now, longest = time.monotonic(), 0.0
        for running in (self.threads.running, self.coroutines.running):
            try:
                first = next(iter(running.values()), None)  # dicts keep order
            except RuntimeError:  # a thread began or ended a job at this moment
                continue
            if first is not None and first.begun_mono:
                longest = max(longest, now - first.begun_mono)
        return longest

    def _deliver(self, claim: Claim) -> None:
        """Take a reserved job: resolve it and hand it to its runner."""
        try:
            if not isinstance(claim.id, str):
                raise PayloadError("The job's id is not UTF-8 text.")  # noqa: TRY301
            self._resolver.prepare(claim)
        except UnknownTask as err:
            self._unknown(claim, err)
            return
        except Exception as err:  # noqa: BLE001 (whatever bytes do, the worker goes on)
            self._refuse(claim, err)
            return
        if claim.fields.get(b"tq_cancel") == b"1":
            self.settler.add(claim, items.canceled(claim.unique))
            return
        if claim.fields.get(b"tq_crashes", b"0") >= SUSPECT_CRASHES:
            self._suspects.append(claim)
            self._next_suspect()
            return
        runner = self.coroutines if claim.is_async else self.threads
        runner.submit(claim)
        if claim.fields.get(b"tq_redeliver") == b"0" and runner.busy > runner.slots:
            self._give_back(claim)  # at most once: never held without being run

    def _next_suspect(self) -> None:
        """Jobs that were running at several deaths of their process begin one by one.

        The one that kills is so told from those that only were beside it; who has run
        for a while bars nobody any more.
        """
        last = self._suspect
        if last is not None:
            runner = self.coroutines if last.is_async else self.threads
            here = runner.running.get(last.id) is last or runner.waiting.get(last.id) is last
            if here and not (last.begun_mono and time.monotonic() - last.begun_mono > SUSPECT_S):
                return
        self._suspect = None
        if self._suspects:
            claim = self._suspect = self._suspects.pop(0)
            (self.coroutines if claim.is_async else self.threads).submit(claim)

    def _unknown(self, claim: Claim, err: UnknownTask) -> None:
        try:
            tries = int(claim.number(b"tq_unknown", 0))
        except ValueError:
            tries = execute.UNKNOWN_TRIES
        if tries >= execute.UNKNOWN_TRIES:
            self._refuse(claim, err)
            return
        log.warning("Job %s: %s Looked at again in 10 s (%d of %d)",
                    claim.id, err, tries + 1, execute.UNKNOWN_TRIES)  # fmt: skip
        self.settler.add(claim, execute.unknown_item())

    def _refuse(self, claim: Claim, err: Exception) -> None:
        """Fail a job whose code cannot be run."""
        claim.outcome = (None, err)
        if claim.is_special():  # its failure callback, its webhooks
            self._enter_lane(claim)
        else:
            self._end(claim, execute.failure_item(claim, err), ok=False, error=err)

    def _give_back(self, claim: Claim) -> None:
        """To the head of its queue, unless it has begun or ended meanwhile."""
        if self.threads.take_back(claim) or self.coroutines.take_back(claim):
            self.settler.add(claim, items.GIVEN_BACK)

    def _cut_short(self, claim: Claim) -> Item:
        """The end of a job that was still running when the grace time of a shutdown was over."""
        if claim.fields.get(b"tq_redeliver") == b"0":  # at most once: it has begun
            return execute.failure_item(
                claim, Interrupted("Its worker was stopped, and the task says redeliver=False.")
            )
        return items.GIVEN_BACK

    # -- the life of one job -------------------------------------------------------------

    def _begin(self, claim: Claim) -> None:
        """Just before a job's code; in its thread, or on the loop."""
        claim.begin()
        self.pace.began(claim.begun_mono - claim.reserved_mono)
        if self._begun is not None:
            limit = claim.begun_mono + claim.deadline if claim.deadline else 0.0
            claim.slot = self._begun.begin(claim.id, claim.exec_id, limit)
        if "rq.job" in sys.modules:  # else no code can ask RQ for the current job
            self._tell_rq(claim)
        if job_log.isEnabledFor(logging.DEBUG):
            job_log.debug("Begun", extra=_extra(claim))

    def _tell_rq(self, claim: Claim) -> None:
        """Let RQ's `get_current_job()` know, in the context that the job's code runs in."""
        from taskq.worker import rq_current  # noqa: PLC0415 (RQ: only where it is there anyway)

        rq_current.enter(claim, self.app, self.name)

    def _done(self, claim: Claim, value: Any, error: BaseException | None) -> None:
        """A job's code has ended. On the loop."""
        if claim.slot >= 0 and self._begun is not None:
            self._begun.end(claim.slot)
        if claim is self._suspect:
            self._loop.call_soon(self._next_suspect)
        seconds = 0.0
        if claim.begun_mono:
            seconds = time.monotonic() - claim.begun_mono
            self.pace.ran(seconds)
            self.jobs += 1
        if isinstance(error, Interrupted):
            self.settler.add(claim, self._interrupted(claim, error))
            return
        claim.outcome = (value, error)
        item: Item | None = None
        if type(value).__name__ == "Retry" and type(value).__module__ == "rq.job":
            claim.special = True  # RQ's way to ask for another try
        if error is None and not claim.special:
            try:
                item = execute.success_item(claim, value, self.app, young=self._young(claim))
            except Exception as err:  # noqa: BLE001 (a result that cannot be stored fails the job)
                error = err
        if error is not None:
            item = execute.failure_item(claim, error)
            claim.outcome = (None, error)
        if item is None or claim.special:
            self._enter_lane(claim)
            return
        self._end(claim, item, ok=error is None, error=error, seconds=seconds)

    def _interrupted(self, claim: Claim, error: Interrupted) -> Item:
        if str(error) == "cancel":
            return items.canceled(claim.unique)
        return self._cut_short(claim) if claim.begun_mono else items.GIVEN_BACK

    def _end(
        self,
        claim: Claim,
        item: Item,
        *,
        ok: bool,
        error: BaseException | None = None,
        seconds: float = 0.0,
    ) -> None:
        settler, position = self.settler, claim.position
        settler.count_end(ok=ok, seconds=seconds)
        if ok:
            settler.count(position, "finished")
        else:
            settler.count(position, "retried" if item.kind == "r" else "failed")
            self._log_failure(claim, item, error)
        ms = int(seconds * 1000)
        settler.count(position, f"r{ms.bit_length()}")
        if ms:
            settler.count(position, "run_ms", ms)
        settler.add(claim, item)

    def _log_failure(self, claim: Claim, item: Item, error: BaseException | None) -> None:
        if item.kind == "r":
            pause = f" in {float(item.rest[0]):g} s" if item.rest[0] else ""
            job_log.warning("%s (job %s) raised %r; retried%s", claim.name, claim.id, error, pause,
                            extra=_extra(claim))  # fmt: skip
            return
        info = None
        if error is not None and not isinstance(error, (PayloadError, UnknownTask, TimeLimit)):
            info = (type(error), error, execute.user_part(error.__traceback__))
        job_log.error("%s (job %s) failed: %s", claim.name or "A job", claim.id, error,
                      exc_info=info, extra=_extra(claim))  # fmt: skip

    def _young(self, claim: Claim) -> bool:
        """Whether its caller may still be sending it again (30 s): a marker is left if it is deleted."""
        if claim.is_plain or claim.fields.get(b"result_ttl") != b"0":
            return False
        enqueued = claim.fields.get(b"enqueued_at", b"").decode("ascii", "replace")
        return enqueued >= self.broker.clock.iso(self.broker.clock.time() - 45.0)

    def _out(self, claim: Claim) -> None:
        """A job is settled: it no longer concerns this worker."""
        if claim.recorded:
            self._loop.create_task(self._erase_records(claim))
        self._progress_of.pop(claim.id, None)
        self.fetcher.nudge()

    # -- RQ's own code for RQ's own features ---------------------------------------------

    def _open_lane(self) -> Lane:
        from taskq.worker.rq_lane import Lane  # noqa: PLC0415 (RQ: only where a job needs it)

        if self._lane is None:
            self._lane = Lane(self.broker, self.name, self.queue_names, self.app, self._left_lane)
        return self._lane

    def _enter_lane(self, claim: Claim, counted: bool = False) -> None:
        self._in_lane.add(claim.id)
        self._open_lane().submit(claim, counted=counted)

    def _left_lane(self, claim: Claim) -> None:
        """Called from the lane's thread."""

        def out() -> None:
            self._in_lane.discard(claim.id)
            self._out(claim)

        self._wake(out)

    def _promote_special(self, jobs: list[tuple[str, str]]) -> None:
        self._open_lane().promote(jobs)

    # -- services ------------------------------------------------------------------------

    async def _beat(self) -> None:
        now = time.monotonic()
        long_running = [
            c for c in self._running() if c.begun_mono and now - c.begun_mono > RECORD_S
        ]
        begun: list[str] = []
        for claim in long_running:
            begun += (claim.id, claim.exec_id)
        state = "busy" if self._running() else "idle"
        one = heartbeat.Beat(self.uid, self.name, "\n".join(self.queue_names), state, begun)
        await heartbeat.beat(self.broker, self.link, [one])
        if long_running:
            await self._record(long_running)

    async def _sweep(self) -> None:
        await heartbeat.sweep(self.broker, self.link, self._story)
        keys = self.broker.keys
        marks = [f"{keys.prefix}:ready:{name}" for name in self.queue_names]
        packed = pack_all([("EXISTS", f"{keys.prefix}:rl-keys", *marks)])
        if (await self.link.ask(lambda _resend: packed, 1, 10.0))[0]:
            self._open_lane().maintain()

    async def _record(self, claims: list[Claim]) -> None:
        """RQ's execution records, for `get_executions` and `rq info`."""
        keys, now = self.broker.keys, self.broker.clock.time()
        mine = f"{keys.worker(self.name)}:executions"
        commands: list[Sequence[Any]] = []
        for claim in claims:
            claim.recorded = True
            both = f"{claim.id}:{claim.exec_id}"
            commands += (
                ("HSET", f"{keys.prefix}:execution:{both}", "id", claim.exec_id, "job_id", claim.id,
                 "created_at", claim.begun_at, "last_heartbeat", now, "worker_name", self.name),
                ("EXPIRE", f"{keys.prefix}:execution:{both}", _RECORD_KEEP_S),
                ("ZADD", f"{keys.prefix}:executions:{claim.id}", now + _RECORD_KEEP_S, claim.exec_id),
                ("EXPIRE", f"{keys.prefix}:executions:{claim.id}", _RECORD_KEEP_S),
                ("SADD", mine, both),
            )  # fmt: skip
        commands.append(("EXPIRE", mine, _RECORD_KEEP_S))
        packed = pack_all(commands)
        await self.link.ask(lambda _resend: packed, len(commands), 10.0)

    async def _erase_records(self, claim: Claim) -> None:
        keys = self.broker.keys
        both = f"{claim.id}:{claim.exec_id}"
        commands = [
            ("DEL", f"{keys.prefix}:execution:{both}"),
            ("ZREM", f"{keys.prefix}:executions:{claim.id}", claim.exec_id),
            ("SREM", f"{keys.worker(self.name)}:executions", both),
        ]
        packed = pack_all(commands)
        try:
            await self.link.ask(lambda _resend: packed, len(commands), 10.0)
        except BrokerUnavailable:
            pass  # they carry a TTL

    async def _tick(self) -> None:
        """Every 50 ms: time limits, jobs that wait too long, progress, the ends of a burst."""
        last_progress = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            try:
                self.threads.check_limits(now)
                self.coroutines.check_limits(now)
                self._return_late(now)
                self._next_suspect()
                if self._progress_of and now - last_progress > PROGRESS_S:
                    last_progress = now
                    await self._write_progress()
                if not self._stop.is_set():
                    self._check_end()
            except Exception:  # without this loop no time limit would hold any more
                log.exception("A look at the running jobs failed; the next is in %g s", TICK_S)

    def _return_late(self, now: float) -> None:
        for runner in (self.threads, self.coroutines):
            first = next(iter([*runner.waiting.values()]), None)  # a copy: threads take from it
            if first is not None and now - first.reserved_mono > UNBEGUN_S:
                for claim in reversed(list(runner.waiting.values())):
                    self._give_back(claim)

    def _check_end(self) -> None:
        busy = self.threads.busy + self.coroutines.busy + self.settler.pending
        busy += len(self._in_lane) + len(self._suspects)
        if self.settings.max_jobs is not None and self.jobs >= self.settings.max_jobs and not busy:
            self.stop("jobs")
        elif self.settings.burst and self.fetcher.empty and not busy:
            self.stop("burst")
        elif self.threads.stuck > self.threads.slots:
            self.stop("stuck")

    def _progress(self, job_id: str, done: float, total: float | None, note: str) -> None:
        """From any thread: the latest report of each job counts."""
        self._progress_of[job_id] = execute.progress_text(done, total, note)

    async def _write_progress(self) -> None:
        reports, self._progress_of = self._progress_of, {}
        keys = self.broker.keys
        chosen = script("progress")
        args = [part for pair in reports.items() for part in pair]
        try:
            await run_script(
                self.link, chosen,
                lambda _resend: pack_script(chosen, [keys.prefix, keys.own], args), 10.0,
            )  # fmt: skip
        except (BrokerUnavailable, BrokerError):
            log.debug("Progress of %d jobs was not written", len(reports))

    def _heard(self, channel: str, text: str) -> None:
        if channel == "wake":
            self.promoter.nudge()
        elif channel == "cancel":
            self.cancel(text)

    def cancel(self, job_id: str) -> None:
        """Stop a job of this worker: its coroutine is cancelled, a thread is asked."""
        for runner in (self.coroutines, self.threads):
            claim = runner.running.get(job_id)
            if claim is not None:
                log.info("Job %s is to be canceled", job_id)
                runner.request_cancel(claim)
                return
            claim = runner.waiting.get(job_id)
            if claim is not None and runner.take_back(claim):
                self.settler.add(claim, items.canceled(claim.unique))
                return

    def _wake(self, fn: Any) -> None:
        """Run something on the loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(fn)
        except RuntimeError:
            pass  # the loop is closed: a thread that was abandoned has come back too late


PAGE_ROOM = 200
"""More than two calls' worth of jobs is never wanted at once."""


def _extra(claim: Claim) -> dict[str, Any]:
    return {
        "job_id": claim.id,
        "task": claim.name,
        "queue": claim.queue,
        "attempt": claim.attempt,
    }
