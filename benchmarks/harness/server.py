"""A private redis-server for one run, and as much of a Redis client as the driver needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import processes

START_S = 120  # a snapshot of a million jobs takes a few seconds to load


def program() -> str:
    """Return the server to measure: REDIS_SERVER, else the one on the path."""
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    found = found or shutil.which("valkey-server")
    if not found:
        raise SystemExit("No redis-server on the path. Install one or set REDIS_SERVER.")
    return found


class Usage(NamedTuple):
    """What INFO says at one moment."""

    cpu_s: float
    reads: int  # socket reads: close to the number of round trips, a pipeline counts once
    in_bytes: int
    out_bytes: int
    memory_bytes: int
    commands: int
    calls: dict[str, int]


class Server:
    """A context manager; loads ``snapshot`` (an RDB file) if given."""

    def __init__(
        self, work: Path, snapshot: Path | None = None, cpus: set[int] | None = None
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="redis-", dir=work))
        if snapshot:
            os.link(snapshot, self.directory / "dump.rdb")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "save": "",
            "appendonly": "no",
            "loglevel": "warning",
            "dir": str(self.directory),
        }
        command = [program(), *(word for k, v in options.items() for word in (f"--{k}", v))]
        with (self.directory / "log").open("wb") as log:
            self.process = processes.start(command, cpus, stdout=log, stderr=log)
        self._socket: socket.socket | None = None
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                break
            try:
                if self.command("PING") == "PONG":
                    return
            except (OSError, RuntimeError):  # not listening yet, or still loading
                pass
            time.sleep(0.02)
        raise RuntimeError(f"redis-server: {(self.directory / 'log').read_text()[-500:]}")

    def command(self, *words: str | int) -> str:
        """Send one command whose answer is a simple or bulk string or an integer."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=START_S)
            self._answers = self._socket.makefile("rb")
        encoded = [str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded)]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        try:
            self._socket.sendall(b"".join(parts))
            first = self._answers.readline()
        except OSError:
            self._hang_up()
            raise
        kind, rest = first[:1], first[1:].strip()
        if kind in (b"+", b":"):
            return rest.decode()
        if kind == b"$":
            return self._answers.read(int(rest) + 2)[:-2].decode()
        if not kind:
            self._hang_up()
        raise RuntimeError(rest.decode())

    def info(self) -> dict[str, str]:
        lines = self.command("INFO", "everything").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def usage(self) -> Usage:
        info = self.info()
        calls = {
            name[8:]: int(value.partition("calls=")[2].partition(",")[0])
            for name, value in info.items()
            if name.startswith("cmdstat_")
        }
        return Usage(
            float(info["used_cpu_user"]) + float(info["used_cpu_sys"]),
            int(info["total_reads_processed"]),
            int(info["total_net_input_bytes"]),
            int(info["total_net_output_bytes"]),
            int(info["used_memory"]),
            int(info["total_commands_processed"]),
            calls,
        )

    def forget_latencies(self) -> None:
        """Do without its latency histograms: they are 10 kB for each command ever used."""
        with contextlib.suppress(RuntimeError):  # Redis 6.2 has none
            self.command("CONFIG", "SET", "latency-tracking", "no")

    def memory_alone(self) -> int:
        """Return used_memory once every other connection is gone: the data's own."""
        give_up = time.monotonic() + 10
        while int(self.info()["connected_clients"]) > 1 and time.monotonic() < give_up:
            time.sleep(0.02)
        return int(self.info()["used_memory"])

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._answers.close()
            self._socket.close()
            self._socket = None

    def stop(self) -> None:
        self._hang_up()
        processes.end(self.process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def version() -> str:
    words = subprocess.run(
        [program(), "--version"], capture_output=True, text=True, check=True
    ).stdout.split()
    return f"{words[0]} {next(word[2:] for word in words if word.startswith('v='))}"
