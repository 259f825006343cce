"""Waiting for jobs that stock RQ enqueued and ran, and for ours that it ran."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import pytest
import redis
import rq
from rq.timeouts import TimerDeathPenalty
from rq.worker import SimpleWorker

from taskq import JobCanceled, JobFailed, JobNotFound, TaskQ
from taskq.serializers import rq as serializer
from taskq.states import Status
from tests.endings import Endings, Later
from tests.support import wait_until


class Worker(SimpleWorker):
    """Its time limit needs no signal: pytest-timeout has taken SIGALRM."""

    death_penalty_class = TimerDeathPenalty


def always_retry() -> rq.Retry:
    return rq.Retry(max=2)


@pytest.fixture
def app(redis_url: str) -> Iterator[TaskQ]:
    made = TaskQ(redis_url)
    yield made
    made.close()


@pytest.fixture
def queue(redis_client: redis.Redis) -> rq.Queue:
    return rq.Queue("default", connection=redis_client, serializer=serializer)


def work(queue: rq.Queue) -> None:
    Worker([queue], connection=queue.connection, serializer=serializer).work(
        burst=True, logging_level="CRITICAL"
    )


def test_finished(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(operator.add, 40, 2)
    handle = app.handle(job.id)
    assert handle.status() == Status.QUEUED
    work(queue)
    assert handle.result(5) == 42
    assert handle.status() == Status.FINISHED


def test_while_somebody_waits(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(operator.add, 40, 2)
    found: list[int] = []
    waiting = Later(lambda: True, lambda: found.append(app.handle(job.id).result(10)))
    endings = Endings(queue.connection)
    wait_until(endings.blocked)
    work(queue)
    waiting.join()
    assert found == [42]


def test_failed(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(operator.truediv, 1, 0)
    work(queue)
    with pytest.raises(JobFailed) as caught:
        app.handle(job.id).result(5)
    error = caught.value
    assert (error.exc_type, error.message) == ("ZeroDivisionError", "division by zero")
    assert error.traceback.startswith("Traceback")


def test_gave_up_after_retries_that_the_function_asked_for(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(always_retry)
    work(queue)
    with pytest.raises(JobFailed, match="failed after 3 attempts: it asked for another retry"):
        app.handle(job.id).result(5)


def test_result_ttl_0_leaves_nothing(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(operator.add, 1, 1, result_ttl=0)
    handle = app.handle(job.id)
    assert handle.status() == Status.QUEUED
    work(queue)
    assert handle.done()
    with pytest.raises(JobNotFound):
        handle.result(5)


def test_canceled_by_rq(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(operator.add, 1, 1)
    job.cancel()
    with pytest.raises(JobCanceled):
        app.handle(job.id).result(5)


def test_requeued_by_rq(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(operator.truediv, 1, 0)
    work(queue)
    assert isinstance(app.handle(job.id).exception(5), JobFailed)
    job.requeue()
    failures: list[JobFailed | None] = []
    waiting = Later(lambda: True, lambda: failures.append(app.handle(job.id).exception(10)))
    endings = Endings(queue.connection)
    wait_until(endings.blocked)
    assert not failures  # the first run's failure is not taken for the second's
    work(queue)
    waiting.join()
    assert isinstance(failures[0], JobFailed)


def test_canceled_by_us_is_canceled_for_rq(app: TaskQ, queue: rq.Queue) -> None:
    job = queue.enqueue(operator.add, 1, 1)
    assert app.handle(job.id).cancel()
    assert job.get_status() == "canceled"
    work(queue)
    assert app.handle(job.id).status() == Status.CANCELED
