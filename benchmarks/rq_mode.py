"""How fast `taskq.worker.Worker` drains what stock RQ enqueued, and what RQ's features cost others.

    python -m benchmarks.rq_mode [JOBS]

Three drains by one worker process each, of no-op jobs with their results stored:
jobs of our own (JSON, `queue.enqueue`), jobs enqueued by stock RQ (pickle), and a queue in which
one job in ten has a dependent, so that RQ's own code settles it: there the time until the other
nine tenths are done.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import redis
from rq import Queue

from taskq import TaskQ
from taskq.embedded import EmbeddedRedis

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

        data = [Queue.prepare_data(NOOP, result_ttl=500) for _ in range(count)]
        ids = [job.id for part in range(0, count, 1000)
               for job in queue.enqueue_many(data[part : part + 1000])]  # fmt: skip
        pickled = drain(url, ids)

        plain: list[str] = []
        for _ in range(0, count, 1000):  # 900 plain ones, 50 parents and their 50 dependents
            some = [Queue.prepare_data(NOOP, result_ttl=500) for _ in range(900)]
            plain += [job.id for job in queue.enqueue_many(some)]
            for _ in range(50):
                queue.enqueue(NOOP, depends_on=queue.enqueue(NOOP))
        mixed = drain(url, plain)
        app.close()
    print(f"our own jobs             {ours:10,.0f}/s")
    print(f"stock RQ's, pickled      {pickled:10,.0f}/s  {pickled / ours:6.2f} of ours")
    print(f"90 % beside 10 % of RQ's {mixed:10,.0f}/s  {mixed / pickled:6.2f} of the pure rate")


if __name__ == "__main__":
    main()
