"""Places in streams, what is kept of them, and what a generator yields to its driver."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from taskq import ConfigError, InvalidArguments, RemoteError, TaskQ, TaskQError, receive
from taskq.broker.tap import Place, Tap, Taps
from taskq.commands import adrain, drain, pack_error, unpack_error
from taskq.worker.generator_run import Run
from taskq.worker.yields import KEEP_BYTES, Kept


def entries(*ids: str):
    return [(one.encode(), [b"v", one.encode()]) for one in ids]


def test_a_place_notices_restarts_and_gaps():
    place = Place()
    seen = [(value.decode(), first) for value, first in place.walk(entries("7-3", "7-4", "9-1"))]
    assert seen == [("7-3", False), ("7-4", False), ("9-1", True)]
    assert (place.missed, place.restarts, place.id) == (2, 1, b"9-1")
    assert list(place.walk(entries("7-5", "9-1"))) == [], "what it has seen"


def test_a_place_goes_on_where_another_was():
    place = Place(b"7-4")
    assert [value for value, _first in place.walk(entries("7-5"))] == [b"7-5"]
    assert (place.missed, place.restarts) == (0, 0)


def test_readers_of_one_stream_are_at_different_places():
    got: dict[str, list[bytes]] = {"late": [], "early": []}

    def tap(name: str, cursor: bytes) -> Tap:
        return Tap(b"s", cursor, lambda e: got[name].extend(i for i, _ in e), lambda: False)

    taps = Taps()
    one, two = tap("late", b"0-0"), tap("early", b"7-2")
    assert taps.add(one)
    assert taps.add(two)
    assert not taps.add(two), "it was here"
    assert taps.places() == ([b"s"], [b"0-0"])
    for each in taps.of(b"s"):
        each.take(entries("7-1", "7-2", "7-3"))
    assert got == {"late": [b"7-1", b"7-2", b"7-3"], "early": [b"7-3"]}
    taps.remove(one)
    taps.remove(one)
    assert taps.places() == ([b"s"], [b"7-3"])
    taps.remove(two)
    assert len(taps) == 0


def test_what_is_kept_of_a_stream():
    kept = Kept(100)
    assert kept.lowest(50, 1_000) == 1
    assert kept.lowest(250, 1_000) == 151
    big = Kept(10_000)
    sizes = [1_000_000] * 40
    lows = [big.lowest(number, size) for number, size in enumerate(sizes, 1)]
    assert lows[15] == 1
    assert 40 - lows[-1] + 1 <= KEEP_BYTES // 1_000_000


@pytest.mark.parametrize(
    ("thrown", "raised"),
    [
        (ValueError("a"), ValueError("a")),
        (KeyError("b"), KeyError("b")),
        (TimeoutError, TimeoutError()),
        (TaskQError("c"), RemoteError("taskq.errors.TaskQError", "c")),
        (RemoteError("x.Y", "d"), RemoteError("x.Y", "d")),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "e"), None),
    ],
)
def test_exceptions_travel_by_name_and_message(thrown, raised):
    made = unpack_error(pack_error(thrown).encode())
    if raised is None:
        assert isinstance(made, RemoteError)
    else:
        assert (type(made), made.args) == (type(raised), raised.args)


@pytest.mark.parametrize("thrown", ["text", SystemExit(), KeyboardInterrupt, 3])
def test_only_exceptions_can_be_thrown(thrown):
    with pytest.raises(InvalidArguments, match="Nothing was sent"):
        pack_error(thrown)


def test_what_cannot_be_read_is_an_error_all_the_same():
    assert isinstance(unpack_error(b"{"), RemoteError)
    assert isinstance(unpack_error(b'["builtins.SystemExit", ""]'), RemoteError)


def patient(timeout):
    try:
        got = yield receive(timeout=timeout)
    except TimeoutError:
        got = "late"
    yield got
    return got


def test_a_drained_generator_gives_its_result():
    assert drain(patient(10)) == "late"
    with pytest.raises(TaskQError, match="stock RQ runs this task"):
        drain(patient(None))


async def test_a_drained_async_generator():
    seen = []

    async def generator():
        yield 1
        try:
            await receive(timeout=10)
        except TimeoutError:
            seen.append("late")
        await receive()

    with pytest.raises(TaskQError, match="stock RQ runs this task"):
        await adrain(generator())
    assert seen == ["late"]


async def test_receive_outside_of_a_task():
    with pytest.raises(TaskQError, match="outside of a generator task"):
        await receive()
    with pytest.raises(ConfigError, match="must be seconds"):
        receive(timeout="3")  # type: ignore[arg-type]


def counting(n):
    yield from range(n)


def plain():
    return 1


@pytest.mark.parametrize(
    ("fn", "options", "message"),
    [
        (counting, {"stream_keep": 0}, "stream_keep=0: must be a number above 0"),
        (counting, {"stream_ahead": 20_000}, "must not be above stream_keep=10000"),
        (plain, {"stream_keep": 3}, "stream_keep is for functions with a yield"),
    ],
)
def test_limits_of_streams_are_checked(fn, options, message):
    with pytest.raises(ConfigError, match=message):
        TaskQ("redis://nobody:1").task(**options)(fn)


def test_limits_belong_to_the_decorator():
    task = TaskQ("redis://nobody:1").task(stream_keep=5, stream_ahead=5)(counting)
    assert (task.stream_keep, task.stream_ahead) == (5, 5)
    assert list(task(3)) == [0, 1, 2], "a plain call stays one"
    with pytest.raises(ConfigError, match="belongs to the decorator"):
        task.options(stream_keep=3)


@pytest.mark.parametrize(("generation", "read"), [(7, 10), (6, 0)])
def test_what_a_reader_says_before_redis_has_answered_is_not_lost(generation: int, read: int):
    """Else a task that waits for its reader would wait for ever."""
    run = Run(SimpleNamespace(spec=None), 1_000, lambda _run, _item: b"")
    run.note_read(generation, 10)
    assert run.read == 0
    run.learn_generation(b"7")
    assert run.read == read
    run.note_read(7, 12)
    assert run.read == 12
