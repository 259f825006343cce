"""Stock RQ workers and `taskq.worker.Worker` on one queue, under load, with kills on both sides.

Nothing is lost, no end is recorded twice, no job runs in two places at once. Stock RQ notices its
dead after one to two minutes by the scores of its registries; the test moves those scores back
instead of waiting, for what the killed process held alone.
`TASKQ_MIXED_ROUNDS=200` is the long campaign.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import redis
from rq import Queue
from rq.job import Job, Retry
from rq.registry import StartedJobRegistry

from tests.conftest import AppModule
from tests.support import ROOT, random_moment, wait_until

ROUNDS = int(os.environ.get("TASKQ_MIXED_ROUNDS", "8"))
JOBS = 12
FUNCTIONS = """
import os
import time
import redis
import rq

def alive(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"

def work(url, seconds):
    job = rq.get_current_job()
    with redis.Redis.from_url(url) as client:
        before = client.getset("runs:" + job.id, os.getpid())
        if before and int(before) > 0 and alive(int(before)):
            client.rpush("side-by-side", job.id)
        time.sleep(seconds)
        client.set("runs:" + job.id, 0)
    return 1
"""


class Fleet:
    """Two stock workers, two of ours; any may be killed and is started again."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.path = path
        self.started = 0
        self.dead: list[str] = []
        self.log = (path / "workers.log").open("ab")
        self.members = [self.start(kind) for kind in ("stock", "stock", "ours", "ours")]

    def start(self, kind: str) -> tuple[str, str, subprocess.Popen[bytes]]:
        self.started += 1
        name = f"{kind}-{self.started}"
        words = ["--maintenance-interval", "1", "--name", name]
        if kind == "ours":
            words += ["-w", "taskq.worker.Worker"]
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "rq"), "worker", "--url", self.url, "--quiet",
             *words, "default"],
            cwd=self.path, stdout=self.log, stderr=self.log, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(self.path), str(ROOT)]),
                 "TASKQ_THREADS": "3"},
        )  # fmt: skip
        return kind, name, process

    def kill(self, index: int) -> str:
        """The worker and its horse: stock RQ's horse would run on and end the job unseen."""
        kind, name, process = self.members[index]
        for pid in (process.pid, *children(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        self.dead.append(name)
        return kind

    def close(self) -> None:
        for _kind, _name, process in self.members:
            process.terminate()
        for index, (_kind, _name, process) in enumerate(self.members):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill(index)
        self.log.close()


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def age(client: redis.Redis, dead: list[str]) -> None:
    """As if the time had passed after which stock RQ misses these workers' executions."""
    for member, score in client.zrange("rq:wip:default", 0, -1, withscores=True):
        job_id, _, execution = member.decode().partition(":")
        holder = client.hget(f"rq:execution:{job_id}:{execution}", "worker_name")
        if not execution.startswith("tq") and (holder or b"").decode() in dead:
            client.zadd("rq:wip:default", {member: score - 300}, xx=True)


class Between:
    """Ids that a stock worker had popped when it was killed, before it registered them.

    RQ's maintenance fails them (they are retried) when it has seen them for a minute.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.looks: dict[str, int] = {}

    def age(self) -> None:
        between = self.queue.intermediate_queue
        now = between.get_job_ids()
        if now:  # one that was killed in the middle of maintenance keeps its lock for 15 minutes
            self.queue.connection.delete(self.queue.registry_cleaning_key)
        self.looks = {job_id: self.looks.get(job_id, 0) + 1 for job_id in now}
        for job_id, looks in self.looks.items():
            if looks > 6:  # three seconds: no living worker takes so long
                key = between.get_first_seen_key(job_id)
                self.queue.connection.set(key, time.time() - 300, ex=60)


def stuck(client: redis.Redis, jobs: list[Job]) -> list[tuple[str, object]]:
    with client.pipeline(transaction=False) as pipeline:
        for job in jobs:
            pipeline.hget(job.key, "status")
        states = pipeline.execute()
    return [(job.id, state) for job, state in zip(jobs, states) if state != b"finished"]


@pytest.mark.timeout(60 + 12 * ROUNDS)
def test_mixed_fleet(
    app_module: AppModule, redis_url: str, redis_client: redis.Redis, tmp_path: Path
):
    fns: ModuleType = app_module(FUNCTIONS)
    seed = int(os.environ.get("TASKQ_SEED", "0")) or random.randrange(10**6)
    print(f"TASKQ_SEED={seed}")
    chosen = random.Random(seed)
    queue = Queue(connection=redis_client)
    fleet = Fleet(redis_url, tmp_path)
    jobs: list[Job] = []
    killed: list[str] = []
    try:
        wait_until(lambda: redis_client.scard("rq:workers") >= 4, 40)
        for _ in range(ROUNDS):
            jobs += [
                queue.enqueue(
                    fns.work, redis_url, chosen.choice((0.0, 0.01, 0.1)), retry=Retry(100),
                    job_timeout=20, result_ttl=-1,
                )
                for _ in range(JOBS)
            ]  # fmt: skip
            random_moment(chosen, 0.5)
            index = chosen.randrange(4)
            killed.append(fleet.kill(index))
            age(redis_client, fleet.dead)
            fleet.members[index] = fleet.start(killed[-1])
            # what any tool does that looks at the registry: it fails what has expired
            StartedJobRegistry(queue=queue).cleanup()

        between = Between(queue)

        def all_done() -> bool:
            age(redis_client, fleet.dead)
            between.age()
            StartedJobRegistry(queue=queue).cleanup()
            return not stuck(redis_client, jobs)

        wait_until(
            all_done, 120, interval=0.5, message=lambda: f"lost: {stuck(redis_client, jobs)}"
        )
    finally:
        fleet.close()
        print((tmp_path / "workers.log").read_text(errors="replace")[-5000:])
    print(f"{len(jobs)} jobs, kills: {killed.count('stock')} stock, {killed.count('ours')} ours")
    assert redis_client.lrange("side-by-side", 0, -1) == []
    doubled = [
        job.id for job in jobs
        if sum(one.type.name == "SUCCESSFUL" for one in job.results()) != 1
    ]  # fmt: skip
    assert doubled == []
    assert queue.count == 0
    assert redis_client.zcard("rq:wip:default") == 0
