"""What kills and freezes whole workers, and counts the leases that this costs."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import redis

from tests.engine import descendants
from tests.support import WorkerProcess

APP = """
import os, time
from pathlib import Path
from taskq import Retry, TaskQ, current_job

queue = TaskQ()
_ledger = os.open(Path(__file__).with_name("ledger.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(n):
    os.write(_ledger, b"number %d\\n" % n)

@queue.task
def thread(n):
    note(n)

@queue.task
async def coroutine(n):
    note(n)

@queue.task
def generator(n):
    yield n
    note(n)

@queue.task(mode="process")
def process(n):
    note(n)

@queue.task(retry=Retry(2, base=0.05))
def flaky(n):
    if current_job().attempt == 1:
        raise OSError("first")
    note(n)

@queue.task
def slow(n):
    time.sleep(0.05)
    note(n)

MODES = (thread, coroutine, generator, process, flaky, slow)
"""
"""Jobs of every mode; each writes its number when it has come to its end."""


def uids(client: redis.Redis, pids: list[int]) -> set[bytes]:
    """The uids of worker processes, as their records name them."""
    found = set()
    for key in client.smembers("rq:workers"):
        with suppress(TypeError, ValueError):
            if int(client.hget(key, "pid")) in pids:
                found.add(key.rpartition(b".")[2])
    return found


def leases(client: redis.Redis, owners: set[bytes]) -> int:
    """Executions that Redis says these workers hold."""
    return sum(
        member.rpartition(b":tq")[2][:8] in owners
        for key in client.keys("rq:wip:*")
        for member in client.zrange(key, 0, -1)
    )


def send_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_server(client: redis.Redis, worker: WorkerProcess) -> int:
    """SIGKILL for a supervisor and all below it, at one instant; the leases that are lost."""
    pids = [worker.pid, *descendants(worker.pid)]
    owners = uids(client, pids)
    send_all(pids, signal.SIGSTOP)  # nobody says a last word
    more = [pid for pid in descendants(worker.pid) if pid not in pids]
    send_all([*more, *pids], signal.SIGKILL)
    worker.process.wait()
    return leases(client, owners)


def kill_child(client: redis.Redis, worker: WorkerProcess, pid: int) -> int:
    """SIGKILL for one worker process; its supervisor gives back what it held."""
    owners = uids(client, [pid])
    send_all([pid], signal.SIGSTOP)
    lost = leases(client, owners)
    send_all([pid], signal.SIGKILL)
    return lost
