"""`taskq.worker.Worker` in the place of RQ's worker classes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from rq import Queue
from rq import Worker as StockWorker
from rq.command import (
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.job import Callback, Job, JobStatus, Retry
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from taskq.errors import ConfigError
from taskq.worker import Worker
from tests.conftest import AppModule
from tests.rq_support import ended, latest, nothing_left, status_of
from tests.support import ROOT
from tests.support import wait_until as wait_shortly

pytestmark = pytest.mark.timeout(60)  # real `rq worker` processes, on a busy machine too

FUNCTIONS = """
import time
import rq
import redis

def add(a, b=1):
    return a + b

async def aadd(a, b=1):
    return a + b

def fail(text="no"):
    raise ValueError(text)

def me():
    job = rq.get_current_job()
    return [job.id, type(job).__name__]

def gate(url, key):
    with redis.Redis.from_url(url, socket_timeout=50) as client:
        client.rpush("at-" + key, 1)
        client.blpop(key, 30)
    return key

def busy(url, key):
    with redis.Redis.from_url(url) as client:
        client.rpush("at-" + key, 1)
    while True:
        time.sleep(0.01)

async def nap(url, key):
    import asyncio
    with redis.Redis.from_url(url) as client:
        client.rpush("at-" + key, 1)
    await asyncio.sleep(30)

def note(url, text):
    with redis.Redis.from_url(url) as client:
        client.rpush("notes", text)

def stopped(job, connection):
    connection.rpush("notes", "stopped " + job.id)

def failed(job, connection, *exc):
    connection.rpush("notes", "failed " + job.id)
"""


def wait_until(condition: Callable[[], object], timeout: float = 30, **more: Any) -> Any:
    """With more patience than most tests: a process may have to start."""
    return wait_shortly(condition, timeout, **more)


def came(client: redis.Redis, gate: str) -> None:
    """Wait until a job stands at a gate."""
    wait_until(lambda: client.lpop(f"at-{gate}"), message=f"no job came to {gate}")


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    return app_module(FUNCTIONS)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    return Queue(connection=redis_client)


@contextmanager
def rq_worker(
    url: str, path: Path, *arguments: str, kind: str = "taskq.worker.Worker", **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`rq worker -w taskq.worker.Worker` in a process of its own."""
    log = path / "rq-worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "rq"), "worker", "--url", url,
             "-w", kind, *arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), **env},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(log.read_text(errors="replace"))


def only_worker(client: redis.Redis) -> Worker:
    """The one that is registered, as RQ's tools see it."""
    found: list[Worker] = []

    def there() -> bool:
        found[:] = Worker.all(connection=client)  # type: ignore[arg-type]
        return len(found) == 1 and found[0].get_state() != "started"

    wait_until(there, message="no worker is registered")
    return found[0]


def test_burst(fns: ModuleType, queue: Queue, redis_client: redis.Redis):
    worker = Worker([queue], connection=redis_client)
    assert worker.work(burst=True) is False
    jobs = [queue.enqueue(fns.add, n) for n in range(30)]
    jobs.append(queue.enqueue(fns.aadd, 30))
    bad = queue.enqueue(fns.fail)
    nowhere = queue.enqueue("no_such_module.function")
    worker = Worker([queue], connection=redis_client, name="bob")
    assert worker.work(burst=True) is True
    assert [job.return_value() for job in jobs] == list(range(1, 32))
    assert bad.get_status() == JobStatus.FAILED
    assert "ValueError: no" in (latest(bad).exc_string or "")
    assert latest(bad).worker_name == "bob"
    assert nowhere.get_status() == JobStatus.FAILED  # at once, as RQ
    assert "no_such_module" in (latest(nowhere).exc_string or "")
    worker.refresh()
    assert (worker.successful_job_count, worker.failed_job_count) == (31, 2)
    assert worker.total_working_time > 0
    assert worker.death_date
    assert StockWorker.all(connection=redis_client) == []
    nothing_left(redis_client)


def test_says_at_its_start_that_it_unpickles(
    queue: Queue, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "rq.worker"):
        Worker([queue], connection=redis_client).work(burst=True)
    assert "payloads are unpickled" in caplog.text


def test_jobs_run_side_by_side(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str
):
    jobs = [queue.enqueue(fns.gate, redis_url, f"g{n}") for n in range(3)]

    def open_backwards() -> None:
        for n in (2, 1, 0):
            came(redis_client, f"g{n}")
        for n in (2, 1, 0):
            redis_client.rpush(f"g{n}", 1)

    thread = threading.Thread(target=open_backwards)
    thread.start()
    Worker([queue], connection=redis_client).work(burst=True)
    thread.join()
    assert [job.return_value() for job in jobs] == ["g0", "g1", "g2"]


def test_max_jobs_and_max_idle_time(fns: ModuleType, queue: Queue, redis_client: redis.Redis):
    for n in range(5):
        queue.enqueue(fns.add, n)
    Worker([queue], connection=redis_client).work(max_jobs=3)
    assert queue.count == 2
    began = time.monotonic()
    assert Worker([queue], connection=redis_client).work(max_idle_time=1) is True
    assert queue.count == 0
    assert time.monotonic() - began >= 1


def order_of(client: redis.Redis, worker: Worker, strategy: str, **limits: int) -> list[str]:
    worker.threads = 1
    worker.work(burst=True, dequeue_strategy=strategy, **limits)  # type: ignore[arg-type]
    return [text.decode() for text in client.lrange("notes", 0, -1)]


def test_strategies(fns: ModuleType, redis_client: redis.Redis, redis_url: str):
    queues = [Queue(name, connection=redis_client) for name in "abc"]

    def fill() -> None:
        redis_client.delete("notes")
        for one in queues:
            for n in range(4):
                one.enqueue(fns.note, redis_url, f"{one.name}{n}")

    in_order = [f"{name}{n}" for name in "abc" for n in range(4)]
    in_turn = [f"{name}{n}" for n in range(4) for name in "abc"]
    fill()
    assert order_of(redis_client, Worker(queues), "default") == in_order
    fill()
    assert order_of(redis_client, Worker(queues), "round_robin") == in_turn
    seen = set()
    for _ in range(4):  # all four alike: once in a million
        fill()
        seen.add(tuple(order_of(redis_client, Worker(queues), "random")))
    assert len(seen) > 1
    assert all(sorted(one) == in_order for one in seen)
    with pytest.raises(ValueError, match="zigzag"):
        Worker(queues).work(burst=True, dequeue_strategy="zigzag")  # type: ignore[arg-type]


class OwnJob(Job):
    """A Job class of somebody's own: it wraps what its function returns."""

    def perform(self) -> object:
        return {"wrapped": super().perform()}


class OwnQueue(Queue):
    """A Queue class of somebody's own."""


def test_own_classes(fns: ModuleType, redis_client: redis.Redis):
    queue = OwnQueue(connection=redis_client, job_class=OwnJob)
    first = queue.enqueue(fns.add, 1)
    second = queue.enqueue(fns.me, depends_on=first)
    worker = Worker([queue], connection=redis_client, job_class=OwnJob, queue_class=OwnQueue)
    assert worker.work(burst=True)
    assert first.return_value() == {"wrapped": 2}
    assert second.return_value() == {"wrapped": [second.id, "OwnJob"]}


def test_own_serializer(fns: ModuleType, redis_client: redis.Redis):
    queue = Queue(connection=redis_client, serializer=JSONSerializer)
    job = queue.enqueue(fns.add, 1, on_success=None, meta={"a": 1})
    bad = queue.enqueue(fns.fail, retry=Retry(1))
    assert Worker([queue], connection=redis_client, serializer=JSONSerializer).work(burst=True)
    assert job.return_value() == 2
    assert job.get_meta() == {"a": 1}
    assert bad.get_status() == JobStatus.FAILED
    assert bad.retries_left is not None
    assert redis_client.hget(bad.key, "retries_left") == b"0"


def test_exception_handlers(fns: ModuleType, queue: Queue, redis_client: redis.Redis):
    seen: list[str] = []

    def first(job: Job, kind: type, value: Exception, traceback: object) -> bool:
        seen.append(f"{job.id} {kind.__name__} {value} {bool(traceback)}")
        return True

    def second(job: Job, *_exc: object) -> bool:
        seen.append("second")
        return False

    def third(job: Job, *_exc: object) -> bool:
        raise AssertionError("the second one said that it is enough")

    bad = queue.enqueue(fns.fail)
    queue.enqueue(fns.add, 1)
    worker = Worker([queue], connection=redis_client, exception_handlers=[first, second, third])
    worker.work(burst=True)
    assert seen == [f"{bad.id} ValueError no True", "second"]
    bad = queue.enqueue(fns.fail)
    Worker([queue], connection=redis_client, disable_default_exception_handler=True).work(
        burst=True
    )
    assert bad.id not in FailedJobRegistry(queue=queue)
    assert bad.get_status() == JobStatus.FAILED


def test_steps_of_a_subclass(fns: ModuleType, queue: Queue, redis_client: redis.Redis):
    class Noting(Worker):
        def perform_job(self, job: Job, queue: Queue, execution: object) -> bool:
            redis_client.rpush("steps", f"before {job.id}")
            done = super().perform_job(job, queue, execution)  # type: ignore[arg-type]
            redis_client.rpush("steps", f"after {job.id}")
            return done

        def handle_job_success(self, job: Job, *args: object, **more: object) -> None:
            redis_client.rpush("steps", f"success {job.id}")
            super().handle_job_success(job, *args, **more)  # type: ignore[arg-type]

    job = queue.enqueue(fns.add, 1)
    Noting([queue], connection=redis_client).work(burst=True)
    assert job.return_value() == 2
    told = [f"{what} {job.id}".encode() for what in ("before", "after", "success")]
    assert redis_client.lrange("steps", 0, -1) == told


def test_default_result_ttl(fns: ModuleType, queue: Queue, redis_client: redis.Redis):
    kept, own = queue.enqueue(fns.add, 1), queue.enqueue(fns.add, 1, result_ttl=-1)
    Worker([queue], connection=redis_client, default_result_ttl=33).work(burst=True)
    assert 25 < redis_client.ttl(kept.key) <= 33
    assert redis_client.ttl(own.key) == -1
    gone = queue.enqueue(fns.add, 1)
    Worker([queue], connection=redis_client, default_result_ttl=0).work(burst=True)
    assert not redis_client.exists(gone.key)


def test_maintenance(queue: Queue, redis_client: redis.Redis):
    class Counting(Worker):
        cleaned = 0

        def clean_registries(self) -> None:
            super().clean_registries()
            self.cleaned += 1
            if self.cleaned == 3:
                self.connection.publish(self.pubsub_channel_name, '{"command": "shutdown"}')

    worker = Counting([queue], connection=redis_client, maintenance_interval=0)
    worker.work()
    assert worker.cleaned >= 3
    assert not redis_client.exists(queue.registry_cleaning_key)


def test_handler_of_killed_jobs(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str
):
    seen: list[tuple[str, int]] = []
    worker = Worker(
        [queue], connection=redis_client,
        work_horse_killed_handler=lambda job, _pid, status, _usage: seen.append((job.id, status)),
    )  # fmt: skip
    job = queue.enqueue(fns.busy, redis_url, "go")

    def kill() -> None:
        came(redis_client, "go")
        send_kill_horse_command(redis_client, worker.name)

    thread = threading.Thread(target=kill)
    thread.start()
    worker.work(max_jobs=1)
    thread.join()
    assert seen == [(job.id, 9)]
    assert job.get_status() == JobStatus.FAILED


def test_at_most_once(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str, tmp_path: Path
):
    job = queue.create_job(fns.gate, args=(redis_url, "go"))
    redis_client.hset(job.key, "tq_redeliver", "0")  # as the guide on migrating says
    queue.enqueue_job(job)
    with rq_worker(redis_url, tmp_path, "default") as process:
        came(redis_client, "go")
        assert redis_client.hget(job.key, "tq_redeliver") == b"0"
        process.kill()
        process.wait()
    missed(redis_client)
    with rq_worker(redis_url, tmp_path, "default"):
        assert ended(job, 30) == "failed"


def missed(client: redis.Redis) -> None:
    """As if the lease of a dead worker had run out."""
    for uid in client.zrange("taskq:alive", 0, -1):
        client.zincrby("taskq:alive", -60, uid)
    for member, score in client.zrange("rq:wip:default", 0, -1, withscores=True):
        client.zadd("rq:wip:default", {member: score - 60})


def test_scheduler(fns: ModuleType, queue: Queue, redis_client: redis.Redis):
    worker = Worker([queue], connection=redis_client)
    worker.work(burst=True, with_scheduler=True)
    assert worker.scheduler is not None
    assert not redis_client.exists(worker.scheduler.get_locking_key(queue.name))


def test_commands(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str, tmp_path: Path
):
    with rq_worker(redis_url, tmp_path, "default") as process:
        worker = only_worker(redis_client)
        channel = f"rq:pubsub:{worker.name}"
        wait_until(lambda: redis_client.pubsub_numsub(channel)[0][1] == 1)
        for broken in (b"no json", b"\xff\x00", b"[]", b'{"x": 1}', b'{"command": "dance"}'):
            assert redis_client.publish(channel, broken) == 1
        job = queue.enqueue(fns.busy, redis_url, "one", on_stopped=Callback(fns.stopped))
        other = queue.enqueue(fns.gate, redis_url, "two")
        came(redis_client, "one")
        came(redis_client, "two")
        send_stop_job_command(redis_client, job.id)
        assert ended(job, 30) == "stopped"
        wait_until(lambda: redis_client.lrange("notes", 0, -1) == [f"stopped {job.id}".encode()])
        assert job.id in FailedJobRegistry(queue=queue)
        assert "stopped by user" in (latest(job).exc_string or "")
        assert status_of(redis_client, other.id) == "started"  # its neighbour goes on

        wait_until(lambda: other.get_executions() != [], message="no execution is shown")
        (execution,) = other.get_executions()
        shown = worker.get_current_executions(refresh=True)
        assert [one.job_id for one in shown] == [other.id]
        wait_until(lambda: worker.refresh() or worker.get_state() == "busy")
        send_stop_execution_command(redis_client, other.id, execution.id)
        assert ended(other, 30) == "stopped"  # blocked in C code: its thread is left behind
        wait_until(lambda: worker.refresh() or worker.get_state() == "idle")

        job = queue.enqueue(fns.nap, redis_url, "three", on_failure=Callback(fns.failed))
        came(redis_client, "three")
        send_kill_horse_command(redis_client, worker.name)
        assert ended(job, 30) == "failed"
        assert "Work-horse terminated unexpectedly" in (latest(job).exc_string or "")
        wait_until(lambda: f"failed {job.id}".encode() in redis_client.lrange("notes", 0, -1))
        send_kill_horse_command(redis_client, worker.name)  # no job: ignored
        assert ended(queue.enqueue(fns.add, 1), 30) == "finished"
        send_shutdown_command(redis_client, worker.name)
        process.wait(30)
    assert "is no command" in (tmp_path / "rq-worker.log").read_text()
    assert process.returncode == 0
    nothing_left(redis_client)


def test_commands_to_job_processes(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str, tmp_path: Path
):
    with rq_worker(redis_url, tmp_path, "default", TASKQ_DEFAULT_MODE="process"):
        worker = only_worker(redis_client)
        job = queue.enqueue(fns.gate, redis_url, "one", retry=Retry(2))
        came(redis_client, "one")
        send_stop_job_command(redis_client, job.id)
        assert ended(job, 30) == "stopped"  # never retried
        job = queue.enqueue(fns.gate, redis_url, "two", retry=Retry(1))
        came(redis_client, "two")
        send_kill_horse_command(redis_client, worker.name)
        came(redis_client, "two")  # again: a failure like others
        redis_client.rpush("two", 1)
        assert ended(job, 30) == "finished"


def test_suspend_and_resume(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str, tmp_path: Path
):
    with rq_worker(redis_url, tmp_path, "default"):
        worker = only_worker(redis_client)
        suspend(redis_client)
        job = queue.enqueue(fns.add, 1)
        assert Worker([queue], connection=redis_client).work(burst=True) is False
        wait_until(lambda: worker.refresh() or worker.get_state() == "suspended", 30)
        assert status_of(redis_client, job.id) == "queued"
        resume(redis_client)
        assert ended(job, 15) == "finished"
        wait_until(lambda: worker.refresh() or worker.get_state() == "idle", 30)


def test_rq_info(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str, tmp_path: Path
):
    with rq_worker(redis_url, tmp_path, "default", "low", "--name", "alice"):
        worker = only_worker(redis_client)
        assert (worker.name, worker.queue_names()) == ("alice", ["default", "low"])
        assert worker.pid
        assert worker.ip_address
        assert worker.birth_date
        assert worker.last_heartbeat
        queue.enqueue(fns.gate, redis_url, "go")
        came(redis_client, "go")
        wait_until(lambda: worker.refresh() or worker.get_state() == "busy")
        shown = subprocess.run(
            [str(Path(sys.executable).parent / "rq"), "info", "--url", redis_url],
            capture_output=True, text=True, timeout=15, check=True,
        ).stdout  # fmt: skip
        assert "alice" in shown
        assert "busy" in shown
        assert status_of(redis_client, redis_client.zrange("rq:wip:default", 0, 0)[0]
                         .decode().partition(":")[0]) == "started"  # fmt: skip
        with pytest.raises(ValueError, match="active worker named"):
            Worker([queue], connection=redis_client, name="alice").work(burst=True)
        redis_client.rpush("go", 1)
        wait_until(lambda: worker.refresh() or worker.successful_job_count == 1)


def test_shutdown_waits_and_a_second_signal_does_not(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str, tmp_path: Path
):
    job = queue.enqueue(fns.gate, redis_url, "go")
    with rq_worker(redis_url, tmp_path, "default") as process:
        came(redis_client, "go")
        process.send_signal(signal.SIGTERM)
        worker = only_worker(redis_client)
        wait_until(lambda: worker.shutdown_requested_date is not None)
        assert process.poll() is None
        redis_client.rpush("go", 1)
        assert process.wait(30) == 0
    assert ended(job, 30) == "finished"
    job = queue.enqueue(fns.gate, redis_url, "again")
    with rq_worker(redis_url, tmp_path, "default") as process:
        came(redis_client, "again")
        process.send_signal(signal.SIGTERM)
        worker = only_worker(redis_client)
        wait_until(lambda: worker.shutdown_requested_date is not None)
        # as in RQ, a second signal within a second is the same one
        wait_until(lambda: process.send_signal(signal.SIGTERM) or process.poll() is not None, 30)
    assert status_of(redis_client, job.id) == "queued"
    assert queue.job_ids == [job.id]


def test_a_killed_workers_jobs_run_again(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, redis_url: str, tmp_path: Path
):
    job = queue.enqueue(fns.gate, redis_url, "go")
    with rq_worker(redis_url, tmp_path, "default") as process:
        came(redis_client, "go")
        process.kill()
        process.wait()
    missed(redis_client)
    with rq_worker(redis_url, tmp_path, "default"):
        wait_until(lambda: redis_client.lpop("at-go"), message="it was not run again")
        redis_client.rpush("go", 1)
        assert ended(job, 30) == "finished"


def test_where_it_cannot_connect_a_second_time(redis_url: str):
    client = redis.Redis(credential_provider=redis.UsernamePasswordCredentialProvider("a", "b"))
    worker = Worker([], connection=client, prepare_for_work=False)
    with pytest.raises(ConfigError, match="credential_provider"):
        worker.work(burst=True)


def test_the_password_is_nowhere(
    fns: ModuleType, redis_program: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from taskq.embedded import EmbeddedRedis

    with EmbeddedRedis.start(port=0, binary=redis_program) as server:
        admin = redis.Redis.from_url(server.url)
        admin.config_set("requirepass", "s3cret-Pa55")
        url = f"redis://:s3cret-Pa55@127.0.0.1:{server.port}/0"
        client = redis.Redis.from_url(url)
        queue = Queue(connection=client)
        job = queue.enqueue(fns.gate, url, "go")
        config = tmp_path / "rqconf.py"
        config.write_text(f"REDIS_URL = {url!r}\n")
        log = tmp_path / "out.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "rq"), "worker", "-c", "rqconf", "-v",
                 "-w", "taskq.worker.Worker", "default"],
                stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path,
                env={**os.environ, "TASKQ_DEFAULT_MODE": "process",
                     "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
            )  # fmt: skip
        try:
            wait_until(lambda: client.lpop("at-go"), 30)
            lines = [
                path.read_bytes()
                for pid in _tree(process.pid)
                for path in [Path(f"/proc/{pid}/cmdline")]
                if path.exists()
            ]
            assert lines
            assert not any(b"s3cret" in line for line in lines)
            hashes = [client.hgetall(key) for key in client.keys("rq:worker:*")
                      if client.type(key) == b"hash"]  # fmt: skip
            assert hashes
            assert not any("s3cret" in str(one) for one in hashes)
            client.rpush("go", 1)
            assert ended(job, 30) == "finished"
        finally:
            process.terminate()
            process.wait(30)
        text = log.read_text()
        assert "started with PID" in text
        # RQ logs a job's arguments at debug level; this job's argument is the URL
        assert "s3cret" not in text
        client.close()
        admin.close()


def _tree(pid: int) -> list[int]:
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found += _tree(int(path.parent.name))
    return found
