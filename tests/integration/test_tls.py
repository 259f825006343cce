"""rediss:// against real TLS: who is trusted, who is refused and why, and all that goes over it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from taskq import BrokerUnavailable, ConfigError, TaskQ, TaskQError, gather
from taskq.embedded import EmbeddedRedis
from tests.conftest import AppModule, server_program
from tests.support import WorkerStarter, wait_until
from tests.tls import Papers, TlsServer, speaks_tls

APP = """
    import asyncio
    from taskq import TaskQ

    queue = TaskQ()

    @queue.task
    def number(n):
        return n

    @queue.task
    async def later(n):
        await asyncio.sleep(0.01)
        return n
"""


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("tls"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a proxy before the server speak TLS, and the server itself where it was built to."""
    if "kind" in metafunc.fixturenames:
        can = speaks_tls(server_program(metafunc.config))
        metafunc.parametrize("kind", ["proxy", "redis"] if can else ["proxy"], scope="module")


@pytest.fixture(scope="module")
def program(kind: str, redis_program: Path) -> tuple[Path, bool]:
    """The server program, and whether it speaks TLS itself."""
    return redis_program, kind == "redis"


@pytest.fixture(scope="module")
def shared(program: tuple[Path, bool], papers: Papers) -> Iterator[TlsServer]:
    path, own = program
    with TlsServer(path, papers, own=own) as made:
        yield made


@pytest.fixture
def client(shared: TlsServer) -> Iterator[redis.Redis]:
    """To look at what was written, without TLS."""
    with redis.Redis.from_url(shared.redis.url) as made:
        made.flushall()
        yield made


@pytest.fixture
def server(shared: TlsServer, client: redis.Redis) -> TlsServer:
    return shared


def pings(url: str) -> list[object]:
    return answers(TaskQ(url))


def answers(app: TaskQ) -> list[object]:
    """What a blocking and an asyncio caller get for a PING, an answer or an error."""

    async def ping() -> object:
        try:
            return await app.broker.acall("PING")
        except TaskQError as error:
            return error
        finally:
            await app.aclose()

    try:
        first: object = app.broker.call("PING")
    except TaskQError as error:
        first = error
    return [first, asyncio.run(ping())]


def refused(url: str) -> str:
    """How both are refused, at once: no waiting mends a certificate."""
    start = time.monotonic()
    first, second = pings(url)
    assert time.monotonic() - start < 4  # a deadline each would be ten
    assert isinstance(first, BrokerUnavailable)
    assert isinstance(second, BrokerUnavailable)
    assert str(first) == str(second)
    return str(first)


# --- whom to trust ----------------------------------------------------------------


def test_an_unknown_authority_is_refused(server: TlsServer):
    text = refused(server.url())
    assert f"No Redis at {server.url()}: its certificate was refused: " in text
    assert "issuer certificate" in text or "self-signed certificate" in text
    assert "ssl_ca_certs=FILE" in text


def test_a_known_authority_is_trusted(server: TlsServer):
    assert pings(server.trusted_url) == [b"PONG", b"PONG"]


def test_whoever_it_is_if_told_so(server: TlsServer):
    assert pings(server.url(ssl_cert_reqs="none")) == [b"PONG", b"PONG"]


def test_a_certificate_for_another_host(server: TlsServer, papers: Papers):
    text = refused(server.url("127.0.0.1", ssl_ca_certs=papers.ca))
    assert "not valid for '127.0.0.1'" in text
    assert "ssl_ca_certs=FILE" not in text
    unchecked = server.url("127.0.0.1", ssl_ca_certs=papers.ca, ssl_check_hostname="no")
    assert pings(unchecked) == [b"PONG", b"PONG"]


def test_a_certificate_that_has_expired(program, papers: Papers):
    path, own = program
    with TlsServer(path, papers, own=own, certificate=papers.expired) as server:
        assert "has expired" in refused(server.trusted_url)


def test_certificates_of_clients(program, papers: Papers):
    path, own = program
    with TlsServer(path, papers, own=own, asks_clients=True) as server:
        url = server.url(ssl_ca_certs=papers.ca, ssl_certfile=papers.client)
        assert pings(url) == [b"PONG", b"PONG"]
        app = TaskQ(server.trusted_url)
        app.broker.deadline_s = 0.5
        with pytest.raises(BrokerUnavailable):
            app.broker.call("PING")


def test_a_server_that_speaks_no_tls(redis_server: EmbeddedRedis):
    app = TaskQ(f"rediss://localhost:{redis_server.port}")
    app.broker.deadline_s = 0.3
    for error in answers(app):
        assert isinstance(error, BrokerUnavailable)
        assert "If it does not speak TLS, use redis://." in str(error)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs=/nowhere/ca.pem: No such file"),
        ("ssl_ca_certs={here}", "ssl_ca_certs={here}: .*no certificate"),
        ("ssl_ca_path=/nowhere", "ssl_ca_path"),
        ("ssl_certfile={ca}", "ssl_certfile={ca}: "),
        ("ssl_certfile=/nowhere/c.pem", "ssl_certfile=/nowhere/c.pem: No such file"),
        ("ssl_certfile={client}&ssl_keyfile=/nowhere/k.pem", "ssl_keyfile=/nowhere/k.pem: No such"),
        ("ssl_cert_reqs=maybe", "maybe"),
        ("ssl_ca_cert=ca.pem", "it has an unknown option, ssl_ca_cert"),
    ],
)
def test_wrong_options_are_told_before_anything_is_tried(papers: Papers, option: str, words: str):
    files = {"here": __file__, "ca": papers.ca, "client": papers.client}
    app = TaskQ(f"rediss://:hunter2@localhost:1/0?{option.format(**files)}")
    with pytest.raises(ConfigError, match=words.format(**files)) as caught:
        app.broker.call("PING")
    assert "hunter2" not in str(caught.value)


# --- what goes over it ------------------------------------------------------------


@pytest.fixture
def workers(server: TlsServer, client: redis.Redis, tmp_path: Path) -> Iterator[WorkerStarter]:
    made = WorkerStarter(server.trusted_url, tmp_path, lambda: int(client.scard("rq:workers")))
    yield made
    made.close()


def test_jobs_run_and_are_waited_for(
    server: TlsServer, workers: WorkerStarter, app_module: AppModule, monkeypatch
):
    monkeypatch.setenv("TASKQ_REDIS_URL", server.trusted_url)
    app = app_module(APP)
    early = app.later.delay(0)
    workers(f"{app.__name__}:queue", processes=2)
    assert early.result(timeout=10) == 0
    assert [h.result(timeout=10) for h in app.number.map(range(100))] == list(range(100))
    batch = app.later.map(range(100))
    assert batch.results(timeout=10) == list(range(100))
    assert app.number.options(delay=0.1).delay(5).result(timeout=10) == 5
    large = "x" * 900_000
    assert app.number.delay(large).result(timeout=10) == large

    async def program() -> list[object]:
        handle = await app.later.adelay(1)
        batch = await app.number.amap(range(100))
        large_handle = await app.later.adelay(large)
        try:
            return [await handle, sum(await gather(*batch)), await large_handle]
        finally:
            await app.queue.aclose()

    assert asyncio.run(program()) == [1, 4950, large]
    app.queue.close()


def test_waiting_starts_before_the_worker_and_ends_with_a_close(
    server: TlsServer, client: redis.Redis, app_module: AppModule, monkeypatch, caplog
):
    """A reader is interrupted by another thread, over TLS, too."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("TASKQ_REDIS_URL", server.trusted_url)
    app = app_module(APP)
    batch = app.number.map(range(3))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batch.results)
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1)
        app.queue.close()
        with pytest.raises(TaskQError, match="closed"):
            waiting.result(5)
    assert [record for record in caplog.records if record.exc_info] == []


def test_time_limits_are_kept(server: TlsServer, app_module: AppModule, monkeypatch):
    monkeypatch.setenv("TASKQ_REDIS_URL", server.trusted_url)
    app = app_module(APP)
    handle = app.number.delay(1)
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            handle.result(timeout=0.2)
        assert 0.2 <= time.monotonic() - start < 3
    app.queue.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_connections_of_its_own(server: TlsServer):
    app = TaskQ(server.trusted_url)
    assert app.broker.call("PING") == b"PONG"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if app.broker.call("ECHO", "child") == b"child" else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert app.broker.call("ECHO", "parent") == b"parent"
    app.close()


def command_line(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskq", *arguments],
        env={**os.environ, "TASKQ_REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_the_command_line(server: TlsServer):
    done = command_line(server.trusted_url, "ping", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"] == server.trusted_url
    done = command_line(server.trusted_url, "info", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queues"] == []


def test_the_command_line_says_why_not(server: TlsServer):
    done = command_line(server.url(), "ping")
    assert (done.returncode, done.stdout) == (1, "")
    assert "its certificate was refused" in done.stderr
    assert done.stderr.count("\n") == 1
    done = command_line(server.url(ssl_ca_certs="/nowhere"), "ping")
    assert (done.returncode, done.stdout) == (2, "")
    assert "ssl_ca_certs=/nowhere" in done.stderr


def test_a_worker_waits_for_a_server_that_it_trusts(
    server: TlsServer, workers: WorkerStarter, app_module: AppModule
):
    app = app_module(APP)
    process = workers(f"{app.__name__}:queue", env={"TASKQ_REDIS_URL": server.url()}, ready=False)
    process.wait_for_log("Waiting for it", timeout=15)
    assert "its certificate was refused" in process.log()
    assert process.running
    assert process.stop() == 0
