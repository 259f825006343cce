"""Process mode with real workers: jobs in child processes, and what kills those."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from taskq import TaskTimeout
from taskq.errors import JobCanceled, JobFailed
from tests.engine import descendants, drained, places
from tests.support import LEDGER, WorkerStarter, wait_until

APP = (
    LEDGER
    + """
import ctypes, contextvars, logging, os, re, signal, subprocess, sys, time
from taskq import Depends, TaskQ, current_job

queue = TaskQ()
seen = contextvars.ContextVar("seen", default=0)
jobs_here = []

@queue.lifespan
async def lifespan():
    note("lifespan", os.getpid())
    yield {"pid": os.getpid()}
    note("closed", os.getpid())

def state():
    return queue.state

@queue.task(mode="process")
def with_state(*, found: dict = Depends(state)):
    return found["pid"] == os.getpid()

@queue.task(mode="process")
def add(a, b=0):
    return a + b

@queue.task(mode="process")
def where():
    seen.set(seen.get() + 1)
    jobs_here.append(1)
    return {"pid": os.getpid(), "parent": os.getppid(), "seen": seen.get(), "jobs": len(jobs_here)}

@queue.task
def in_thread():
    return os.getpid()

@queue.task(mode="thread")
def surely_in_thread():
    return os.getpid()

@queue.task(mode="process")
def echo(data):
    return data

@queue.task(mode="process")
def about():
    job = current_job()
    job.progress(1, 2, "half")
    logging.getLogger("taskq.shop").warning("in the job")
    print("printed in the job", flush=True)
    time.sleep(0.5)
    return [job.id, job.task, job.queue, job.attempt, job.meta]

@queue.task(mode="process", meta={"of": "me"}, queue="default")
def with_meta():
    return current_job().meta

@queue.task(mode="process")
def dies(how):
    note("dies", how)
    if how == "segfault": ctypes.string_at(0)
    if how == "SystemExit": sys.exit("bye")
    if how == "KeyboardInterrupt": raise KeyboardInterrupt
    if how == "MemoryError": bytearray(1 << 62)
    if how == "RecursionError": dies.fn("RecursionError!") if how else 0
    if how == "RecursionError!":
        def down(n): return down(n + 1)
        down(0)

@queue.task(mode="process")
def dies_once():
    note("dies_once", current_job().attempt)
    if current_job().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_job().attempt

@queue.task(mode="process", redeliver=False)
def counted(n):
    note("counted", n)
    return n

@queue.task(mode="process", redeliver=False)
def once():
    note("once")
    os._exit(3)

@queue.task(mode="process", timeout=0.5)
def endless(how):
    note("endless", os.getpid())
    if how == "python":
        while True: pass
    if how == "swallow":
        while True:
            try:
                while True: pass
            except BaseException: pass
    if how == "sleep": time.sleep(60)
    if how == "regex": re.match(r"(a+)+$", "a" * 60 + "b")
    if how == "C": sum(range(10**12))

@queue.task(mode="process", retry=1, timeout=0.5)
def slow_at_first():
    if current_job().attempt == 1:
        time.sleep(60)
    return current_job().attempt

@queue.task(mode="process")
def long(seconds, look=False):
    note("long", os.getpid())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if look and current_job().cancel_requested:
            return "stopped"
        time.sleep(0.01)
    note("long end")
    return "done"

@queue.task(mode="process")
def busy_in_c():
    note("busy", os.getpid())
    sum(range(10**12))

@queue.task(mode="process")
def starts_a_program():
    note("program", subprocess.Popen(["sleep", "60"]).pid)
    time.sleep(60)

@queue.task(mode="process")
def unfit():
    return object()

@queue.task(mode="process")
def huge():
    return "x" * 2_000_000

class Odd(ValueError):
    pass

@queue.task(mode="process", retry=__import__("taskq").Retry(2, base=0, on=(ValueError,)))
def odd():
    if current_job().attempt < 3:
        raise Odd("no")
    return current_job().attempt

@queue.task(mode="process")
def grows():
    jobs_here.append(bytearray(40_000_000))
    return os.getpid()
"""
)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet counts."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(b")")[2].split()[0] in (b"Z", b"X")


def noted(ledger, word: str) -> list[str]:
    return [line for line in ledger.lines() if line.startswith(f"{word} ")]


def pid_of(ledger, word: str) -> int:
    line = wait_until(lambda: noted(ledger, word))[-1]
    return int(line.split()[-1])


def test_jobs_run_in_a_child_each_in_its_own_context(app, target, worker, ledger, redis_client):
    process = worker(target, "--pool", "1")
    first, second = app.where.delay().result(timeout=15), app.where.delay().result(timeout=5)
    thread = app.in_thread.delay().result(timeout=5)
    assert first["parent"] == thread != first["pid"]
    assert first["pid"] == second["pid"]  # warm
    assert (first["seen"], second["seen"], second["jobs"]) == (1, 1, 2)
    assert app.echo.delay("ä" * 400_000).result(timeout=5) == "ä" * 400_000
    assert app.add.delay(1, b=2).result(timeout=5) == 3
    assert app.with_meta.delay().result(timeout=5) == {"of": "me"}
    for task, reason in ((app.unfit, "JSON cannot carry"), (app.huge, "2,000,002 bytes")):
        error = task.delay().exception(timeout=5)
        assert isinstance(error, JobFailed)
        assert reason in error.message
    assert app.odd.delay().result(timeout=5) == 3
    assert app.with_state.delay().result(timeout=5)
    assert process.stop() == 0
    assert gone(first["pid"])
    assert ledger.count(f"lifespan {first['pid']}") == ledger.count(f"closed {first['pid']}") == 1


@pytest.mark.standing
def test_current_job_progress_and_logs(app, target, worker, redis_client):
    process = worker(target, "--pool", "1")
    handle = app.about.delay()
    wait_until(lambda: redis_client.hget(f"rq:job:{handle.id}", "tq_progress"))
    assert handle.result(timeout=10) == [handle.id, app.about.name, "default", 1, {}]
    log = process.log()
    assert "printed in the job" in log
    assert f"WARNING taskq.shop: in the job job_id={handle.id} task={app.about.name}" in log


@pytest.mark.standing
def test_whatever_the_code_raises_is_told(app, target, worker):
    worker(target, "--pool", "1")
    for how in ("SystemExit", "KeyboardInterrupt", "MemoryError", "RecursionError"):
        error = app.dies.delay(how).exception(timeout=10)
        assert isinstance(error, JobFailed)
        assert error.exc_type == f"builtins.{how}", how
        assert "dies" in error.traceback


@pytest.mark.slow
def test_a_crash_hurts_only_that_job(app, target, worker, ledger, redis_client):
    process = worker(target, "--pool", "1")
    neighbour = app.in_thread.delay()
    handle = app.dies.delay("segfault")
    error = handle.exception(timeout=15)
    assert isinstance(error, JobFailed)
    assert "Crash loop: 3 processes died" in error.message
    assert "signal 11 (SIGSEGV" in error.message
    assert "MB of memory" in error.message
    assert "in dies" in error.traceback  # the stack at its death
    assert ledger.count("dies segfault") == 3
    assert places(redis_client, handle.id) == ["rq:failed:default"]
    same = app.in_thread.delay().result(timeout=5)
    assert same == neighbour.result(timeout=5)
    assert "starting another" not in process.log()


@pytest.mark.standing
def test_at_most_once_fails_at_once_and_others_run_again(app, target, worker, ledger):
    worker(target, "--pool", "1")
    assert app.dies_once.delay().result(timeout=10) == 2
    once = app.once.delay().exception(timeout=10)
    assert isinstance(once, JobFailed)
    assert "exit code 3" in once.message
    assert "redeliver=False" in once.message
    assert ledger.count("once") == 1


@pytest.mark.standing
@pytest.mark.parametrize("how", ["python", "swallow", "sleep", "regex", "C"])
def test_a_time_limit_holds_for_any_code(app, target, worker, ledger, how):
    worker(target, "--pool", "1")
    app.add.delay(1).result(timeout=15)
    handle = app.endless.delay(how)
    wait_until(lambda: any("endless" in line for line in ledger.lines()))
    began = time.monotonic()
    error = handle.exception(timeout=10)
    took = time.monotonic() - began
    assert isinstance(error, TaskTimeout)
    assert took < 0.5 + 3  # within a second on a quiet machine: benchmarks.limits measures that
    assert "0.5 s" in error.message
    if how in ("python", "sleep"):
        assert "in endless" in error.traceback
    assert app.add.delay(2).result(timeout=10) == 2


@pytest.mark.standing
@pytest.mark.timeout(60)
def test_over_the_limit_is_retried(app, target, worker):
    worker(target, "--pool", "1")
    assert app.slow_at_first.delay().result(timeout=15) == 2


@pytest.mark.timeout(60)
def test_cancel_is_asked_first_then_done(app, target, worker, ledger):
    worker(target, "--pool", "2")
    kind, deaf = app.long.delay(30, look=True), app.busy_in_c.delay()
    wait_until(lambda: {line.split()[0] for line in ledger.lines()} >= {"long", "busy"}, 20)
    kind.cancel()
    deaf.cancel()
    assert kind.result(timeout=5) == "stopped"
    with pytest.raises(JobCanceled):
        deaf.result(timeout=10)


@pytest.mark.parametrize("task", ["busy_in_c", "long"])
def test_nothing_is_left_of_a_killed_worker(app, target, worker, ledger, redis_client, task):
    process = worker(target, "--pool", "1")
    handle = app.busy_in_c.delay() if task == "busy_in_c" else app.long.delay(60)
    pid = pid_of(ledger, task.partition("_")[0])
    parent = descendants(process.pid)[0]
    assert pid in descendants(parent)
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: gone(pid), 5)
    # it runs again in the next one
    wait_until(lambda: pid_of(ledger, task.partition("_")[0]) != pid, 15)
    handle.cancel()


def test_a_killed_child_costs_no_other_job(app, target, worker, ledger, redis_client):
    worker(target, "--pool", "2")
    first = app.long.delay(1.0)
    victim = pid_of(ledger, "long")
    others = app.add.map(range(50))
    os.kill(victim, signal.SIGKILL)
    assert others.results(timeout=15) == list(range(50))
    assert first.result(timeout=15) == "done"
    assert redis_client.hget(f"rq:job:{first.id}", "tq_crashes") == b"1"


@pytest.mark.standing
def test_jobs_sent_ahead_count_no_crash_and_no_limit(app, target, worker, redis_client):
    """They lie in the process that dies, and in the one that is struck, but have not begun."""
    worker(target, "--pool", "1")
    app.add.map(range(100)).results(timeout=15)  # short ones: the next are sent ahead
    calls = []
    for n in range(10):
        calls += [app.add.call(n, b=k) for k in range(10)]
        calls.append(app.dies_once.call() if n % 3 else app.endless.call("python"))
    batch = app.queue.enqueue(calls)
    ends = [one.exception(timeout=30) for one in batch]
    failed = [type(end) for end in ends if end is not None]
    assert failed == [TaskTimeout] * 4
    results = [one.result(timeout=1) for one, end in zip(batch, ends, strict=True) if end is None]
    assert sorted(results) == sorted([n + k for n in range(10) for k in range(10)] + [2] * 6)
    crashes = [redis_client.hget(f"rq:job:{one.id}", "tq_crashes") for one in batch]
    assert crashes.count(b"1") == 6
    assert crashes.count(None) == len(crashes) - 6


@pytest.mark.timeout(60)
def test_no_short_job_stays_behind_a_long_one(app, target, worker, ledger):
    """Sent ahead of a long one it goes back, to another process or another worker."""
    worker(target, "--pool", "1")
    worker(target, "--pool", "2")
    app.add.map(range(300)).results(timeout=20)
    long_ones = [app.long.delay(30), app.long.delay(30)]
    wait_until(lambda: len(noted(ledger, "long")) == 2, 15)
    assert app.add.map(range(300)).results(timeout=10) == list(range(300))
    for one in long_ones:
        assert not one.done()
        one.cancel()


@pytest.mark.timeout(60)
def test_at_most_once_among_short_ones_runs_once(app, target, worker, ledger):
    """Whatever dies: such jobs are never sent ahead."""
    process = worker(target, "--pool", "1")
    app.add.map(range(100)).results(timeout=15)
    calls = []
    for n in range(100):
        calls += [app.counted.call(n), app.add.call(n)]
    batch = app.queue.enqueue(calls)
    wait_until(lambda: len(noted(ledger, "counted")) > 15)
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    for one in batch:
        one.exception(timeout=30)
    lines = noted(ledger, "counted")
    assert len(lines) == len(set(lines))


def test_a_stop_waits_then_kills_and_gives_back(app, target, worker, ledger, redis_client):
    process = worker(target, "--pool", "1", "--grace", "0.3")
    handle = app.starts_a_program.delay()
    program = pid_of(ledger, "program")
    child = descendants(descendants(process.pid)[0])[0]
    process.stop()
    wait_until(lambda: gone(child) and gone(program))
    assert places(redis_client, handle.id) == ["rq:queue:default"]
    assert not redis_client.hexists(f"rq:job:{handle.id}", "tq_crashes")


@pytest.mark.timeout(60)
def test_burst_with_fresh_processes_every_few_jobs(app, target, worker: WorkerStarter):
    batch = queue_of(app).enqueue([app.where.call() for _ in range(12)])
    process = worker(target, "--burst", "--pool", "2", "--pool-max-jobs", "3", ready=False)
    assert process.wait(40) == 0
    found = batch.results(timeout=1)
    assert len({one["pid"] for one in found}) >= 4
    assert max(one["jobs"] for one in found) <= 3


def queue_of(app):
    return app.queue


@pytest.mark.timeout(60)
def test_a_process_that_grew_too_large_is_replaced(app, target, worker):
    process = worker(target, "--pool", "1", "--max-memory", "100")
    first = app.grows.delay().result(timeout=15)
    pids = [first]
    wait_until(lambda: pids.append(app.grows.delay().result(timeout=10)) or pids[-1] != first, 15)
    assert "A job process uses" in process.log()


def test_plain_functions_by_default_in_processes(app, target, worker):
    process = worker(target, "--default-mode", "process", "--pool", "1")
    parent = descendants(process.pid)[0]
    assert app.in_thread.delay().result(timeout=15) != parent
    assert app.surely_in_thread.delay().result(timeout=15) == parent
    assert "in_thread" in process.log()
    assert "1 job process" in process.log()


def test_signed_and_large_payloads(app, target, worker, monkeypatch, redis_url, tmp_path):
    from taskq import TaskQ

    monkeypatch.setenv("TASKQ_SECRET", "s3cret")
    signed = TaskQ(redis_url)
    echo = signed.task(mode="process", name=app.echo.name)(app.echo.fn)
    worker(target, "--pool", "1", env={"TASKQ_SECRET": "s3cret"})
    assert echo.delay("x" * 900_000).result(timeout=15) == "x" * 900_000
    forged = app.echo.delay("unsigned")
    error = echo.handle(forged.id).exception(timeout=5)
    assert isinstance(error, JobFailed)
    assert "not signed" in error.message


def test_any_rq_job_in_a_process(app, worker, redis_client):
    import rq

    rq_queue = rq.Queue(connection=redis_client)
    plain = rq_queue.enqueue(os.getpid)
    from taskq import operations  # noqa: F401 (importable by name)

    retried = rq_queue.enqueue("os.path.join", "a", "b")
    worker(None, "--rq", "--default-mode", "process", "--pool", "1")
    wait_until(lambda: drained(redis_client), 15)
    pid = plain.return_value()
    assert pid not in (None, os.getpid())
    assert retried.return_value() == "a/b"
