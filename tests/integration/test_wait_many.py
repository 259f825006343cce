"""Waiting for many jobs in a plain program: `wait`, `as_completed`, `Batch`, the shared thread."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from taskq import (
    JobFailed,
    JobNotFound,
    PayloadError,
    ResultTimeout,
    TaskQ,
    as_completed,
    inbox,
    wait,
)
from taskq.handle import Batch, Handle
from tests.endings import Endings, Later
from tests.support import wait_until


@pytest.fixture
def app(redis_url: str) -> Iterator[TaskQ]:
    made = TaskQ(redis_url)
    yield made
    made.close()


@pytest.fixture
def jobs(redis_client: redis.Redis) -> Endings:
    return Endings(redis_client)


def handles_of(app: TaskQ, jobs: Endings, count: int) -> list[Handle[int]]:
    return [app.handle(jobs.queued(f"j{n}")) for n in range(count)]


def test_as_completed_gives_the_order_of_the_ends(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 4)
    seen: list[int] = []

    def end_backwards() -> None:
        for n in (3, 1, 0, 2):
            jobs.finish(f"j{n}", n)
            wait_until(functools.partial(seen.__contains__, n))

    later = Later(jobs.blocked, end_backwards)
    for handle in as_completed(handles, 10):
        value = handle.result()
        seen.append(value)
    later.join()
    assert seen == [3, 1, 0, 2]


def test_as_completed_takes_every_kind_of_end(app: TaskQ, jobs: Endings) -> None:
    handles = [*handles_of(app, jobs, 3), app.handle("nobody")]
    jobs.finish("j0", 0)
    jobs.fail("j1", "E", "no")
    jobs.status("j2", "canceled")
    found = {handle.id: handle for handle in as_completed(handles, 5)}
    assert len(found) == 4
    assert found["j0"].result() == 0
    with pytest.raises(JobFailed):
        found["j1"].result()
    with pytest.raises(JobNotFound):
        found["nobody"].result()


def test_as_completed_out_of_time(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    jobs.finish("j1", 1)
    arrivals = iter(as_completed(handles, 0.2))
    assert next(arrivals).id == "j1"
    with pytest.raises(ResultTimeout, match=r"job j0 after 0.2 s: .*\(1 more are waited for.\)"):
        next(arrivals)


def test_leaving_as_completed_forgets_the_rest(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    jobs.finish("j1", 1)
    for _handle in as_completed(handles):
        break
    wait_until(lambda: not len(app.broker.waits._thread.pump))


def test_wait_for_the_first(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    later = Later(jobs.blocked, lambda: jobs.finish("j2", 2))
    done, not_done = wait(handles, 10, return_when="FIRST_COMPLETED")
    later.join()
    assert done == {handles[2]}
    assert not_done == {handles[0], handles[1]}


def test_wait_for_the_first_failure(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 3)
    jobs.finish("j0", 0)
    later = Later(jobs.blocked, lambda: jobs.fail("j1", "E", "no"))
    done, not_done = wait(handles, 10, return_when="FIRST_EXCEPTION")
    later.join()
    assert handles[1] in done
    assert not_done == {handles[2]}


def test_wait_for_all_and_its_time_limit(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 2)
    assert wait([], 1) == (set(), set())
    jobs.finish("j0", 0)
    done, not_done = wait(handles, 0)
    assert (done, not_done) == ({handles[0]}, {handles[1]})
    start = time.monotonic()
    done, not_done = wait(handles, 0.2)
    assert 0.2 <= time.monotonic() - start < 2
    assert not_done == {handles[1]}
    jobs.finish("j1", 1)
    assert wait(handles, 5).done == set(handles)
    with pytest.raises(ValueError, match="'SOON'"):
        wait(handles, return_when="SOON")  # type: ignore[arg-type]


def test_thousands_of_handles_share_one_connection(app: TaskQ, jobs: Endings) -> None:
    count = 3_000
    with jobs.client.pipeline() as pipe:
        for n in range(count):
            pipe.hset(f"rq:job:j{n}", "status", "queued")
        pipe.execute()
    app.broker.call("PING")
    before = jobs.connections()
    batch = Batch(app, [app.handle(f"j{n}") for n in range(count)], "b")
    connections = []

    def finish_all() -> None:
        connections.append(jobs.connections() - before)
        for n in range(count):
            jobs.finish(f"j{n}", n)

    later = Later(jobs.blocked, finish_all)
    assert batch.results(15) == list(range(count))
    later.join()
    assert connections == [1]


def test_callers_of_several_threads(app: TaskQ, jobs: Endings) -> None:
    """New callers interrupt the blocking read under way."""
    handles_of(app, jobs, 60)
    found: list[int] = []

    def wait_for(start: int) -> None:
        handles: list[Handle[int]] = [app.handle(f"j{start + n}") for n in range(10)]
        found.extend(handle.result() for handle in as_completed(handles, 10))

    threads = [threading.Thread(target=wait_for, args=(n * 10,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for n in range(60):
        jobs.finish(f"j{n}", n)
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(60))


def test_a_newcomer_is_heard_at_once(app: TaskQ, jobs: Endings) -> None:
    first, second = handles_of(app, jobs, 2)
    done = threading.Event()
    first.add_done_callback(lambda _h: done.set())
    wait_until(jobs.blocked)
    arrived: list[float] = []
    second.add_done_callback(lambda _h: arrived.append(time.monotonic()))
    wait_until(lambda: len(app.broker.waits._thread.pump) == 2 and jobs.blocked())
    time_sent = time.monotonic()
    jobs.finish("j1", 1)
    wait_until(lambda: arrived)
    assert arrived[0] - time_sent < 0.3  # far from the second that an XREAD blocks
    jobs.finish("j0", 0)
    assert done.wait(5)


def test_one_broken_key_does_not_harm_the_others(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 5)
    jobs.client.set("rq:results:j2", "no stream")
    later = Later(jobs.blocked, lambda: jobs.finish_all({f"j{n}": n for n in (0, 1, 3, 4)}))
    ends = Batch(app, handles, "b").results(10, return_exceptions=True)
    later.join()
    assert isinstance(ends[2], PayloadError)
    assert [end for end in ends if isinstance(end, int)] == [0, 1, 3, 4]


def test_lost_connections(app: TaskQ, jobs: Endings) -> None:
    handles = handles_of(app, jobs, 10)

    def cut_again_and_again() -> None:
        for n in range(10):
            jobs.client.client_kill_filter(_type="normal", skipme=True)
            jobs.finish(f"j{n}", n)
            wait_until(handles[n].done)

    later = Later(jobs.blocked, cut_again_and_again)
    assert [h.result() for h in as_completed(handles, 15)] == list(range(10))
    later.join()


def test_without_the_right_to_unblock(redis_url: str, jobs: Endings) -> None:
    jobs.client.execute_command(
        "ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-@dangerous", "-client"
    )
    try:
        url = redis_url.replace("unix://", "unix://plain:pw@")
        app = TaskQ(url)
        first, second = handles_of(app, jobs, 2)
        done: list[str] = []
        first.add_done_callback(lambda h: done.append(h.id))
        wait_until(jobs.blocked)
        second.add_done_callback(lambda h: done.append(h.id))
        jobs.finish("j1", 1)
        wait_until(lambda: done == ["j1"])
        jobs.finish("j0", 0)
        wait_until(lambda: done == ["j1", "j0"])
        app.close()
    finally:
        jobs.client.execute_command("ACL", "DELUSER", "plain")


def test_an_untimed_wait_says_why(
    app: TaskQ, jobs: Endings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inbox, "PATIENCE_S", 0.05)
    handles = handles_of(app, jobs, 3)
    later = Later(
        lambda: caplog.records, lambda: jobs.finish_all({handle.id: 1 for handle in handles})
    )
    with caplog.at_level(logging.INFO, "taskq.handle"):
        assert [h.result() for h in as_completed(handles)] == [1, 1, 1]
    later.join()
    (record,) = caplog.records
    assert "No result of job j0" in record.getMessage()
    assert "(2 more are waited for.)" in record.getMessage()


class TestBatch:
    def test_it_is_a_sequence(self, app: TaskQ) -> None:
        handles: list[Handle[int]] = [app.handle(f"j{n}") for n in range(3)]
        batch = Batch(app, handles, "b1")
        assert (len(batch), batch[1], batch.id) == (3, handles[1], "b1")
        assert list(batch) == handles == list(batch.handles)
        assert batch[1:] == tuple(handles[1:])
        assert repr(batch) == "<Batch b1 of 3 jobs>"

    def test_counts(self, app: TaskQ, jobs: Endings) -> None:
        handles = handles_of(app, jobs, 6)
        jobs.finish("j0", 0)
        jobs.fail("j1", "E", "no")
        jobs.finish_unkept("j2")
        jobs.client.delete("rq:job:j3")
        batch = Batch(app, handles, "b")
        expected = {"finished": 2, "failed": 1, "gone": 1, "queued": 2}
        assert batch.counts() == expected
        handles[0].result()
        assert batch.counts() == expected

    def test_the_first_failure_is_raised_at_once(self, app: TaskQ, jobs: Endings) -> None:
        handles = handles_of(app, jobs, 3)
        jobs.fail("j1", "E", "no")
        with pytest.raises(JobFailed, match="j1 failed: E: no"):
            Batch(app, handles, "b").results(10)

    def test_exceptions_in_the_list(self, app: TaskQ, jobs: Endings) -> None:
        handles = handles_of(app, jobs, 3)
        jobs.finish("j0", 0)
        jobs.fail("j1", "E", "no")
        jobs.finish("j2", 2)
        first, second, third = Batch(app, handles, "b").results(10, return_exceptions=True)
        assert (first, third) == (0, 2)
        assert isinstance(second, JobFailed)

    def test_results_that_have_been_read_live_no_longer_than_usual(
        self, app: TaskQ, jobs: Endings
    ) -> None:
        handles = handles_of(app, jobs, 4)
        for n in range(3):
            jobs.finish(f"j{n}", n)
        jobs.fail("j3", "E", "no")
        ends_at = time.time() + 86_400
        for n, ttl in enumerate((86_400, 100, None, 86_400)):
            for key in (f"rq:job:j{n}", f"rq:results:j{n}"):
                if ttl:
                    jobs.client.expire(key, ttl)
        jobs.client.zadd("rq:finished:default", {"j0": ends_at, "j1": time.time() + 100})
        batch = Batch(app, handles, "b")
        batch.results(10, return_exceptions=True)
        ttl = jobs.client.ttl
        assert 490 < ttl("rq:job:j0") <= 500
        assert 490 < ttl("rq:results:j0") <= 500
        assert jobs.client.zscore("rq:finished:default", "j0") < time.time() + 501
        assert ttl("rq:job:j1") <= 100  # never lengthened
        assert jobs.client.zscore("rq:finished:default", "j1") < time.time() + 101
        assert ttl("rq:job:j2") == -1  # for ever stays for ever
        assert ttl("rq:job:j3") > 500  # a failure is kept for people

    def test_a_batch_that_is_not_read_keeps_its_results(self, app: TaskQ, jobs: Endings) -> None:
        handles = handles_of(app, jobs, 2)
        jobs.finish("j0", 0)
        jobs.client.expire("rq:job:j0", 86_400)
        with pytest.raises(ResultTimeout):
            Batch(app, handles, "b").results(0.1)
        assert jobs.client.ttl("rq:job:j0") > 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    def test_child_and_parent_wait_for_themselves(self, app: TaskQ, jobs: Endings) -> None:
        a, b, c = handles_of(app, jobs, 3)
        called: list[str] = []
        a.add_done_callback(lambda h: called.append(h.id))
        wait_until(jobs.blocked)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                jobs.client.connection_pool.reset()
                got = [h.result() for h in as_completed([b, c], 10)]
                code = 0 if sorted(got) == [1, 2] and not called else 2
            finally:
                os._exit(code)
        wait_until(lambda: jobs.blocked(2))
        for n in range(3):
            jobs.finish(f"j{n}", n)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        wait_until(lambda: called == ["j0"])
        assert c.result(5) == 2

    def test_forked_while_iterating(self, app: TaskQ, jobs: Endings) -> None:
        handles = handles_of(app, jobs, 2)
        jobs.finish("j0", 0)
        pid = -1
        for handle in as_completed(handles, 10):
            if handle.id == "j0":
                pid = os.fork()
                if pid:
                    wait_until(lambda: jobs.blocked(2))
                    jobs.finish("j1", 1)
            elif pid == 0:
                os._exit(0 if handle.result() == 1 else 3)
        if pid == 0:
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_interpreter_exits_while_somebody_waits(redis_url: str, jobs: Endings) -> None:
    jobs.queued("a")
    program = textwrap.dedent(
        """
        import sys, time
        from taskq import TaskQ
        app = TaskQ(sys.argv[1])
        app.handle("a").add_done_callback(print)
        while not len(app.broker.waits._thread.pump): time.sleep(0.01)
        while not app.broker.waits._thread.pump._is_blocked: time.sleep(0.01)
        """
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, redis_url],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - start < 10
