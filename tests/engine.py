"""For tests of the engine: scripts as calls, where each job is, a proxy that loses answers."""

from __future__ import annotations

import base64
import secrets
import socket
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import redis

from taskq.broker.client import Broker
from taskq.broker.records import NewJob
from taskq.broker.scripts import script
from taskq.worker.claim import Claim

NO_TEXT = base64.b64encode(zlib.compress(b""))
RETRIED = '["retried",1.0,2.0,"builtins.ValueError","no"]'
REGISTRIES = ("scheduled", "deferred", "wip", "finished", "failed", "canceled")


def new_id() -> str:
    return secrets.token_urlsafe(16)


class Reserved(NamedTuple):
    """A job as the reserve script hands it out."""

    position: int
    id: str
    fields: dict[bytes, bytes]
    exec_id: str


class Engine:
    """The scripts of one broker, called as a worker would; `uid` may be any 8 letters."""

    def __init__(self, broker: Broker, *queues: str) -> None:
        self.broker = broker
        self.queues = queues or ("default",)
        self._keys = [broker.keys.prefix, broker.keys.own]
        self._seq = 0

    def run(self, name: str, *args: Any) -> Any:
        return self.broker.script(name, self._keys, args)

    def enqueue(self, count: int = 1, queue: str = "default", **options: Any) -> list[str]:
        jobs = [
            NewJob(new_id(), queue, b'["app.task",null,[],{}]', **options) for _ in range(count)
        ]
        return [accepted.id for accepted in self.broker.enqueue(jobs)]

    def reserve(self, uid: str, limit: int = 100, seq: int | None = None) -> list[Reserved]:
        state, jobs = self.reserve_all(uid, limit, seq)
        assert state == b"ok", state
        return jobs

    def reserve_all(
        self, uid: str, limit: int = 100, seq: int | str | None = None, iso: str | None = None
    ) -> tuple[bytes, list[Reserved]]:
        if seq is None:
            self._seq += 1
            seq = self._seq
        iso = self.broker.clock.iso() if iso is None else iso
        _now, state, jobs, _paused = self.run(
            "reserve", uid, f"host.{uid}", seq, limit, 15, iso, NO_TEXT, *self.queues
        )
        return state, [
            Reserved(
                position + 1,
                job_id.decode("utf-8", "surrogateescape"),
                Claim(position, "", "", "", flat, 0.0).fields,
                f"tq{uid}{seq}",
            )
            for position, job_id, flat in jobs
        ]

    def settle(
        self, job: Reserved, kind: str, *rest: Any, option: str = "", unique: str = ""
    ) -> int:
        option = option or ("500" if kind in "fx" else "")
        if not rest:
            rest = {
                "f": ("1.0", "2.0", b"MQ=="),
                "x": ("1.0", "2.0", NO_TEXT, '["builtins.ValueError","no",1]'),
                "r": ("", "", "", RETRIED),
                "g": ("",),
                "d": ('["crashed",1.0,2.0,"",""]',),
                "u": ("10",),
            }.get(kind, ())
        answer = self.run(
            "settle", "host.worker", self.broker.clock.iso(), 0, 0, "0",
            len(self.queues), *self.queues, 0,
            kind, job.position, job.exec_id, unique, option, 1, job.id, *rest,
        )  # fmt: skip
        return int(answer[0])

    def release(self, uid: str, what: str | int, *begun: str) -> tuple[int, int]:
        answer = self.run("release", uid, what, self.broker.clock.iso(), 3, NO_TEXT, *begun)
        return int(answer[1]), int(answer[2])

    def beat(self, uid: str, *begun: str) -> None:
        queues = "\n".join(self.queues)
        self.run(
            "beat", self.broker.clock.iso(), 60,
            uid, f"host.{uid}", queues, "busy", len(begun) // 2, *begun,
        )  # fmt: skip

    def sweep(self) -> tuple[bytes, int, int, int]:
        """(state, requeued, failed, extended)"""
        answer = self.run("recover", 15, self.broker.clock.iso(), 3, NO_TEXT, 1000)
        return answer[1], int(answer[2]), int(answer[3]), int(answer[4])

    def promote(self) -> tuple[int, bytes]:
        answer = self.run("promote", self.broker.clock.iso(), 500, *self.queues)
        return int(answer[1]), answer[2]

    def age(self, client: redis.Redis, seconds: float, *uids: str) -> None:
        """Make leases and heartbeats look older, and the last sweep recent."""
        for queue in self.queues:
            if client.type(f"rq:wip:{queue}") != b"zset":
                continue
            for member, score in client.zrange(f"rq:wip:{queue}", 0, -1, withscores=True):
                client.zadd(f"rq:wip:{queue}", {member: score - seconds})
        for uid in uids:
            if (
                client.type("taskq:alive") == b"zset"
                and client.zscore("taskq:alive", uid) is not None
            ):
                client.zincrby("taskq:alive", -seconds, uid)
        second, micro = client.time()
        client.hset("taskq:sweep", mapping={"last": second + micro / 1e6, "hold": 0})


def places(client: redis.Redis, job_id: str) -> list[str]:
    """All the places in which an id is: G1 wants exactly one."""
    raw = job_id.encode("utf-8", "surrogateescape")
    found: list[str] = []
    for key in client.keys("rq:queue:*") + client.keys("taskq:claim:*"):
        if client.type(key) == b"list":
            found += [key.decode()] * client.lrange(key, 0, -1).count(raw)
    for kind in REGISTRIES:
        for key in client.keys(f"rq:{kind}:*"):
            if client.type(key) != b"zset":
                continue
            members = client.zrange(key, 0, -1)
            if kind == "wip":
                members = [member.rpartition(b":")[0] for member in members]
            found += [key.decode()] * members.count(raw)
    return found


def misplaced(client: redis.Redis, ids: Iterable[str]) -> dict[str, list[str]]:
    """Ids that are not in exactly one place; a done-marker is one."""
    counts: dict[bytes, list[str]] = {}
    for key in client.keys("rq:queue:*") + client.keys("taskq:claim:*"):
        if client.type(key) == b"list":
            for raw in client.lrange(key, 0, -1):
                counts.setdefault(raw, []).append(key.decode())
    for kind in REGISTRIES:
        for key in client.keys(f"rq:{kind}:*"):
            if client.type(key) == b"zset":
                for raw in client.zrange(key, 0, -1):
                    member = raw.rpartition(b":")[0] if kind == "wip" else raw
                    counts.setdefault(member, []).append(key.decode())
    for key in client.keys("taskq:done:*"):
        for raw in client.smembers(key):
            counts.setdefault(raw, []).append(key.decode())
    return {
        job_id: counts.get(job_id.encode(), [])
        for job_id in ids
        if len(counts.get(job_id.encode(), [])) != 1
    }


def drained(client: redis.Redis) -> bool:
    """Whether no job of the default queue waits, runs or is delayed."""
    return not client.exists("rq:queue:default", "rq:wip:default", "rq:scheduled:default")


def status(client: redis.Redis, job_id: str) -> str:
    raw = client.hget(f"rq:job:{job_id}", "status")
    return raw.decode(errors="replace") if raw else ""


def reason(client: redis.Redis, job_id: str) -> str:
    """The recorded error of a failed job: our JSON [type, message, attempts]."""
    entries = client.xrevrange(f"rq:results:{job_id}", count=1)
    assert entries, f"no result entry of {job_id}"
    return entries[0][1].get(b"tq_error", b"").decode()


def wait_for_reserve(monitor: Any) -> None:
    """Wait until a worker asks for jobs; `monitor` is what `with client.monitor() as` gives.

    What is done afterwards finds that call carried out.
    """
    digest = script("reserve").sha
    for command in monitor.listen():
        if digest in command["command"]:
            return


class Proxy:
    """A TCP proxy before Redis. `watch(request)` says what becomes of each request that a client
    sends: None passes it, "drop reply" closes the connection when its answer comes, "drop request"
    closes it before Redis sees the request, "silence" keeps the connection and swallows."""

    def __init__(self, port: int, watch: Callable[[bytes], str | None]) -> None:
        self._target = port
        self._watch = watch
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._sockets: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                redis_side = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for one in (client, redis_side):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, redis_side]
            state = {"fate": ""}
            for args in ((client, redis_side, state, True), (redis_side, client, state, False)):
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, state: dict[str, str], asking: bool
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if asking:
                    fate = self._watch(data)
                    if fate == "drop request":
                        break
                    state["fate"] = fate or state["fate"]
                elif state["fate"] == "drop reply":
                    break
                elif state["fate"] == "silence":
                    continue
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def descendants(pid: int) -> list[int]:
    """Process ids below a process; none where it has just ended."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def in_order(values: Sequence[Any]) -> bool:
    return list(values) == sorted(values)
