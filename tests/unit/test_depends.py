"""`Depends`: what is refused when decorated, what is made and closed, in which order."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from taskq import ConfigError, Depends, InvalidArguments, Task, TaskQ, TaskQError
from tests.fake_broker import FakeBroker, app_with

EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


def base() -> Iterator[str]:
    EVENTS.append("open base")
    try:
        yield "base"
    except BaseException as err:
        EVENTS.append(f"base sees {type(err).__name__}")
        raise
    finally:
        EVENTS.append("close base")


async def session(*, below: str = Depends(base)) -> AsyncIterator[str]:
    EVENTS.append("open session")
    await asyncio.sleep(0)
    try:
        yield f"session on {below}"
    finally:
        await asyncio.sleep(0)
        EVENTS.append("close session")


def plain(below: str = Depends(base)) -> str:
    EVENTS.append("plain")
    return f"plain on {below}"


async def awaited() -> int:
    return 7


@contextlib.contextmanager
def managed() -> Iterator[str]:
    EVENTS.append("open managed")
    yield "managed"
    EVENTS.append("close managed")


@contextlib.asynccontextmanager
async def async_managed() -> AsyncIterator[str]:
    EVENTS.append("open async managed")
    yield "async managed"
    EVENTS.append("close async managed")


class Client:
    """A context manager that is meant as it is."""

    def __init__(self, below: str = Depends(base)) -> None:
        self.below = below

    def __enter__(self) -> Client:
        raise AssertionError

    def __exit__(self, *_: object) -> None:
        raise AssertionError


def both(*, a: str = Depends(plain), b: str = Depends(base)) -> tuple[str, str]:
    EVENTS.append("body")
    return a, b


async def everything(
    url: str,
    *,
    a: str = Depends(session),
    b: str = Depends(plain),
    c: int = Depends(awaited),
    d: str = Depends(managed),
    e: str = Depends(async_managed),
    f: Client = Depends(Client),
) -> tuple[Any, ...]:
    EVENTS.append("body")
    await asyncio.sleep(0)
    return url, a, b, c, d, e, f.below


def made_app() -> TaskQ:
    return app_with(FakeBroker())


def task_of(fn: Callable[..., Any], app: TaskQ | None = None, **options: Any) -> Any:
    fn.__qualname__ = fn.__name__
    return (app or made_app()).task(**options)(fn)


# -- a plain call --------------------------------------------------------------------------------


def test_one_instance_for_all_who_ask_closed_in_reverse():
    assert task_of(both)() == ("plain on base", "base")
    assert EVENTS == ["open base", "plain", "body", "close base"]


async def test_every_way_to_give_a_value():
    result = await task_of(everything)("u")
    assert result == (
        "u", "session on base", "plain on base", 7, "managed", "async managed", "base",
    )  # fmt: skip
    assert EVENTS == [
        "open base", "open session", "plain", "open managed", "open async managed", "body",
        "close async managed", "close managed", "close session", "close base",
    ]  # fmt: skip


def test_a_plain_call_takes_what_is_passed_and_makes_only_the_rest():
    assert task_of(both)(b="mine") == ("plain on base", "mine")
    EVENTS.clear()
    assert task_of(both)(a="my a", b="my b") == ("my a", "my b")
    assert EVENTS == ["body"]


def test_a_task_of_options_and_a_static_one_resolve_too():
    assert task_of(both).options(queue="high")() == ("plain on base", "base")


def test_a_task_without_dependencies_is_run_as_it_is():
    def simple() -> int:
        return 1

    task = task_of(simple)
    assert task.runnable is simple
    assert task.injection is None


async def test_the_kind_of_the_function_stays():
    assert inspect.iscoroutinefunction(task_of(everything).runnable)
    assert not inspect.iscoroutinefunction(task_of(both).runnable)


async def test_a_def_that_returns_an_awaitable_keeps_its_dependencies_open():
    def late(*, a: str = Depends(base)) -> Any:
        async def later() -> str:
            await asyncio.sleep(0)
            EVENTS.append("body")
            return a

        return later()

    assert await task_of(late, mode="asyncio")() == "base"
    assert EVENTS == ["open base", "body", "close base"]


async def test_an_asynchronous_dependency_in_a_plain_call_of_a_def_is_an_error():
    def needy(*, a: str = Depends(session)) -> str:
        return a

    with pytest.raises(TaskQError, match=r"needy\(\) is a plain def with an asynchronous depend"):
        task_of(needy)()
    assert EVENTS == ["open base", "base sees TaskQError", "close base"]
    assert task_of(needy)(a="mine") == "mine"

    def needs_awaited(*, a: int = Depends(awaited)) -> int:
        return a

    with pytest.raises(TaskQError, match="make needs_awaited an async def"):
        task_of(needs_awaited)()


def test_process_scope_outside_of_a_worker_lasts_for_the_call():
    def deep(*, a: str = Depends(base, scope="process"), b: str = Depends(base)) -> tuple[str, str]:
        return a, b

    assert task_of(deep)() == ("base", "base")
    assert EVENTS == ["open base", "open base", "close base", "close base"]


# -- errors --------------------------------------------------------------------------------------


def failing(*, a: str = Depends(plain)) -> None:
    raise KeyError(a)


def test_the_error_of_the_job_is_thrown_in():
    with pytest.raises(KeyError):
        task_of(failing)()
    assert EVENTS == ["open base", "plain", "base sees KeyError", "close base"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(4)])
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_the_job_raises_closes_what_is_open_and_comes_through(error, is_async):
    def stops(*, a: str = Depends(base)) -> None:
        raise error

    async def stops_async(*, a: str = Depends(session)) -> None:
        raise error

    expected = type(error)
    if is_async and expected is StopIteration:
        expected = RuntimeError  # Python's own rule for coroutines
    with pytest.raises(expected):
        asyncio.run(task_of(stops_async)()) if is_async else task_of(stops)()
    assert EVENTS[-1] == "close base"
    assert f"base sees {expected.__name__}" in EVENTS


def test_a_dependency_that_fails_is_the_reason_and_the_others_close():
    def broken(*, below: str = Depends(base)) -> str:
        raise OSError("no connection")

    def asks(*, a: str = Depends(plain), b: str = Depends(broken)) -> None:
        EVENTS.append("body")

    with pytest.raises(OSError, match="no connection"):
        task_of(asks)()
    assert EVENTS == ["open base", "plain", "base sees OSError", "close base"]


def test_what_swallows_the_error_does_not_make_the_job_succeed():
    def swallows(*, below: str = Depends(base)) -> Iterator[str]:
        with contextlib.suppress(KeyError):
            yield "x"

    def asks(*, a: str = Depends(swallows)) -> None:
        raise KeyError(a)

    with pytest.raises(KeyError):
        task_of(asks)()
    assert EVENTS == ["open base", "base sees KeyError", "close base"]


def test_an_error_at_closing_fails_the_job_and_the_rest_closes_with_it():
    def commits(*, below: str = Depends(base)) -> Iterator[str]:
        yield "x"
        raise OSError("commit failed")

    def asks(*, a: str = Depends(commits)) -> str:
        return a

    with pytest.raises(OSError, match="commit failed"):
        task_of(asks)()
    assert EVENTS == ["open base", "base sees OSError", "close base"]


def test_an_error_of_the_job_may_be_translated_and_keeps_its_history():
    def translates(*, below: str = Depends(base)) -> Iterator[str]:
        try:
            yield "x"
        except KeyError as err:
            raise LookupError("translated") from err

    def again(*, below: str = Depends(translates)) -> Iterator[str]:
        try:
            yield "x"
        finally:
            raise OSError("rollback failed")

    def asks(*, a: str = Depends(again)) -> None:
        raise KeyError(a)

    with pytest.raises(OSError, match="rollback failed") as found:
        task_of(asks)()
    assert isinstance(found.value.__context__, KeyError)
    assert EVENTS[-2:] == ["base sees OSError", "close base"]


async def test_a_cancellation_closes_and_stays_a_cancellation(caplog):
    async def breaks() -> AsyncIterator[str]:
        try:
            yield "x"
        finally:
            raise OSError("broken pipe")

    async def waits(*, a: str = Depends(session), b: str = Depends(breaks)) -> None:
        EVENTS.append("body")
        await asyncio.sleep(60)

    running = asyncio.ensure_future(task_of(waits)())
    while "body" not in EVENTS:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert EVENTS[-3:] == ["close session", "base sees CancelledError", "close base"]
    assert "waits: closing test_a_cancellation" in caplog.text
    assert "broken pipe" in caplog.text


# -- generator functions -------------------------------------------------------------------------


def test_a_generator_keeps_its_dependencies_until_it_has_ended():
    from taskq.depends import needs_of
    from taskq.injection import Injection

    def counts(*, a: str = Depends(base)) -> Iterator[Any]:
        got = yield 1
        EVENTS.append(f"got {got}")
        try:
            yield 2
        except KeyError:
            EVENTS.append("thrown in")
        return a

    run = Injection(
        counts, "counts", needs_of(counts, "counts"), lambda: None, awaited=False
    ).runnable
    assert inspect.isgeneratorfunction(run)
    running = run()
    assert next(running) == 1
    assert running.send("x") == 2
    with pytest.raises(StopIteration) as end:
        running.throw(KeyError())
    assert end.value.value == "base"
    assert EVENTS == ["open base", "got x", "thrown in", "close base"]
    EVENTS.clear()
    running = run()
    next(running)
    running.close()
    assert EVENTS == ["open base", "base sees GeneratorExit", "close base"]


async def test_an_async_generator_keeps_its_dependencies_until_it_has_ended():
    from taskq.depends import needs_of
    from taskq.injection import Injection

    async def counts(*, a: str = Depends(session)) -> AsyncIterator[Any]:
        got = yield 1
        EVENTS.append(f"got {got}")
        try:
            yield 2
        except KeyError:
            EVENTS.append("thrown in")

    run = Injection(
        counts, "counts", needs_of(counts, "counts"), lambda: None, awaited=True
    ).runnable
    assert inspect.isasyncgenfunction(run)
    running = run()
    assert await anext(running) == 1
    assert await running.asend("x") == 2
    with pytest.raises(StopAsyncIteration):
        await running.athrow(KeyError())
    assert EVENTS == [
        "open base", "open session", "got x", "thrown in", "close session", "close base",
    ]  # fmt: skip
    EVENTS.clear()
    running = run()
    await anext(running)
    await running.aclose()
    assert EVENTS[-3:] == ["close session", "base sees GeneratorExit", "close base"]


# -- what is refused when decorated --------------------------------------------------------------


def by_position(a: str = Depends(base)) -> None: ...


def needs_arguments(url: str) -> str:
    return url


def asks_too_much(*, a: str = Depends(needs_arguments)) -> None: ...


def lives_longer(*, a: str = Depends(base)) -> str:
    return a


def mixed_lives(*, a: str = Depends(lives_longer, scope="process")) -> None: ...


def positional_only(a: str = Depends(base), /) -> str:
    return a


def asks_positional_only(*, a: str = Depends(positional_only)) -> None: ...


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            by_position,
            (
                "by_position(): 'a' has Depends(base) as its default and could be passed by "
                "position. Only keyword-only parameters can be dependencies: put a * before it, "
                "def by_position(..., *, a=...)."
            ),
        ),
        (
            asks_too_much,
            (
                "asks_too_much(): needs_arguments() needs an argument 'url', and dependencies are "
                "called without any. Give it a default, or Depends(...)."
            ),
        ),
        (
            mixed_lives,
            (
                "mixed_lives(): lives_longer lives as long as the worker process and needs base, "
                "which is closed after each job. Make that scope='process', too."
            ),
        ),
        (
            asks_positional_only,
            (
                "asks_positional_only(): positional_only() asks for 'a' by position; dependencies "
                "are passed by name. Take the / out of its signature."
            ),
        ),
    ],
)
def test_what_cannot_work_is_refused_when_decorated(fn, message):
    with pytest.raises(ConfigError) as found:
        task_of(fn)
    assert str(found.value) == message


def test_what_is_no_function_is_refused_at_once():
    for wrong, kind in ((base(), "a generator"), (3, "a int"), (Depends(base), "Depends(base)")):
        with pytest.raises(ConfigError) as found:
            Depends(wrong)  # type: ignore[call-overload]
        assert str(found.value) == (
            f"Depends() takes a function, and got {kind}. Write Depends(get_client): the function "
            "itself, not what it returns."
        )
    with pytest.raises(ConfigError, match="scope='app': must be 'job'"):
        Depends(base, scope="app")  # type: ignore[call-overload]


def test_a_cycle_is_refused_when_decorated():
    def first(*, a: str = "") -> str:
        return a

    def second(*, a: str = Depends(first)) -> str:
        return a

    first.__kwdefaults__ = {"a": Depends(second)}

    def asks(*, a: str = Depends(first)) -> None: ...

    with pytest.raises(ConfigError) as found:
        task_of(asks)
    assert "asks(): a dependency needs itself: " in str(found.value)
    assert str(found.value).endswith(".first.")


# -- enqueueing ----------------------------------------------------------------------------------


def sized(path: str, size: int = 1, *, a: str = Depends(base), **rest: int) -> None: ...


def unsized(path: str, *, alpha: str = Depends(base)) -> None: ...


def test_a_dependency_is_never_passed_to_a_job():
    for fn, name in ((sized, "a"), (unsized, "alpha")):
        task = task_of(fn)
        for call in (task.delay, task.call):
            with pytest.raises(InvalidArguments) as found:
                call("x", **{name: "mine"})
            assert str(found.value).startswith(
                f"{fn.__name__}() got {name!r}, which is a dependency: Depends(base) is called "
                "where the task runs, and what it gives is never part of a job. Leave it out. "
                f"Signature: {fn.__name__}(path: str"
            )
            assert str(found.value).endswith("Nothing was enqueued.")
        with pytest.raises(InvalidArguments, match="is a dependency"):
            task.map(["x"], **{name: "mine"})


def test_no_message_proposes_a_dependency():
    with pytest.raises(InvalidArguments) as found:
        task_of(unsized).delay("x", alphaa=1)
    assert "Did you mean" not in str(found.value)
    assert "unsized(path: str, *, alpha: str = Depends(base))" in str(found.value)


def test_the_payload_and_the_unique_key_have_no_dependencies():
    app = made_app()
    task = task_of(unsized, app, unique=True)
    job = task.build(app, ("x",), {})
    assert b"Depends" not in job.data
    assert app.codec.load_call(job.data, job_id=job.id, queue="default")[2:] == (["x"], {})
    assert job.unique == task.build(app, (), {"path": "x"}).unique


def test_a_payload_that_brings_a_dependency_is_refused():
    rebuild = task_of(sized).rebuild_args
    assert rebuild(["x"], {"size": 2}) == (["x"], {"size": 2})
    with pytest.raises(InvalidArguments, match=r"sized\(\) got 'a' from the job's payload"):
        rebuild(["x"], {"a": "evil"})


def test_the_signature_can_be_read():
    signature = inspect.signature(task_of(both))
    assert str(signature) == (
        "(*, a: 'str' = Depends(plain), b: 'str' = Depends(base)) -> 'tuple[str, str]'"
    )
    assert repr(Depends(base, scope="process")) == "Depends(base, scope='process')"


# -- overrides -----------------------------------------------------------------------------------


def test_overrides_stand_in_at_any_depth_and_nest():
    app = made_app()
    task = task_of(both, app)
    with app.override_dependencies({base: lambda: "fake"}):
        assert task() == ("plain on fake", "fake")
        with app.override_dependencies({plain: lambda: "other"}):
            assert task() == ("other", "fake")
        assert task() == ("plain on fake", "fake")
        assert EVENTS == ["plain", "body", "body", "plain", "body"]
    assert task() == ("plain on base", "base")


def test_a_fake_may_yield_and_have_dependencies_and_end_the_need_for_others():
    app = made_app()
    task = task_of(both, app)

    def fake(*, below: str = Depends(managed)) -> Iterator[str]:
        yield f"fake on {below}"
        EVENTS.append("close fake")

    with app.override_dependencies({plain: fake, base: lambda: "b"}):
        assert task() == ("fake on managed", "b")
    assert EVENTS == ["open managed", "body", "close fake", "close managed"]


def test_overrides_end_when_the_block_raises():
    app = made_app()
    with pytest.raises(KeyError), app.override_dependencies({base: lambda: "fake"}):
        raise KeyError
    assert app.overrides == {}


def test_a_fake_makes_an_asynchronous_dependency_plain():
    app = made_app()

    def needy(*, a: str = Depends(session)) -> str:
        return a

    task = task_of(needy, app)
    with app.override_dependencies({session: lambda: "fake"}):
        assert task() == "fake"


def test_an_unbound_task_is_at_home_in_the_app_that_took_it():
    def asks(*, a: str = Depends(base)) -> str:
        return a

    asks.__qualname__ = "asks"
    one, other = made_app(), made_app()
    task = Task(asks)
    with one.override_dependencies({base: lambda: "fake"}):
        assert task() == "base"  # whose is it?
        one._add(task)
        assert task() == "fake"
        assert task.options(queue="high")() == "fake"
        with other.override_dependencies({base: lambda: "other"}):
            assert task() == "fake"
    assert task() == "base"


@pytest.mark.parametrize(
    ("fakes", "message"),
    [
        ({base: "fake"}, r"base is replaced by a function .* \{base: lambda: value\}"),
        ({base: needs_arguments}, "needs an argument 'url'"),
        ({"base": base}, "Dependencies are replaced by function"),
    ],
)
def test_wrong_overrides_are_refused(fakes, message):
    app = made_app()
    with (
        pytest.raises(ConfigError, match=message),
        app.override_dependencies(fakes),
    ):
        pass
    assert app.overrides == {}


def test_a_fake_that_needs_what_it_replaces_is_a_cycle():
    app = made_app()
    task = task_of(both, app)

    def fake(*, real: str = Depends(base)) -> str:
        return real

    with (
        app.override_dependencies({base: fake}),
        pytest.raises(ConfigError, match="a dependency needs itself"),
    ):
        task()
