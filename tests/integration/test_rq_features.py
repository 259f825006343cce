"""RQ's features on a taskq worker: dependents, callbacks, webhooks, repeats, limits ..."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import redis
from rq import Callback, Queue, Repeat, Worker
from rq.group import Group
from rq.job import Dependency, Job, JobStatus, Retry
from rq.rate_limit import RateLimit
from rq.results import Result
from rq.webhook import Webhook

from tests.conftest import AppModule
from tests.rq_support import arrived, ended, latest, leftovers, nothing_left, status_of
from tests.support import WorkerStarter, wait_until

FUNCTIONS = """
import time
import rq
import redis

def add(a, b=1):
    return a + b

def fail(text="no"):
    raise ValueError(text)

def exit_now():
    raise SystemExit(3)

def gate(url, key):
    with redis.Redis.from_url(url, socket_timeout=30) as client:
        client.rpush("at-" + key, 1)
        client.blpop(key, 10)
    return key

def note(url, text):
    with redis.Redis.from_url(url) as client:
        client.rpush("notes", text)
    return text

def ask(url, key, times, interval=0):
    with redis.Redis.from_url(url) as client:
        n = client.incr(key)
    if n <= times:
        return rq.Retry(max=5, interval=interval)
    return n

def ask_for_ever():
    return rq.Retry(max=2)

def limited(url):
    with redis.Redis.from_url(url) as client:
        most = client.incr("now")
        client.rpush("seen", most)
        time.sleep(0.05)
        client.decr("now")

def flaky(url, key, times):
    with redis.Redis.from_url(url) as client:
        n = client.incr(key)
    if n <= times:
        raise OSError(f"try {n}")
    return n

def on_success(job, connection, result):
    connection.rpush("called", f"success {job.id} {result}")

def on_failure(job, connection, kind, value, traceback):
    connection.rpush("called", f"failure {job.id} {kind.__name__} {value}")

def slow_callback(job, connection, *rest):
    connection.rpush("called", f"slow {job.id}")
    while True:
        time.sleep(0.01)

def broken_callback(job, connection, *rest):
    raise KeyError("callback")

def exiting_callback(job, connection, *rest):
    raise SystemExit(1)
"""


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    """A module of plain functions, as users of RQ have."""
    return app_module(FUNCTIONS)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    """Stock RQ's queue."""
    return Queue(connection=redis_client)


def called(client: redis.Redis) -> list[str]:
    """What callbacks have noted."""
    return [text.decode() for text in client.lrange("called", 0, -1)]


def test_dependents(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    other = Queue("other", connection=redis_client)
    first = queue.enqueue(fns.gate, redis_url, "go")
    second = queue.enqueue(fns.add, 1, depends_on=first)
    third = other.enqueue(fns.add, 2, depends_on=[first, second])
    assert status_of(redis_client, second.id) == "deferred"
    worker(None, "--rq", "-q", "default", "-q", "other")
    arrived(redis_client, "go")
    late = queue.enqueue(fns.note, redis_url, "late", depends_on=first)  # while it runs
    assert status_of(redis_client, late.id) == "deferred"
    redis_client.rpush("go", 1)
    for job in (first, second, third, late):
        assert ended(job) == "finished"
    after = queue.enqueue(fns.note, redis_url, "after", depends_on=first)
    assert ended(after) == "finished"
    assert redis_client.lrange("notes", 0, -1) == [b"late", b"after"]
    assert Worker.all(connection=redis_client)[0].successful_job_count == 5
    nothing_left(redis_client)
    for key in redis_client.keys("rq:job:*:dependents"):  # RQ leaves it to them to end
        assert redis_client.ttl(key) > 0


def test_dependents_of_a_failure(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    parent = queue.enqueue(fns.fail)
    strict = queue.enqueue(fns.add, 1, depends_on=parent)
    lax = queue.enqueue(
        fns.note, redis_url, "lax", depends_on=Dependency(parent, allow_failure=True)
    )
    broken = queue.enqueue("no_payload", job_id="broken")
    redis_client.hset(broken.key, "data", b"\x80garbage")
    heir = queue.enqueue(
        fns.note, redis_url, "heir", depends_on=Dependency(broken, allow_failure=True)
    )
    strict_heir = queue.enqueue(fns.add, 1, depends_on=broken)
    worker(None, "--rq")
    assert ended(parent) == "failed"
    assert ended(lax) == "finished"
    assert ended(heir) == "finished"
    assert status_of(redis_client, "broken") == "failed"
    assert status_of(redis_client, strict.id) == "deferred"
    assert status_of(redis_client, strict_heir.id) == "deferred"
    assert sorted(redis_client.lrange("notes", 0, -1)) == [b"heir", b"lax"]
    assert Worker.all(connection=redis_client)[0].failed_job_count == 2
    assert leftovers(redis_client) <= {"rq:deferred:default"}


def test_a_chain_of_tasks_and_rq_jobs(
    app_module: AppModule, redis_client: redis.Redis, redis_url: str, worker: WorkerStarter,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module(
        """
        from taskq import TaskQ
        queue = TaskQ()
        @queue.task
        def add(a, b=1):
            return a + b
        """
    )
    handle = app.add.delay(1)
    queue = Queue(connection=redis_client, serializer=app.queue.rq_serializer)
    jobs = [Job.fetch(handle.id, connection=redis_client, serializer=app.queue.rq_serializer)]
    for n in range(10):
        jobs.append(queue.enqueue(app.add.fn, n, depends_on=jobs[-1], result_ttl=60))
    worker(f"{app.__name__}:queue", processes=2)
    assert ended(jobs[-1]) == "finished"
    assert handle.result(timeout=10) == 2
    assert [job.return_value() for job in jobs] == [2, *range(1, 11)]
    nothing_left(redis_client)


def test_callbacks(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    both = {"on_success": Callback(fns.on_success), "on_failure": Callback(fns.on_failure)}
    lost = queue.enqueue(fns.add, 1, job_id="lost", **both)
    redis_client.hset(lost.key, "data", b"\x80garbage")  # before a worker can have read it
    process = worker(None, "--rq")
    good = queue.enqueue(fns.add, 1, job_id="good", **both)
    bad = queue.enqueue(fns.fail, "bad", job_id="bad", **both)
    exits = queue.enqueue(fns.exit_now, job_id="exits", **both)
    broken = queue.enqueue(fns.add, 1, job_id="broken", on_success=Callback(fns.broken_callback),
                           on_failure=Callback(fns.on_failure))  # fmt: skip
    leaves = queue.enqueue(fns.add, 1, job_id="leaves", on_success=Callback(fns.exiting_callback))
    again = queue.enqueue(fns.flaky, redis_url, "n", 2, job_id="again", retry=Retry(max=3), **both)
    assert ended(good) == "finished"
    assert ended(bad) == "failed"
    assert ended(exits) == "failed"
    assert ended(broken) == "failed"
    assert ended(leaves) == "failed"
    assert ended(again) == "finished"
    wait_until(lambda: status_of(redis_client, "lost") in ("failed", "finished"))
    told = sorted(called(redis_client))
    assert told[5].startswith("failure lost PayloadError")
    assert told[:5] + told[6:] == [
        "failure again OSError try 1",
        "failure again OSError try 2",
        "failure bad ValueError bad",
        "failure broken KeyError 'callback'",
        "failure exits SystemExit 3",
        "success again 3",
        "success good 2",
    ]
    assert "KeyError: 'callback'" in (latest(broken).exc_string or "")
    assert good.return_value() == 2
    assert process.stop() == 0
    assert not leftovers(redis_client)


def test_a_failure_that_is_not_kept(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    """RQ's own code deletes it; our marker tells those who wait."""
    job = queue.enqueue(fns.fail, failure_ttl=0, on_failure=Callback(fns.on_failure))
    worker(None, "--rq")
    wait_until(lambda: not redis_client.exists(job.key))
    assert called(redis_client) == [f"failure {job.id} ValueError no"]
    assert not redis_client.exists(f"rq:results:{job.id}")
    assert any(redis_client.sismember(key, job.id) for key in redis_client.keys("taskq:done:*"))


@pytest.mark.standing
def test_time_limits_of_callbacks(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    worker(None, "--rq")
    slow = queue.enqueue(
        fns.add, 1, job_id="slow", on_success=Callback(fns.slow_callback, timeout=1)
    )
    late = queue.enqueue(fns.fail, job_id="late", on_failure=Callback(fns.slow_callback, timeout=1))
    prompt = queue.enqueue(fns.add, 1, job_id="prompt", on_success=Callback(fns.on_success))
    assert ended(prompt) == "finished"  # not behind the slow ones
    assert status_of(redis_client, "slow") == "started"
    assert ended(slow) == "failed"
    assert ended(late) == "failed"
    text = latest(slow).exc_string or ""
    assert text.strip().endswith("Task exceeded maximum timeout value (1 seconds)")
    assert "JobTimeoutException" in text
    assert "JobTimeoutException" in (latest(late).exc_string or "")


class Listener:
    """A web server that notes what it is sent."""

    def __init__(self) -> None:
        listener = self
        self.heard: list[tuple[str, str, bytes]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                listener.heard.append((self.command, self.path, body))
                self.send_response(500 if self.path == "/broken" else 200)
                self.end_headers()

            do_GET = do_POST  # noqa: N815 (its name in http.server)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_webhooks(fns: ModuleType, queue: Queue, worker: WorkerStarter, web: Listener):
    hooks = [Webhook(web.url + path, "finished") for path in ("/ok", "/broken")]
    hooks.append(Webhook(web.url + "/bad", "failed", method="POST"))
    good = queue.enqueue(fns.add, 1, webhooks=hooks)
    bad = queue.enqueue(fns.fail, "oh", webhooks=hooks)
    worker(None, "--rq")
    assert ended(good) == "finished"
    assert ended(bad) == "failed"
    wait_until(lambda: len(web.heard) >= 3)
    assert sorted((method, path) for method, path, _ in web.heard) == [
        ("GET", "/broken"), ("GET", "/ok"), ("POST", "/bad"),
    ]  # fmt: skip
    told = json.loads(next(body for _, path, body in web.heard if path == "/bad"))
    assert told["job_id"] == bad.id
    assert told["status"] == "failed"
    assert "ValueError: oh" in told["exc_info"]


def test_groups(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):  # fmt: skip
    group = Group.create(connection=redis_client)
    jobs = group.enqueue_many(queue, [
        Queue.prepare_data(fns.add, (n,), result_ttl=0 if n == 3 else 60) for n in range(5)
    ])  # fmt: skip
    worker(None, "--rq")
    for job in jobs:
        wait_until(lambda job=job: status_of(redis_client, job.id) in ("finished", ""))  # type: ignore[misc]
    assert {job.id for job in group.get_jobs()} == {j.id for n, j in enumerate(jobs) if n != 3}
    nothing_left(redis_client)


def test_repeats(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    at_once = queue.enqueue(fns.note, redis_url, "a", repeat=Repeat(times=3))
    later = queue.enqueue(fns.note, redis_url, "b", repeat=Repeat(times=1, interval=1))
    worker(None, "--rq")
    wait_until(lambda: sorted(redis_client.lrange("notes", 0, -1)) == [b"a"] * 4 + [b"b"] * 2)
    assert ended(at_once) == "finished"
    assert ended(later) == "finished"
    assert len(at_once.results()) == 4
    assert Job.fetch(later.id, connection=redis_client).repeats_left == 0
    nothing_left(redis_client)


@pytest.mark.standing
def test_returned_retry(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    worker(None, "--rq")
    job = queue.enqueue(fns.ask, redis_url, "n1", 2)
    paused = queue.enqueue(fns.ask, redis_url, "n2", 1, 1)
    endless = queue.enqueue(fns.ask_for_ever)
    assert ended(endless) == "failed"
    assert latest(endless).type is Result.Type.MAX_RETRIES_EXCEEDED
    assert ended(job) == "finished"
    assert job.return_value() == 3
    kinds = [result.type for result in job.results()]
    assert kinds == [Result.Type.SUCCESSFUL, Result.Type.RETRIED, Result.Type.RETRIED]
    assert ended(paused) == "finished"
    fresh = Job.fetch(paused.id, connection=redis_client)
    assert fresh.number_of_retries == 1
    first, second = fresh.results()[::-1]
    assert second.execution_started_at is not None
    assert first.execution_ended_at is not None
    assert (second.execution_started_at - first.execution_ended_at).total_seconds() > 0.95
    nothing_left(redis_client)


def test_rate_limits(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    limit = RateLimit("api", 2)
    jobs = [queue.enqueue(fns.limited, redis_url, rate_limit=limit) for _ in range(10)]
    assert [job.get_status() for job in jobs].count(JobStatus.RATE_LIMITED) == 8
    worker(None, "--rq", processes=2)
    for job in jobs:
        assert ended(job) == "finished"
    assert max(int(n) for n in redis_client.lrange("seen", 0, -1)) == 2
    wait_until(lambda: redis_client.zcard("rq:rl:api:allowed") == 0)


def test_rate_limits_and_retries(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    worker(None, "--rq", processes=2)
    limit = RateLimit("api", 1)
    jobs = [
        queue.enqueue(fns.flaky, redis_url, "n1", 2, rate_limit=limit, retry=Retry(max=2)),
        queue.enqueue(fns.flaky, redis_url, "n2", 1, rate_limit=limit, retry=Retry(1, interval=1)),
        queue.enqueue(fns.fail, rate_limit=limit),
        queue.enqueue(fns.add, 1, rate_limit=limit, result_ttl=60),
    ]
    assert [ended(job) for job in jobs] == ["finished", "finished", "failed", "finished"]
    assert redis_client.get("n2") == b"2"
    wait_until(lambda: redis_client.zcard("rq:rl:api:allowed") == 0)
    nothing_left(redis_client)


def test_what_a_dead_worker_left_is_finished(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    """A worker of RQ or ours that dies between RQ's two steps leaves dependents "ready"."""
    parent = queue.enqueue(fns.add, 1)
    child = queue.enqueue(fns.add, 2, depends_on=parent)
    redis_client.delete("rq:queue:default", "rq:deferred:default", f"{parent.key}:dependents")
    redis_client.hset(child.key, "status", "ready_to_enqueue")
    redis_client.zadd("rq:ready:default", {child.id: 1})
    worker(None, "--rq")
    assert ended(child) == "finished"


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("repeats_left", lambda client, job: client.hset(job.key, "repeats_left", "many")),
        ("success_callback_timeout",
         lambda client, job: client.hset(job.key, "success_callback_timeout", "x")),
        ("dependents", lambda client, job: client.set(f"{job.key}:dependents", "no set")),
        ("child", lambda client, job: client.hset("rq:job:child", "repeats_left", "many")),
    ],
)  # fmt: skip
def test_broken_records(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis,
    field: str, spoil: Callable[[redis.Redis, Job], object],
):  # fmt: skip
    job = queue.enqueue(fns.add, 1, on_success=Callback(fns.on_success), job_id="job")
    queue.enqueue(fns.add, 1, depends_on=job, job_id="child")
    spoil(redis_client, job)
    process = worker(None, "--rq")
    good = queue.enqueue(fns.add, 1, on_success=Callback(fns.on_success), job_id="good")
    assert ended(good) == "finished"
    own_fault = field in ("repeats_left", "success_callback_timeout")
    wait_until(lambda: status_of(redis_client, "job") == ("failed" if own_fault else "finished"))
    wait_until(lambda: redis_client.zcard("rq:wip:default") == 0)  # the child has run, too
    assert (b"job" in redis_client.zrange("rq:failed:default", 0, -1)) is own_fault
    entries = redis_client.xrange("rq:results:job")
    assert len(entries) == 1
    if own_fault:
        assert "record is broken" in json.loads(entries[0][1][b"tq_error"])[1]
    else:
        assert called(redis_client).count("success job 2") == 1
    assert process.stop() == 0


@pytest.mark.standing
def test_a_job_deleted_while_it_runs(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    worker(None, "--rq")
    job = queue.enqueue(fns.gate, redis_url, "go", on_success=Callback(fns.on_success))
    arrived(redis_client, "go")
    redis_client.delete(job.key)
    redis_client.rpush("go", 1)
    nothing_left(redis_client)
    assert called(redis_client) == [f"success {job.id} go"]  # as in RQ
