"""Servers that speak TLS, and the certificates they are known by.

Where the server program has no TLS of its own (those in wheels do not), a proxy in this process
stands before it.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from urllib.parse import urlencode

import trustme

from taskq.embedded import EmbeddedRedis

HOST = "localhost"
"""What certificates are for; a client that connects to 127.0.0.1 finds the wrong name in them."""


class Papers:
    """A certificate authority, and what it has issued, as files.

    Attributes:
        ca: the authority's own certificate.
        server: certificate and key of servers.
        address: certificate and key of servers that are known by their address.
        client: certificate and key of clients.
        expired: certificate and key of servers that are no longer valid.
    """

    def __init__(self, place: Path) -> None:
        """Make all of them in a directory of their own."""
        authority = trustme.CA()
        self.ca = place / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        long_ago = datetime(2020, 1, 1, tzinfo=timezone.utc)
        self.server = self._write(place / "server.pem", authority.issue_cert(HOST))
        self.address = self._write(place / "address.pem", authority.issue_cert("127.0.0.1"))
        self.client = self._write(place / "client.pem", authority.issue_cert("client@example.org"))
        self.expired = self._write(
            place / "expired.pem", authority.issue_cert(HOST, not_after=long_ago)
        )

    @staticmethod
    def _write(path: Path, issued: trustme.LeafCert) -> Path:
        issued.private_key_and_cert_chain_pem.write_to_path(path)
        return path


class TlsServer:
    """A Redis behind TLS, on a port of this machine.

    Attributes:
        redis: the server; its unix socket needs no TLS.
        port: where TLS is spoken.
    """

    def __init__(
        self,
        program: Path,
        papers: Papers,
        *,
        certificate: Path | None = None,
        asks_clients: bool = False,
        own: bool = False,
    ) -> None:
        """Start it.

        Args:
            program: the server program.
            papers: certificates.
            certificate: of the server, with its key; `papers.server` unless given.
            asks_clients: whether clients must have a certificate, too.
            own: the server program speaks TLS itself, instead of a proxy.
        """
        self._papers = papers
        self._stack = ExitStack()
        certificate = certificate or papers.server
        try:
            if own:
                self.port = _free_port()
                arguments = [
                    "--tls-port", str(self.port), "--tls-cert-file", str(certificate),
                    "--tls-key-file", str(certificate), "--tls-ca-cert-file", str(papers.ca),
                    "--tls-auth-clients", "yes" if asks_clients else "no",
                ]  # fmt: skip
                self.redis = self._stack.enter_context(
                    EmbeddedRedis.start(binary=program, extra_args=arguments)
                )
            else:
                self.redis = self._stack.enter_context(EmbeddedRedis.start(port=0, binary=program))
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
                if asks_clients:
                    context.verify_mode = ssl.CERT_REQUIRED
                    context.load_verify_locations(papers.ca)
                assert self.redis.port is not None
                self.port = self._stack.enter_context(_Front(self.redis.port, context)).port
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> TlsServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def url(self, host: str = HOST, *, scheme: str = "rediss", **options: object) -> str:
        """Where it is, with options such as `ssl_cert_reqs="none"`."""
        query = f"?{urlencode(options)}" if options else ""
        return f"{scheme}://{host}:{self.port}/0{query}"

    @property
    def trusted_url(self) -> str:
        """The same with the certificate of the authority."""
        return self.url(ssl_ca_certs=self._papers.ca)


def speaks_tls(program: Path) -> bool:
    """Whether a server program was built with TLS."""
    done = subprocess.run(
        [program, "--tls-port", "1", "--port", "0"],
        capture_output=True,
        timeout=10,
        check=False,
    )
    return b"No tls-cert-file" in done.stdout  # that is all it misses


class _Front:
    """A proxy that speaks TLS with clients and plain TCP with a server. A thread of its own."""

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> _Front:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _open(self) -> int:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._context, limit=1 << 20
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", self._target)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._pass_on(reader, here), self._pass_on(there, writer))
        for end in (writer, here):
            end.transport.abort()

    @staticmethod
    async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        raise ConnectionResetError  # one end has hung up: so does the other


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
