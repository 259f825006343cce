"""How executions ended that were not a job's last: in its hash, on its page, in the terminal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from html import unescape

import pytest
import rq

from taskq.broker.client import Broker
from taskq.inspector import Inspector, JobStory, story
from taskq.worker.runs import MESSAGE_CHARS, short
from tests.conftest import AppModule
from tests.dashboard import get, made
from tests.engine import RETRIED, Engine, places, status
from tests.support import LEDGER, WorkerStarter, wait_until

A, B = "aaaaaaaa", "bbbbbbbb"
TAGS = "<script>window.owned=1</script>"


@pytest.fixture
def engine(broker: Broker) -> Engine:
    return Engine(broker)


def told(broker: Broker, job_id: str) -> JobStory:
    found = Inspector(broker).run(story(broker.keys, job_id))
    assert found is not None
    return found


def kinds(broker: Broker, job_id: str) -> list[str]:
    return [one.kind for one in told(broker, job_id).runs]


# -- the scripts -------------------------------------------------------------------------------


def test_a_job_that_ends_at_once_has_none(engine: Engine, redis_client):
    ids = engine.enqueue(3)
    for job, kind in zip(engine.reserve(A), "fxg", strict=True):
        engine.settle(job, kind)
    assert [redis_client.hexists(f"rq:job:{one}", "tq_runs") for one in ids] == [0, 0, 0]


def test_each_retry_with_its_worker_and_the_last_twenty(engine: Engine, broker, redis_client):
    [one] = engine.enqueue()
    for n in range(25):
        [job] = engine.reserve(A)
        run = json.dumps(["retried", n, n + 0.5, "builtins.ValueError", f"try {n}"])
        assert engine.settle(job, "r", "", "", "", run) == 1
        assert engine.settle(job, "r", "", "", "", run) == 0, "a resend adds nothing"
    runs = told(broker, one).runs
    assert [run.error for run in runs] == [f"try {n}" for n in range(5, 25)]
    last = runs[-1]
    assert (last.started_at, last.ended_at, last.worker) == (24.0, 24.5, "host.worker")
    assert (last.kind, last.error_type) == ("retried", "builtins.ValueError")


def test_long_ones_are_bounded_in_bytes(engine: Engine, redis_client):
    [one] = engine.enqueue()
    run = json.dumps(["retried", 1, 2, "e" * 100, "\u4f60" * 200], ensure_ascii=False)
    for _ in range(25):
        [job] = engine.reserve(A)
        assert engine.settle(job, "r", "", "", "", run) == 1
    assert 6_000 < redis_client.hstrlen(f"rq:job:{one}", "tq_runs") <= 8_000


@pytest.mark.parametrize(
    "junk", [b"x" * 500_000, b"\n" * 500_000, b"\xff\x00", b"[" * 9_000, b'["retried"]\n{}\n[1]']
)
def test_what_stood_there_before_is_not_trusted(engine: Engine, broker, redis_client, junk):
    [one] = engine.enqueue(fields=["tq_runs", junk])
    assert told(broker, one).runs == ()
    [job] = engine.reserve(A)
    assert engine.settle(job, "r") == 1
    assert redis_client.hstrlen(f"rq:job:{one}", "tq_runs") <= 8_000
    assert [run.error for run in told(broker, one).runs] == ["no"]


def test_a_crash_by_what_is_known_of_it(engine: Engine, broker, redis_client):
    """Of one that had begun, and of those that lay there; and where nobody is left to ask."""
    begun, unbegun = engine.enqueue(2)
    engine.beat(A)
    engine.reserve(A)
    redis_client.hset(f"rq:job:{begun}", "worker_name", 'w"\n,[\\')
    before = time.time()
    assert engine.release(A, "dead", begun) == (2, 0)
    [run] = told(broker, begun).runs
    assert (run.kind, run.worker, run.error) == ("crashed", "w?????", "")
    assert before - 60 < (run.started_at or 0) <= (run.ended_at or 0) < before + 60
    assert kinds(broker, unbegun) == []
    engine.beat(B)
    engine.reserve(B)
    engine.age(redis_client, 30, B)
    assert engine.sweep() == (b"ok", 2, 0, 0)
    assert kinds(broker, begun) == ["crashed", "lost"]
    assert kinds(broker, unbegun) == ["lost"]


def test_they_outlast_a_retry_by_hand(engine: Engine, broker, redis_client):
    from taskq import operations

    [one] = engine.enqueue()
    [job] = engine.reserve(A)
    engine.settle(job, "r")
    [job] = engine.reserve(A)
    engine.settle(job, "x")
    assert operations.retry(broker, [one]).queued == [one]
    assert kinds(broker, one) == ["retried"]


def test_what_is_cut_leaves_no_half_of_a_secret():
    assert short("  one\ntwo") == "one"
    assert short("x" * MESSAGE_CHARS) == "x" * MESSAGE_CHARS
    assert short("x" * 300) == "[...]"
    words = "word " * 60
    assert short(words) == ("word " * 40).rstrip() + " [...]"
    secret = "a " * 90 + "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
    assert short(secret).endswith("a [...]")
    quoted = "a " * 90 + "password = 'correct horse battery staple' and more"
    assert short(quoted).endswith("password = [...]")
    assert short("don't " * 50).endswith("don't [...]")


# -- pages -------------------------------------------------------------------------------------


async def test_on_the_page_and_in_the_api(engine: Engine, redis_url, redis_client):
    [one] = engine.enqueue()
    for error in (f"{TAGS} password=hunter2", "second"):
        [job] = engine.reserve(A)
        engine.settle(job, "r", "", "", "", json.dumps(["retried", 1e9, 1e9 + 2, "E", error]))
    app = made(redis_url)
    api = (await get(app, f"/api/job?id={one}")).json["timeline"]
    first, second = [moment for moment in api if moment["kind"] == "retried"]
    assert first["error"] == f"E: {TAGS} password=\u2022\u2022\u2022"
    assert (first["took_s"], first["worker"]) == (2.0, "host.worker")
    assert first["started_at"] == "2001-09-09T01:46:40.000Z"
    assert second["error"] == "E: second"
    page = (await get(app, f"/job?id={one}")).text
    assert TAGS not in page
    assert TAGS in unescape(page)
    assert "hunter2" not in page
    assert page.count("Failed, to be tried again") == 2
    await app.aclose()


# -- real workers ------------------------------------------------------------------------------

APP = (
    LEDGER
    + """
import asyncio, os, signal, time
from taskq import Retry, TaskQ, current_job

queue = TaskQ()

class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no")

@queue.task(retry=Retry(5, base=0.01))
def thrice():
    attempt = current_job().attempt
    if attempt == 1: raise ValueError("line \\x00 <b>one\\ntwo " + "x" * 5000)
    if attempt == 2: raise Hostile
    if attempt == 3: raise Retry.later(0.01)
    return attempt

@queue.task
def dies_once():
    if current_job().attempt == 1: os.kill(os.getpid(), signal.SIGKILL)
    return current_job().attempt

dies_in_its_own = queue.task(name="own", mode="process")(dies_once.fn)

@queue.task
async def long(seconds):
    note("long")
    await asyncio.sleep(seconds)

def fails(word):
    raise OSError(word)

def told(job, connection, *error):
    pass
"""
)


@pytest.fixture
def app(app_module: AppModule, broker: Broker, monkeypatch):
    monkeypatch.setenv("TASKQ_REDIS_URL", broker.url)
    module = app_module(APP)
    yield module
    module.queue.close()


def test_several_retries_then_success(app, broker, worker: WorkerStarter):
    worker(f"{app.__name__}:queue")
    handle = app.thrice.delay()
    assert handle.result(timeout=15) == 4
    runs = told(broker, handle.id).runs
    assert [run.kind for run in runs] == ["retried", "retried", "postponed"]
    assert runs[0].error == "line \x00 <b>one"
    assert runs[1].error == "(its text cannot be read: RuntimeError)"
    assert runs[1].error_type.endswith(".Hostile")
    ends = [run.ended_at or 0 for run in runs]
    assert ends == sorted(ends)
    assert all(0 <= (run.ended_at or 0) - (run.started_at or 0) < 5 for run in runs)
    assert {run.worker for run in runs} == {told(broker, handle.id).row.worker}


@pytest.mark.parametrize("name", ["dies_once", "dies_in_its_own"])
def test_a_crash_then_success(app, broker, worker: WorkerStarter, name):
    worker(f"{app.__name__}:queue")
    handle = getattr(app, name).delay()
    assert handle.result(timeout=20) == 2
    [run] = told(broker, handle.id).runs
    assert run.kind == "crashed"
    assert ("signal 9" in run.error or "SIGKILL" in run.error) == (name == "dies_in_its_own")


def test_given_back_by_a_worker_that_stops(app, broker, worker, redis_client, tmp_path):
    first = worker(f"{app.__name__}:queue", "--grace", "0.2")
    handle = app.long.delay(60)
    wait_until(lambda: "long" in (tmp_path / "ledger.txt").read_text())
    first.stop()
    wait_until(lambda: places(redis_client, handle.id) == ["rq:queue:default"])
    assert kinds(broker, handle.id) == ["given_back"]


def test_also_where_rqs_own_code_settles_it(app, broker, worker: WorkerStarter, redis_client):
    """Because of its callback; and stock RQ can fetch such a job."""
    queue = rq.Queue(connection=redis_client)
    retry = rq.Retry(max=2)
    job = queue.enqueue(app.fails, "no", retry=retry, on_failure=rq.Callback(app.told))
    worker(None, "--rq")
    wait_until(lambda: status(redis_client, job.id) == "failed")
    found = told(broker, job.id)
    assert [(run.kind, run.error_type, run.error) for run in found.runs] == [
        ("retried", "builtins.OSError", "no")
    ] * 2
    assert [entry.kind for entry in found.results] == ["failed"]
    job.refresh()
    assert job.get_status() == "failed"


def test_in_the_terminal(app, broker, engine: Engine):
    [one] = engine.enqueue()
    [job] = engine.reserve(A)
    engine.settle(job, "r", "", "", "", RETRIED.replace("no", "\\u001b[31mred"))
    command = [sys.executable, "-m", "taskq", "job", one]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "earlier executions" in shown
    assert "retried  1.0s  host.worker  builtins.ValueError: \\x1b[31mred" in shown
    as_json = subprocess.run([*command, "--json"], capture_output=True, check=True, timeout=30)
    assert json.loads(as_json.stdout)["runs"] == [
        {
            "kind": "retried",
            "started_at": "1970-01-01T00:00:01.000Z",
            "ended_at": "1970-01-01T00:00:02.000Z",
            "worker": "host.worker",
            "error_type": "builtins.ValueError",
            "error": "\x1b[31mred",
        }
    ]
