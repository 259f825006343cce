"""`result()` and its kin in a plain program: every way in which a job can end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis

from taskq import (
    BrokerUnavailable,
    JobCanceled,
    JobFailed,
    JobNotFound,
    PayloadError,
    ResultExpired,
    ResultTimeout,
    TaskQ,
    TaskQError,
    TaskTimeout,
)
from taskq.broker import pump, wait
from taskq.embedded import EmbeddedRedis
from taskq.states import Status
from tests.endings import NO_SUCH_FILE, Endings, Later
from tests.support import wait_until


@pytest.fixture
def app(redis_url: str) -> Iterator[TaskQ]:
    made = TaskQ(redis_url)
    yield made
    made.close()


@pytest.fixture
def jobs(redis_client: redis.Redis) -> Endings:
    return Endings(redis_client)


class TestEnds:
    def test_a_result_that_is_there_already(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.finish("a", {"n": [1, 2]})
        assert app.handle("a").result() == {"n": [1, 2]}

    def test_a_result_that_comes_while_somebody_waits(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        later = Later(jobs.blocked, lambda: jobs.finish("a", 42))
        assert app.handle("a").result(10) == 42
        later.join()

    def test_none_is_a_result(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.finish("a")
        handle = app.handle("a")
        assert handle.result(1) is None
        assert handle.exception(1) is None

    def test_the_same_object_each_time_and_no_network(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.finish("a", [1])
        handle = app.handle("a")
        first = handle.result()
        jobs.client.flushall()
        assert handle.result() is first
        assert handle.done()
        assert handle.status() == Status.FINISHED

    def test_a_failure_on_a_worker_of_ours(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.fail("a", "shop.errors.NoStock", "none left", attempts=3)
        with pytest.raises(JobFailed) as caught:
            app.handle("a").result(1)
        error = caught.value
        assert (error.job_id, error.exc_type, error.message) == (
            "a", "shop.errors.NoStock", "none left",
        )  # fmt: skip
        assert error.attempts == 3
        assert error.traceback == NO_SUCH_FILE
        assert str(error) == "Job a failed after 3 attempts: shop.errors.NoStock: none left"
        assert isinstance(app.handle("a").exception(1), JobFailed)

    def test_a_failure_on_a_stock_worker(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a", number_of_retries=2)
        jobs.fail_as_rq("a")
        error = app.handle("a").exception(1)
        assert error is not None
        assert (error.exc_type, error.message) == ("FileNotFoundError", "no file a.png")
        assert error.attempts == 3

    def test_rq_gave_up_retrying(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a", number_of_retries=1)
        jobs.entry("a", "failed", type=5, return_value="eA==")
        with pytest.raises(JobFailed, match=r"a failed after 2 attempts: it asked for another"):
            app.handle("a").result(1)

    @pytest.mark.parametrize(
        "exc_type", ["taskq.errors.TaskTimeout", "rq.timeouts.JobTimeoutException"]
    )
    def test_a_time_limit(self, app: TaskQ, jobs: Endings, exc_type: str) -> None:
        jobs.queued("a")
        jobs.fail("a", exc_type, "over 3 s")
        with pytest.raises(TaskTimeout, match="over 3 s") as caught:
            app.handle("a").result(1)
        assert isinstance(caught.value, TimeoutError)

    def test_a_time_limit_on_a_stock_worker(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.fail_as_rq(
            "a",
            "Traceback (most recent call last):\n"
            '  File "x.py", line 1, in f\n'
            "rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value (3 seconds)\n",
        )
        with pytest.raises(TaskTimeout, match="3 seconds"):
            app.handle("a").result(1)

    def test_stopped_by_our_worker_and_by_rq(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.entry("a", "stopped", type=3)
        jobs.queued("b")
        later = Later(jobs.blocked, lambda: jobs.fail_as_rq("b", status="stopped"))
        for job_id in "ab":
            with pytest.raises(JobCanceled, match=f"{job_id} was stopped"):
                app.handle(job_id).result(10)
        later.join()

    def test_canceled_while_somebody_waits(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        later = Later(jobs.blocked, app.handle("a").cancel)
        with pytest.raises(JobCanceled, match="a was canceled"):
            app.handle("a").result()
        later.join()

    def test_deleted_while_somebody_waits(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        later = Later(jobs.blocked, lambda: jobs.client.delete("rq:job:a"))
        with pytest.raises(ResultExpired, match="result of a has expired"):
            app.handle("a").result()
        later.join()

    def test_finished_with_result_ttl_0(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        later = Later(jobs.blocked, lambda: jobs.finish_unkept("a"))
        with pytest.raises(ResultExpired, match="result_ttl=0"):
            app.handle("a").result()
        later.join()
        other = app.handle("a")
        assert other.done()
        assert other.status() == Status.FINISHED
        assert other.cancel() is False

    def test_an_unknown_id(self, app: TaskQ) -> None:
        handle = app.handle("nobody")
        for ask in (handle.result, handle.exception, handle.status, handle.done, handle.progress):
            with pytest.raises(JobNotFound, match="No job nobody in Redis") as caught:
                ask()
            assert not isinstance(caught.value, ResultExpired)
        with pytest.raises(JobNotFound):
            handle.cancel()

    def test_an_unknown_id_is_asked_for_again(self, app: TaskQ, jobs: Endings) -> None:
        handle = app.handle("a")
        with pytest.raises(JobNotFound):
            handle.result()
        jobs.queued("a")
        jobs.finish("a", 1)
        assert handle.result() == 1

    def test_the_stream_is_gone(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a", result_ttl=60)
        jobs.status("a", "finished")
        with pytest.raises(ResultExpired, match=r"result of a has expired \(result_ttl=60 s\)"):
            app.handle("a").result()
        jobs.status("a", "failed")
        with pytest.raises(ResultExpired, match="a failed, and the details"):
            app.handle("a").result()

    def test_the_hash_is_gone_but_not_the_stream(self, app: TaskQ, jobs: Endings) -> None:
        jobs.finish("a", 5)
        jobs.client.delete("rq:job:a")
        assert app.handle("a").result() == 5

    def test_a_retry_by_rq_is_not_the_end(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        handle = app.handle("a")

        def retry_then_finish() -> None:
            jobs.entry("a", "queued", type=4)
            wait_until(jobs.blocked)
            jobs.finish("a", "second")

        later = Later(jobs.blocked, retry_then_finish)
        assert handle.result(10) == "second"
        later.join()

    def test_a_requeued_job_is_waited_for_again(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.fail("a", "E", "first run")
        jobs.status("a", "queued")
        later = Later(jobs.blocked, lambda: jobs.finish("a", "second run"))
        assert app.handle("a").result(10) == "second run"
        later.join()

    def test_garbage(self, app: TaskQ, jobs: Endings) -> None:
        jobs.client.set("rq:job:a", "no hash")
        jobs.queued("b")
        jobs.client.set("rq:results:b", "no stream")
        jobs.queued("c")
        jobs.entry("c", "finished", type="eleven")
        jobs.queued("d")
        jobs.entry("d", "finished", type=1, return_value="***")
        jobs.queued("e")
        jobs.status("e", "dancing")
        for job_id in "abcd":
            with pytest.raises(PayloadError, match=job_id):
                app.handle(job_id).result(1)
        with pytest.raises(PayloadError, match="'dancing'"):
            app.handle("e").status()


class TestTime:
    def test_a_timeout_is_kept_and_explained(self, app: TaskQ, jobs: Endings) -> None:
        for job_id in "xyz":
            jobs.queued(job_id)
        start = time.monotonic()
        with pytest.raises(ResultTimeout) as caught:
            app.handle("z").result(timedelta(milliseconds=250))
        assert 0.25 <= time.monotonic() - start < 2
        assert str(caught.value) == (
            "No result of job z after 0.25 s: queued, 2 ahead of it in 'default'. "
            "No worker listens to 'default'; start: taskq worker APP -q default."
        )
        assert isinstance(caught.value, TimeoutError)
        assert app.handle("z").status() == Status.QUEUED  # giving up does not cancel

    def test_workers_are_counted_by_their_life(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.client.sadd("rq:workers:default", "rq:worker:dead", "rq:worker:live")
        jobs.client.hset("rq:worker:live", "state", "busy")
        with pytest.raises(ResultTimeout, match=r"0 ahead of it in 'default'\. 1 worker on"):
            app.handle("a").result(0)
        jobs.client.sadd("taskq:paused", "default")
        with pytest.raises(ResultTimeout, match="taskq resume default"):
            app.handle("a").result(0)

    def test_running_and_scheduled_jobs(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.status("a", "started", started_at=app.broker.clock.iso(time.time() - 7))
        with pytest.raises(ResultTimeout, match="started [678] s ago, still running"):
            app.handle("a").result(0)
        jobs.queued("b")
        jobs.status("b", "scheduled")
        jobs.client.zadd("rq:scheduled:default", {"b": time.time() + 60})
        with pytest.raises(ResultTimeout, match=r"scheduled, due in (59|60) s on 'default'"):
            app.handle("b").result(0)

    def test_zero_looks_once(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        handle = app.handle("a")
        with pytest.raises(ResultTimeout):
            handle.result(0)
        jobs.finish("a", 1)
        assert handle.result(0) == 1

    def test_the_connection_is_of_use_after_a_timeout(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        jobs.queued("b")
        with pytest.raises(ResultTimeout):
            app.handle("a").result(0.02)
        jobs.finish("a", "a")
        jobs.finish("b", "b")
        assert app.handle("b").result(1) == "b"
        assert app.handle("a").result(1) == "a"

    def test_a_cancellation_within_the_last_second_is_told(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        later = Later(jobs.blocked, lambda: jobs.status("a", "canceled"))
        with pytest.raises(JobCanceled):
            app.handle("a").result(0.3)
        later.join()

    def test_an_untimed_wait_says_why(
        self,
        app: TaskQ,
        jobs: Endings,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(wait, "PATIENCE_S", 0.1)
        monkeypatch.setattr(wait, "LOOK_EVERY_S", 0.05)
        jobs.queued("a")
        later = Later(lambda: caplog.records, lambda: jobs.finish("a", 1))
        with caplog.at_level(logging.INFO, "taskq.handle"):
            assert app.handle("a").result() == 1
        later.join()
        (record,) = caplog.records
        assert record.getMessage() == (
            "No result of job a after 5 s: queued, 0 ahead of it in 'default'. "
            "No worker listens to 'default'; start: taskq worker APP -q default."
        )
        assert record.levelno == logging.WARNING

    def test_a_wrong_timeout(self, app: TaskQ) -> None:
        with pytest.raises(TypeError, match="'soon'"):
            app.handle("a").result("soon")  # type: ignore[arg-type]


class TestPlaces:
    async def test_not_in_a_running_loop(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        handle = app.handle("a")
        for ask in (handle.result, handle.exception):
            with pytest.raises(TaskQError, match="await handle"):
                ask()
        jobs.finish("a", 3)
        assert await handle == 3
        assert handle.result() == 3  # known by now: it does not block
        await app.aclose()

    def test_more_threads_than_direct_connections(self, app: TaskQ, jobs: Endings) -> None:
        count = 3 * wait.DIRECT_AT_MOST
        found: dict[int, int] = {}

        def wait_for(n: int) -> None:
            found[n] = app.handle(f"j{n}").result(10)

        for n in range(count):
            jobs.queued(f"j{n}")
        threads = [threading.Thread(target=wait_for, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        wait_until(lambda: jobs.blocked(wait.DIRECT_AT_MOST + 1))
        for n in range(count):
            jobs.finish(f"j{n}", n)
        for thread in threads:
            thread.join()
        assert found == {n: n for n in range(count)}

    def test_closing_the_app_tells_who_waits(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        later = Later(jobs.blocked, app.close)
        with pytest.raises(TaskQError, match="closed while waiting"):
            app.handle("a").result(10)
        later.join()
        jobs.finish("a", 1)
        assert app.handle("a").result(1) == 1  # it reopens when used again


class TestTrouble:
    def test_lost_connections(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")

        def cut_twice_then_finish() -> None:
            for _ in range(2):
                jobs.client.client_kill_filter(_type="normal", skipme=True)
                wait_until(jobs.blocked)
            jobs.client.client_kill_filter(_type="normal", skipme=True)
            jobs.finish("a", "kept")

        later = Later(jobs.blocked, cut_twice_then_finish)
        assert app.handle("a").result(10) == "kept"
        later.join()

    def test_everything_was_flushed(self, app: TaskQ, jobs: Endings) -> None:
        jobs.queued("a")
        later = Later(jobs.blocked, jobs.client.flushall)
        with pytest.raises(ResultExpired):
            app.handle("a").result(10)
        later.join()

    @pytest.mark.parametrize("how", ["paused", "stopped"])
    def test_a_frozen_server_does_not_hold_the_caller(self, how: str) -> None:
        with EmbeddedRedis.start(port=0) as server, redis.Redis.from_url(server.url) as client:
            app, jobs = TaskQ(server.url), Endings(client)
            jobs.queued("a")
            jobs.queued("b")
            with pytest.raises(ResultTimeout):
                app.handle("b").result(0.01)
            if how == "paused":
                client.execute_command("CLIENT", "PAUSE", "3000", "ALL")
            else:
                os.kill(server.pid, signal.SIGSTOP)
            start = time.monotonic()
            try:
                with pytest.raises(ResultTimeout, match="Redis does not answer"):
                    app.handle("a").result(0.3)
                assert time.monotonic() - start < 4
            finally:
                os.kill(server.pid, signal.SIGCONT)
            app.close()

    def test_no_server_until_the_time_is_over(self) -> None:
        with EmbeddedRedis.start(port=0) as server:
            app = TaskQ(f"redis://127.0.0.1:{server.port}/0")
        start = time.monotonic()
        with pytest.raises(ResultTimeout, match="Redis does not answer"):
            app.handle("a").result(0.3)
        assert 0.3 <= time.monotonic() - start < 4
        with pytest.raises(BrokerUnavailable):
            app.handle("a").status()
        app.close()


def test_progress(app: TaskQ, jobs: Endings) -> None:
    jobs.queued("a")
    handle = app.handle("a")
    assert handle.progress() is None
    jobs.status("a", "started", tq_progress='[3,12,"third file"]')
    found = handle.progress()
    assert found is not None
    assert (found.done, found.total, found.note, found.fraction) == (3, 12, "third file", 0.25)
    jobs.status("a", "started", tq_progress="garbage")
    assert handle.progress() is None


def test_cancel(app: TaskQ, jobs: Endings) -> None:
    jobs.queued("a")
    handle = app.handle("a")
    assert handle.cancel() is True
    assert handle.status() == Status.CANCELED
    assert handle.done()
    assert handle.cancel() is False
    jobs.queued("b")
    jobs.finish("b")
    assert app.handle("b").cancel() is False


def test_callback_in_a_thread(app: TaskQ, jobs: Endings, caplog: pytest.LogCaptureFixture) -> None:
    called: list[object] = []
    for job_id in "ab":
        jobs.queued(job_id)
    handle = app.handle("a")
    handle.add_done_callback(lambda h: called.append((threading.current_thread().name, h)))
    handle.add_done_callback(lambda h: 1 / 0)
    handle.add_done_callback(lambda h: called.append(("b is", app.handle("b").result(10))))
    wait_until(jobs.blocked)
    jobs.finish("a", 1)
    wait_until(lambda: called)
    jobs.finish("b", 2)
    wait_until(lambda: len(called) == 2)
    assert called == [("taskq-callbacks", handle), ("b is", 2)]
    assert "ZeroDivisionError" in caplog.text
    handle.add_done_callback(called.append)  # known by now
    wait_until(lambda: len(called) == 3)


def test_asyncio_is_not_needed_by_waiting(app: TaskQ, jobs: Endings) -> None:
    jobs.queued("a")
    jobs.finish("a", 1)

    async def main() -> int:
        return await asyncio.to_thread(app.handle("a").result)

    assert asyncio.run(main()) == 1


def test_constants() -> None:
    assert pump.LOOK_EVERY_S <= 1.0
