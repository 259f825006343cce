"""How fast `taskq.worker.Worker` drains what stock RQ enqueued, and what RQ's features cost others.

    python -m benchmarks.rq_mode [JOBS] [--rounds N] [--kinds repeats,callbacks]

Drains by one worker process each, of no-op jobs with their results stored: jobs of our own
(JSON, `queue.enqueue`), jobs enqueued by stock RQ (pickle), and mixed queues, in which one job in
ten has one of RQ's features: there the time until the other nine tenths are done. Ratios are
medians of those of the rounds; in each of them the pickled jobs come between two mixed queues.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import redis
from rq import Callback, Queue, Repeat, Retry, get_current_job
from rq.rate_limit import RateLimit
from rq.webhook import Webhook

from taskq import TaskQ
from taskq.embedded import EmbeddedRedis

if TYPE_CHECKING:
    from rq.job import Job

ROOT = Path(__file__).resolve().parent.parent
HERE = "benchmarks.rq_mode"
NOOP = f"{HERE}.noop"
CODE = """
import redis, sys
from taskq.worker import Worker
worker = Worker(["default"], connection=redis.Redis.from_url(sys.argv[1]))
worker.work(burst=True, logging_level="ERROR")
"""


def noop() -> None:
    """The job."""


def requests() -> None:
    """A job that sends by itself what a webhook would send."""
    with urlopen(os.environ["BENCH_URL"]):
        pass


async def coroutine() -> None:
    """The same, for the event loop."""


def fails() -> None:
    """A job that fails."""
    raise ValueError("no")


def asks() -> Retry | None:
    """A job that wants to run once more."""
    job = get_current_job()
    return None if job and job.number_of_retries else Retry(max=3)


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
    with tempfile.TemporaryFile() as log:  # failures are logged
        subprocess.run([sys.executable, "-c", CODE, url], cwd=ROOT, check=True, stderr=log)
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


def dependents(queue: Queue) -> None:
    """Five parents, and a dependent of each."""
    for _ in range(5):
        queue.enqueue(NOOP, depends_on=queue.enqueue(NOOP))


def many(fn: str, **more: Any) -> Callable[[Queue], None]:
    """Ten jobs of a kind, by `enqueue_many`."""
    return lambda queue: ignore(
        queue.enqueue_many([Queue.prepare_data(fn, result_ttl=500, **more) for _ in range(10)])
    )


def each(fn: str, **more: Any) -> Callable[[Queue], None]:
    """Ten jobs of a kind, one by one."""
    return lambda queue: ignore([queue.enqueue(fn, result_ttl=500, **more) for _ in range(10)])


def ignore(_jobs: list[Job]) -> None:
    """They are not waited for."""


def webhooks(queue: Queue) -> None:
    """Ten jobs with a webhook."""
    hooks = [Webhook(os.environ["BENCH_URL"], "finished")]
    for _ in range(10):
        queue.enqueue(NOOP, result_ttl=500, webhooks=hooks)


CALLED = Callback(f"{HERE}.called")


def some_of_each(queue: Queue) -> None:
    """Ten jobs with ten features: a dependent and its parent, and eight others."""
    hooks = [Webhook(os.environ["BENCH_URL"], "finished")]
    queue.enqueue(NOOP, depends_on=queue.enqueue(NOOP))
    queue.enqueue(NOOP, on_success=CALLED)
    queue.enqueue(f"{HERE}.coroutine", on_success=CALLED)
    queue.enqueue(f"{HERE}.fails", on_failure=CALLED)
    queue.enqueue(NOOP, repeat=Repeat(times=1, interval=3600))
    queue.enqueue(NOOP, repeat=Repeat(times=1))
    queue.enqueue(f"{HERE}.asks")
    queue.enqueue(NOOP, rate_limit=RateLimit("bench", 100))
    queue.enqueue(NOOP, webhooks=hooks)


MIXED: dict[str, Callable[[Queue], None]] = {
    "dependents": dependents,
    "success callbacks": many(NOOP, on_success=CALLED),
    "failures": many(f"{HERE}.fails"),
    "failure callbacks": many(f"{HERE}.fails", on_failure=CALLED),
    "repeats": each(NOOP, repeat=Repeat(times=1, interval=3600)),
    "repeats at once": each(NOOP, repeat=Repeat(times=1)),
    "a returned Retry": many(f"{HERE}.asks"),
    "rate limits": each(NOOP, rate_limit=RateLimit("bench", 100)),
    "coroutine callbacks": many(f"{HERE}.coroutine", on_success=CALLED),
    "some of each": some_of_each,
    "requests": many(f"{HERE}.requests"),
    "webhooks": webhooks,
}


def serve(started: Connection) -> None:
    """A web server that says yes. Its own process."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        started.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def fill(queue: Queue, count: int, some: Callable[[Queue], None]) -> list[str]:
    """A queue of `count` jobs, one in ten of them of a kind; returns the ids of the others."""
    ids = []
    for _ in range(0, count, 100):
        ids += ids_of(queue.enqueue_many(plain(90)))
        some(queue)
    return ids


def main() -> None:
    """Measure, and print rates and their ratios."""
    parser = argparse.ArgumentParser(description="Rates of RQ's jobs on our worker")
    parser.add_argument("jobs", nargs="?", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(MIXED))
    options = parser.parse_args()
    count = options.jobs
    receiving, sending = multiprocessing.Pipe(duplex=False)
    multiprocessing.Process(target=serve, args=(sending,), daemon=True).start()
    os.environ["BENCH_URL"] = f"http://127.0.0.1:{receiving.recv()}/"
    rates: dict[str, list[float]] = {}
    with EmbeddedRedis.start(port=0) as server:
        url = server.url
        queue = Queue(connection=redis.Redis.from_url(url))
        app = TaskQ(url)
        task = app.task(noop, name=NOOP)

        def measure(what: str, ids: list[str]) -> None:
            rates.setdefault(what, []).append(drain(url, ids))

        def pickled() -> list[str]:
            jobs = (queue.enqueue_many(plain(1000)) for _ in range(0, count, 1000))
            return [job_id for some in jobs for job_id in ids_of(some)]

        for _ in range(options.rounds):
            measure("ours", [h.id for h in app.enqueue([task.call() for _ in range(count)])])
            for kind in options.kinds:
                measure("pickled", pickled())
                measure(kind, fill(queue, count, MIXED[kind]))
            measure("pickled", pickled())
        app.close()
    show(rates, options.kinds)


def show(rates: dict[str, list[float]], kinds: list[str]) -> None:
    """Print them; a mixed queue's ratio is to the pickled jobs before and after it."""
    ours, pickled = rates["ours"], rates["pickled"]
    of_ours = statistics.median(pickled) / statistics.median(ours)
    print(f"our own jobs                           {statistics.median(ours):10,.0f}/s")
    print(f"stock RQ's, pickled                    {statistics.median(pickled):10,.0f}/s  "
          f"{of_ours:6.2f} of ours")  # fmt: skip
    for n, kind in enumerate(kinds):
        at = [n + k * (len(kinds) + 1) for k in range(len(rates[kind]))]
        ratios = [2 * rate / (pickled[m] + pickled[m + 1])
                  for rate, m in zip(rates[kind], at, strict=True)]  # fmt: skip
        print(f"90 % beside 10 % with {kind:22} {statistics.median(rates[kind]):8,.0f}/s  "
              f"{statistics.median(ratios):6.2f} of pickled")  # fmt: skip


if __name__ == "__main__":
    main()
