"""The server process and its guard."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from taskq.embedded.home import Home, ask, given_home, own_home
from taskq.embedded.program import find_server
from taskq.errors import BrokerUnavailable, ConfigError

START_TIMEOUT_S = 10.0
"""A cold start takes 5 to 50 ms; a loaded machine may need seconds."""

STOP_TIMEOUT_S = 3.0
"""A server that has not heeded SIGTERM by then (stopped by a debugger, say) is killed."""

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


class EmbeddedRedis:
    """A running server that belongs to this process. Made by `start`.

    Attributes:
        url: address for redis-py, RQ and taskq: `unix:///.../redis.sock`.
        port: loopback port that it listens on as well, or None.
        pid: process id of the server.
        directory: where its socket and its log are.
    """

    def __init__(self, guard: subprocess.Popen[bytes], home: Home, port: int | None) -> None:
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
        home = own_home() if directory is None else given_home(Path(directory))
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
        while not ask(self._home.socket, b"PING\r\n").startswith(b"+PONG"):
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
    program: Path, home: Home, port: int | None, extra_args: Sequence[str]
) -> subprocess.Popen[bytes]:
    command = [str(program), "--port", str(port or 0), "--bind", "127.0.0.1"]
    command += ["--unixsocket", str(home.socket), "--unixsocketperm", "600"]
    command += ["--dir", str(home.path), "--logfile", str(home.log), "--loglevel", "warning"]
    command += ["--daemonize", "no", "--save", "", "--appendonly", "no", *extra_args]
    return subprocess.Popen(
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
