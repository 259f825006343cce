"""A soak: steady load on several servers while something is struck every two seconds.

TASKQ_SOAK_S seconds (default 40) at TASKQ_SOAK_RATE jobs/s (default 300), and on until
TASKQ_SOAK_JOBS are sent (default none). 1,200 s at 834 are a million jobs. Redis writes its AOF
always; it, its connections, servers and processes are killed, frozen and stopped, in an order that
a seed fixes.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from taskq.embedded import EmbeddedRedis
from taskq.errors import BrokerUnavailable
from taskq.inspector import Inspector
from taskq.inspector.doctor import examine
from tests import nemesis
from tests.conftest import AppModule
from tests.engine import descendants
from tests.support import WorkerProcess, WorkerStarter, time_passes, wait_until

LENGTH_S = float(os.environ.get("TASKQ_SOAK_S", "40"))
RATE = float(os.environ.get("TASKQ_SOAK_RATE", "300"))
JOBS = int(os.environ.get("TASKQ_SOAK_JOBS", "0"))
SERVERS = 4
EVERY_S = 2.0
BATCH = 100
RESULT_TTL_S = 5
SLOW_STOP_S = 40.0
"""Twice the grace time."""


class Soak:
    """The load, the servers, and who strikes them."""

    def __init__(self, app, home: Path, options, program, start) -> None:
        self.app, self.home, self.options, self.program = app, home, options, program
        self.start_worker: Callable[[], WorkerProcess] = start
        self.chosen = random.Random(42)
        self.redis = EmbeddedRedis.start(home, extra_args=options, binary=program)
        self.client = redis.Redis.from_url(self.redis.url)
        self.workers: list[WorkerProcess] = []
        self.lost = self.sent = 0
        self.struck: dict[str, int] = {}
        self.slow_stops: list[str] = []

    def strike(self) -> None:
        """One of the things that happen to servers."""
        names = ["child", "child", "server", "stop", "freeze", "cut", "pause", "scripts",
                 "freeze_redis", "restart_redis"]  # fmt: skip
        name = self.chosen.choice(names)
        self.struck[name] = self.struck.get(name, 0) + 1
        getattr(self, name)(self.chosen.randrange(len(self.workers)))

    def child(self, at: int) -> None:
        children = [p for p in descendants(self.workers[at].pid) if self._is_worker(p)]
        if children:
            pid = self.chosen.choice(children)
            self.lost += nemesis.kill_child(self.client, self.workers[at], pid)

    def _is_worker(self, pid: int) -> bool:
        return bool(nemesis.uids(self.client, [pid]))

    def server(self, at: int) -> None:
        self.lost += nemesis.kill_server(self.client, self.workers.pop(at))
        self.workers.append(self.start_worker())

    def stop(self, at: int) -> None:
        worker = self.workers.pop(at)
        # one that has only just been started has no handler yet, and nothing in hand
        try:
            worker.signal(signal.SIGTERM)
            wait_until(lambda: not worker.running, SLOW_STOP_S)
        except AssertionError:
            worker.signal(signal.SIGQUIT)  # for whom does it wait? The stacks come into its log
            assert worker.stop(150) in (0, -signal.SIGTERM)
            self.slow_stops.append(worker.log())
        assert worker.process.returncode in (0, -signal.SIGTERM)
        self.workers.append(self.start_worker())

    def freeze(self, at: int) -> None:
        pids = [self.workers[at].pid, *descendants(self.workers[at].pid)]
        nemesis.send_all(pids, signal.SIGSTOP)
        time_passes(self.chosen.uniform(0.1, 1.5))
        nemesis.send_all(pids, signal.SIGCONT)

    def cut(self, _at: int) -> None:
        for kind in ("normal", "pubsub"):
            self.client.client_kill_filter(_type=kind, skipme=True)

    def pause(self, _at: int) -> None:
        self.client.client_pause(self.chosen.randrange(1, 1_500))

    def scripts(self, _at: int) -> None:
        self.client.script_flush()

    def freeze_redis(self, _at: int) -> None:
        nemesis.send_all([self.redis.pid], signal.SIGSTOP)
        time_passes(self.chosen.uniform(0.1, 1.5))
        nemesis.send_all([self.redis.pid], signal.SIGCONT)

    def restart_redis(self, _at: int) -> None:
        os.kill(self.redis.pid, signal.SIGKILL)
        self.redis.stop()
        while True:  # a large AOF takes its time
            try:
                self.redis = EmbeddedRedis.start(
                    self.home, extra_args=self.options, binary=self.program
                )
            except BrokerUnavailable:
                continue
            return

    def send(self) -> None:
        """A batch; the client itself sends it again until Redis has it."""
        tasks = self.app.MODES[:3] + self.app.MODES[4:5]  # many jobs: cheap ones
        calls = [
            (self.app.process if n % 100 == 0 else tasks[n % len(tasks)])
            .options(result_ttl=RESULT_TTL_S)
            .call(n)
            for n in range(self.sent, self.sent + BATCH)
        ]
        self.app.queue.enqueue(calls)
        self.sent += BATCH

    def memory(self) -> tuple[float, float]:
        """Redis's, and the median of a worker process's, in MB."""
        rss = [
            psutil.Process(pid).memory_info().rss / 1e6
            for worker in self.workers
            for pid in descendants(worker.pid)
            if self._is_worker(pid)
        ]
        return self.client.info("memory")["used_memory"] / 1e6, statistics.median(rss)


@pytest.mark.timeout(LENGTH_S * 2 + JOBS / 100 + 240)
def test_soak(app_module: AppModule, worker: WorkerStarter, tmp_path, redis_program, monkeypatch):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(data))
    url = f"unix://{tmp_path}/none"

    def start() -> WorkerProcess:
        env = {"TASKQ_REDIS_URL": soak.redis.url}
        quiet = ("--log-level", "error")
        return worker(target, "--threads", "4", *quiet, ready=False, env=env)

    monkeypatch.setenv("TASKQ_REDIS_URL", url)
    home = tmp_path / "home"
    first = EmbeddedRedis.start(home, extra_args=options, binary=redis_program)
    monkeypatch.setenv("TASKQ_REDIS_URL", first.url)
    app = app_module(nemesis.APP)
    target = f"{app.__name__}:queue"
    app.queue.broker.deadline_s = 30.0
    first.stop()
    soak = Soak(app, home, options, redis_program, start)
    try:
        soak.workers = [start() for _ in range(SERVERS)]
        soak.send()
        wait_until(lambda: soak.client.scard("rq:workers") >= SERVERS, 60)
        wait_until(lambda: not soak.client.exists("rq:queue:default"), 60)
        before = soak.memory()
        began = time.monotonic()
        next_strike = began + EVERY_S
        while (now := time.monotonic()) - began < LENGTH_S or soak.sent < JOBS:
            if now >= next_strike:
                soak.strike()
                next_strike = max(next_strike + EVERY_S, time.monotonic())
            elif soak.sent < RATE * (now - began):
                soak.send()
            else:
                time_passes(0.01)
        _check(soak, tmp_path / "ledger.txt", before, time.monotonic() - began)
    finally:
        soak.client.close()
        worker.close()
        app.queue.close()
        soak.redis.stop()


def _check(soak: Soak, ledger: Path, before: tuple[float, float], seconds: float) -> None:
    client = soak.client
    keys = ("rq:queue:default", "rq:wip:default", "rq:scheduled:default")
    wait_until(lambda: not client.exists(*keys), 120)
    ran: dict[int, int] = {}
    for line in ledger.read_text().splitlines():
        n = int(line.split()[1])
        ran[n] = ran.get(n, 0) + 1
    failed = client.zcard("rq:failed:default")
    missing, doubled = soak.sent - len(ran), sum(ran.values()) - len(ran)
    wait_until(lambda: client.dbsize() < 500, 180)  # what is kept for a time is forgotten
    after = soak.memory()
    found = examine(Inspector(soak.app.queue.broker))
    accused = [one.code for one in found.findings if one.suspects]
    print(f"soak: {soak.sent} jobs in {seconds:.0f} s, {soak.struck}; {missing} not run, {failed} "
          f"failed as crash loops, {doubled} doubled, {soak.lost} leases lost; MB of Redis "
          f"{before[0]:.1f} -> {after[0]:.1f}, of a worker {before[1]:.1f} -> {after[1]:.1f}; "
          f"keys at the end {client.dbsize()}; the doctor finds {accused}")  # fmt: skip
    for text in soak.slow_stops:
        print(f"a stop took over {SLOW_STOP_S:g} s:\n{text}")
    assert missing <= failed
    assert doubled <= soak.lost
    assert accused == []
