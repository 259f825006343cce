"""The RQ lane when things go wrong: lost leases, cut connections, readers that sweep."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import redis
from rq import Callback, Queue, Repeat, Worker
from rq.job import Dependency, Job, Retry
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from taskq.broker.scripts import script
from taskq.embedded import EmbeddedRedis
from tests.conftest import AppModule
from tests.engine import Proxy, descendants
from tests.integration.test_rq_features import FUNCTIONS, Listener, called
from tests.rq_support import arrived, ended, latest, leftovers, nothing_left, status_of
from tests.support import WorkerStarter, wait_until

MORE = """
import os
def gated_callback(job, connection, *rest):
    connection.rpush("called", f"gated {job.id}")
    connection.rpush("at-callback", 1)
    connection.blpop("callback", 10)

def cutting_callback(job, connection, *rest):
    with redis.Redis.from_url(os.environ["TASKQ_REDIS_URL"]) as own:
        own.rpush("called", f"cutting {job.id}")
        me = own.client_id()
        for client in own.client_list():
            if client["id"] != str(me):
                try:
                    own.client_kill_filter(_id=client["id"])
                except redis.ResponseError:
                    pass  # it is gone
"""


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    """A module of plain functions, as users of RQ have."""
    return app_module(FUNCTIONS + MORE)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    """Stock RQ's queue."""
    return Queue(connection=redis_client)


@pytest.fixture
def by_rq(redis_client: redis.Redis) -> Queue:
    """Callbacks of its jobs are called by RQ's own code, for they are no pickles."""
    return Queue(connection=redis_client, serializer=JSONSerializer)


def take_away(client: redis.Redis) -> None:
    """What recovery does first when it takes the only running job from its worker."""
    (member,) = client.zrange("rq:wip:default", 0, -1)
    client.zrem("rq:wip:default", member)
    client.delete(b"rq:execution:" + member)


def everything(client: redis.Redis) -> dict[bytes, object]:
    """All of RQ's keys that the end of a job writes."""
    found: dict[bytes, object] = {}
    for key in client.keys("rq:*"):
        if not key.startswith((b"rq:worker", b"rq:clean")):
            kind = client.type(key)
            found[key] = client.hgetall(key) if kind == b"hash" else client.dump(key)
    return found


def test_a_job_that_was_taken_away_is_left_alone(
    fns: ModuleType, by_rq: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    process = worker(None, "--rq")
    job = by_rq.enqueue(fns.gate, redis_url, "go", on_success=Callback(fns.on_success),
                        repeat=Repeat(times=1))  # fmt: skip
    by_rq.enqueue(fns.add, 1, depends_on=job)
    arrived(redis_client, "go")
    take_away(redis_client)
    before = everything(redis_client)
    redis_client.rpush("go", 1)
    process.wait_for_log("no longer belongs")
    assert everything(redis_client) == before
    assert called(redis_client) == []
    assert process.stop() == 0


def test_a_job_that_is_taken_away_during_its_callback(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    process = worker(None, "--rq")
    job = queue.enqueue(fns.add, 1, on_success=Callback(fns.gated_callback))
    queue.enqueue(fns.add, 1, depends_on=job)
    arrived(redis_client, "callback")
    take_away(redis_client)
    before = everything(redis_client)
    redis_client.rpush("callback", 1)
    process.wait_for_log("no longer belongs")
    assert everything(redis_client) == before
    assert called(redis_client) == [f"gated {job.id}"]


def test_a_record_that_is_gone_is_no_lost_lease(
    fns: ModuleType, by_rq: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    """Evicted, or expired in an outage: the lease is what counts, and callbacks run once."""
    worker(None, "--rq")
    job = by_rq.enqueue(fns.fail, on_failure=Callback(fns.gated_callback))
    arrived(redis_client, "callback")
    redis_client.delete(*redis_client.keys("rq:execution:*"))
    redis_client.rpush("callback", 1)
    assert ended(job) == "failed"
    assert called(redis_client) == [f"gated {job.id}"]
    nothing_left(redis_client)


@pytest.mark.parametrize("how", ["by RQ", "by script"])
@pytest.mark.parametrize("ends", ["add", "fail"])
def test_all_connections_cut_in_a_callback(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, ends: str,
    how: str, by_rq: Queue,
):  # fmt: skip
    process = worker(None, "--rq")
    cutting, queue = Callback(fns.cutting_callback), by_rq if how == "by RQ" else queue
    job = queue.enqueue(getattr(fns, ends), 1, on_success=cutting, on_failure=cutting, job_id="a")
    child = queue.enqueue(fns.add, 5, depends_on=Dependency(job, allow_failure=True))
    assert ended(job) == ("finished" if ends == "add" else "failed")
    assert ended(child) == "finished"
    assert called(redis_client) == ["cutting a"]
    assert len(job.results()) == 1
    assert process.stop() == 0
    assert not leftovers(redis_client)


class Cuts:
    """A proxy that cuts connections which bring the end of a job.

    `left`: how often it still does; "before" Redis has got it, or "after": then its answer is lost.
    """

    def __init__(self, port: int, where: str, left: int) -> None:
        self._fate = "drop request" if where == "before" else "drop reply"
        self.left = left
        self._lock = threading.Lock()
        self.proxy = Proxy(port, self._watch)

    def _watch(self, request: bytes) -> str | None:
        by_rq = b"EXEC" in request and b"taskq:ended:" in request
        if not by_rq and script("settle").sha.encode() not in request:
            return None
        with self._lock:
            self.left -= 1
            return self._fate if self.left >= 0 else None


@pytest.fixture
def cuts(redis_server: EmbeddedRedis) -> Iterator[Callable[[str, int], Cuts]]:
    made: list[Cuts] = []

    def make(where: str, times: int) -> Cuts:
        assert redis_server.port is not None
        made.append(Cuts(redis_server.port, where, times))
        return made[-1]

    yield make
    for one in made:
        one.proxy.close()


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_transaction_whose_connection_is_cut(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis,
    cuts: Callable[[str, int], Cuts], where: str, redis_url: str,
):  # fmt: skip
    """Carried out exactly once, whether or not Redis had got it; callbacks are called once."""
    web = Listener()
    hooks = [Webhook(web.url + "/good", "finished"), Webhook(web.url + "/bad", "failed")]
    both = {"on_success": Callback(fns.on_success), "on_failure": Callback(fns.on_failure)}
    jobs = {
        "good": queue.enqueue(fns.add, 1, job_id="good", webhooks=hooks, **both),
        "bad": queue.enqueue(fns.fail, job_id="bad", webhooks=hooks, **both),
        "again": queue.enqueue(
            fns.flaky, redis_url, "n1", 1, job_id="again", retry=Retry(1), **both
        ),
        "asks": queue.enqueue(fns.ask, redis_url, "n2", 1, job_id="asks"),
        "twice": queue.enqueue(fns.note, redis_url, "x", job_id="twice", repeat=Repeat(times=1)),
        "dropped": queue.enqueue(fns.add, 2, job_id="dropped", result_ttl=0, **both),
    }
    child = queue.enqueue(fns.add, 7, depends_on=jobs["good"])
    heir = queue.enqueue(fns.add, 8, depends_on=Dependency(jobs["bad"], allow_failure=True))
    made = cuts(where, 9)
    process = worker(None, "--rq", env={"TASKQ_REDIS_URL": made.proxy.url})
    for job in (jobs["good"], jobs["again"], jobs["asks"], jobs["twice"], child, heir):
        assert ended(job) == "finished"
    assert ended(jobs["bad"]) == "failed"
    wait_until(lambda: not redis_client.exists("rq:job:dropped"))
    assert sorted(called(redis_client)) == [
        "failure again OSError try 1",
        "failure bad ValueError no",
        "success again 2",
        "success dropped 3",
        "success good 2",
    ]
    counts = {name: len(job.results()) for name, job in jobs.items()}
    assert counts == {"good": 1, "bad": 1, "again": 1, "asks": 2, "twice": 2, "dropped": 0}
    assert redis_client.get("n1") == redis_client.get("n2") == b"2"
    assert redis_client.llen("notes") == 2
    wait_until(lambda: len(web.heard) == 2)
    assert sorted(path for _, path, _ in web.heard) == ["/bad", "/good"]
    (seen,) = Worker.all(connection=redis_client)
    assert (seen.successful_job_count, seen.failed_job_count) == (8, 3)
    nothing_left(redis_client)
    assert made.left <= 6  # several in one packet count as one
    web.close()
    assert process.stop() == 0


def test_readers_do_not_disturb_running_jobs(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis, redis_url: str
):
    """RQ's registries sweep when they are read; a lease that has ended is not failed by that."""
    # sweeps go on at once, without the pause for a server that comes back
    redis_client.hset("taskq:sweep", mapping={"last": time.time(), "hold": 0})
    worker(None, "--rq")
    plain = queue.enqueue(fns.gate, redis_url, "plain")
    special = queue.enqueue(fns.gate, redis_url, "special", on_success=Callback(fns.on_success))
    for name in ("plain", "special"):
        arrived(redis_client, name)
    members = redis_client.zrange("rq:wip:default", 0, -1)
    assert len(members) == 2
    now = time.time()
    for member in members:  # as if the lease had ended almost a day ago: still within the margin
        assert (redis_client.zscore("rq:wip:default", member) or 0) > now + 86_400
        redis_client.zadd("rq:wip:default", {member: now + 20})
    registry = queue.started_job_registry
    command = [sys.executable, "-m", "rq.cli", "info", "--url", redis_url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True).stdout
    assert "2 executing" in shown or "executing" in shown
    for _ in range(200):
        assert registry.count == 2
        assert sorted(registry.get_job_ids()) == sorted([plain.id, special.id])
    assert len(registry.get_job_and_execution_ids()) == 2
    # the sweep of any worker extends it, for its worker lives
    wait_until(
        lambda: all(
            (redis_client.zscore("rq:wip:default", m) or 0) > now + 86_400 for m in members
        ),
        12,
    )
    assert {status_of(redis_client, job.id) for job in (plain, special)} == {"started"}
    wait_until(lambda: len(plain.get_executions()) == 1)
    (seen,) = Worker.all(connection=redis_client)
    wait_until(lambda: len(seen.get_current_executions(refresh=True)) == 2)
    seen.refresh()
    assert seen.get_state() == "busy"
    redis_client.rpush("plain", 1)
    redis_client.rpush("special", 1)
    assert ended(plain) == ended(special) == "finished"
    assert FailedJobRegistry(queue=queue).count == 0
    nothing_left(redis_client)


def test_a_drain_waits_for_the_lane(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    process = worker(None, "--rq")
    job = queue.enqueue(fns.add, 1, on_success=Callback(fns.gated_callback))
    arrived(redis_client, "callback")
    process.process.terminate()
    process.wait_for_log("Stopping")
    redis_client.rpush("callback", 1)
    assert process.wait() == 0
    assert status_of(redis_client, job.id) == "finished"
    assert called(redis_client) == [f"gated {job.id}"]
    assert not leftovers(redis_client)


def test_two_hundred_of_each(
    fns: ModuleType, app_module: AppModule, redis_client: redis.Redis, redis_url: str,
    worker: WorkerStarter, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Stock RQ's jobs with all features and ours in one queue, two processes: all done once."""
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    app = app_module(
        """
        import os, redis
        from taskq import TaskQ
        queue = TaskQ(accept=("json", "pickle"))
        @queue.task
        def once(n):
            with redis.Redis.from_url(os.environ["TASKQ_REDIS_URL"]) as client:
                client.hincrby("ran", n, 1)
            return n
        @queue.task
        async def aonce(n):
            once.fn(n)
            return -n
        """
    )
    queue = Queue(connection=redis_client)
    stock: list[Job] = []
    ours = []
    for n in range(0, 400, 4):
        ours.append(app.once.delay(n))
        stock.append(queue.enqueue(app.once.fn, n + 1, on_success=Callback(fns.on_success)))
        ours.append(app.aonce.delay(n + 2))
        features = [{"depends_on": stock[-1]}, {"retry": Retry(2)}, {"result_ttl": -1},
                    {"depends_on": ours[-1].id}][n // 4 % 4]  # fmt: skip
        stock.append(queue.enqueue(app.once.fn, n + 3, **features))
    process = worker(f"{app.__name__}:queue", processes=2)
    for job in stock:
        assert ended(job, 15) == "finished"
    assert [handle.result(timeout=10) for handle in ours] == [
        n if n % 4 == 0 else -n for n in range(0, 400, 2)
    ]
    ran = {int(n): int(times) for n, times in redis_client.hgetall("ran").items()}
    assert ran == dict.fromkeys(range(400), 1)
    assert [job.return_value() for job in stock] == list(range(1, 400, 2))
    assert sorted(called(redis_client)) == sorted(
        f"success {job.id} {job.return_value()}" for job in stock[::2]
    )
    assert latest(stock[0]).worker_name
    wait_until(lambda: sum(w.successful_job_count for w in Worker.all(redis_client)) == 400)
    nothing_left(redis_client)
    assert process.stop() == 0


def test_a_decompression_bomb_with_a_callback(
    fns: ModuleType, queue: Queue, worker: WorkerStarter, redis_client: redis.Redis
):
    """RQ's own code, which settles it, would inflate 400 MB."""
    bomb = zlib.compress(bytes(400_000_000), 1)
    callback = Callback(fns.on_failure)
    job = queue.enqueue(fns.add, 1, 2, on_failure=callback, at_front=True)
    parent = queue.enqueue(fns.add, 1, 2)
    dependent = queue.enqueue(fns.add, 3, 4, depends_on=parent)
    sibling = queue.enqueue(fns.add, 5, 6, depends_on=parent)
    for one in (job, dependent):
        redis_client.hset(one.key, "data", bomb)
    process = worker(None, "--rq")
    for one, end in ((job, "failed"), (dependent, "failed"), (sibling, "finished")):
        wait_until(lambda one=one, end=end: status_of(redis_client, one.id) == end, 15)
    assert "inflates to more than" in (latest(job).exc_string or "")
    for pid in descendants(process.pid):
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert peak is None or int(peak[1]) < 250_000
    nothing_left(redis_client)
