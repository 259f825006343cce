"""RQ's webhooks: sent after the record of the end, and at least once, whoever dies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest
import redis
from rq import Callback, Queue, Repeat
from rq.webhook import Webhook

from taskq import TaskQ
from taskq.worker import Worker
from taskq.worker.claim import Claim
from taskq.worker.rq_crew import Crew
from taskq.worker.rq_hooks import Hooks
from tests.conftest import AppModule
from tests.integration.test_rq_features import FUNCTIONS, Listener, called
from tests.rq_support import ended, latest, nothing_left, spy_on_lane
from tests.support import WorkerStarter, wait_until

HOOKS = "taskq:hooks"


class Gate(Listener):
    """A web server that answers nobody before it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened, self.asked = threading.Event(), threading.Event()
        self.waiting: list[object] = []
        handler = self.server.RequestHandlerClass
        answer = handler.do_GET  # type: ignore[attr-defined]

        def do_get(request: object) -> None:
            self.waiting.append(request)
            self.asked.set()
            self.opened.wait(20)
            try:
                answer(request)
            finally:
                self.waiting.remove(request)

        handler.do_GET = handler.do_POST = do_get  # type: ignore[attr-defined]

    def close(self) -> None:
        self.opened.set()
        super().close()


@pytest.fixture
def web() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


@pytest.fixture
def fns(app_module: AppModule) -> ModuleType:
    return app_module(FUNCTIONS)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    return Queue(connection=redis_client)


def hooks(web: Listener, *paths: str) -> list[Webhook]:
    """POST to each path at both ends."""
    return [Webhook(web.url + path, status, method="POST") for path in paths
            for status in ("finished", "failed")]  # type: ignore[arg-type]  # fmt: skip


def test_they_are_sent_after_the_script_has_recorded_the_end(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, web: Gate,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    by_rq = spy_on_lane(monkeypatch)
    web.opened.set()
    good = queue.enqueue(fns.add, 1, webhooks=hooks(web, "/a", "/b"))
    bad = queue.enqueue(fns.fail, "oh", webhooks=hooks(web, "/c"),
                        on_failure=Callback(fns.on_failure))  # fmt: skip
    twice = queue.enqueue(fns.add, 2, webhooks=hooks(web, "/d"), repeat=Repeat(times=1))
    plain = queue.enqueue(fns.add, 3)
    Worker([queue], connection=redis_client).work(burst=True, logging_level="ERROR")
    assert [job.get_status() for job in (good, bad, twice, plain)] == [
        "finished", "failed", "finished", "finished",
    ]  # fmt: skip
    heard = sorted((path, body) for _, path, body in web.heard)  # all before the worker's end
    told = [(path, json.loads(body)) for path, body in heard]
    assert [path for path, _ in told] == ["/a", "/b", "/c", "/d", "/d"]
    assert [one["job_id"] for _, one in told] == [good.id, good.id, bad.id, twice.id, twice.id]
    assert [one["status"] for _, one in told] == ["finished"] * 2 + ["failed"] + ["finished"] * 2
    assert all(one["enqueued_at"] <= one["ended_at"] for _, one in told)
    assert told[2][1]["exc_info"] == latest(bad).exc_string
    assert told[0][1]["func_name"] == good.func_name
    assert by_rq == []
    assert called(redis_client) == [f"failure {bad.id} ValueError oh"]
    assert not redis_client.exists(HOOKS)
    nothing_left(redis_client)


def test_no_lease_waits_for_them(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, web: Gate, worker: WorkerStarter
):
    process = worker(None, "--rq")
    slow = queue.enqueue(fns.add, 1, webhooks=hooks(web, "/slow"))
    assert ended(slow) == "finished"
    assert web.asked.wait(5)
    assert not redis_client.exists("rq:wip:default")
    [member] = redis_client.zrange(HOOKS, 0, -1)
    assert member.decode().startswith(f"{slow.id}:")
    assert ended(queue.enqueue(fns.add, 1)) == "finished"
    process.process.terminate()  # a warm shutdown waits for it
    process.wait_for_log("Stopping")
    web.opened.set()
    assert process.wait() == 0
    assert [path for _, path, _ in web.heard] == ["/slow"]
    assert not redis_client.exists(HOOKS)


def test_what_a_dead_worker_has_not_sent_is_sent_by_another(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, web: Gate, worker: WorkerStarter
):
    first = worker(None, "--rq")
    good = queue.enqueue(fns.add, 1, webhooks=hooks(web, "/good"))
    bad = queue.enqueue(fns.fail, "oh", webhooks=hooks(web, "/bad"))
    assert (ended(good), ended(bad)) == ("finished", "failed")
    assert web.asked.wait(5)
    first.kill()
    web.opened.set()
    wait_until(lambda: redis_client.zcard(HOOKS) == 2 and not web.waiting)
    web.heard.clear()
    members = redis_client.zrange(HOOKS, 0, -1)
    gone = [b"no-such-job:exec:finished", b"no colons", b"\xff:\xfe:failed"]
    redis_client.zadd(HOOKS, dict.fromkeys([*members, *gone], time.time() - 119))
    redis_client.hset("taskq:sweep", mapping={"last": time.time(), "hold": 0})
    worker(None, "--rq")
    wait_until(lambda: not redis_client.exists(HOOKS), 15)
    told = {path: json.loads(body) for _, path, body in web.heard}
    assert sorted(told) == ["/bad", "/good"]
    assert told["/good"]["job_id"] == good.id
    assert told["/bad"]["exc_info"] == latest(bad).exc_string


def test_what_is_still_to_be_sent_is_not_taken_for_left(redis_client: redis.Redis, redis_url: str):
    with TaskQ(redis_url) as app:
        pool = redis.ConnectionPool.from_url(redis_url)
        hooks = Hooks(pool, app.broker, app, "one", bool)
        hooks._ours.add("mine:exec:finished")
        long_ago = time.time() - 300
        redis_client.zadd(HOOKS, {"mine:exec:finished": long_ago, "theirs:exec:finished": long_ago})
        hooks.look()
        wait_until(lambda: redis_client.zrange(HOOKS, 0, -1) == [b"mine:exec:finished"])
        assert (redis_client.zscore(HOOKS, "mine:exec:finished") or 0) > time.time() - 60
        hooks.stop()


@pytest.mark.parametrize("sure", [True, False])
def test_redis_away_when_they_are_sent(
    redis_client: redis.Redis, redis_url: str, web: Gate, *, sure: bool
):
    """What was sent is said later; what may not be due stays, and is lost in no case."""
    web.opened.set()
    asked = json.dumps([Webhook(web.url, "finished").to_dict()]).encode()
    claim = Claim(1, "default", "job", "exec", [b"data", b"", b"webhooks", asked], 0.0)
    claim.pickled = True
    sent, member = threading.Event(), "job:exec:finished"
    redis_client.zadd(HOOKS, {member: time.time()})
    with TaskQ(redis_url) as app:
        away = redis.ConnectionPool(host="127.0.0.1", port=1)
        one = Hooks(away, app.broker, app, "one", bool)
        one.send(claim, sent.set, sure=sure)
        assert sent.wait(10)
        assert len(web.heard) == (1 if sure else 0)
        assert redis_client.zcard(HOOKS) == 1
        assert list(one._unsaid) == ([member] if sure else [])
        one._pool = redis.ConnectionPool.from_url(redis_url)  # it is back
        one.look()
        wait_until(lambda: not one._looking and redis_client.zcard(HOOKS) == (0 if sure else 1))
        one.stop()


def test_a_thread_says_what_it_has_sent_before_it_waits():
    done: list[list[int]] = []
    tidied = threading.Event()
    crew: Crew[list[int]] = Crew("test", 2, list, lambda mine: mine and tidied.set())
    crew.add(lambda mine: mine.append(1))
    assert tidied.wait(5)
    crew.add(lambda _mine: 1 / 0)  # type: ignore[arg-type, return-value]
    crew.add(done.append)
    wait_until(lambda: done)
    crew.stop()


@pytest.mark.parametrize(
    "raw", [b"no json", b"[1]", b'{"a": 1}', b'[{"job_status": "finished"}]', b"[" * 9999, b"7",
            b'[{"url": "ftp://x", "job_status": "finished"}]', b"\xff"],
    ids=range(8),
)  # fmt: skip
def test_webhooks_that_cannot_be_read(
    fns: ModuleType, queue: Queue, redis_client: redis.Redis, raw: bytes
):
    job = queue.enqueue(fns.add, 1)
    redis_client.hset(job.key, "webhooks", raw)
    after = queue.enqueue(fns.add, 1)
    Worker([queue], connection=redis_client).work(burst=True, logging_level="CRITICAL")
    assert redis_client.hget(job.key, "status") in (b"finished", b"failed")
    assert after.get_status() == "finished"
    assert not redis_client.exists("rq:wip:default", HOOKS)
