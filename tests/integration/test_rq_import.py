"""`taskq schedules import` and `aside`; a scheduler process serves rq-scheduler's entries."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType

import pytest
import redis
from rq import Retry
from rq_scheduler import Scheduler

from taskq import TaskQ
from taskq.broker.client import Broker
from taskq.embedded import EmbeddedRedis
from taskq.worker import RQScheduler
from taskq.worker.rq_import import Importer
from tests.engine import Proxy
from tests.support import ROOT, WorkerStarter, wait_until

SET = "rq:scheduler:scheduled_jobs"

APP = """
from taskq import TaskQ, current_job

queue = TaskQ()

@queue.task
def report(days, style="plain"):
    return [days, style]

@queue.task
def tick():
    return current_job().scheduled_for.isoformat()

def plain(a):
    return a + 1
"""


@pytest.fixture(autouse=True)
def _stock_warnings() -> Iterator[None]:
    """rq-scheduler calls what Python and crontab are about to change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


@pytest.fixture
def stock(redis_client: redis.Redis) -> Scheduler:
    return Scheduler(connection=redis_client)


@pytest.fixture
def queue(app: ModuleType) -> Iterator[TaskQ]:
    yield app.queue
    app.queue.close()


def soon(seconds: float = 60) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


def taskq(tmp_path: Path, redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskq", *arguments],
        capture_output=True, text=True, timeout=50, check=False,
        cwd=tmp_path, env={"TASKQ_REDIS_URL": redis_url, "PYTHONPATH": f"{tmp_path}:{ROOT}",
                           "PATH": "", "TZ": "UTC"},
    )  # fmt: skip


def importer(queue: TaskQ | None, redis_url: str, tz: str = "UTC") -> Importer:
    return Importer(Broker(redis_url), queue, tz)


class TestImport:
    def test_the_command(
        self, stock, app, target, queue, tmp_path, redis_url, redis_client: redis.Redis
    ) -> None:
        daily = stock.cron("0 7 * * mon-fri", app.report.fn, args=[30], id="daily")
        often = stock.schedule(soon(), app.report.fn, args=[1], kwargs={"style": "bold"},
                               interval=90, repeat=4, timeout=33, queue_name="low")  # fmt: skip
        once = stock.enqueue_at(soon(), app.report.fn, 5)
        plain = stock.schedule(soon(), app.plain, args=[5], interval=5, id="plain")
        due = {job.id: redis_client.zscore(SET, job.id) for job in (daily, often)}

        tried = taskq(tmp_path, redis_url, "schedules", "import", target, "--dry-run", "--json")
        assert tried.returncode == 0, tried.stderr
        said = json.loads(tried.stdout)
        assert {one["job"] for one in said["moved"]} == {daily.id, often.id}
        assert "decorate the function" in said["stay"][0]["reason"]
        assert redis_client.zcard(SET) == 4
        assert not redis_client.exists("taskq:schedules")

        refused = taskq(tmp_path, redis_url, "schedules", "import", target)
        assert refused.returncode == 2
        assert "2 entries would be moved: say --yes." in refused.stderr
        done = taskq(tmp_path, redis_url, "schedules", "import", target, "--yes")
        assert done.returncode == 1  # one stays
        assert "2 entries moved." in done.stdout
        assert "plain (every 5 s) stays: no task" in done.stderr
        assert set(redis_client.zrange(SET, 0, -1)) == {once.id.encode(), plain.id.encode()}
        name = f"{app.__name__}.report-{often.id[:8]}"
        assert dict(redis_client.zrange("taskq:schedules", 0, -1, withscores=True)) == {
            b"daily": due[daily.id] * 1000, name.encode(): due[often.id] * 1000,
        }  # fmt: skip
        listed = json.loads(taskq(tmp_path, redis_url, "schedules", "--json").stdout)
        rows = {row["name"]: row for row in listed["schedules"]}
        assert rows[name]["queue"] == "low"
        assert rows[name]["max_runs"] == 4
        assert rows["daily"]["expression"] == "0 7 * * mon-fri"
        assert queue.schedules.run(name).id  # its job can be made
        assert redis_client.hget(f"rq:job:{redis_client.lindex('rq:queue:low', 0).decode()}",
                                 "timeout") == b"33"  # fmt: skip
        assert not redis_client.exists("rq:scheduler_lock")

    def test_plain_functions_run_on_workers_for_rq(
        self, stock, app, tmp_path, redis_url, redis_client, worker: WorkerStarter
    ) -> None:
        stock.schedule(soon(0.5), app.plain, args=[date(2027, 1, 1).year], interval=3600, id="year")
        done = taskq(tmp_path, redis_url, "schedules", "import", "--yes")
        assert done.returncode == 0, done.stderr
        worker(None, "--rq", "--with-scheduler")
        wait_until(lambda: redis_client.keys("rq:results:cron-*"), 40)
        (key,) = redis_client.keys("rq:results:cron-*")
        assert redis_client.xrange(key)[0][1][b"type"] == b"1"
        assert 0 < redis_client.ttl(key) <= 500

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ({"cron_string": "0 0 13 * fri"}, "day and weekday must both"),
            ({"cron_string": "0 0 1 1 * 2099"}, "six fields"),
            ({"cron_string": "0 7 * * *", "meta": {"timezone": "Mars/Phobos"}}, "zone"),
            ({"interval": 5, "kwargs": {"no": 1}}, "unexpected argument 'no'"),
            ({"interval": 5, "args": [Path("x")]}, "is a pathlib"),
            ({"interval": 5, "depends_on": "other"}, "waits for others"),
            ({"interval": 5, "retry": Retry(2, interval=[1, 2])}, "different times"),
            ({"interval": 5, "on_success": print}, "callbacks of RQ"),
        ],
    )
    def test_what_stays(self, how, reason, app, queue, redis_url, redis_client) -> None:
        ours = RQScheduler(connection=redis_client)
        options = {"args": [1], **how}
        if "cron_string" in how:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                job = ours.cron(func=app.report.fn, **options)
        else:
            job = ours.schedule(soon(), app.report.fn, **options)
        if how.get("meta"):
            redis_client.hset(f"rq:job:{job.id}", "meta",
                              json.dumps({"cron_string": "0 7 * * *", **how["meta"]}))  # fmt: skip
        (found,) = importer(queue, redis_url).candidates()
        assert reason in found.reason

    def test_the_zone_must_be_that_of_its_next_time(
        self, queue, app, redis_url, redis_client
    ) -> None:
        RQScheduler(connection=redis_client).cron(
            "0 7 * * *", app.report.fn, args=[1], meta={}, timezone="Asia/Kathmandu", id="kat"
        )
        redis_client.hset("rq:job:kat", "meta", json.dumps({"cron_string": "0 7 * * *"}))
        (found,) = importer(queue, redis_url).candidates()
        assert "its next time is none of '0 7 * * *' in UTC" in found.reason
        (found,) = importer(queue, redis_url, "Asia/Kathmandu").candidates()
        assert found.reason == ""

    def test_moved_once_whatever_happens_meanwhile(
        self, queue, app, redis_url, redis_client, stock
    ) -> None:
        job = stock.schedule(soon(), app.report.fn, args=[1], interval=60, id="one")
        one = importer(queue, redis_url)
        (seen,) = one.candidates()
        stock.change_execution_time(job, soon(120))
        assert "changed meanwhile" in one.move(seen)
        one.close()
        (seen,) = one.candidates()
        assert stock.acquire_lock()
        assert "has rq:scheduler_lock" in one.move(seen)
        stock.remove_lock()
        assert one.move(seen) == "moved"
        assert one.move(seen) == "moved"  # sent again
        stock.schedule(soon(), app.report.fn, args=[1], interval=60, id="one")
        (seen,) = one.candidates()
        assert "there is a schedule 'one' already" in one.move(seen)
        one.close()

    @pytest.mark.parametrize("fate", ["drop request", "drop reply"])
    def test_cut_in_the_middle(
        self, fate, queue, app, redis_server: EmbeddedRedis, redis_client, stock
    ) -> None:
        stock.schedule(soon(), app.report.fn, args=[1], interval=60, id="one")
        struck = []

        def watch(request: bytes) -> str | None:
            if b"EVALSHA" in request and not struck:
                struck.append(request)
                return fate
            return None

        proxy = Proxy(redis_server.port, watch)
        one = importer(queue, proxy.url)
        (seen,) = one.candidates()
        assert one.move(seen) == "moved"
        proxy.close()
        assert struck
        assert redis_client.zcard(SET) == 0
        assert redis_client.zrange("taskq:schedules", 0, -1) == [b"one"]


def test_a_task_goes_by_its_name(app, queue, redis_client: redis.Redis) -> None:
    job = RQScheduler(connection=redis_client).enqueue_in(timedelta(hours=1), app.report, 3)
    assert redis_client.hget(f"rq:job:{job.id}", "description").decode() == (
        f"{app.__name__}.report(3)"
    )
    assert job.instance is None


def test_asides_are_listed(stock, app, tmp_path, redis_url, redis_client: redis.Redis) -> None:
    assert "No entry" in taskq(tmp_path, redis_url, "schedules", "aside").stdout
    job = stock.enqueue_at(soon(-5), app.plain, 1)
    redis_client.delete(f"rq:job:{job.id}")
    assert RQScheduler(connection=redis_client).enqueue_jobs() == 0
    assert "Its job is gone" in taskq(tmp_path, redis_url, "schedules", "aside").stdout
    said = json.loads(taskq(tmp_path, redis_url, "schedules", "aside", "--json").stdout)
    assert said["aside"][0]["job"] == job.id


def test_a_scheduler_process_serves_the_entries(
    stock, app, target, tmp_path, redis_url, redis_client: redis.Redis
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "scheduler", target], cwd=tmp_path,
        env={"TASKQ_REDIS_URL": redis_url, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
    )  # fmt: skip
    try:
        wait_until(lambda: redis_client.exists("rq:scheduler_lock"), 40)
        job = stock.schedule(soon(0), "no.such.function", interval=1, repeat=2)
        ours = RQScheduler(connection=redis_client).enqueue_in(
            timedelta(seconds=0.2), "no.such.function"
        )
        due = redis_client.zscore(SET, ours.id)
        wait_until(lambda: redis_client.llen("rq:queue:default") == 2, 40)
        assert time.time() >= due
        assert set(redis_client.lrange("rq:queue:default", 0, -1)) == {
            job.id.encode(), ours.id.encode(),
        }  # fmt: skip
        assert not stock.acquire_lock()
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        assert not redis_client.exists("rq:scheduler_lock")
    finally:
        process.kill()
        process.wait()
