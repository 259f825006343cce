"""What something costs a drain: the same drain with it and without, in turn, each first as often.

Rates vary by more than what is looked for, so each pair is compared with itself, and what Redis and
the workers spend on processors is told beside: that varies less.
"""

from __future__ import annotations

import http.client
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import redis

VIEWERS = 10
APP = """
import os
from taskq import TaskQ
queue = TaskQ()

@queue.task(result_ttl=60)
def nothing(n): pass

if os.environ.get("BENCH_UNCOUNTED"):
    from taskq.worker.tally import Tally
    for name in ("began", "end", "failed", "crash"):
        setattr(Tally, name, lambda *_given, **_named: None)
    Tally.fields = lambda _self: [0]
"""
ENQUEUE = (
    "import drain_app as a, sys\nfor s in range(0, int(sys.argv[1]), 1000):"
    " a.queue.enqueue([a.nothing.call(n) for n in range(1000)])"
)


@contextmanager
def dashboard(url: str, *options: str):
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "dashboard", "--port", "0", *options],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TASKQ_REDIS_URL": url, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        process.stdout.readline()
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        wait_for(port, "/healthz")
        yield process, port
    finally:
        process.terminate()
        process.wait(10)


def wait_for(port: int, path: str) -> None:
    for _ in range(400):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("it does not start")


def watch(port: int, count: int, path: str, stop: threading.Event) -> list[threading.Thread]:
    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/events?view={path}", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        while not stop.is_set() and answer.readline():
            pass
        connection.close()

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def one_drain(url: str, jobs: int, env: dict[str, str]) -> tuple[float, float, float]:
    """Jobs a second, and microseconds of Redis's and of the worker's processor for a job."""
    client = redis.Redis.from_url(url)
    client.flushall()
    subprocess.run([sys.executable, "-c", ENQUEUE, str(jobs)], env=env, check=True)
    server = psutil.Process(client.info("server")["process_id"])
    spent = sum(server.cpu_times()[:2])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["worker", "drain_app", "--burst", "--processes", "1", "--log-level", "error"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "taskq", *command], env=env, stdout=subprocess.DEVNULL
    )
    while client.llen("rq:queue:default") == jobs:
        time.sleep(0.005)
    begin = time.perf_counter()
    while client.llen("rq:queue:default"):
        time.sleep(0.02)
    rate = jobs / (time.perf_counter() - begin)
    worker.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return rate, (sum(server.cpu_times()[:2]) - spent) * 1e6 / jobs, cpu * 1e6 / jobs


def drains(url: str, what: str, jobs: int, pairs: int) -> None:
    """Print what viewers ("drain") or the statistics cost."""
    found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    used: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "drain_app.py").write_text(APP)
        env = {**os.environ, "TASKQ_REDIS_URL": url, "PYTHONPATH": folder}
        for pair in range(pairs):
            for has in (True, False) if pair % 2 else (False, True):
                if what == "statistics":
                    uncounted = {} if has else {"BENCH_UNCOUNTED": "1"}
                    found[has].append(one_drain(url, jobs, {**env, **uncounted}))
                    continue
                with dashboard(url) as (process, port):
                    stop = threading.Event()
                    watch(port, VIEWERS if has else 0, "/", stop)
                    found[has].append(one_drain(url, jobs, env))
                    used[has].append(sum(psutil.Process(process.pid).cpu_times()[:2]))
                    stop.set()
    if used[True]:
        print(f"the dashboard's processor time: {statistics.median(used[False]):.2f} s "
              f"without, {statistics.median(used[True]):.2f} s with (its start too)",
              flush=True)  # fmt: skip
    name = {"drain": f"{VIEWERS} viewers", "statistics": "statistics"}[what]
    for at, unit in enumerate(("jobs/s", "us of Redis for a job", "us of the worker for a job")):
        without, with_it = ([one[at] for one in found[has]] for has in (False, True))
        ratios = sorted(b / a - 1 for a, b in zip(without, with_it))
        print(f"{jobs:,} jobs, {pairs} pairs: {statistics.median(without):,.1f} {unit} without, "
              f"{statistics.median(with_it):,.1f} with {name}; pairs {ratios[0]:+.1%} to "
              f"{ratios[-1]:+.1%}, median {statistics.median(ratios):+.1%}",
              flush=True)  # fmt: skip
