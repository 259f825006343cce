"""A Redis that answers but refuses to write: nothing is taken for done that was not written.

A replica (READONLY), a master without replicas (NOREPLICAS, of `min-replicas-to-write`), one that
cannot save a snapshot and one whose disk is too full for its AOF (both MISCONF) refuse each write
by itself, also those inside scripts.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from rq import Callback, Queue

from taskq import BrokerUnavailable
from taskq.broker.client import Broker, BrokerError
from taskq.embedded import EmbeddedRedis
from tests.conftest import AppModule
from tests.engine import Engine, misplaced, places
from tests.rq_support import ended
from tests.support import LEDGER, Ledger, WorkerStarter, wait_until

APP = (
    LEDGER
    + """
import time
from pathlib import Path
from taskq import TaskQ

queue = TaskQ()

def gate(n, path):
    note("at gate", n)
    while not Path(path).exists():
        time.sleep(0.005)
    note("through", n)
    return n

wait_at = queue.task(gate)

@queue.task
def number(n):
    return n

def succeeded(job, connection, result):
    note("succeeded", result)

def add(a, b=1):
    return a + b
"""
)


ERRORS = (BrokerError, BrokerUnavailable)


DEAF = """#!{python}
import os, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.execv({program!r}, [{program!r}, *sys.argv[1:]])
"""
"""A server that may write no further gets an error, as on a full disk, instead of a signal."""


@pytest.fixture(params=["readonly", "noreplicas", "misconf", "full disk"])
def refusing(request, redis_program: Path, tmp_path: Path) -> Iterator[Server]:
    data = tmp_path / "data"
    data.mkdir()
    options = ["--dir", str(data)]
    program = redis_program
    if request.param == "full disk":
        if sys.platform != "linux":
            pytest.skip("needs prlimit(2)")
        options += ["--appendonly", "yes"]
        program = tmp_path / "server"
        program.write_text(DEAF.format(python=sys.executable, program=str(redis_program)))
        program.chmod(0o755)
    with (
        EmbeddedRedis.start(binary=program, extra_args=tuple(options)) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        yield Server(request.param, server, client, data)


class Server:
    """A server that refuses to write while it is told to."""

    def __init__(self, kind: str, server: EmbeddedRedis, client: redis.Redis, data: Path) -> None:
        self.kind = kind
        self.url = server.url
        self.client = client
        self._pid = server.pid
        self._data = data

    def refusals(self) -> int:
        """How many commands it has refused so far."""
        return int(self.client.info("stats")["total_error_replies"])

    @contextmanager
    def refuses(self) -> Iterator[None]:
        client = self.client
        if self.kind == "noreplicas":
            client.config_set("min-replicas-to-write", 1)
        elif self.kind == "readonly":
            client.replicaof("127.0.0.1", 1)  # nobody is there: its data stay as they are
        elif self.kind == "full disk":
            full = max(file.stat().st_size for file in self._data.glob("*/*.aof"))
            self._limit_files(full)
            with suppress(redis.ResponseError):  # one is refused when another could not be kept
                wait_until(lambda: not client.incr("poke"))
        else:
            client.config_set("save", "3600 100000")
            self._data.rmdir()
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        try:
            yield
        finally:
            if self.kind == "full disk":
                self._limit_files(resource.RLIM_INFINITY)
            client.config_set("min-replicas-to-write", 0)
            client.config_set("save", "")  # also lets it stop at once
            client.replicaof("NO", "ONE")

    def _limit_files(self, size: int) -> None:
        """No file of the server's grows beyond that many bytes."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_every_script_says_so(refusing):
    broker = Broker(refusing.url, deadline_s=0.3)
    engine = Engine(broker)
    ended, running, waiting = engine.enqueue(3)
    done, job = engine.reserve("abcdefgh", 2)
    engine.settle(done, "x")
    late = engine.enqueue(1, delay_s=0.001)[0]
    engine.beat("abcdefgh")
    calls: dict[str, Callable[[], object]] = {
        "enqueue": lambda: engine.enqueue(1),
        "reserve": lambda: engine.reserve("abcdefgh", 1),
        "settle": lambda: engine.settle(job, "f"),
        "beat": lambda: engine.beat("abcdefgh"),
        "recover": engine.sweep,
        "release": lambda: engine.release("abcdefgh", "dead"),
        "promote": engine.promote,
        "cancel": lambda: engine.run("cancel", waiting),
        "requeue": lambda: engine.run("requeue", broker.clock.iso(), "", ended),
    }
    with refusing.refuses():
        silent = []
        for name, call in calls.items():
            try:
                call()
            except ERRORS:
                continue
            silent.append(name)
        assert silent == []
    kinds = {"failed": ended, "wip": running, "queue": waiting, "scheduled": late}
    for kind, job_id in kinds.items():
        assert places(refusing.client, job_id) == [f"rq:{kind}:default"]
    broker.close()


@pytest.fixture
def app(refusing: Server, app_module: AppModule, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TASKQ_REDIS_URL", refusing.url)
    return app_module(APP)


@pytest.fixture
def ledger(app, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.txt")


@pytest.fixture
def workers(refusing: Server, tmp_path: Path) -> Iterator[WorkerStarter]:
    made = WorkerStarter(refusing.url, tmp_path, lambda: int(refusing.client.scard("rq:workers")))
    yield made
    made.close()


def test_what_ends_meanwhile_is_recorded_afterwards(refusing, app, workers, ledger, tmp_path):
    handles = [app.wait_at.delay(n, str(tmp_path / "gate")) for n in range(4)]
    process = workers(f"{app.__name__}:queue")
    wait_until(lambda: len(ledger.lines()) == 4)
    with refusing.refuses():
        (tmp_path / "gate").touch()
        wait_until(lambda: len(ledger.lines()) == 8)
        seen = refusing.refusals()
        wait_until(lambda: refusing.refusals() >= seen + 3)
    assert [handle.result(timeout=10) for handle in handles] == list(range(4))
    assert app.number.delay(4).result(timeout=10) == 4
    assert misplaced(refusing.client, [handle.id for handle in handles]) == {}
    assert process.log().count("ready (process") == 1
    assert len(ledger.lines()) == 8
    app.queue.close()


def test_a_job_that_rq_settles(refusing, app, workers, ledger, tmp_path):
    queue = Queue(connection=refusing.client)
    hook = Callback(
        app.succeeded
    )  # jobs without one go to RQ's code when Redis has taken their end
    job = queue.enqueue(app.gate, 1, str(tmp_path / "gate"), on_success=hook)
    after = queue.enqueue(app.add, 2, depends_on=job)
    process = workers(None, "--rq")
    wait_until(ledger.lines)
    with refusing.refuses():
        (tmp_path / "gate").touch()
        process.wait_for_log("cannot be recorded now")
        seen = refusing.refusals()
        wait_until(lambda: refusing.refusals() >= seen + 10)  # more than it would try a broken job
    assert ended(job) == "finished"
    assert ended(after) == "finished"
    assert job.return_value() == 1
    assert ledger.lines() == ["at gate 1", "through 1", "succeeded 1"]
    assert "without its dependents" not in process.log()


@pytest.mark.parametrize("refusing", ["readonly"], indirect=True)
def test_a_demoted_master_is_no_error_for_who_waits_on_it(refusing, app, workers):
    """It answers UNBLOCKED to those that it held, and READONLY from then on."""
    process = workers(f"{app.__name__}:queue")
    wait_until(lambda: refusing.client.info("clients")["blocked_clients"])
    with refusing.refuses():
        wait_until(lambda: "errorstat_UNBLOCKED" in refusing.client.info("errorstats"))
        wait_until(lambda: "errorstat_READONLY" in refusing.client.info("errorstats"))
    assert app.number.delay(4).result(timeout=20) == 4
    assert "Cannot wait on queue" not in process.log()
    app.queue.close()
