"""`queue.testing(...)`: jobs in this process, without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import ModuleType

import pytest

from taskq import (
    ConfigError,
    InvalidArguments,
    JobCanceled,
    JobFailed,
    JobNotFound,
    NotSerializable,
    ResultExpired,
    ResultTimeout,
    TaskQ,
    TaskQError,
    TaskTimeout,
    as_completed,
    current_job,
    gather,
    wait,
)
from taskq.testing import Session

APP = """
import asyncio, threading, time
from collections.abc import AsyncGenerator, Generator
from taskq import Depends, Ending, Retry, TaskQ, current_job, receive

queue = TaskQ("redis://127.0.0.1:1/0")          # nothing listens there
ran = []

@queue.task
def add(a: int, b: int = 0) -> int:
    ran.append(("add", a, b))
    return a + b

@queue.task(queue="web")
async def fetch(url: str) -> tuple[str, int]:
    await asyncio.sleep(0)
    return (url, len(url))

@queue.task
def fail(text: str) -> None:
    raise ValueError(text)

@queue.task(retry=Retry(3, backoff="exponential", base=2))
def flaky(good_at: int) -> int:
    job = current_job()
    ran.append(("flaky", job.attempt))
    if job.attempt < good_at:
        raise OSError("not yet")
    return job.attempt

@queue.task(retry=2)
def stubborn() -> None:
    raise OSError("never")

@queue.task
def later() -> str:
    if current_job().attempt == 1:
        raise Retry.later(30)
    return "now"

@queue.task
def chain(n: int) -> int:
    return 0 if n == 0 else 1 + chain.delay(n - 1).result()

@queue.task
async def achain(n: int) -> int:
    return 0 if n == 0 else 1 + await (await achain.adelay(n - 1))

@queue.task
def spread(n: int) -> int:
    return sum(add.map(range(n), b=1).results())

@queue.task
def report() -> list:
    job = current_job()
    job.progress(1, 2, "half")
    return [job.id, job.task, job.queue, job.attempt, job.enqueued_at]

@queue.task(timeout=0.05)
def endless() -> None:
    while True:
        time.sleep(0.001)

@queue.task(timeout=0.05)
async def aendless() -> None:
    await asyncio.sleep(60)

@queue.task
def where() -> str:
    return threading.current_thread().name

@queue.task
def count(n: int) -> Generator[int, int, int]:
    total = 0
    for i in range(n):
        total += (yield i) or 0
    return total

@queue.task
async def acount(n: int) -> AsyncGenerator[int, int]:
    for i in range(n):
        yield i

@queue.task
def echo() -> Generator[str, str, str]:
    first = yield receive(timeout=10)
    return (yield first + "!") or (yield receive(timeout=10))

told = []

@queue.task
def tell(ending: Ending) -> None:
    told.append((ending.status, ending.result, ending.message))

def get_client():
    raise RuntimeError("no client in tests")

@queue.task
def ask(question: str, *, client: dict = Depends(get_client)) -> str:
    return client[question]

@queue.task
async def aask(question: str, *, client: dict = Depends(get_client)) -> str:
    return client[question]
"""


@pytest.fixture
def shop(app_module) -> ModuleType:
    return app_module(APP)


@pytest.fixture
def inline(shop) -> Iterator[Session]:
    with shop.queue.testing() as t:
        yield t


@pytest.fixture
def manual(shop) -> Iterator[Session]:
    with shop.queue.testing("manual") as t:
        yield t


# --- inline ---------------------------------------------------------------------------


def test_a_job_runs_when_it_is_enqueued(shop, inline):
    handle = shop.add.delay(1, b=2)
    assert shop.ran == [("add", 1, 2)]
    assert handle.status() == "finished"
    assert handle.done()
    assert handle.result() == 3


def test_coroutines_run_without_a_loop_of_the_caller(shop, inline):
    assert shop.fetch.delay("http://x").result() == ("http://x", 8)


def test_arguments_and_results_pass_through_the_serializer(shop, inline):
    with pytest.raises(NotSerializable, match="Nothing was enqueued"):
        shop.add.delay(object())
    with pytest.raises(InvalidArguments):
        shop.add.delay(c=1)
    assert inline.enqueued().count == 0
    given = [1, 2]
    shop.add.delay(given, [3])
    assert shop.ran[-1][1] == given
    assert shop.ran[-1][1] is not given


def test_an_error_is_in_the_handle(shop, inline, caplog):
    handle = shop.fail.delay("no paper")
    with pytest.raises(JobFailed, match="no paper") as caught:
        handle.result()
    assert caught.value.exc_type == "builtins.ValueError"
    assert caught.value.attempts == 1
    assert "raise ValueError(text)" in caught.value.traceback
    assert str(handle.exception()) == str(caught.value)
    assert "no paper" in caplog.text


def test_retries_come_at_their_time(shop, inline):
    handle = shop.flaky.delay(4)
    assert handle.status() == "scheduled"
    assert inline.advance(1.9) == 0
    assert inline.advance(0.1) == 1
    assert inline.advance(timedelta(seconds=12)) == 2  # after 4 s, after 8 s
    assert handle.result() == 4
    assert shop.ran == [("flaky", n) for n in (1, 2, 3, 4)]


def test_retries_without_delay_come_at_once(shop, inline):
    with pytest.raises(JobFailed) as caught:
        shop.stubborn.delay().result()
    assert caught.value.attempts == 3


def test_retry_later(shop, inline):
    handle = shop.later.delay()
    assert inline.advance(30) == 1
    assert handle.result() == "now"


def test_a_delayed_job_waits_for_the_clock(shop, app_module):
    start = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    with shop.queue.testing(now=start) as t:
        assert t.now == start
        first = shop.report.options(delay=60).delay()
        second = shop.report.options(at=start + timedelta(hours=1)).delay()
        with pytest.raises(ResultTimeout, match=r"due in 60 s.*t\.advance\(60\)"):
            first.result()
        assert t.advance(timedelta(minutes=5)) == 1
        assert first.result()[4] == start + timedelta(seconds=60)
        assert t.advance(timedelta(hours=1)) == 1
        assert second.result()[4] == start + timedelta(hours=1)
        assert t.now == start + timedelta(hours=1, minutes=5)


def test_results_expire(shop, inline):
    handle = shop.add.options(result_ttl=10).delay(1)
    inline.advance(11)
    with pytest.raises(ResultExpired):
        handle.result()


def test_current_job_and_progress(shop, inline):
    handle = shop.report.options(queue="high").delay()
    job_id, task, queue, attempt, enqueued_at = handle.result()
    assert (job_id, queue, attempt) == (handle.id, "high", 1)
    assert task == shop.report.name
    assert enqueued_at == inline.now
    progress = handle.progress()
    assert progress is not None
    assert (progress.done, progress.total, progress.note) == (1, 2, "half")
    assert current_job(None) is None


def test_batches(shop, inline):
    batch = shop.add.map(range(5), b=10)
    assert batch.counts() == {"finished": 5}
    assert [handle.result() for handle in batch.as_completed()]
    assert batch.results() == [10, 11, 12, 13, 14]
    mixed = shop.queue.enqueue([shop.add.call(1, 1), shop.fetch.call("abc")])
    assert mixed.results() == [2, ("abc", 3)]
    done, rest = wait(mixed)
    assert (len(done), len(rest)) == (2, 0)
    assert {handle.id for handle in as_completed(mixed)} == {handle.id for handle in mixed}


def test_jobs_that_wait_for_jobs(shop, inline):
    assert shop.chain.delay(30).result() == 30  # deeper than jobs run inside each other
    assert shop.achain.delay(30).result() == 30
    assert shop.spread.delay(4).result() == 10


def test_callbacks(shop, inline):
    told = []
    shop.add.delay(1, 2).add_done_callback(lambda handle: told.append(handle.result()))
    assert told == [3]


def test_callback_tasks_and_webhooks(shop, inline):
    shop.add.options(on_success=shop.tell).delay(1, 2)
    shop.fail.options(on_failure=shop.tell).delay("no paper")
    assert shop.told == [("finished", 3, ""), ("failed", None, "no paper")]
    handle = shop.add.options(on_success="https://example.com/hook").delay(1, 2)
    ((url, ending),) = inline.webhooks
    assert (url, ending.id, ending.result) == ("https://example.com/hook", handle.id, 3)


def test_generators(shop, inline):
    handle = shop.count.delay(3)
    assert list(handle.stream()) == [0, 1, 2]
    assert handle.result() == 0
    assert list(shop.acount.delay(3).stream()) == [0, 1, 2]


def test_what_was_sent_before_a_generator_runs(shop, manual):
    handle = shop.echo.delay()
    assert handle.send("hello")
    assert handle.send("bye")
    with pytest.raises(ResultTimeout, match=r"t\.run\(\)"):
        next(iter(handle.stream()))
    assert manual.run() == 1
    assert list(handle.stream()) == ["hello!"]
    assert handle.result() == "bye"


async def test_a_talk_with_a_generator(shop):
    async with shop.queue.testing("manual") as t:
        handle = await shop.echo.adelay()
        running = asyncio.ensure_future(t.arun())
        assert await handle.asend("hello")
        async for word in handle.stream(timeout=5):
            assert word == "hello!"
            assert await handle.asend("bye")
        assert await handle == "bye"
        assert await running == 1


@pytest.mark.parametrize("name", ["endless", "aendless"])
def test_time_limits(shop, inline, name):
    with pytest.raises(TaskTimeout, match=r"0\.05 s"):
        getattr(shop, name).delay().result()


def test_a_job_runs_in_the_calling_thread(shop, inline):
    assert shop.where.delay().result() == threading.current_thread().name


def test_what_is_meant_for_the_test_reaches_it(shop, inline, monkeypatch):
    def give_up(*_args):
        pytest.fail("seen by the test")

    monkeypatch.setattr(shop, "ran", type("Ran", (), {"append": give_up})())
    with pytest.raises(pytest.fail.Exception, match="seen by the test"):
        shop.add.delay(1)
    assert inline.enqueued().last.handle.status() == "failed"


def test_job_ids_and_meta(shop, inline):
    handle = shop.add.options(job_id="invoice-7", meta={"who": "me"}).delay(1)
    assert handle.id == "invoice-7"
    assert shop.queue.handle("invoice-7").result() == 1
    with pytest.raises(JobNotFound):
        shop.queue.handle("invoice-8").result()


# --- dependencies ---------------------------------------------------------------------


def test_dependencies_are_replaced(shop):
    with shop.queue.testing(dependencies={shop.get_client: lambda: {"6 * 9": "42"}}):
        assert shop.ask.delay("6 * 9").result() == "42"
        assert shop.aask.delay("6 * 9").result() == "42"
    with shop.queue.testing(), pytest.raises(JobFailed, match="no client in tests"):
        shop.ask.delay("6 * 9").result()


# --- manual ---------------------------------------------------------------------------


def test_jobs_run_when_the_test_says_so(shop, manual):
    handle = shop.add.delay(1, 2)
    assert (shop.ran, handle.status(), handle.done()) == ([], "queued", False)
    assert manual.run() == 1
    assert handle.result() == 3
    assert manual.run() == 0


def test_who_waits_too_early_is_told(shop, manual):
    handle = shop.add.delay(1)
    with pytest.raises(ResultTimeout, match=r"t\.run\(\)"):
        handle.result()
    with pytest.raises(ResultTimeout, match=r"t\.run\(\)"):
        handle.result(timeout=60)
    with pytest.raises(ResultTimeout, match=r"t\.run\(\)"):
        shop.add.map([1, 2]).results()
    assert wait([handle], timeout=0.01).not_done == {handle}


def test_another_thread_waits(shop, manual):
    handle = shop.add.delay(1, 2)
    results = []
    thread = threading.Thread(target=lambda: results.append(handle.result()))
    thread.start()
    manual.run()
    thread.join(5)
    assert results == [3]


def test_run_so_many(shop, manual):
    handles = [shop.add.delay(n) for n in range(3)]
    assert manual.run(limit=2) == 2
    assert [str(handle.status()) for handle in handles] == ["finished", "finished", "queued"]


def test_order_within_and_between_queues(shop, manual):
    for n, options in enumerate([{}, {"queue": "b"}, {}, {"at_front": True}, {"queue": "b"}]):
        shop.add.options(**options).delay(n)
    manual.run()
    assert [a for _name, a, _b in shop.ran] == [3, 0, 2, 1, 4]


def test_an_endless_chain_is_noticed(shop, manual, monkeypatch):
    monkeypatch.setattr("taskq.testing.engine.MOST", 20)
    again = shop.add.delay(0)
    monkeypatch.setattr(shop, "ran", type("Ran", (), {"append": lambda *_: shop.add.delay(0)})())
    with pytest.raises(TaskQError, match="does a job enqueue itself"):
        manual.run()
    assert again.result() == 0


def test_advance_runs_what_becomes_due_and_nothing_else(shop, manual):
    waiting = shop.add.delay(1)
    delayed = shop.add.options(delay=5).delay(2)
    assert manual.advance(10) == 1
    assert (str(waiting.status()), str(delayed.status())) == ("queued", "finished")
    assert manual.run() == 1


def test_a_job_nobody_takes_in_time_is_dropped(shop, manual):
    dropped = shop.add.options(ttl=30).delay(1)
    kept = shop.add.options(ttl=90).delay(2)
    manual.advance(60)
    assert manual.run() == 1
    assert kept.result() == 2
    with pytest.raises(JobNotFound):
        dropped.result()


def test_unique_jobs(shop, manual):
    task = shop.add.options(unique=True)
    first, second, other = task.delay(1, 2), task.delay(1, b=2), task.delay(2)
    assert (first.created, second.created, other.created) == (True, False, True)
    assert second.id == first.id
    assert manual.enqueued(shop.add).count == 2
    manual.run()
    assert task.delay(1, 2).created


def test_cancel(shop, manual):
    handle = shop.add.delay(1)
    told = []
    handle.add_done_callback(told.append)
    assert handle.cancel()
    assert told == [handle]
    assert manual.run() == 0
    with pytest.raises(JobCanceled):
        handle.result()


def test_calls_can_be_looked_at(shop, manual):
    shop.add.delay(1, b=2)
    shop.fetch.options(delay=60).delay("http://x")
    shop.add.map([3, 4])
    calls = manual.enqueued(shop.add)
    assert (calls.count, len(calls), len(manual.enqueued())) == (3, 3, 4)
    assert (calls[0].args, calls[0].kwargs) == ((1,), {"b": 2})
    assert [call.args for call in calls[1:]] == [(3,), (4,)]
    assert calls.last.handle.id == calls.last.id
    fetch = manual.enqueued(shop.fetch).last
    assert (fetch.options.queue, fetch.options.delay, fetch.queue) == ("web", 60, "web")
    assert repr(fetch) == f"<fetch('http://x') delay=60 queue='web' job {fetch.id}>"
    assert repr(calls).startswith("<3 calls:\n  <add(1, b=2) job ")
    assert repr(manual.enqueued(shop.fail)) == f"<no calls of {shop.fail.name}>"
    with pytest.raises(LookupError, match=r"No job of .*fail was enqueued"):
        _ = manual.enqueued(shop.fail).last
    with pytest.raises(IndexError, match="there are 3"):
        _ = calls[3]


# --- the context ----------------------------------------------------------------------


def test_the_apps_own_broker_is_back(shop):
    before = shop.queue.broker
    with suppress(ZeroDivisionError), shop.queue.testing():
        assert shop.queue.broker is not before
        raise ZeroDivisionError
    assert shop.queue.broker is before


def test_contexts_nest_and_end_in_any_order(shop):
    outer, inner = shop.queue.testing(), shop.queue.testing("manual")
    outer.__enter__()
    first = shop.add.delay(1)
    inner.__enter__()
    second = shop.add.delay(2)
    assert (outer.enqueued().count, inner.enqueued().count) == (1, 1)
    with pytest.raises(JobNotFound):
        first.status()
    outer.__exit__(None, None, None)
    assert inner.run() == 1
    assert second.result() == 2
    inner.__exit__(None, None, None)
    assert shop.queue.broker.url == "redis://127.0.0.1:1/0"


def test_two_apps_stay_apart(shop, app_module):
    other = app_module(APP)
    with shop.queue.testing() as a, other.queue.testing("manual") as b:
        shop.add.delay(1)
        handle = other.add.delay(2)
        assert (len(shop.ran), len(other.ran)) == (1, 0)
        assert (a.enqueued().count, b.enqueued().count) == (1, 1)
        assert b.run() == 1
        assert handle.result() == 2


def test_threads_share_it(shop, inline):
    handles = []
    threads = [
        threading.Thread(target=lambda n=n: handles.append((n, shop.add.delay(n).result())))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(handles) == [(n, n) for n in range(8)]


def test_closing_the_app_keeps_the_jobs(shop, inline):
    with shop.queue:
        handle = shop.add.delay(1)
    assert handle.result() == 1


def test_wrong_arguments(shop):
    with pytest.raises(ConfigError, match="'inline' or 'manual'"):
        shop.queue.testing("fast")
    with pytest.raises(ConfigError, match="aware datetime"):
        shop.queue.testing(now=datetime(2026, 3, 1))  # noqa: DTZ001
    with shop.queue.testing() as t:
        with pytest.raises(ConfigError, match="only goes forward"):
            t.advance(-1)
        with pytest.raises(TaskQError, match="make another"):
            t.__enter__()


def test_without_fakeredis(shop, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fakeredis", None)
    with pytest.raises(ConfigError, match=r'pip install "taskq\[testing\]"'):
        shop.queue.testing()


def test_rq_reads_the_jobs(shop, inline):
    from rq.job import Job

    handle = shop.add.delay(1, 2)
    job = Job.fetch(handle.id, connection=inline.redis, serializer=shop.queue.rq_serializer)
    assert job.get_status() == "finished"
    assert job.return_value() == 3
    assert tuple(job.args) == (1, 2)


def test_an_unknown_task_fails_at_once(shop, inline):
    task = shop.queue.tasks.pop(shop.add.name)
    with pytest.raises(JobFailed, match="no task"):
        task.delay(1).result()


# --- asyncio --------------------------------------------------------------------------


async def test_asyncio_inline(shop):
    async with shop.queue.testing() as t:
        assert await (await shop.fetch.adelay("abc")) == ("abc", 3)
        assert await (await shop.add.adelay(1, 2)) == 3
        assert await shop.add.delay(2, 2) == 4  # blocks the loop for as long as it runs
        assert await shop.fetch.delay("ab") == ("ab", 2)
        assert await gather(*[await shop.add.adelay(n) for n in range(3)]) == [0, 1, 2]
        assert await (await shop.achain.adelay(12)) == 12
        assert await (await shop.chain.adelay(12)) == 12
        with pytest.raises(JobFailed):
            await (await shop.fail.adelay("x"))
        handle = await shop.flaky.adelay(2)
        with pytest.raises(TaskQError, match="await t.aadvance"):
            t.advance(2)
        assert await t.aadvance(2) == 1
        assert await handle == 2
        with pytest.raises(TaskTimeout):
            await (await shop.aendless.adelay())
        with pytest.raises(TaskTimeout):
            await (await shop.endless.adelay())


async def test_asyncio_manual(shop):
    async with shop.queue.testing("manual") as t:
        batch = await shop.add.amap(range(3), b=1)
        told = []
        batch[0].add_done_callback(told.append)
        reading = asyncio.ensure_future(batch.aresults())
        waiting = asyncio.ensure_future(batch[1].aresult(timeout=5))
        await asyncio.sleep(0)
        with pytest.raises(TaskQError, match="await t.arun"):
            t.run()
        assert await t.arun() == 3
        assert await reading == [1, 2, 3]
        assert await waiting == 2
        assert told == [batch[0]]
        handle = await shop.spread.adelay(3)
        assert await t.arun() == 4
        assert await handle == 6
        with pytest.raises(ResultTimeout):
            await (await shop.add.adelay(1)).aresult(timeout=0.01)


async def test_asyncio_waiting_for_ever_is_noticed(shop, monkeypatch):
    monkeypatch.setattr("taskq.testing.loop_waits.IDLE_S", 0.02)
    async with shop.queue.testing("manual"):
        with pytest.raises(ResultTimeout, match=r"t\.arun\(\)"):
            await (await shop.add.adelay(1))
        with pytest.raises(ResultTimeout, match=r"t\.arun\(\)"):
            await (await shop.add.amap([1, 2]))


async def test_many_at_once(shop):
    async with shop.queue.testing() as t:
        handles = await asyncio.gather(*[shop.fetch.adelay("x" * n) for n in range(20)])
        assert [(await handle)[1] for handle in handles] == list(range(20))
        assert t.enqueued(shop.fetch).count == 20


async def test_a_cancelled_run_gives_its_job_back(shop):
    async with shop.queue.testing("manual") as t:
        handle = await shop.aendless.options(timeout=None).adelay()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(t.arun(), 0.05)
        assert await handle.astatus() == "queued"


def test_apps_of_any_kind_are_left_as_they_were():
    queue = TaskQ("redis://127.0.0.1:1/0")
    with queue.testing():
        pass
    assert queue._broker is None
