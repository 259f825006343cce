"""A master, replicas and sentinels, all private processes, for tests of failover.

The sentinels are started by `EmbeddedRedis`, too: its guard ends them whatever becomes of us.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskq.embedded import EmbeddedRedis
from tests.support import wait_until
from tests.tls import Papers

SERVICE = "jobs"
DOWN_AFTER_MS = 800
"""A server silent for so long is down. Less, and a busy machine fails over without need."""

_CONFIG = """
{listen}
bind 127.0.0.1
dir {home}
logfile {home}/redis.log
unixsocket {home}/redis.sock
{users}
sentinel monitor {service} 127.0.0.1 {master} {quorum}
sentinel down-after-milliseconds {service} {down_after}
sentinel failover-timeout {service} 3000
sentinel parallel-syncs {service} 1
{auth}
"""

_TLS = """port 0
tls-port {port}
tls-replication yes
tls-auth-clients no
tls-cert-file {certificate}
tls-key-file {certificate}
tls-ca-cert-file {authority}"""

_USERS = """
user default on nopass -@all +ping
user watcher on >{password} ~* &* +@all
"""

_PROGRAM = """#!/bin/sh
exec {program} {config} --sentinel
"""


class Topology:
    """One service of a master, its replicas, and the sentinels that watch them.

    Attributes:
        nodes: all data servers; the first one is the first master.
        sentinels: the sentinels.
        ports: where the sentinels listen.
    """

    def __init__(
        self,
        program: Path,
        place: Path,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        min_replicas: int = 0,
        password: str = "",
        sentinel_password: str = "",
        papers: Papers | None = None,
    ) -> None:
        """Start everything, and wait until a failover could happen.

        Args:
            program: the server program.
            place: an empty directory with a short path.
            replicas: how many.
            sentinels: how many; a majority of them must agree.
            min_replicas: `min-replicas-to-write` of the data servers.
            password: of the data servers.
            sentinel_password: of the sentinels.
            papers: certificates: then all of them speak TLS, and nothing else.
        """
        self._program = program
        self._place = place
        self._stack = ExitStack()
        self._password = password
        self._sentinel_password = sentinel_password
        self._papers = papers
        self.ports: list[int] = []
        try:
            master = self._server()
            self.nodes = [master]
            for _ in range(replicas):
                self.nodes.append(self._server("--replicaof", "127.0.0.1", str(master.port)))
            wait_until(self.is_synced, message="the replicas do not follow the master")
            for node in self.nodes:
                with self.client(node) as client:
                    client.config_set("min-replicas-to-write", min_replicas)
            self.sentinels = [self._sentinel(n, sentinels // 2 + 1) for n in range(sentinels)]
            wait_until(
                lambda: all(
                    state[b"num-other-sentinels"] == str(sentinels - 1).encode()
                    and state[b"num-slaves"] == str(replicas).encode()
                    for state in map(self._seen_by, self.sentinels)
                ),
                message="the sentinels do not know each other",
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Topology:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, also those that were stopped."""
        for node in getattr(self, "nodes", ()):
            if node.alive:
                os.kill(node.pid, signal.SIGCONT)
        self._stack.close()

    @property
    def url(self) -> str:
        """The service, as taskq is told of it."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        secret, papers = quote(self._sentinel_password), self._papers
        query = f"?sentinel_username=watcher&sentinel_password={secret}" if secret else ""
        query = f"?ssl_ca_certs={papers.ca}" if papers is not None else query
        scheme = "redis" if papers is None else "rediss"
        return f"{scheme}+sentinel://{login}{hosts}/{SERVICE}/0{query}"

    # -- what is the case ----------------------------------------------------------------

    def client(self, node: EmbeddedRedis) -> redis.Redis:
        """A client of one data server."""
        return redis.Redis.from_url(
            node.url,
            password=self._password or None,
            socket_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
        )

    def master(self) -> EmbeddedRedis | None:
        """The data server that the sentinels call master, if it says so, too."""
        for sentinel in self.sentinels:
            port = int(self._seen_by(sentinel)[b"port"])
            for node in self.nodes:
                if node.port == port and node.alive and self._role(node) == "master":
                    return node
        return None

    def is_synced(self) -> bool:
        """Whether all replicas have all that the first server has."""
        with self.client(self.nodes[0]) as client:
            state: dict[str, Any] = client.info("replication")
        followers = [v for k, v in state.items() if k.startswith("slave") and isinstance(v, dict)]
        return len(followers) == len(self.nodes) - 1 and all(
            one["state"] == "online" and one["offset"] == state["master_repl_offset"]
            for one in followers
        )

    def replicated(self, master: EmbeddedRedis) -> int:
        """How far a server had followed the master before it, when it became the master."""
        with self.client(master) as client:
            return int(client.info("replication")["second_repl_offset"]) - 1

    def wait_for_failover(self, timeout: float = 12.0) -> EmbeddedRedis:
        """Wait until another server than the first is master; returns it."""

        def new() -> EmbeddedRedis | None:
            found = self.master()
            return found if found is not None and found is not self.nodes[0] else None

        found = wait_until(new, timeout, message=self._story)
        assert found is not None
        return found

    # -- what is done to it --------------------------------------------------------------

    def kill_master(self) -> None:
        """`kill -9` the first server."""
        os.kill(self.nodes[0].pid, signal.SIGKILL)

    def freeze(self, node: EmbeddedRedis) -> None:
        """Let a server neither answer nor close its connections."""
        os.kill(node.pid, signal.SIGSTOP)

    def cut_off(self, replica: EmbeddedRedis) -> int:
        """Freeze it, and let the master close its connection, which would still take in much.

        Returns:
            The first server's replication offset: the replica knows of nothing behind it.
        """
        self.freeze(replica)
        with self.client(self.nodes[0]) as client:
            assert client.execute_command("CLIENT", "KILL", "TYPE", "replica") == 1
            state: dict[str, Any] = client.info("replication")
        assert state["connected_slaves"] == 0
        return int(state["master_repl_offset"])

    def thaw(self, node: EmbeddedRedis) -> None:
        """Let it go on."""
        os.kill(node.pid, signal.SIGCONT)

    def switch(self) -> None:
        """Ask a sentinel for a failover while the master lives."""
        with self._ask(self.sentinels[0]) as client:
            client.execute_command("SENTINEL", "FAILOVER", SERVICE)

    # -- making it -----------------------------------------------------------------------

    def _server(self, *arguments: str) -> EmbeddedRedis:
        options = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", *arguments]
        if self._password:
            options += ["--masterauth", self._password]
        port = 0
        if self._papers is not None:
            port = _free_port()
            for line in self._listen(port).splitlines():
                name, value = line.split()
                options += [f"--{name}", value]
        node = self._stack.enter_context(
            EmbeddedRedis.start(port=None if port else 0, binary=self._program, extra_args=options)
        )
        node.port = port or node.port
        if self._password:  # not earlier: it is up when it answers to anybody's PING
            with redis.Redis.from_url(node.url) as client:
                client.config_set("requirepass", self._password)
        return node

    def _sentinel(self, number: int, quorum: int) -> EmbeddedRedis:
        home = self._place / f"s{number}"
        home.mkdir(mode=0o700)
        port = _free_port()
        self.ports.append(port)
        config = home / "sentinel.conf"
        config.write_text(
            _CONFIG.format(
                listen=self._listen(port),
                home=home,
                service=SERVICE,
                master=self.nodes[0].port,
                quorum=quorum,
                down_after=DOWN_AFTER_MS,
                users=_USERS.format(password=secret) if (secret := self._sentinel_password) else "",
                auth=f"sentinel auth-pass {SERVICE} {self._password}" if self._password else "",
            )
        )
        program = home / "sentinel"
        program.write_text(_PROGRAM.format(program=self._program, config=config))
        program.chmod(stat.S_IRWXU)
        return self._stack.enter_context(EmbeddedRedis.start(home, binary=program))

    def _listen(self, port: int) -> str:
        if self._papers is None:
            return f"port {port}"
        return _TLS.format(port=port, certificate=self._papers.address, authority=self._papers.ca)

    def _ask(self, sentinel: EmbeddedRedis) -> redis.Redis:
        secret = self._sentinel_password
        user = "watcher" if secret else None
        return redis.Redis.from_url(sentinel.url, username=user, password=secret or None)

    def _seen_by(self, sentinel: EmbeddedRedis) -> dict[bytes, bytes]:
        with self._ask(sentinel) as client:
            client.set_response_callback("SENTINEL MASTER", lambda reply, **_: reply)
            flat = client.execute_command("SENTINEL MASTER", SERVICE)
        return (
            dict(flat) if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        )

    def _role(self, node: EmbeddedRedis) -> str:
        try:
            with self.client(node) as client:
                return str(client.info("replication")["role"])
        except (redis.ConnectionError, redis.TimeoutError):  # dead, or frozen
            return ""

    def _story(self) -> str:
        logs = "\n".join(sentinel.log() for sentinel in self.sentinels)
        return f"no failover; the sentinels' logs:\n{logs}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
