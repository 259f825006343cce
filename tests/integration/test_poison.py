"""No bytes in any field or key of ours or RQ's stop a worker, the doctor or the command line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from taskq.broker.records import NewJob
from taskq.inspector import Inspector
from taskq.inspector.census import census
from tests import poison, sweeps
from tests.engine import Engine, status
from tests.inprocess import attach, work
from tests.unit.test_cli import run

APP = sweeps.APP
EACH = 6
"""Values for each field."""


def well(app, client, url: str) -> None:
    """A good job runs to its end."""
    attach(app.queue, url).close()
    [handle] = app.queue.enqueue([app.plain.call(1)])
    work(app.queue, url, lambda: status(client, handle.id) == "finished")


def look(url: str) -> None:
    """Everything that reads shows what it can."""
    for command in ("info", "jobs", "failed", "doctor"):
        shown = run(command, "--redis-url", url, "--json")
        assert shown.exit_code in (0, 1), shown.output
        assert "Traceback" not in shown.output
        assert shown.output.startswith(("{", "Error: ")), (command, shown.output)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_any_bytes_in_any_field_of_a_job(app, redis_client, redis_tcp_url, seed):
    chosen = random.Random(seed)
    broker = attach(app.queue, redis_tcp_url)
    name = f"{app.__name__}.plain"
    ids = []
    for field in poison.FIELDS:
        for _ in range(EACH):
            job_id = f"{field}-{len(ids)}"
            data = app.queue.codec.dump_call(name, (1,), {}, job_id=job_id, queue="default")
            broker.enqueue([NewJob(job_id, "default", data, [field, poison.garbage(chosen)])])
            ids.append(job_id)
    broker.close()

    def nothing_waits() -> bool:
        return not redis_client.exists("rq:queue:default", "rq:wip:default")

    work(app.queue, redis_tcp_url, nothing_waits, limit_s=18)
    left = {i: status(redis_client, i) for i in ids if redis_client.exists(f"rq:job:{i}")}
    allowed = {"finished", "failed", "canceled", "scheduled", "stopped", "deferred"}
    assert set(left.values()) <= allowed, {i: s for i, s in left.items() if s not in allowed}
    look(redis_tcp_url)
    well(app, redis_client, redis_tcp_url)


@pytest.mark.parametrize("kind", poison.MAKERS)
def test_shared_keys_of_a_wrong_type(app, redis_client, redis_tcp_url, kind):
    """Each of them alone would be found; all at once finds what hides behind another."""
    chosen = random.Random(kind)
    for key, right in poison.KEYS.items():
        if kind != right and key not in ("rq:suspended", "rq:queue:default"):
            poison.MAKERS[kind](redis_client, key, poison.garbage(chosen))
    look(redis_tcp_url)
    well(app, redis_client, redis_tcp_url)


@pytest.mark.parametrize("key", poison.KEYS)
def test_strange_members_of_the_right_type(app, redis_client, redis_tcp_url, key):
    chosen = random.Random(key)
    if key != "rq:suspended":  # its presence is its meaning
        for _ in range(5):
            poison.MAKERS[poison.KEYS[key]](redis_client, key, poison.garbage(chosen))
    look(redis_tcp_url)
    well(app, redis_client, redis_tcp_url)


def test_a_queue_that_is_no_list_is_refused_until_a_sweep_sets_it_aside(
    app, redis_client, redis_tcp_url, broker
):
    redis_client.set("rq:queue:default", "rubbish")
    engine = Engine(broker)
    engine.beat("worker01")  # who serves this queue
    engine.age(redis_client, 0)
    engine.sweep()
    well(app, redis_client, redis_tcp_url)
    assert redis_client.get("taskq:quarantine:rq:queue:default") == b"rubbish"
    assert Inspector(broker).run(census(broker.keys)).suspects == set()


def test_the_list_of_fields_is_complete():
    """A field that a script or the library writes, and that is not fuzzed, fails here."""
    root = Path(__file__).resolve().parents[2]
    written = set()
    for path in (*(root / "taskq/broker/lua").glob("*.lua"), *(root / "worker").glob("*.py")):
        for word in path.read_text().replace('"', "'").split("'"):
            if word.startswith("tq_") and word.replace("_", "").isalpha():
                written.add(word)
    callback_only = {word for word in written if word.startswith("tq_of_")}
    # not of a job's hash, or a beginning
    others = {"tq_error", "tq_kind", "tq_stuck", "tq_memory", "tq_slots", "tq_on_"}
    assert written - callback_only - others - set(poison.FIELDS) == set()
