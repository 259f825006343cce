"""The dashboard with a million jobs: first bytes, Redis's time, fifty viewers, cost for the drain.

    python -m benchmarks.dashboard pages      1,000,000 queued, 200,000 failed, 500 workers, 50
                                              queues
    python -m benchmarks.dashboard viewers    50 live viewers: Redis's load and memory beside one
    python -m benchmarks.dashboard drain      a drain with ten live viewers and without, in turn
    python -m benchmarks.dashboard statistics a drain with the statistics and without, in turn
    python -m benchmarks.dashboard rq         rq-dashboard on the same data, if it is installed

`--scale 0.01` for a quick look. Starts a private Redis, or takes that of `--url`, which `fill` has
filled before; `drain` empties it. Prints one line for each figure.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from pathlib import Path

import psutil
import redis

from benchmarks.drain_cost import dashboard, drains, watch
from taskq.embedded import EmbeddedRedis

QUEUES, WORKERS, QUEUED, FAILED = 50, 500, 1_000_000, 200_000
ISO = "2026-11-22T10:00:00.000000Z"


def fill(client: redis.Redis, scale: float) -> None:
    queued, failed = int(QUEUED * scale), int(FAILED * scale)
    trace = b64encode(zlib.compress(b"Traceback (most recent call last):\n  ...\nValueError: no"))
    soon = int(time.time()) + 86_400 * 365
    for start in range(0, queued + failed, 2_000):
        with client.pipeline(transaction=False) as pipe:
            for n in range(start, min(start + 2_000, queued + failed)):
                is_failed = n >= queued
                queue, job = f"queue-{n % QUEUES:02}", f"job-{n:020}"
                call = json.dumps([f"shop.tasks.task_{n % 40}", None, [n], {"size": 64}])
                pipe.hset(f"rq:job:{job}", mapping={
                    "status": "failed" if is_failed else "queued", "origin": queue, "data": call,
                    "created_at": ISO, "enqueued_at": ISO,
                    **({"started_at": ISO, "ended_at": ISO} if is_failed else {})})  # fmt: skip
                if is_failed:
                    pipe.zadd(f"rq:failed:{queue}", {job: soon + n})
                    pipe.xadd(f"rq:results:{job}", {
                        "type": 2, "worker_name": "w", "exc_string": trace,
                        "tq_error": json.dumps([f"shop.E{n % 30}", "no", 1])})  # fmt: skip
                else:
                    pipe.rpush(f"rq:queue:{queue}", job)
            pipe.execute()
    now = time.time()
    with client.pipeline(transaction=False) as pipe:
        for n in range(QUEUES):
            pipe.sadd("rq:queues", f"rq:queue:queue-{n:02}")
            for minute in range(int(now // 60) - 70, int(now // 60) + 1):
                pipe.hset(f"taskq:stats:queue-{n:02}:{minute}", mapping={
                    "enqueued": 700, "started": 690, "finished": 680, "failed": 10, "run_us": 9,
                    **{f"r{k}": 70 for k in range(20, 30)},
                    **{f"w{k}": 70 for k in range(15, 25)}})  # fmt: skip
        beat = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        for n in range(WORKERS):
            key = f"rq:worker:host-{n % 20}.{n:04}"
            pipe.sadd("rq:workers", key)
            pipe.hset(key, mapping={
                "state": "busy", "hostname": f"host-{n % 20}", "pid": n, "version": "0.1.0",
                "queues": ",".join(f"queue-{(n + k) % QUEUES:02}" for k in range(5)),
                "birth": ISO, "last_heartbeat": beat, "python_version": "3.11.7",
                "successful_job_count": n})  # fmt: skip
            pipe.sadd(f"{key}:executions", f"job-{n:020}:tqabcdefgh{n}")
        for n in range(1_200):  # groups of failures of a day
            pipe.hset(f"taskq:failures-by:{int(now // 86_400)}", mapping={
                f"n queue-{n % QUEUES:02}|shop.tasks.task_{n % 40}|shop.E{n}": 170})  # fmt: skip
        pipe.execute()


def ask(port: int, path: str) -> tuple[float, float, int, int]:
    """ms to the first byte, ms to the last, status, bytes on the wire."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    begin = time.perf_counter()
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    first = (time.perf_counter() - begin) * 1e3
    body = answer.read()
    connection.close()
    return first, (time.perf_counter() - begin) * 1e3, answer.status, len(body)


def redis_us(client: redis.Redis) -> int:
    """Microseconds that Redis spent in commands, without what this program asks itself."""
    found = client.info("commandstats")
    return sum(
        v["usec"] for k, v in found.items() if k not in ("cmdstat_info", "cmdstat_config|resetstat")
    )


def p95(values: list[float]) -> float:
    return sorted(values)[max(int(len(values) * 0.95) - 1, 0)]


def pages(client: redis.Redis, url: str, repeats: int, some: slice) -> None:
    paths = ["/", "/queue?name=queue-07", "/jobs", "/jobs?status=queued", "/jobs?status=failed",
             "/jobs?status=failed&queue=queue-07", "/jobs?task=task_3", "/jobs?q=nothing-like-this",
             "/jobs?status=failed&q=E7", f"/job?id=job-{7:020}", "/workers", "/failures",
             "/schedules", "/metrics", "/api/overview", "/api/jobs"]  # fmt: skip
    with dashboard(url) as (process, port):
        later = json.loads(_body(port, "/api/jobs?status=failed"))["after"]
        paths.append(f"/jobs?status=failed&after={later}")
        paths = paths[some]
        print(f"{'page':42} first byte: median  p95   Redis ms   kB")
        for path in paths:
            times, costs, size = [], [], 0
            for _ in range(repeats):
                time.sleep(1.1)  # nothing that is known is fresh any more
                before = redis_us(client)
                first, _, status, size = ask(port, path)
                assert status == 200, (path, status)
                times.append(first)
                costs.append((redis_us(client) - before) / 1e3)
            print(f"{path[:42]:42} {statistics.median(times):10.0f} ms {p95(times):4.0f} ms "
                  f"{statistics.median(costs):7.1f} {size / 1e3:7.1f}", flush=True)  # fmt: skip
        memory = psutil.Process(process.pid).memory_info().rss / 1e6
        print(f"memory of the dashboard {memory:.0f} MB")


def _body(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    return connection.getresponse().read()


def viewers(client: redis.Redis, url: str, seconds: float) -> None:
    for count in (1, 50):
        with dashboard(url) as (process, port):
            stop = threading.Event()
            watch(port, count, "/", stop)
            time.sleep(4)
            seen = psutil.Process(process.pid)
            before, commands = redis_us(client), client.info("stats")["total_commands_processed"]
            cpu = sum(seen.cpu_times()[:2])
            time.sleep(seconds)
            spent = (redis_us(client) - before) / 1e3 / seconds
            asked = (client.info("stats")["total_commands_processed"] - commands) / seconds
            cpu = (sum(seen.cpu_times()[:2]) - cpu) / seconds * 100
            memory = seen.memory_info().rss / 1e6
            print(f"{count:3} viewers: Redis {spent:.1f} ms/s, {asked:,.0f} commands/s; dashboard "
                  f"{cpu:.0f} % of a core, {memory:.0f} MB", flush=True)  # fmt: skip
            stop.set()


def rq_dashboard(url: str, repeats: int) -> None:
    """rq-dashboard 0.8 in the same venv: it does not start with every RQ, which is said."""
    program = Path(sys.executable).with_name("rq-dashboard")
    if not program.exists():
        print("rq-dashboard is not installed: pip install rq-dashboard")
        return
    process = subprocess.Popen(
        [str(program), "--port", "19181", "--bind", "127.0.0.1", "--redis-url", url],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        time.sleep(5)
        if process.poll() is not None:
            print("rq-dashboard does not start:", process.stderr.read().strip().splitlines()[-1])
            return
        for path in ("/0/view/queues", "/0/data/queues.json", "/0/data/workers.json",
                     "/0/data/jobs/queue-07/queued/50/asc/1.json",
                     "/0/data/jobs/queue-07/failed/50/asc/1.json"):  # fmt: skip
            times = [ask(19181, path)[:3] for _ in range(repeats)]
            firsts = [first for first, _, _ in times]
            middle = statistics.median(firsts)
            print(f"rq-dashboard {path:45} {middle:8.0f} ms, p95 {p95(firsts):.0f} ms, "
                  f"status {times[-1][2]}", flush=True)  # fmt: skip
    finally:
        process.terminate()


def part_of(text: str) -> slice:
    begin, _, end = text.partition(":")
    return slice(int(begin or 0), int(end) if end else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="+", choices=["fill", "pages", "viewers", "drain", "statistics", "rq"]
    )
    parser.add_argument("--url", help="a Redis of one's own; it is filled if it is empty")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--pages", type=part_of, default=slice(None), help="some of them: 0:7")
    parser.add_argument("--jobs", type=int, default=60_000, help="of a drain")
    parser.add_argument("--pairs", type=int, default=6, help="of drains")
    options = parser.parse_args()
    if options.url:
        run(options, options.url)
        return
    with EmbeddedRedis.start(port=0) as server:
        run(options, f"redis://127.0.0.1:{server.port}/0")


def run(options: argparse.Namespace, url: str) -> None:
    client = redis.Redis.from_url(url)
    if not client.exists("rq:workers") and {"fill", "pages", "viewers", "rq"} & set(options.what):
        begin = time.perf_counter()
        fill(client, options.scale)
        used = client.info("memory")["used_memory"] / 1e6
        took = time.perf_counter() - begin
        print(f"filled in {took:.0f} s, Redis has {used:,.0f} MB", flush=True)
    if "pages" in options.what:
        pages(client, url, options.repeats, options.pages)
    if "viewers" in options.what:
        viewers(client, url, 10)
    if "rq" in options.what:
        rq_dashboard(url, 5)
    for what in ("drain", "statistics"):
        if what in options.what:
            drains(url, what, options.jobs, options.pairs)


if __name__ == "__main__":
    main()
