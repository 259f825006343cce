"""`RQScheduler`, and entries that stock rq-scheduler wrote, on a real server."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType

import pytest
import redis
from rq import Queue, Retry, SimpleWorker
from rq.job import Job
from rq_scheduler import Scheduler

from taskq.broker.client import Broker
from taskq.embedded import EmbeddedRedis
from taskq.errors import BrokerUnavailable
from taskq.worker import RQScheduler, rq_entries
from taskq.worker.rq_entries import Entries
from tests.conftest import AppModule
from tests.engine import Proxy
from tests.support import ROOT, wait_until

SET = "rq:scheduler:scheduled_jobs"
LOCK = "rq:scheduler_lock"

FUNCTIONS = """
def add(a, b=1):
    return a + b

def takes_retry(retry, failure_ttl=3):
    return [retry, failure_ttl]

def fail():
    raise ValueError("no")
"""


@pytest.fixture(autouse=True)
def _stock_warnings() -> Iterator[None]:
    """rq-scheduler calls what Python and crontab are about to change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


@pytest.fixture
def jobs(app_module: AppModule) -> ModuleType:
    return app_module(FUNCTIONS)


@pytest.fixture
def stock(redis_client: redis.Redis) -> Scheduler:
    return Scheduler(connection=redis_client)


@pytest.fixture
def ours(redis_client: redis.Redis) -> RQScheduler:
    return RQScheduler(connection=redis_client)


@pytest.fixture
def step(redis_url: str) -> Callable[[], float]:
    """One look of a scheduler of ours, in an event loop of its own."""

    def look(stop: bool = False) -> float:
        async def once() -> float:
            broker = Broker(redis_url)
            link = broker.new_alink()
            entries = Entries(broker, link)
            try:
                pause = await entries.step()
                if stop:
                    await entries.stop()
            finally:
                await link.aclose()
                await broker.aclose()
            return pause

        return asyncio.run(once())

    return look


def utc(seconds: float = 0) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


def due(client: redis.Redis, job: Job) -> float | None:
    return client.zscore(SET, job.id)


def make_due(client: redis.Redis, job: Job, late: float = 0.5) -> float:
    """Let an entry be due a moment ago; returns that time."""
    at = round(time.time() - late, 3)
    client.zadd(SET, {job.id: at})
    return at


def queued(client: redis.Redis, name: str = "default") -> list[str]:
    return [raw.decode() for raw in client.lrange(f"rq:queue:{name}", 0, -1)]


def run_all(client: redis.Redis) -> None:
    SimpleWorker(["default"], connection=client).work(burst=True, logging_level="ERROR")


# -- entries of stock rq-scheduler ---------------------------------------------------------------


class TestStockEntries:
    def test_a_one_shot_is_fired_once_and_runs(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.enqueue_at(utc(-1), jobs.add, 3, b=4)
        late = stock.enqueue_at(utc(60), jobs.add, 1)
        assert step() <= 1.0
        step()
        assert queued(redis_client) == [job.id]
        assert redis_client.zrange(SET, 0, -1) == [late.id.encode()]
        fetched = Job.fetch(job.id, connection=redis_client)
        assert fetched.get_status() == "queued"
        assert fetched.timeout == 180
        assert fetched.enqueued_at is not None
        run_all(redis_client)
        assert fetched.return_value(refresh=True) == 7

    def test_an_interval_keeps_its_grid_and_counts_its_repeats(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.schedule(utc(-1), jobs.add, args=[1], interval=10, repeat=3)
        for left in (2, 1, 0):
            at = make_due(redis_client, job)
            step()
            assert queued(redis_client) == [job.id]
            if left:
                assert due(redis_client, job) == pytest.approx(at + 10, abs=1e-5)
            meta = Job.fetch(job.id, connection=redis_client).meta
            assert meta == {"interval": 10, "repeat": left}
            run_all(redis_client)
            assert Job.fetch(job.id, connection=redis_client).get_status() == "finished"
        assert due(redis_client, job) is None

    def test_a_cron_entry_gets_its_next_time(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.cron("* * * * *", jobs.add, args=[1], meta={"mine": {1, 2}})
        at = make_due(redis_client, job)
        step()
        following = due(redis_client, job)
        assert following is not None
        assert following % 60 == 0
        assert 0 < following - at <= 120
        assert queued(redis_client) == [job.id]
        assert Job.fetch(job.id, connection=redis_client).meta["mine"] == {1, 2}

    def test_after_a_pause_one_late_run(self, stock, jobs, step, redis_client) -> None:
        job, before = stock.schedule(utc(-3601), jobs.add, args=[1], interval=10), time.time()
        step()
        step()
        assert queued(redis_client) == [job.id]
        assert due(redis_client, job) > before

    def test_functions_are_never_imported(self, stock, step, redis_client: redis.Redis) -> None:
        job = stock.enqueue_at(utc(-1), "no.such.module.function")
        cron = stock.cron("* * * * *", "no.such.module.function")
        make_due(redis_client, cron)
        step()
        assert sorted(queued(redis_client)) == sorted([job.id, cron.id])

    def test_at_front_queue_and_ttl(self, stock, jobs, step, redis_client: redis.Redis) -> None:
        first = stock.enqueue_at(utc(-2), jobs.add, 1, queue_name="other")
        front = stock.schedule(
            utc(-1), jobs.add, args=[2], queue_name="other", at_front=True, ttl=50
        )
        step()
        assert queued(redis_client, "other") == [front.id, first.id]
        assert 0 < redis_client.ttl(f"rq:job:{front.id}") <= 50
        assert redis_client.ttl(f"rq:job:{first.id}") == -1
        assert redis_client.sismember("rq:queues", "rq:queue:other")

    def test_it_waits_for_what_it_depends_on(self, stock, jobs, step, redis_client) -> None:
        before = Queue(connection=redis_client).enqueue(jobs.add, 1)
        after = stock.enqueue_at(utc(-1), jobs.add, 2, depends_on=before)
        step()
        assert queued(redis_client) == [before.id]
        assert Job.fetch(after.id, connection=redis_client).get_status() == "deferred"
        run_all(redis_client)
        assert Job.fetch(after.id, connection=redis_client).return_value() == 3
        met = stock.enqueue_at(utc(-1), jobs.add, 5, depends_on=before)
        step()
        assert queued(redis_client) == [met.id]

    def test_a_canceled_job_is_not_run(self, stock, jobs, step, redis_client) -> None:
        once = stock.enqueue_at(utc(-1), jobs.add, 1)
        often = stock.schedule(utc(-1), jobs.add, args=[1], interval=5)
        once.cancel()
        often.cancel()
        step()
        assert queued(redis_client) == []
        assert redis_client.zcard(SET) == 0

    def test_killed_between_its_two_steps_the_stock_one_left_an_entry(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.enqueue_at(utc(-1), jobs.add, 1)
        Queue(connection=redis_client).enqueue_job(job)
        step()
        assert queued(redis_client) == [job.id]
        assert redis_client.zcard(SET) == 0

    def test_due_while_its_last_run_waits_it_runs_once(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.schedule(utc(-1), jobs.add, args=[1], interval=10)
        step()
        at = make_due(redis_client, job)
        step()
        assert queued(redis_client) == [job.id]
        assert due(redis_client, job) == pytest.approx(at + 10, abs=1e-5)

    def test_an_id_that_a_dead_stock_worker_took_along_is_enqueued_again(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.schedule(utc(-1), jobs.add, args=[1], interval=10)
        step()
        redis_client.delete("rq:queue:default")  # popped, and nowhere
        make_due(redis_client, job)
        step()
        assert queued(redis_client) == [job.id]

    def test_due_while_it_runs_it_runs_after_that(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.schedule(utc(-1), jobs.add, args=[1], interval=10)
        redis_client.hset(f"rq:job:{job.id}", "status", "started")
        redis_client.zadd("rq:wip:default", {f"{job.id}:execution": time.time() + 60})
        at, before = make_due(redis_client, job), time.time()
        step()
        assert queued(redis_client) == []
        assert due(redis_client, job) > before + 0.5  # a look again in a second
        redis_client.zrem("rq:wip:default", f"{job.id}:execution")
        make_due(redis_client, job, late=0.01)
        step()
        assert queued(redis_client) == [job.id]
        assert due(redis_client, job) == pytest.approx(at + 10, abs=1e-5)  # its grid is as before

    def test_a_run_leaves_nothing_to_the_next(
        self, ours, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = ours.schedule(
            utc(-1), jobs.fail, interval=10, result_ttl=1, retry=Retry(2), failure_ttl=0
        )
        for _ in range(2):
            make_due(redis_client, job)
            step()
            run_all(redis_client)
            fetched = Job.fetch(job.id, connection=redis_client)
            assert fetched.retries_left == 0
            assert fetched.get_status() == "failed"
        make_due(redis_client, job)
        step()
        fetched = Job.fetch(job.id, connection=redis_client)
        assert fetched.retries_left == 2
        assert redis_client.zcard("rq:failed:default") == 0
        assert redis_client.ttl(f"rq:job:{job.id}") == -1


class TestSetAside:
    def test_bad_entries_stop_nobody_behind_them(
        self, stock, jobs, ours, step, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        gone = stock.enqueue_at(utc(-60), jobs.add, 1)
        redis_client.delete(f"rq:job:{gone.id}")
        text = stock.enqueue_at(utc(-59), jobs.add, 1)
        redis_client.delete(f"rq:job:{text.id}")
        redis_client.set(f"rq:job:{text.id}", "no hash")
        cron = stock.cron("* * * * *", jobs.add, args=[1])
        redis_client.hset(
            f"rq:job:{cron.id}", "meta", pickle.dumps({"cron_string": "every tuesday"})
        )
        broken = stock.schedule(utc(-57), jobs.add, args=[1], interval=5)
        redis_client.hset(f"rq:job:{broken.id}", "meta", b"\x80interval")
        empty = stock.enqueue_at(utc(-56), jobs.add, 1)
        redis_client.hdel(f"rq:job:{empty.id}", "status")
        redis_client.zadd(SET, {cron.id: time.time() - 58, b"\xff\xfe": time.time() - 55})
        good = stock.enqueue_at(utc(-1), jobs.add, 1)
        periodic = stock.schedule(utc(-1), jobs.add, args=[2], interval=5)
        step()
        assert sorted(queued(redis_client)) == sorted([good.id, periodic.id])
        reasons = {one.id: one.reason for one in ours.set_aside()}
        assert "Its job is gone" in reasons[gone.id]
        assert "is a string, not a hash" in reasons[text.id]
        assert "'every tuesday' cannot be read" in reasons[cron.id]
        assert "meta cannot be read" in reasons[broken.id]
        assert "no status" in reasons[empty.id]
        assert len(reasons) == 6
        assert redis_client.zrange(SET, 0, -1) == [periodic.id.encode()]
        assert "every tuesday" in caplog.text

    def test_restored_it_is_due_as_before(self, stock, jobs, ours, step, redis_client) -> None:
        job = stock.enqueue_at(utc(-60), jobs.add, 1)
        at = due(redis_client, job)
        redis_client.rename(f"rq:job:{job.id}", "kept")
        step()
        redis_client.rename("kept", f"rq:job:{job.id}")
        assert ours.restore(job.id)
        assert due(redis_client, job) == at
        assert ours.set_aside() == []
        assert not ours.restore("unknown")
        step()
        assert queued(redis_client) == [job.id]

    def test_a_queue_that_is_no_list_fails_the_job_with_the_reason(
        self, stock, jobs, step, redis_client: redis.Redis
    ) -> None:
        job = stock.enqueue_at(utc(-1), jobs.add, 1)
        redis_client.set("rq:queue:default", "no list")
        step()
        assert Job.fetch(job.id, connection=redis_client).get_status() == "failed"
        assert redis_client.zscore("rq:failed:default", job.id) is not None

    def test_a_set_that_is_none_is_said(self, step, redis_client: redis.Redis) -> None:
        redis_client.set(SET, "no set")
        with pytest.raises(Exception, match="scheduled_jobs is a string, not a zset"):
            step()
        assert redis_client.get(SET) == b"no set"


# -- the lock ------------------------------------------------------------------------------------


@pytest.fixture
def rqscheduler(redis_tcp_url: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts real `rqscheduler` processes; `.log` is what they wrote."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        log = tmp_path / f"rqscheduler-{len(started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "rqscheduler"), "--url", redis_tcp_url,
                 "--interval", "0.2", *arguments],
                stdout=out, stderr=subprocess.STDOUT, cwd=ROOT,
            )  # fmt: skip
        process.log = log.read_text
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(10)
        print(process.log())


class TestLock:
    def test_a_stock_process_beside_ours_skips_until_ours_leaves(
        self, stock, ours, jobs, rqscheduler, redis_client: redis.Redis
    ) -> None:
        assert ours.acquire_lock()
        process = rqscheduler()
        wait_until(lambda: "Lock already taken" in process.log(), 40)
        job = stock.enqueue_at(utc(-1), jobs.add, 1)
        looks = process.log().count("Lock already taken")
        wait_until(lambda: process.log().count("Lock already taken") > looks + 1, 40)
        assert queued(redis_client) == []
        assert ours.acquire_lock()  # renewed
        assert ours.enqueue_jobs() == 1
        ours.remove_lock()
        after = stock.enqueue_at(utc(-1), jobs.add, 2)
        wait_until(lambda: after.id in queued(redis_client), 40)
        assert queued(redis_client) == [job.id, after.id]

    def test_while_a_stock_one_has_it_ours_wait(
        self, stock, jobs, ours, step, redis_client: redis.Redis
    ) -> None:
        job = stock.enqueue_at(utc(-1), jobs.add, 1)
        assert stock.acquire_lock()
        assert 0 < step() <= 1.0
        assert not ours.acquire_lock()
        assert ours.enqueue_jobs() == 0
        ours.remove_lock()
        assert redis_client.exists(LOCK)
        assert queued(redis_client) == []
        stock.remove_lock()
        step()
        assert queued(redis_client) == [job.id]

    def test_several_of_ours_hold_it_together(self, step, ours, redis_client) -> None:
        step()
        assert redis_client.get(LOCK).startswith(b"taskq:")
        assert 0 < redis_client.ttl(LOCK) <= 30
        step(stop=True)
        assert redis_client.exists(LOCK)  # the first one is there
        redis_client.delete("taskq:entries")
        step(stop=True)
        assert not redis_client.exists(LOCK)

    def test_a_lock_without_an_end_is_said(
        self, step, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        redis_client.set(LOCK, "who knows")
        assert step() == 5.0
        assert "has no expiry, delete it" in caplog.text


# -- the class -----------------------------------------------------------------------------------


class TestRQScheduler:
    def test_what_ours_writes_the_stock_one_reads_and_fires(
        self, stock, ours, jobs, redis_client: redis.Redis
    ) -> None:
        once = ours.enqueue_at(utc(-5), jobs.add, 1, b=2, job_id="once", meta={"a": 1})
        often = ours.schedule(utc(-5), jobs.add, args=[5], interval=60, id="often")
        cron = ours.cron("0 5 * * *", jobs.add, args=[6], id="cron")
        assert {job.id for job in stock.get_jobs()} == {"once", "often", "cron"}
        assert "once" in stock
        assert stock.count() == 3
        for job in list(stock.get_jobs_to_queue()):
            stock.enqueue_job(job)
        assert sorted(queued(redis_client)) == ["often", "once"]
        assert due(redis_client, often) > time.time() + 50
        run_all(redis_client)
        assert [job.return_value() for job in (once, often)] == [3, 6]
        assert datetime.fromtimestamp(due(redis_client, cron), timezone.utc).hour == 5

    def test_times(self, ours, jobs, redis_client: redis.Redis) -> None:
        aware = datetime(2030, 6, 1, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2)))
        job = ours.enqueue_at(aware, jobs.add, 1)
        assert due(redis_client, job) == aware.timestamp()
        naive = ours.enqueue_at(datetime(2030, 6, 1, 10), jobs.add, 1)  # noqa: DTZ001 (is UTC)
        assert due(redis_client, naive) == datetime(2030, 6, 1, 10, tzinfo=timezone.utc).timestamp()
        before = time.time()
        soon = ours.enqueue_in(timedelta(seconds=0.95), jobs.add, 1)
        assert before + 0.94 <= due(redis_client, soon) <= time.time() + 0.96
        ((first, at),) = ours.get_jobs(until=timedelta(hours=1), with_times=True)
        assert first.id == soon.id
        assert at.tzinfo is None
        assert at.replace(tzinfo=timezone.utc).timestamp() == pytest.approx(
            due(redis_client, soon), abs=1e-5
        )

    def test_options_reach_the_job_not_the_function(self, ours, jobs, redis_client) -> None:
        job = ours.enqueue_in(
            timedelta(hours=1), jobs.add, 1, job_timeout=33, retry=Retry(3, interval=[1, 2]),
            failure_ttl=44, at_front=True, job_result_ttl=55, job_ttl=6000, queue_name="other",
            job_description="words",
        )  # fmt: skip
        read = Job.fetch(job.id, connection=redis_client)
        assert (read.timeout, read.retries_left, read.retry_intervals) == (33, 3, [1, 2])
        assert (read.failure_ttl, read.enqueue_at_front, read.result_ttl) == (44, True, 55)
        assert (read.ttl, read.origin, read.description) == (6000, "other", "words")
        assert read.kwargs == {}
        own = ours.enqueue_in(timedelta(hours=1), jobs.takes_retry, retry=5, failure_ttl=6)
        assert Job.fetch(own.id, connection=redis_client).kwargs == {"retry": 5, "failure_ttl": 6}
        three = ours.schedule(utc(60), jobs.add, args=[1], retry=3, timeout=7)
        assert Job.fetch(three.id, connection=redis_client).retries_left == 3
        assert Job.fetch(three.id, connection=redis_client).timeout == 7

    def test_cancel_contains_and_change(self, ours, jobs, redis_client) -> None:
        job = ours.enqueue_at(utc(60), jobs.add, 1)
        other = ours.enqueue_at(utc(60), jobs.add, 1)
        assert job in ours
        assert job.id in ours
        ours.change_execution_time(job, datetime(2031, 1, 1))  # noqa: DTZ001
        assert due(redis_client, job) == datetime(2031, 1, 1, tzinfo=timezone.utc).timestamp()
        assert ours.count(until=utc(120)) == 1
        assert ours.count(until=timedelta(seconds=1)) == 0
        assert ours.count(until=int(time.time()) + 120) == 1
        ours.cancel(job)
        ours.cancel(other.id)
        assert job not in ours
        assert ours.count() == 0
        with pytest.raises(ValueError, match=f"Job {job.id} is not among"):
            ours.change_execution_time(job, utc())

    def test_slices(self, ours, jobs) -> None:
        made = [ours.enqueue_at(utc(60 + n), jobs.add, n) for n in range(5)]
        assert [job.id for job in ours.get_jobs(offset=1, length=2)] == [
            job.id for job in made[1:3]
        ]

    def test_reading_removes_nothing(self, ours, jobs, redis_client) -> None:
        job = ours.enqueue_at(utc(60), jobs.add, 1)
        redis_client.delete(f"rq:job:{job.id}")
        assert list(ours.get_jobs()) == []
        assert ours.count() == 1

    def test_a_cron_job_written_again_at_each_start_keeps_its_next_time(
        self, ours, jobs, redis_client: redis.Redis
    ) -> None:
        job = ours.cron("0 5 * * *", jobs.add, args=[1], id="daily")
        at = make_due(redis_client, job, late=100)
        ours.cron("0 5 * * *", jobs.add, args=[2], id="daily")
        assert due(redis_client, job) == at
        assert Job.fetch("daily", connection=redis_client).args == (2,)
        ours.cron("0 6 * * *", jobs.add, args=[2], id="daily")
        assert due(redis_client, job) > time.time()

    def test_zones_and_fields_of_cron(self, ours, jobs, redis_client) -> None:
        job = ours.cron("0 7 1 7 *", jobs.add, args=[1], timezone="Europe/Berlin")
        assert datetime.fromtimestamp(due(redis_client, job), timezone.utc).hour == 5
        with pytest.warns(UserWarning, match="the last is a year here"):
            ours.cron("*/10 * * * * *", jobs.add, args=[1])
        for wrong, words in {"0 0 30 2 *": "never due", "nonsense": "cannot be read"}.items():
            with pytest.raises(ValueError, match=words):
                ours.cron(wrong, jobs.add, args=[1])
        with pytest.raises(ValueError, match="no time zone 'Mars'"):
            ours.cron("* * * * *", jobs.add, args=[1], timezone="Mars")
        with pytest.raises(ValueError, match="without interval"):
            ours.schedule(utc(), jobs.add, args=[1], repeat=3)
        with pytest.raises(ValueError, match="interval=0"):
            ours.schedule(utc(), jobs.add, args=[1], interval=0)

    def test_the_prefix_keeps_applications_apart(
        self, stock, jobs, redis_url: str, redis_client: redis.Redis, tmp_path: Path
    ) -> None:
        """RQ reads its prefix once, when it is imported: hence a process of its own."""
        stock.enqueue_at(utc(-1), jobs.add, 1)
        program = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import redis, datetime
from taskq.worker import RQScheduler
s = RQScheduler(connection=redis.Redis.from_url({redis_url!r}))
s.enqueue_at(datetime.datetime(2020, 1, 1), "{jobs.__name__}.add", 1, job_id="second")
assert [job.id for job in s.get_jobs()] == ["second"]
assert s.enqueue_jobs() == 1, s.enqueue_jobs()
"""
        subprocess.run(
            [sys.executable, "-c", program], check=True, timeout=50,
            env={"RQ_KEY_PREFIX": "{shop}", "PYTHONPATH": str(ROOT), "PATH": ""},
        )  # fmt: skip
        assert redis_client.lrange("{shop}:queue:default", 0, -1) == [b"second"]
        assert redis_client.exists("{shop}:scheduler_lock")
        assert not redis_client.exists(LOCK)
        assert redis_client.zcard(SET) == 1

    def test_a_connection_that_decodes(self, jobs, redis_url: str, redis_client) -> None:
        with redis.Redis.from_url(redis_url, decode_responses=True) as decoding:
            ours = RQScheduler(connection=decoding)
            job = ours.enqueue_at(utc(-1), jobs.add, 1)
            assert [one.id for one in ours.get_jobs()] == [job.id]
            assert ours.enqueue_jobs() == 1
            ours.connection.close()
        assert queued(redis_client) == [job.id]

    def test_enqueue_job_fires_now_and_keeps_the_schedule(
        self, ours, jobs, redis_client: redis.Redis
    ) -> None:
        job = ours.schedule(utc(60), jobs.add, args=[1], interval=60)
        at = due(redis_client, job)
        ours.enqueue_job(job)
        assert queued(redis_client) == [job.id]
        assert due(redis_client, job) == pytest.approx(at + 60, abs=1e-5)
        ours.cancel(job)
        ours.enqueue_job(job)
        assert queued(redis_client) == [job.id]

    def test_run_as_a_process(self, ours, jobs, redis_url: str, redis_client: redis.Redis) -> None:
        program = f"""
import redis
from taskq.worker import RQScheduler
RQScheduler(connection=redis.Redis.from_url({redis_url!r}), interval=1).run()
"""
        job = ours.enqueue_in(timedelta(seconds=0.5), jobs.add, 1)
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
        try:
            wait_until(lambda: queued(redis_client) == [job.id], 40)
            assert redis_client.exists(LOCK)
        finally:
            process.terminate()
            process.wait(10)
        assert not redis_client.exists(LOCK)

    def test_run_goes_on_after_an_outage_and_in_any_thread(
        self, ours, jobs, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = ours.enqueue_at(utc(-1), jobs.add, 1)
        failures = [redis.ConnectionError("away"), redis.TimeoutError("away")]
        birth = ours.register_birth

        def born() -> None:
            if failures:
                raise failures.pop()
            birth()

        monkeypatch.setattr(ours, "register_birth", born)
        thread = threading.Thread(target=ours.run, kwargs={"burst": True})
        thread.start()
        thread.join(40)
        assert not thread.is_alive()
        assert queued(redis_client) == [job.id]
        assert not redis_client.exists(LOCK)

    def test_no_connection(self) -> None:
        with pytest.raises(ValueError, match="connection"):
            RQScheduler()


# -- broken connections --------------------------------------------------------------------------


async def serve(url: str) -> None:
    """A scheduler that looks until nothing is due, and leaves."""
    broker = Broker(url)
    link = broker.new_alink()
    entries = Entries(broker, link)
    try:
        while await entries.step() == 0.0:
            pass
        await entries.stop()
    finally:
        await link.aclose()
        await broker.aclose()


@pytest.mark.parametrize("how", ["cut before", "cut after", "dead before", "dead after"])
def test_crash_points_of_the_scheduler(
    how: str, jobs, redis_server: EmbeddedRedis, redis_tcp_url: str, redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """At its n-th request, for every n: the connection breaks, or the scheduler is dead from there
    on and another one follows; before Redis sees that request, or when it has carried it out."""
    stock = Scheduler(connection=redis_client)
    struck = 1
    while True:
        redis_client.flushall()
        once = [stock.enqueue_at(utc(-1), jobs.add, n) for n in range(3)]
        often = [
            stock.schedule(utc(-1), jobs.add, args=[n], interval=60, repeat=5) for n in range(3)
        ]
        seen: list[bytes] = []

        def watch(request: bytes, at: int = struck, seen: list[bytes] = seen) -> str | None:
            seen.append(request)
            if len(seen) == at:
                return "drop request" if "before" in how else "drop reply"
            return "drop request" if len(seen) > at and "dead" in how else None

        proxy = Proxy(redis_server.port, watch)
        died = False
        if "dead" in how:
            with monkeypatch.context() as short:
                short.setattr(rq_entries, "_PATIENCE_S", 0.2)
                short.setattr(rq_entries, "_LEAVE_S", 0.2)
                try:
                    asyncio.run(serve(proxy.url))
                except BrokerUnavailable:
                    died = True
            asyncio.run(serve(redis_tcp_url))
        else:
            asyncio.run(serve(proxy.url))
        proxy.close()
        assert sorted(queued(redis_client)) == sorted(job.id for job in once + often)
        assert redis_client.zcard(SET) == 3
        for job in often:
            assert Job.fetch(job.id, connection=redis_client).meta["repeat"] == 4
        if len(seen) < struck and not died:
            break
        struck += 1
    assert struck > 4
