from __future__ import annotations

import asyncio
import functools
import inspect
import json
import math
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import rq.utils

from taskq import (
    Batch,
    Call,
    ConfigError,
    InvalidArguments,
    NotSerializable,
    PayloadTooLarge,
    Task,
    TaskQ,
)
from taskq.ids import new_id
from tests.fake_broker import FakeBroker, app_with, fields_of

HERE = __name__


def thumbnail(path: str, size: int = 256) -> str:
    """Make it small."""
    return f"{path}:{size}"


async def fetch(url: str, *, tries: int = 1) -> bytes:
    return url.encode() * tries


def counting() -> Iterator[int]:
    yield 1


async def acounting() -> AsyncIterator[int]:
    yield 1


def iterating() -> Iterator[int]:
    return iter([1])


def typed_iterating(): ...


typed_iterating.__annotations__["return"] = Iterator[int]


def listing() -> list[Iterator[int]]:
    return []


class Images:
    def crop(self, path: str) -> str:
        return path

    @classmethod
    def make(cls) -> Images:
        return cls()

    @staticmethod
    def turn(path: str) -> str:
        return path

    def __call__(self) -> None: ...


@dataclass
class Point:
    x: int
    y: int


def move(point: Point, *more: Point, by: Point, **rest: Point) -> Point: ...


def unresolvable(point: Nowhere, by: Point) -> Nowhere: ...  # type: ignore[name-defined] # noqa: F821 (the subject)


@functools.wraps(fetch)
def wrapped(*args: Any, **kwargs: Any) -> Any: ...


queue = TaskQ("redis://fake:6379/0")
in_module = queue.task(name=f"{HERE}.in_module")(thumbnail)
in_module.__qualname__ = in_module.qualname = "in_module"
async_in_module = queue.task(name=f"{HERE}.async_in_module")(fetch)
async_in_module.__qualname__ = async_in_module.qualname = "async_in_module"


@pytest.fixture
def fake() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def app(fake: FakeBroker) -> TaskQ:
    return app_with(fake)


def payload(job) -> list[Any]:
    return json.loads(job.data)


# --- what a task is ---------------------------------------------------------------------


def test_a_plain_call_stays_one(app):
    task = app.task(thumbnail)
    assert task("a.png", size=3) == "a.png:3"
    assert asyncio.run(app.task(fetch)("x", tries=2)) == b"xx"
    assert (task.__name__, task.__doc__, task.__module__) == (
        "thumbnail",
        "Make it small.",
        HERE,
    )
    assert inspect.signature(task) == inspect.signature(thumbnail)
    assert inspect.unwrap(task) is thumbnail
    assert repr(task) == f"<Task {HERE}.thumbnail (thread)>"


def test_with_and_without_parentheses(app):
    assert app.task()(thumbnail).name == f"{HERE}.thumbnail"
    made = TaskQ().task(name="shop.resize", aliases=["old.resize"], queue="web")(thumbnail)
    assert (made.name, made.aliases, made.opts.queue) == ("shop.resize", ("old.resize",), "web")


def test_the_mode_is_found_by_looking(app):
    assert app.task(thumbnail).mode == "thread"
    assert app.task(fetch).mode == "asyncio"
    assert TaskQ().task(mode="asyncio")(thumbnail).mode == "asyncio"


def test_async_tasks_look_asynchronous(app):
    coroutine_task, plain = app.task(fetch), app.task(thumbnail)
    look = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else _asyncio_look
    assert look(coroutine_task)
    assert look(coroutine_task.options(queue="x"))
    assert not look(plain)


def _asyncio_look(fn) -> bool:
    return asyncio.iscoroutinefunction(fn)


def test_stock_rq_imports_and_runs_it(app_module):
    module = app_module("""
        from taskq import TaskQ, task
        queue = TaskQ()

        @queue.task
        def double(n: int) -> int:
            return n * 2

        @task
        async def fetch(n: int) -> int:
            return n

        class Shop:
            @staticmethod
            @queue.task
            def price(n: int) -> int:
                return n + 1
    """)
    assert rq.utils.import_attribute(module.double.name)(4) == 8
    assert rq.utils.import_attribute(module.Shop.price.name)(4) == 5
    found = rq.utils.import_attribute(module.fetch.name)
    assert asyncio.run(found(3)) == 3


def test_pickled_by_name():
    assert pickle.loads(pickle.dumps(in_module)) is in_module
    assert pickle.loads(pickle.dumps(async_in_module)) is async_in_module
    copy = pickle.loads(pickle.dumps(in_module.options(queue="high", at_front=True)))
    assert (copy.name, copy.opts.queue, copy.opts.at_front) == (in_module.name, "high", True)


def test_attributes_of_the_function_hide_no_method(app, fake, monkeypatch):
    monkeypatch.setattr(thumbnail, "delay", 3, raising=False)
    assert app.task(thumbnail).delay("a").created


# --- what cannot be one -----------------------------------------------------------------


def local_function():
    def inner() -> None: ...

    return inner


NO_TASKS = {
    "lambda": (lambda: 1, "it is a lambda. A worker finds a task by importing it"),
    "local": (local_function(), "it is defined inside another function"),
    "method": (Images.crop, "Images.crop cannot be a task: it is a method"),
    "bound method": (Images().crop, "it is a method"),
    "bound class method": (Images.make, "it is a method"),
    "class method": (vars(Images)["make"], "it is a method"),
    "class": (Images, "it is a class"),
    "object": (Images(), "it is no function but an object of type Images"),
    "partial": (functools.partial(thumbnail, size=3), "no function but an object of type partial"),
    "number": (3, "3 cannot be a task: it is no function but an object of type int"),
    "iterator in a text": (iterating, "annotated as returning an iterator, which no result can"),
    "iterator": (typed_iterating, "annotated as returning an iterator"),
    "no signature": (max, "it has no signature that Python can read"),
    "task": (in_module, "is a task already"),
}


@pytest.mark.parametrize("what", NO_TASKS)
def test_what_no_worker_could_import_is_refused(app, what):
    fn, message = NO_TASKS[what]
    with pytest.raises(ConfigError, match=re.escape(message)):
        app.task(fn)
    assert app.tasks == {}


def test_what_only_looks_like_it_is_accepted(app):
    assert app.task(listing).name.endswith(".listing")
    assert app.task(Images.turn).name == f"{HERE}.Images.turn"
    assert app.task(math.floor).name == "math.floor"
    assert TaskQ().task(vars(Images)["turn"])("a") == "a"
    assert app.task(wrapped).mode == "thread"
    assert app.task(counting).mode == app.task(acounting).mode == "generator"


@pytest.mark.parametrize(
    ("fn", "mode", "message"),
    [
        (thumbnail, "generator", "mode='generator' is for functions with a yield"),
        (counting, "thread", "counting: it yields, so it runs as a generator task"),
        (acounting, "asyncio", "acounting: it yields, so it runs as a generator task"),
        (fetch, "process", "mode='process' runs a plain function in a child process"),
        (fetch, "thread", "an async def runs on the event loop"),
        (thumbnail, "fork", "mode='fork': must be 'asyncio', 'thread' or 'process'"),
    ],
)
def test_modes_that_do_not_fit_are_refused(app, fn, mode, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        app.task(mode=mode)(fn)


@pytest.mark.parametrize(
    "options", [{"name": "not a name"}, {"name": ""}, {"aliases": ["a b"]}, {"aliases": "a.b"}]
)
def test_bad_names_are_refused(app, options):
    with pytest.raises(ConfigError, match="name"):
        app.task(**options)(thumbnail)


def test_bad_options_name_the_task(app):
    with pytest.raises(ConfigError, match=re.escape("@task of thumbnail(): there is no option")):
        app.task(quue="x")(thumbnail)


# --- names ------------------------------------------------------------------------------

HELLO = """
from taskq import TaskQ, task
queue = TaskQ()

@queue.task
def greet(name: str) -> str:
    return name

@task
def unbound() -> None: ...

if __name__ in ("__main__", "__mp_main__"):
    print(greet.name, unbound.name, queue)
"""


def run(*command: str, cwd: Path, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_program_names_its_tasks_as_a_worker_would(tmp_path):
    (tmp_path / "shop").mkdir()
    for file in (tmp_path / "hello.py", tmp_path / "shop" / "queue.py"):
        file.write_text(HELLO)
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "__main__.py").write_text(HELLO)
    assert run("hello.py", cwd=tmp_path) == "hello.greet hello.unbound hello:queue"
    assert run("./hello.py", cwd=tmp_path).startswith("hello.greet ")
    assert run("-m", "hello", cwd=tmp_path).startswith("hello.greet ")
    assert run("-m", "shop.queue", cwd=tmp_path).startswith("shop.queue.greet ")
    assert run("-m", "shop", cwd=tmp_path).startswith("shop.__main__.greet ")


def test_spawned_children_use_the_same_names(tmp_path):
    (tmp_path / "hello.py").write_text(
        HELLO
        + textwrap.dedent("""
        if __name__ == "__main__":
            import multiprocessing
            child = multiprocessing.get_context("spawn").Process(target=print)
            child.start(); child.join()
    """)
    )
    printed = [line for line in run("hello.py", cwd=tmp_path).splitlines() if line]
    assert printed == ["hello.greet hello.unbound hello:queue"] * 2


def test_interactive_tasks_cannot_be_enqueued_and_say_so(tmp_path):
    session = textwrap.dedent("""
        from taskq import TaskQ
        queue = TaskQ()
        @queue.task
        def greet(name): return name

        @queue.task(name="shop.greet")
        def named(name): return name

        print(greet("a"))
        try:
            greet.delay("a")
        except Exception as error:
            print(type(error).__name__, error)
        print(named.call("a"))
    """)
    printed = run("-", cwd=tmp_path, stdin=session)
    assert printed.splitlines()[0] == "a"
    assert "ConfigError greet() is defined where no worker can import it" in printed
    assert "Nothing was enqueued." in printed
    assert "<Call shop.greet('a')>" in printed


# --- calling ----------------------------------------------------------------------------


def test_delay_sends_one_job_of_rqs_form(app, fake):
    task = app.task(queue="web", timeout=30)(thumbnail)
    handle = task.delay("a.png", size=64)
    (job,) = fake.jobs
    assert handle.id == job.id
    assert handle.created
    assert payload(job) == [f"{HERE}.thumbnail", None, ["a.png"], {"size": 64}]
    assert (job.queue, job.fields, job.token) == ("web", ["timeout", "30"], "")
    assert (job.delay_s, job.at, job.at_front, job.unique, job.ttl_s) == (
        None,
        None,
        False,
        "",
        None,
    )


def test_adelay(app, fake):
    handle = asyncio.run(app.task(fetch).adelay("x", tries=3))
    assert payload(fake.jobs[0])[2:] == [["x"], {"tries": 3}]
    assert handle.id == fake.jobs[0].id


def test_nothing_is_sent_when_the_call_is_wrong(app, fake):
    task = app.task(thumbnail)
    for call in (task.delay, task.call, lambda *a, **k: asyncio.run(task.adelay(*a, **k))):
        with pytest.raises(InvalidArguments, match="Did you mean 'size'"):
            call("a", sice=3)
    with pytest.raises(NotSerializable, match=r"^thumbnail\(\): argument 'path' is an object"):
        task.delay(object())
    with pytest.raises(NotSerializable, match="Nothing was enqueued"):
        task.map(["a", "b", object()])
    with pytest.raises(InvalidArguments):
        task.map(["a", "b"], sice=3)
    with pytest.raises(PayloadTooLarge, match="Nothing was enqueued"):
        task.delay("x" * 2_000_000)
    assert fake.trips == []


def test_options_of_a_call(app, fake):
    task = app.task(thumbnail)
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    task.options(queue="high", delay=60, ttl=5.5).delay("a")
    task.options(at=moment, at_front=True).delay("b")
    task.options(meta={"tenant": 3}, description="thumb").delay("c")
    delayed, dated, described = fake.jobs
    assert (delayed.queue, delayed.delay_s, delayed.ttl_s) == ("high", 60, 66)
    assert fields_of(delayed) == {"ttl": "6"}
    assert (dated.at, dated.at_front) == (moment.timestamp(), True)
    assert fields_of(described) == {"description": "thumb", "meta": b'{"tenant":3}'}
    assert task.opts.queue == "default"


def test_the_ttl_of_a_dated_job_counts_from_its_date(app, fake):
    app.task(thumbnail).options(at=datetime(2001, 1, 1, tzinfo=timezone.utc), ttl=5).delay("a")
    assert fake.jobs[0].ttl_s == 5


def test_a_chosen_id_gets_a_token(app, fake):
    task = app.task(thumbnail).options(job_id="nightly-1")
    assert task.delay("a").id == "nightly-1"
    assert task.delay("a").id == "nightly-1"
    first, second = fake.jobs
    assert first.token
    assert first.token != second.token


def test_options_are_kept_by_reference_not_by_value(app):
    with pytest.raises(ConfigError, match=re.escape("thumbnail.options(): there is no option")):
        app.task(thumbnail).options(tiemout=3)


def test_ids_are_rqs_and_different():
    ids = {new_id() for _ in range(20_000)}
    assert len(ids) == 20_000
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", made) for made in ids)


# --- several ----------------------------------------------------------------------------


def test_map_is_one_trip_in_order(app, fake):
    batch = app.task(thumbnail).map(["a", "b", "c"], size=64)
    assert isinstance(batch, Batch)
    assert fake.trips == [3]
    assert [payload(job)[2:] for job in fake.jobs] == [[[x], {"size": 64}] for x in "abc"]
    assert [handle.id for handle in batch] == [job.id for job in fake.jobs]
    assert fields_of(fake.jobs[0]) == {"result_ttl": "86400"}


def test_map_of_nothing(app):
    assert list(app.task(thumbnail).map([])) == []


def test_amap(app, fake):
    batch = asyncio.run(app.task(fetch).amap(iter(["a", "b"]), tries=2))
    assert len(list(batch)) == 2
    assert fake.trips == [2]


def test_one_id_for_several_jobs_is_refused(app, fake):
    with pytest.raises(ConfigError, match="job_id='x' is given to more than one job of a batch"):
        app.task(thumbnail).options(job_id="x").map(["a", "b"])
    assert fake.trips == []


def test_a_call_is_checked_and_not_sent(app, fake):
    call = app.task(thumbnail).call("a.png", size=3)
    assert isinstance(call, Call)
    assert repr(call) == f"<Call {HERE}.thumbnail('a.png', size=3)>"
    assert fake.trips == []
    first, second = call.new_job(app), call.new_job(app)
    assert first.id != second.id
    assert first.data == second.data


def test_handle_from_an_id(app, fake):
    task = app.task(thumbnail)
    assert task.handle("abc").id == "abc"
    for wrong in ("a b", "", "a:b"):
        with pytest.raises(ConfigError, match="job_id"):
            task.handle(wrong)
    assert fake.trips == []


# --- unique -----------------------------------------------------------------------------


def test_unique_joins_the_first_job(app, fake):
    task = app.task(unique=True)(thumbnail)
    first = task.delay("a", 256)
    second = task.delay(path="a")
    assert (first.created, second.created) == (True, False)
    assert first.id == second.id
    assert fields_of(fake.jobs[0])["tq_unique"] == fake.jobs[0].unique
    assert len(fake.jobs[0].unique) < 64
    assert task.delay("b").created
    assert task.options(unique=None).delay("a").created


def test_unique_by_text_and_by_function(app, fake):
    task = app.task(thumbnail)
    nightly = task.options(unique="nightly")
    assert nightly.delay("a").id == nightly.delay("b").id
    by_path = task.options(unique=lambda path, size=256: path if size else None)
    assert by_path.delay("a", size=1).id == by_path.delay("a", size=2).id
    assert by_path.delay("a", size=0).id != by_path.delay("a", size=0).id
    with pytest.raises(ConfigError, match="returned 3; it must return a text"):
        task.options(unique=lambda path: 3).delay("a")


# --- models -----------------------------------------------------------------------------


def test_arguments_become_what_the_annotations_name(app):
    task = app.task(move)
    assert task.rebuild_args is not None
    args, kwargs = task.rebuild_args([{"x": 1, "y": 2}, {"x": 0, "y": 0}], {"by": {"x": 3, "y": 4}})
    assert args == [Point(1, 2), {"x": 0, "y": 0}]
    assert kwargs == {"by": Point(3, 4)}
    assert task.rebuild_result is not None
    assert task.rebuild_result({"x": 1, "y": 1}) == Point(1, 1)


def test_nothing_to_rebuild_is_none(app):
    task = app.task(thumbnail)
    assert task.rebuild_args is None
    assert task.rebuild_result is None


def test_one_unresolvable_annotation_does_not_cost_the_others(app):
    task = app.task(unresolvable)
    assert task.rebuild_args is not None
    assert task.rebuild_args([{"a": 1}], {"by": {"x": 1, "y": 2}}) == (
        [{"a": 1}],
        {"by": Point(1, 2)},
    )
    assert task.rebuild_result is None


def test_a_task_needs_no_type_arguments():
    assert Task[[str], int] is not None
