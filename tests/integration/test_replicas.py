"""`replicas=1`: an enqueue that waits until a replica has heard of its jobs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from taskq import ConfigError, NotReplicated
from taskq.embedded import EmbeddedRedis
from tests.crashproxy import CrashProxy
from tests.inprocess import attach
from tests.support import wait_until

APP = """
from taskq import TaskQ

queue = TaskQ()

@queue.task(replicas=1)
def safe(n):
    return n

@queue.task
def plain(n):
    return n
"""


@pytest.fixture
def replica(redis_server, redis_program, tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A replica of the test's server that has caught up."""
    master = f"127.0.0.1 {redis_server.port}"
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("repl-diskless-sync-delay", 0)  # else it waits 5 s for more replicas
    options = ("--replicaof", *master.split())
    with EmbeddedRedis.start(tmp_path / "replica", binary=redis_program, extra_args=options) as one:
        with redis.Redis.from_url(one.url) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", 20)
        with redis.Redis.from_url(redis_server.url) as client:
            wait_until(
                lambda: client.info("replication").get("slave0", {}).get("state") == "online"
            )
            wait_until(lambda: client.wait(1, 100) == 1)
        yield one


@pytest.fixture
def frozen(replica: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    os.kill(replica.pid, signal.SIGSTOP)
    yield replica
    os.kill(replica.pid, signal.SIGCONT)


def test_a_replica_has_it_when_the_call_returns(app, replica):
    handle = app.safe.delay(1)
    batch = app.safe.map(range(1_500))
    later = asyncio.run(_adelay(app))
    with redis.Redis.from_url(replica.url) as client:
        for one in (handle, *batch.handles, *later):
            assert client.exists(f"rq:job:{one.id}")


async def _adelay(app):
    async with app.queue:
        calls = [*(app.safe.adelay(n) for n in range(3)), app.plain.adelay(3)]
        return await asyncio.gather(*calls)


def test_without_a_replica_it_says_so_and_the_job_is_there(app, redis_client):
    with pytest.raises(NotReplicated, match="0 of 1 replicas confirmed") as caught:
        app.safe.delay(1)
    assert caught.value.job_ids
    assert (caught.value.wanted, caught.value.confirmed) == (1, 0)
    assert app.queue.handle(caught.value.job_ids[0]).status() == "queued"
    assert app.plain.delay(2).status() == "queued"
    assert app.safe.options(replicas=0).delay(3).status() == "queued"


def test_a_replica_that_hangs(app, frozen):
    with pytest.raises(NotReplicated):
        app.plain.options(replicas=1).delay(1)
    with pytest.raises(NotReplicated):
        asyncio.run(_adelay(app))


@pytest.mark.parametrize("hangs", [False, True])
def test_a_resend_does_not_take_silence_for_consent(
    app, replica, redis_server, redis_client, hangs
):
    """The answer was lost, the jobs are there: a WAIT behind no write would be content at once."""
    if hangs:
        os.kill(replica.pid, signal.SIGSTOP)
    try:
        app.plain.options(replicas=0).delay(
            0
        )  # the script is known: the struck request carries it out
        with CrashProxy(redis_server.port, 1, "reply", "enqueue") as proxy:
            attach(app.queue, proxy.url)
            if hangs:
                with pytest.raises(NotReplicated):
                    app.safe.delay(1)
            else:
                app.safe.delay(1)
            assert proxy.fired
            app.queue.broker.close()
    finally:
        os.kill(replica.pid, signal.SIGCONT)
    assert redis_client.llen("rq:queue:default") == 2


@pytest.mark.parametrize("wrong", [-1, True, 1.0, "1", 101, None])
def test_wrong_values(app, wrong):
    with pytest.raises(ConfigError, match="must be a number of replicas"):
        app.plain.options(replicas=wrong)


def test_in_tests_there_is_nothing_to_wait_for(app):
    with app.queue.testing("inline"):
        assert app.safe.delay(7).result() == 7
