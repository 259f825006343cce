"""How fast `taskq.worker.Worker` drains what stock RQ enqueued, and what RQ's features cost others.

    python -m benchmarks.rq_mode [JOBS]

Drains by one worker process each, of no-op jobs with their results stored: jobs of our own
(JSON, `queue.enqueue`), jobs enqueued by stock RQ (pickle), and three mixed queues, in which one
job in ten is a dependent or has one, has a success callback, is to be repeated (whose end only
RQ's own code records): there the time until the other nine tenths are done.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from rq import Callback, Queue, Repeat

from taskq import TaskQ
from taskq.embedded import EmbeddedRedis

if TYPE_CHECKING:
    from rq.job import Job

ROOT = Path(__file__).resolve().parent.parent
NOOP = "benchmarks.rq_mode.noop"
CODE = """
import redis, sys
from taskq.worker import Worker
worker = Worker(["default"], connection=redis.Redis.from_url(sys.argv[1]))
worker.work(burst=True, logging_level="ERROR")
"""


def noop() -> None:
    """The job."""


def called(*_arguments: object) -> None:
    """The callback."""


def plain(count: int, **more: Any) -> list[Any]:
    """What RQ's `enqueue_many` takes."""
    return [Queue.prepare_data(NOOP, result_ttl=500, **more) for _ in range(count)]


def ids_of(jobs: list[Job]) -> list[str]:
    """Their ids."""
    return [job.id for job in jobs]


def drain(url: str, ids: list[str]) -> float:
    """Jobs a second of these jobs, from the first one's start to the last one's end."""
    client = redis.Redis.from_url(url)
    subprocess.run([sys.executable, "-c", CODE, url], cwd=ROOT, check=True)
    with client.pipeline(transaction=False) as pipeline:
        for job_id in ids:
            pipeline.hmget(f"rq:job:{job_id}", "status", "started_at", "ended_at")
        records = pipeline.execute()
    client.flushall()
    assert {status for status, _started, _ended in records} == {b"finished"}
    started = min(seconds(record[1]) for record in records)
    ended = max(seconds(record[2]) for record in records)
    return len(ids) / (ended - started)


def seconds(text: bytes) -> float:
    """Epoch of RQ's time text."""
    return datetime.fromisoformat(text.decode().replace("Z", "+00:00")).timestamp()


def main() -> None:
    """Measure, and print rates and their ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with EmbeddedRedis.start(port=0) as server:
        url = server.url
        client = redis.Redis.from_url(url)
        app = TaskQ(url)
        task = app.task(noop, name=NOOP)
        queue = Queue(connection=client)

        ids = [handle.id for handle in app.enqueue([task.call() for _ in range(count)])]
        ours = drain(url, ids)

        ids = [
            id_ for _ in range(0, count, 1000) for id_ in ids_of(queue.enqueue_many(plain(1000)))
        ]
        pickled = drain(url, ids)

        ids = []
        for _ in range(0, count, 1000):  # 900 plain ones, 50 parents and their 50 dependents
            ids += ids_of(queue.enqueue_many(plain(900)))
            for _ in range(50):
                queue.enqueue(NOOP, depends_on=queue.enqueue(NOOP))
        dependents = drain(url, ids)

        ids = []
        for _ in range(0, count, 100):
            ids += ids_of(queue.enqueue_many(plain(90)))
            queue.enqueue_many(plain(10, on_success=Callback("benchmarks.rq_mode.called")))
        callbacks = drain(url, ids)

        ids = []
        for _ in range(0, count, 100):
            ids += ids_of(queue.enqueue_many(plain(90)))
            for _ in range(10):
                queue.enqueue(NOOP, repeat=Repeat(times=1, interval=3600))
        repeats = drain(url, ids)
        app.close()
    print(f"our own jobs                      {ours:10,.0f}/s")
    print(f"stock RQ's, pickled               {pickled:10,.0f}/s  {pickled / ours:6.2f} of ours")
    mixed = (("dependents", dependents), ("callbacks", callbacks), ("repeats", repeats))
    for what, rate in mixed:
        print(f"90 % beside 10 % with {what:10}  {rate:10,.0f}/s  {rate / pickled:6.2f} of pickled")


if __name__ == "__main__":
    main()
