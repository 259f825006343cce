"""Calls and values through the codec: what comes back, and what each refusal says."""

# ruff: noqa: DTZ001, DTZ901 - datetimes without a zone are values like others here

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import gc
import inspect
import json
import pathlib
import pickle
import random
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from taskq.errors import ConfigError, NotSerializable, PayloadError, PayloadTooLarge
from taskq.serializers import Codec
from taskq.serializers import json as json_module
from taskq.serializers.tags import MAX_DEPTH

JOB = {"job_id": "abc", "queue": "default"}
NUMBERED = (f"case {n}" for n in range(10**6))
PICKLES = Codec(accept=("json", "pickle"))


@pytest.fixture(params=["msgspec", "stdlib"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Codec:
    """A codec with default settings, on both engines."""
    engine = json_module.stdlib_engine()
    if request.param == "msgspec":
        pytest.importorskip("msgspec")
        found = json_module.msgspec_engine()
        assert found is not None
        engine = found
    monkeypatch.setattr(json_module, "_write", engine[0])
    monkeypatch.setattr(json_module, "_read", engine[1])
    return Codec()


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Hypothesis listens to collections, and fails in one at the end of the stack."""
    gc.disable()
    yield
    gc.enable()


def through(codec: Codec, value: Any) -> Any:
    raw = codec.dump_value(value, job_id="j", kind="result")
    return codec.load_value(raw, job_id="j", kind="result")


def call_data(*parts: object) -> bytes:
    return json.dumps(parts).encode()


class Color(enum.Enum):
    RED = "red"
    MIX = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Title(str):
    __slots__ = ()


class Meters(float):
    __slots__ = ()


class Stamp(dt.datetime):
    """As freezegun and pendulum have them."""

    def isoformat(self, *args: Any, **kwargs: Any) -> str:
        return "something of its own"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Owner:
    name: str
    since: dt.date | None = None
    friends: list[Any] = dataclasses.field(default_factory=list)


class User:
    def __repr__(self) -> str:
        raise AssertionError("a message must not ask the user's object")


# What comes back as it was


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**63),
        2**64,
        10**400,
        -0.0,
        1e300,
        5e-324,
        "",
        "grün 🎉 \x00 \u2028",
        [],
        {},
        [1, [2, [3, {"a": [None]}]]],
        {"a": 1, "": {"b": [1.5, "x"]}},
    ],
    ids=NUMBERED,
)
def test_plain_data_is_plain_json_and_comes_back(codec: Codec, value: Any) -> None:
    raw = codec.dump_value(value, job_id="j", kind="result")
    assert json.loads(raw) == value  # any reader of JSON understands it
    back = codec.load_value(raw, job_id="j", kind="result")
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        (1, "a", (2,)),
        (),
        {1, 2},
        set(),
        frozenset({"a", (1, 2)}),
        {frozenset({1})},
        dt.datetime(2026, 11, 22, 18, 0, 0, 123456),
        dt.datetime(2026, 11, 22, tzinfo=dt.timezone.utc),
        dt.datetime(2026, 7, 1, tzinfo=dt.timezone(-dt.timedelta(hours=3, seconds=7))),
        dt.datetime.max,
        dt.date(1, 1, 1),
        dt.time(23, 59, 59, 999999, tzinfo=dt.timezone.utc),
        dt.timedelta(days=-3, microseconds=1),
        dt.timedelta.max,
        dt.timedelta.min,
        UUID("12345678-1234-5678-1234-567812345678"),
        Decimal("1.100"),
        Decimal("-Infinity"),
        b"",
        bytes(range(256)),
        bytearray(b"abc"),
        1 + 2j,
        pathlib.Path("media/a b.png"),
        pathlib.PureWindowsPath("c:\\x"),
        pathlib.PurePosixPath("/x"),
        -(10**6000),
        [dt.date(2026, 1, 1), {"deep": [(b"x", {1})]}],
    ],
    ids=NUMBERED,
)
def test_usual_types_come_back_as_they_were(codec: Codec, value: Any) -> None:
    back = through(codec, value)
    assert back == value
    assert type(back) is type(value)


def test_utc_offset_is_kept_and_the_name_of_the_zone_is_not(codec: Codec) -> None:
    value = dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    back = through(codec, value)
    # In a doubled hour Python calls datetimes of different zones unequal, always (PEP 495).
    assert back.timestamp() == value.timestamp()
    assert back.utcoffset() == dt.timedelta(hours=1)  # the second 02:30 of that night
    assert back.tzinfo != value.tzinfo


@pytest.mark.parametrize(
    "value",
    [
        {"$t": "datetime", "v": "2026-11-22"},
        {"$t": "set", "v": [1], "c": "x"},
        {"$t": "unknown", "v": 1},
        {"$t": 1},
        {"$t": {"$t": "dict", "v": [["a", 1]]}, "v": {"$t": "tuple", "v": []}},
        [{"x": {"$t": "dict", "v": [["$t", "int"], ["v", "ff"]]}}],
    ],
    ids=NUMBERED,
)
def test_a_users_dict_that_looks_like_a_tag_stays_a_dict(codec: Codec, value: Any) -> None:
    assert through(codec, value) == value


@pytest.mark.parametrize("text", ['{"$t":"html","type":"x"}', '{"$t":"a b"}', '{"$t":null,"v":1}'])
def test_foreign_json_with_the_mark_stays_what_it_is(codec: Codec, text: str) -> None:
    assert codec.load_value(text.encode(), job_id="j", kind="result") == json.loads(text)


# What comes back as something simpler


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (Color.RED, "red"),
        (Color.MIX, (1, 2)),
        (Level.LOW, 1),
        (Rights.READ | Rights.WRITE, 3),
        (Title("x"), "x"),
        (Meters(1.5), 1.5),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        ({Title("k"): 1}, {"k": 1}),
        (Point(1, 2), (1, 2)),
        (
            Owner("a", dt.date(2026, 1, 1)),
            {"name": "a", "since": dt.date(2026, 1, 1), "friends": []},
        ),
        ([Owner("a", friends=[Owner("b")])], None),
        (Stamp(2026, 1, 1), dt.datetime(2026, 1, 1)),
    ],
    ids=NUMBERED,
)
def test_subclasses_and_models_come_back_as_what_they_contain(
    codec: Codec, value: Any, back: Any
) -> None:
    if back is None:
        back = [dataclasses.asdict(one) for one in value]
    found = through(codec, value)
    assert found == back
    assert type(found) is type(back)


def test_an_enum_is_written_with_its_class_for_the_eye_only(codec: Codec) -> None:
    raw = codec.dump_value(Color.RED, job_id="j", kind="result")
    assert json.loads(raw) == {"$t": "enum", "v": "red", "c": f"{__name__}.Color"}


def test_pydantic_models_are_known_by_their_marks(codec: Codec) -> None:
    class Model:
        __pydantic_core_schema__ = object()

        def model_dump(self, **how: bool) -> dict[str, Any]:
            assert how == {"by_alias": True, "round_trip": True}
            return {"when": dt.date(2026, 1, 1)}

    assert through(codec, [Model()]) == [{"when": dt.date(2026, 1, 1)}]


def test_sets_are_written_in_order_so_that_equal_calls_have_equal_bytes(codec: Codec) -> None:
    words = {f"word {n}" for n in range(50)}
    raw = json.loads(codec.dump_value(words, job_id="j", kind="result"))
    assert raw["v"] == sorted(words)


# Calls


def test_a_call_is_rqs_list_of_four(codec: Codec) -> None:
    data = codec.dump_call("shop.resize", ("a.png",), {"size": 64}, **JOB)
    assert data == b'["shop.resize",null,["a.png"],{"size":64}]'
    assert codec.load_call(data, **JOB) == ("shop.resize", None, ["a.png"], {"size": 64})


def test_arguments_of_usual_types_come_back(codec: Codec) -> None:
    when = dt.datetime(2026, 11, 22)
    data = codec.dump_call("f", ((1, 2), when), {"$t": b"x", "v": {1}}, **JOB)
    assert codec.load_call(data, **JOB) == ("f", None, [(1, 2), when], {"$t": b"x", "v": {1}})


def test_what_is_over_1_kb_is_deflated_and_nothing_else(codec: Codec) -> None:
    small = codec.dump_call("f", ("x" * 900,), {}, **JOB)
    large = codec.dump_call("f", ("x" * 5000,), {}, **JOB)
    assert small[:1] == b"["
    assert large[:1] == b"x"
    assert len(large) < 100
    for data in (small, large):
        assert codec.load_call(data, **JOB)[0] == "f"


def test_what_does_not_shrink_stays_as_it_is(codec: Codec) -> None:
    noise = "".join(chr(random.Random(1).randrange(0x10000, 0x20000)) for _ in range(2))
    text = "".join(chr(random.Random(n).randrange(0x4E00, 0x9FFF)) for n in range(400)) + noise
    data = codec.dump_call("f", (text,), {}, **JOB)
    assert len(data) <= len(json.dumps(["f", None, [text], {}], ensure_ascii=False).encode())
    assert codec.load_call(data, **JOB)[2] == [text]


def test_results_are_never_deflated(codec: Codec) -> None:
    assert codec.dump_value("x" * 5000, job_id="j", kind="result") == b'"' + b"x" * 5000 + b'"'


# What stock RQ wrote


def test_calls_of_a_stock_rq_with_json_are_readable(codec: Codec) -> None:
    rq = pytest.importorskip("rq.serializers")
    data = rq.JSONSerializer.dumps(("os.path.join", None, ("ä", 1.5), {"k": [1]}))
    for stored in (data, zlib.compress(data)):
        assert codec.load_call(stored, **JOB) == ("os.path.join", None, ["ä", 1.5], {"k": [1]})


def test_nan_written_by_a_stock_rq_is_readable(codec: Codec) -> None:
    data = codec.load_call(b'["f", null, [NaN, -Infinity], {}]', **JOB)[2]
    assert repr(data) == "[nan, -inf]"


def test_calls_of_a_stock_rq_with_pickle_are_readable_where_accepted() -> None:
    rq = pytest.importorskip("rq.serializers")
    for instance in (None, Owner("a")):
        data = zlib.compress(rq.DefaultSerializer.dumps(("f", instance, (1, {2}), {"k": 3})))
        assert PICKLES.load_call(data, **JOB) == ("f", instance, (1, {2}), {"k": 3})


@pytest.mark.parametrize("deflate", [False, True])
def test_pickle_is_refused_and_not_run_where_it_is_not_accepted(
    codec: Codec, deflate: bool, tmp_path: pathlib.Path
) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (pathlib.Path.touch, (tmp_path / "ran",))

    data = pickle.dumps(("f", None, (Attack(),), {}))
    data = zlib.compress(data) if deflate else data
    with pytest.raises(PayloadError, match='pickle, and only json is accepted.*"pickle"'):
        codec.load_call(data, **JOB)
    for kind in ("result", "meta"):
        with pytest.raises(PayloadError, match=f"Unreadable {kind}: it is pickle"):
            codec.load_value(data, job_id="j", kind=kind)
    with pytest.raises(PayloadError, match="pickle"):
        codec.load_unbound(data)
    assert not (tmp_path / "ran").exists()


def test_json_can_be_refused_too() -> None:
    codec = Codec("pickle", accept=("pickle",))
    with pytest.raises(PayloadError, match="it is json, and only pickle"):
        codec.load_value(b"1", job_id="j", kind="result")


# Pickle


def test_pickle_carries_what_json_cannot() -> None:
    codec = Codec("pickle")
    owner = Owner("a", friends=[float("nan"), {1: object}])
    data = codec.dump_call("f", (owner,), {"k": Color.RED}, **JOB)
    name, instance, args, kwargs = codec.load_call(data, **JOB)
    assert (name, instance, kwargs) == ("f", None, {"k": Color.RED})
    assert args[0].name == "a"
    assert through(codec, {1: Level.LOW}) == {1: Level.LOW}


def test_what_cannot_be_pickled_is_named() -> None:
    codec = Codec("pickle")
    with pytest.raises(NotSerializable, match=r"f\(\): argument 'fn' is a function, which cannot "):
        codec.dump_call("a.f", (1, lambda: 0), {}, names=["n", "fn"], **JOB)
    with pytest.raises(NotSerializable, match=r"The result is a function, .* Return an id instead"):
        codec.dump_value(lambda: 0, job_id="j", kind="result")


def test_an_object_whose_pickling_fails_is_the_callers_error() -> None:
    class Odd:
        def __reduce__(self) -> Any:
            raise ZeroDivisionError

    with pytest.raises(NotSerializable, match="ZeroDivisionError"):
        Codec("pickle").dump_call("f", (Odd(),), {}, **JOB)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\x80\x05N",
        pickle.dumps(User)[:-3],
        b"\x80\x05cno.such.module\nx\n.",
        b"\x80\xff.",
    ],
    ids=NUMBERED,
)
def test_whatever_goes_wrong_in_a_pickle_is_a_payload_error(data: bytes) -> None:
    with pytest.raises(PayloadError):
        PICKLES.load_call(data, **JOB)


# Messages to the caller


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (
            (),
            {"owner": User()},
            (
                "thumbnail(): argument 'owner' is a User, which JSON cannot carry. "
                "Pass an id instead. Nothing was enqueued."
            ),
        ),
        (("a", User()), {}, "thumbnail(): argument 'size' is a User, which JSON cannot carry. "),
        (("a", 1, User()), {}, "thumbnail(): positional argument 3 is a User, "),
        (("a", 1, [{"b": User()}]), {}, "thumbnail(): positional argument 3 at [0].b is a User, "),
        (([0, 1, 2, {"owner": User()}],), {}, "thumbnail(): argument 'path[3].owner' is a User, "),
        (({"a b": (1, User())},), {}, "thumbnail(): argument 'path['a b'][1]' is a User, "),
        ((Owner("a", friends=[User()]),), {}, "argument 'path.friends[0]' is a User, "),
        ((object,), {}, "is the class object, which JSON cannot carry. Pass its name instead."),
        ((len,), {}, "Pass its name instead."),
        ((iter(()),), {}, "is a tuple_iterator, which JSON cannot carry. Pass a list instead."),
        ((range(3),), {}, "Pass list(value) instead."),
        ((memoryview(b""),), {}, "Pass bytes(value) instead."),
        ((ValueError("x"),), {}, "Pass str(error) instead."),
        ((float("nan"),), {}, "argument 'path' is nan, which JSON cannot carry. Pass None or a "),
        (({"a": float("-inf")},), {}, "argument 'path.a' is -inf, which JSON cannot carry. "),
        ((complex(0, float("inf")),), {}, "is infj, which JSON cannot carry. "),
        (({3: 1},), {}, "argument 'path' has the key 3 (an int), but keys are text in JSON. "),
        (({(1, "{Pass}"): 1},), {}, "argument 'path' has the key (a tuple), but keys are text "),
        (({Color.RED: 1},), {}, "has the key (a Color), but keys are text in JSON. "),
        (("\ud800x",), {}, "has a lone surrogate ('\\ud800' at 0), which UTF-8 cannot carry. "),
        (({"\udcff": 1},), {}, "has a lone surrogate ('\\udcff' at 0), which UTF-8 cannot "),
        ((pathlib.Path("\udcff"),), {}, "is a path that is not UTF-8. Pass os.fsencode(path)"),
        ((dt.time(1, tzinfo=ZoneInfo("Europe/Berlin")),), {}, "whose zone needs a date to know "),
    ],
    ids=NUMBERED,
)
def test_the_argument_is_named_with_what_to_do(
    codec: Codec, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotSerializable) as caught:
        codec.dump_call("shop.thumbnail", args, kwargs, names=["path", "size"], **JOB)
    assert message in str(caught.value)
    assert str(caught.value).endswith(" Nothing was enqueued.")
    assert "{" not in str(caught.value)


def test_a_coroutine_is_to_be_awaited(codec: Codec) -> None:
    async def fetch() -> None: ...

    coroutine = fetch()
    with pytest.raises(NotSerializable, match="is a coroutine, .* Await it first"):
        codec.dump_call("f", (coroutine,), {}, **JOB)
    coroutine.close()


def test_an_open_file_is_to_be_passed_by_path(codec: Codec) -> None:
    with (
        pathlib.Path(__file__).open() as file,
        pytest.raises(NotSerializable, match="Pass the path or the bytes"),
    ):
        codec.dump_call("f", (file,), {}, **JOB)


@pytest.mark.parametrize(
    "value",
    [{dataclasses.make_dataclass("D", ["x"], frozen=True)(1)}, {(1, Level.LOW), (Color,)}],
    ids=["dataclass", "class"],
)
def test_a_set_of_what_would_come_back_unhashable_is_refused(codec: Codec, value: Any) -> None:
    with pytest.raises(NotSerializable):
        codec.dump_value(value, job_id="j", kind="result")


def test_a_list_like_member_of_a_set_is_refused(codec: Codec) -> None:
    class Hashable(list[int]):
        def __hash__(self) -> int:  # type: ignore[override]
            return 1

    with pytest.raises(NotSerializable, match="is a Hashable inside a set"):
        codec.dump_value({Hashable()}, job_id="j", kind="result")


def test_results_and_meta_are_named_as_such(codec: Codec) -> None:
    with pytest.raises(NotSerializable) as caught:
        codec.dump_value({"a": [User()]}, job_id="j", kind="result", name="shop.resize")
    assert str(caught.value) == (
        "resize(): the result at .a[0] is a User, which JSON cannot carry. Return an id instead."
    )
    with pytest.raises(NotSerializable, match=r"^The meta at \.a is a User, .* Use an id instead"):
        codec.dump_value({"a": User()}, job_id="j", kind="meta")


def test_a_model_without_all_its_fields_is_refused(codec: Codec) -> None:
    owner = Owner("a")
    del owner.name
    with pytest.raises(NotSerializable, match="is an Owner without all its fields"):
        codec.dump_call("f", (owner,), {}, **JOB)


# Limits when writing


def test_a_payload_over_the_limit_is_refused_before_compression() -> None:
    codec = Codec(max_bytes=2000)
    with pytest.raises(PayloadTooLarge) as caught:
        codec.dump_call("shop.f", ("x" * 2000,), {}, **JOB)
    assert str(caught.value) == (
        "f(): the arguments are 2,023 bytes, over the limit of 2,000 (max_bytes). "
        "Keep the data elsewhere and pass an id or a path. Nothing was enqueued."
    )
    with pytest.raises(PayloadTooLarge, match="the result is 2,002 bytes"):
        codec.dump_value("x" * 2000, job_id="j", kind="result", name="f")


def test_the_limit_holds_below_the_size_that_is_compressed() -> None:
    with pytest.raises(PayloadTooLarge):
        Codec(max_bytes=100).dump_call("f", ("x" * 100,), {}, **JOB)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_the_deepest_that_is_written_is_read(codec: Codec) -> None:
    assert through(codec, nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(NotSerializable, match="result is nested more than 128 levels deep"):
        codec.dump_value(nested(MAX_DEPTH + 1), job_id="j", kind="result")


def test_the_deepest_argument_that_is_written_is_read(codec: Codec) -> None:
    inner = MAX_DEPTH - 2  # the list of four, the list of arguments
    data = codec.dump_call("f", (nested(inner),), {}, **JOB)
    assert codec.load_call(data, **JOB)[2] == [nested(inner)]
    for depth in (inner + 1, 100_000):
        with pytest.raises(NotSerializable, match="argument 'tree' is nested more than"):
            codec.dump_call("f", (), {"tree": nested(depth)}, **JOB)


def in_enum(value: Any) -> Any:
    kind: Any = enum.Enum("kind", {"A": value})
    return kind.A


@pytest.mark.parametrize("kind", ["list", "dict", "tuple", "escaped", "enum"])
def test_the_deepest_of_each_kind_is_read(codec: Codec, kind: str) -> None:
    wraps: dict[str, Any] = {
        "list": lambda value: [value],
        "dict": lambda value: {"k": value},
        "tuple": lambda value: (value,),
        "escaped": lambda value: {"$t": value},
        "enum": in_enum,
    }
    wrap = wraps[kind]
    value: Any = 1
    deepest = None
    for _ in range(MAX_DEPTH + 2):
        value = wrap(value)
        try:
            raw = codec.dump_value(value, job_id="j", kind="result")
        except NotSerializable:
            break
        deepest = codec.load_value(raw, job_id="j", kind="result")
    else:
        pytest.fail("no limit")
    assert deepest is not None


def test_what_contains_itself_is_refused(codec: Codec) -> None:
    loop: list[Any] = []
    loop += [loop] * 10
    with pytest.raises(NotSerializable, match="or contains itself"):
        codec.dump_call("f", (loop,), {}, **JOB)


@pytest.mark.parametrize("plain", [True, False])
def test_shared_lists_that_multiply_are_refused_soon(codec: Codec, plain: bool) -> None:
    codec = Codec(max_bytes=10_000)  # on the engine that the fixture chose
    lol: list[Any] = ["x"] if plain else [(1,)]
    for _ in range(60):
        lol = [lol] * 10
    with pytest.raises(PayloadTooLarge, match="more than 10,000 bytes"):
        codec.dump_call("f", (lol,), {}, **JOB)


@pytest.mark.usefixtures("no_gc")
def test_at_the_end_of_the_stack_it_is_still_the_callers_error(codec: Codec) -> None:
    value: Any = 1
    for _ in range(60):  # two frames or more for each
        value = (value,)

    def down(levels: int) -> None:
        if levels:
            down(levels - 1)
        else:
            codec.dump_value(value, job_id="j", kind="result")

    used = len(inspect.stack(0))
    with pytest.raises(NotSerializable, match="too deeply for what is left of Python's stack"):
        down(sys.getrecursionlimit() - used - 100)


# Limits when reading


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 100_000,
        b'["f",null,[' + b"[" * 127 + b"]" * 127 + b"],{}]",
        b'["f",null,[{"$t":"tuple","v":[' + b"[" * 300 + b"]" * 300 + b"]}],{}]",
    ],
    ids=["open", "closed", "objects", "just over", "tagged"],
)
@pytest.mark.usefixtures("no_gc")
def test_depth_bombs_are_refused(codec: Codec, data: bytes) -> None:
    with pytest.raises(PayloadError, match="128 levels deep|not a JSON payload"):
        codec.load_call(data, **JOB)


def test_brackets_in_texts_are_no_depth(codec: Codec) -> None:
    data = codec.dump_call("f", ("[{" * 400,), {}, **JOB)
    assert codec.load_call(data, **JOB)[2] == ["[{" * 400]


def test_reading_allows_four_times_the_limit() -> None:
    codec = Codec(max_bytes=1000)
    big = call_data("f", None, ["x" * 3900], {})
    assert codec.load_call(big, **JOB)[0] == "f"
    assert codec.load_call(zlib.compress(big), **JOB)[0] == "f"
    huge = call_data("f", None, ["x" * 4000], {})
    with pytest.raises(PayloadError, match="4,0.. bytes are over the limit of 4,000"):
        codec.load_call(huge, **JOB)
    with pytest.raises(PayloadError, match="inflates to more than 4,000 bytes"):
        codec.load_call(zlib.compress(huge), **JOB)


def test_a_decompression_bomb_costs_no_more_than_the_limit(codec: Codec) -> None:
    bomb = zlib.compress(b"[" + b" " * 50_000_000 + b"]", 1)
    tracemalloc.start()
    with pytest.raises(PayloadError, match="inflates to more than 4,000,000 bytes"):
        Codec(max_bytes=1_000_000).load_call(bomb, **JOB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_an_inflated_size_of_exactly_the_limit_is_read() -> None:
    codec = Codec(max_bytes=1000)
    data = call_data("f", None, [""], {})
    data = call_data("f", None, ["x" * (4000 - len(data))], {})
    assert len(data) == 4000
    assert codec.load_call(zlib.compress(data), **JOB)[0] == "f"


# What is broken


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (None, "there is none"),
        (b"[", "not a JSON payload"),
        (b"\xff\xfe", "not UTF-8"),
        (b"hello", "not a JSON payload"),
        (b"x", "zlib stream"),
        (b"x\x9cgarbage", "broken zlib"),
        (zlib.compress(call_data("f", None, [], {}))[:-2], "cut short"),
        (zlib.compress(call_data("f", None, [], {})) + b"more", "something behind"),
        (zlib.compress(b""), "it is empty"),
        (b"null", "no list of a function's name"),
        (b"{}", "no list of a function's name"),
        (b'["f",null,[]]', "no list of a function's name"),
        (b'["f",null,[],{},1]', "no list of a function's name"),
        (b"[null,null,[],{}]", "its function's name is empty or no text"),
        (b'["",null,[],{}]', "its function's name is empty or no text"),
        (b"[1,null,[],{}]", "its function's name is empty or no text"),
        (b'["f",null,{},{}]', "its arguments are a dict"),
        (b'["f",null,null,{}]', "its arguments are a NoneType"),
        (b'["f",null,"ab",{}]', "its arguments are a str"),
        (b'["f",null,[],[]]', "its keyword arguments are a list"),
        (b'["f",null,[],null]', "its keyword arguments are a NoneType"),
        (b'["f",null,[{"$t":"nope","v":1}],{}]', "unknown type 'nope': written by a newer taskq"),
        (b'["f",null,[{"$t":"datetime","v":1}],{}]', "a tag holds a int, not a str"),
        (b'["f",null,[{"$t":"datetime","v":"x"}],{}]', "not a JSON payload"),
        (b'["f",null,[{"$t":"decimal","v":"x"}],{}]', "not a JSON payload"),
        (b'["f",null,[{"$t":"timedelta","v":1' + b"0" * 30 + b"}],{}]", "not a JSON payload"),
        (b'["f",null,[{"$t":"timedelta","v":true}],{}]', "a tag holds a bool"),
        (b'["f",null,[{"$t":"set","v":[[]]}],{}]', "unhashable"),
        (b'["f",null,[{"$t":"bytes","v":"*"}],{}]', "not a JSON payload"),
        (b'["f",null,[{"$t":"complex","v":[1]}],{}]', "not a JSON payload"),
        (b'["f",null,[{"$t":"complex","v":["1","2"]}],{}]', "parts are not numbers"),
        (b'["f",null,[{"$t":"dict","v":[["a"]]}],{}]', "no list of pairs"),
        (b'["f",null,[{"$t":"dict","v":[[[],1]]}],{}]', "no list of pairs"),
        (b'["f",null,[{"$t":"int","v":"z"}],{}]', "not a JSON payload"),
        (b'["f",null,[{"$t":"uuid","v":"z"}],{}]', "not a JSON payload"),
        (b'["f",null,[' + b"1" * 5000 + b"],{}]", "not a JSON payload"),
        (b'["f",null,[],{}] []', "not a JSON payload"),
    ],
    ids=NUMBERED,
)
def test_broken_calls_say_what_is_broken(codec: Codec, data: Any, reason: str) -> None:
    with pytest.raises(PayloadError, match="^Unreadable payload: ") as caught:
        codec.load_call(data, **JOB)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "call",
    [(None, None, (), {}), ("f", None, (), {1: 2}), ("f", None, {1}, {}), "f", ("f",), 1],
    ids=NUMBERED,
)
def test_a_pickled_call_is_checked_as_well(call: Any) -> None:
    with pytest.raises(PayloadError):
        PICKLES.load_call(pickle.dumps(call), **JOB)


def test_meta_is_a_dict(codec: Codec) -> None:
    raw = codec.dump_value({"a": (1,)}, job_id="j", kind="meta")
    assert codec.load_value(raw, job_id="j", kind="meta") == {"a": (1,)}
    with pytest.raises(PayloadError, match="Unreadable meta: it is a list, not a dict"):
        codec.load_value(b"[]", job_id="j", kind="meta")


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"serializer": "yaml"}, 'serializer is \'yaml\': "json" and "pickle" are allowed'),
        ({"accept": ("json", "xml")}, "accept is 'xml'"),
        ({"accept": "json,xml"}, "accept is 'xml'"),
        ({"accept": [1]}, "accept is 1"),
        ({"max_bytes": 0}, "max_bytes is 0: a number of bytes above 0"),
        ({"max_bytes": "1"}, "max_bytes is '1'"),
        ({"max_bytes": True}, "max_bytes is True"),
        ({"secret": ""}, "secret .* is empty"),
        ({"secret": []}, "secret .* is empty"),
        ({"secret": "a,"}, "secret .* is empty"),
        ({"secret": ["a", b""]}, "secret .* is empty"),
        ({"secret": [1]}, "secret holds a int"),
    ],
    ids=NUMBERED,
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Codec(**settings)


def test_what_is_written_is_always_accepted() -> None:
    assert Codec("pickle").accept == {"json", "pickle"}
    assert Codec(accept="json, pickle").accept == {"json", "pickle"}


def test_the_secret_is_not_shown() -> None:
    codec = Codec(secret="hush")
    assert repr(codec) == "Codec('json', accept=('json',), max_bytes=1000000, signed)"


def test_msgspec_gives_the_bytes_of_the_standard_library() -> None:
    pytest.importorskip("msgspec")
    engines = [json_module.stdlib_engine(), json_module.msgspec_engine()]
    assert engines[1] is not None
    value: Any
    for value in ({"a": [1, -0.5, "ä\n\u2028\x7f\x01/", None, True, 2**70]}, [], "", 1e16, 1e-7):
        written = [engine[0](value) for engine in engines if engine]
        assert [json.loads(raw) for raw in written] == [value, value]
        assert all(engine[1](raw) == value for engine in engines if engine for raw in written)


def test_the_slow_path_of_the_standard_library_is_taken_where_there_is_no_c_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    write, read = json_module.stdlib_engine()
    assert write({"ä": [1.5, None]}) == '{"ä":[1.5,null]}'.encode()
    assert read(b" [1] ") == [1]
