"""Models from annotations."""

# ruff: noqa: UP007, UP045 - both ways of writing a union are under test

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypeVar, Union

import pytest

from taskq.errors import PayloadError
from taskq.serializers import Codec
from taskq.serializers.models import rebuilder

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    MIX = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    color: Color


@dataclasses.dataclass(frozen=True)
class Owner:
    name: str
    color: Color = Color.RED


@dataclasses.dataclass
class Node:
    owner: Owner | None = None
    children: list[Node] = dataclasses.field(default_factory=list)
    size: int = dataclasses.field(default=0, init=False)
    when: dt.date | None = None


@dataclasses.dataclass
class Plain:
    a: int
    b: Any


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    owner: Owner


@dataclasses.dataclass
class Strict:
    age: int

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ValueError("an age is not negative.")


class Settings(typing.TypedDict):
    name: str


OwnerId = NewType("OwnerId", Owner)


def through(annotation: Any, value: Any) -> Any:
    """`value` as a task with that annotation gets it."""
    codec = Codec()
    raw = codec.dump_value(value, job_id="j", kind="result")
    back = codec.load_value(raw, job_id="j", kind="result")
    rebuild = rebuilder(annotation)
    return back if rebuild is None else rebuild(back)


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        str,
        None,
        type(None),
        Any,
        object,
        dict,
        list,
        list[int],
        dict[str, list[int]],
        tuple[int, ...],
        tuple[()],
        tuple,
        Optional[int],
        int | None,
        dt.datetime,
        set[bytes],
        T,
        Literal["a"],
        collections.abc.Callable[[int], Owner],
        type[Owner],
        "Owner",
        Annotated[int, "x"],
        NewType("Id", int),
        Settings,
        Owner | Any,
        Union[Owner, object],
        list[Any],
    ],
    ids=str,
)
def test_there_is_nothing_to_do_for_most_annotations(annotation: Any) -> None:
    assert rebuilder(annotation) is None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Color, Color.RED),
        (Color, Color.MIX),
        (Level, Level.LOW),
        (Owner, Owner("a", Color.MIX)),
        (Node, Node(Owner("a"), [Node(), Node(when=dt.date(2026, 1, 1), children=[Node()])])),
        (Plain, Plain(1, {"x": (1,)})),
        (Point, Point(1, Color.RED)),
        (Optional[Owner], Owner("a")),
        (Owner | None, None),
        (list[Owner], [Owner("a"), Owner("b")]),
        (Sequence[Color], (Color.RED,)),
        (set[Color], {Color.RED, Color.MIX}),
        (frozenset[Level], frozenset({Level.LOW})),
        (dict[str, Owner], {"x": Owner("a")}),
        (Mapping[str, list[Color]], {"x": [Color.RED]}),
        (tuple[Owner, ...], (Owner("a"), Owner("b"))),
        (tuple[int, Owner], (1, Owner("a"))),
        (Union[Point, Owner, None], Owner("a")),
        (Union[Owner, Plain], Plain(1, 2)),
        (Union[Plain, list[Owner]], [Owner("a")]),
        (Annotated[Owner, "x"], Owner("a")),
        (OwnerId, Owner("a")),
        (list[Optional[Owner]], [None, Owner("a")]),
    ],
    ids=[f"case {n}" for n in range(23)],
)
def test_models_come_back(annotation: Any, value: Any) -> None:
    back = through(annotation, value)
    assert back == value
    assert type(back) is type(value)
    for left, right in zip(_flat(back), _flat(value), strict=True):
        assert type(left) is type(right)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, frozenset, set)):
        return [part for one in value for part in _flat(one)]
    return [value]


def test_fields_that_init_does_not_take_are_kept() -> None:
    node = Node()
    node.size = 7
    assert through(Node, node).size == 7


def test_a_generic_model_is_made_with_what_it_says_itself() -> None:
    assert through(Page[Owner], Page([Owner("a")], Owner("b"))) == Page(
        [{"name": "a", "color": "red"}],
        Owner("b"),
    )


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Owner, None),
        (Owner, "an id"),
        (Owner, 7),
        (Color, None),
        (list[Owner], None),
        (list[Owner], "text"),
        (dict[str, Owner], [1]),
        (tuple[int, Owner], (1, {"name": "a"}, 3)),
        (Point, [1, "red"]),
        (dict[str, Any] | Owner, {"name": "a"}),
        (str | Color, "red"),
        (Settings | Owner, {"name": "a"}),
        (Owner | Color, None),
    ],
    ids=[f"case {n}" for n in range(13)],
)
def test_what_is_not_written_like_the_model_stays(annotation: Any, value: Any) -> None:
    rebuild = rebuilder(annotation)
    assert rebuild is not None
    if annotation == (Owner | Color):
        assert rebuild(None) is None
    else:
        assert rebuild(value) == value


def test_an_instance_stays_itself() -> None:
    for value in (Owner("a"), Color.RED, Point(1, Color.RED)):
        rebuild = rebuilder(type(value))
        assert rebuild is not None
        assert rebuild(value) is value


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (Color, "blue", "Cannot make Color from the payload: 'blue' is not a valid Color."),
        (Color, ["x"], "Cannot make Color"),
        (Owner, {}, "Cannot make Owner from the payload: .*missing 1 required .*'name'"),
        (Owner, {"name": "a", "age": 1}, "Cannot make Owner from the payload: it has no field age"),
        (Strict, {"age": -1}, "Cannot make Strict from the payload: an age is not negative."),
        (list[Owner], [{"name": "a"}, {}], "Cannot make Owner"),
        (Union[Owner, Strict], {"x": 1}, "Cannot make Owner"),
        (Point, (1,), "Cannot make Point from the payload: it has 2 fields, not 1"),
    ],
    ids=[f"case {n}" for n in range(8)],
)
def test_what_cannot_be_the_model_is_an_error(annotation: Any, value: Any, message: str) -> None:
    rebuild = rebuilder(annotation)
    assert rebuild is not None
    with pytest.raises(PayloadError, match=message):
        rebuild(value)


@dataclasses.dataclass
class Odd:
    a: OnlyForCheckers  # type: ignore[name-defined]  # noqa: F821 - as under TYPE_CHECKING
    b: Color


def test_annotations_that_cannot_be_resolved_cost_only_themselves() -> None:
    assert through(Odd, Odd(1, Color.RED)) == Odd(1, Color.RED)


class FakePydantic:
    """The marks of a pydantic model, where the real one is not installed."""

    __pydantic_core_schema__ = object()

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return self.fields

    @classmethod
    def model_validate(cls, value: dict[str, Any]) -> FakePydantic:
        if "bad" in value:
            raise RuntimeError("bad is not allowed")
        return cls(**value)


def test_models_with_the_marks_of_pydantic_are_validated() -> None:
    back = through(list[FakePydantic], [FakePydantic(a=(1,))])
    assert back[0].fields == {"a": (1,)}
    rebuild = rebuilder(FakePydantic | None)
    assert rebuild is not None
    assert rebuild(None) is None
    assert rebuild("text") == "text"
    with pytest.raises(PayloadError, match="Cannot make FakePydantic .*: bad is not allowed"):
        rebuild({"bad": 1})


def test_real_pydantic_models_come_back() -> None:
    pydantic: Any = pytest.importorskip("pydantic", reason="an integration, not a dependency")

    class Tag(pydantic.BaseModel):  # type: ignore[misc]
        color: Color
        when: dt.datetime
        ids: set[int]

    class User(pydantic.BaseModel):  # type: ignore[misc]
        model_config = pydantic.ConfigDict(extra="forbid")
        name: str = pydantic.Field(alias="userName")
        tags: list[Tag]
        point: Point | None = None

        @pydantic.computed_field  # type: ignore[prop-decorator, untyped-decorator]
        @property
        def shout(self) -> str:
            return self.name.upper()

    class Numbers(pydantic.RootModel[list[int]]):  # type: ignore[misc]
        pass

    when = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    user = User(userName="a", tags=[Tag(color=Color.RED, when=when, ids={1})])
    assert through(User, user) == user
    assert through(dict[str, list[User]], {"x": [user]}) == {"x": [user]}
    assert through(Numbers, Numbers([1, 2])) == Numbers([1, 2])
    assert through(Any, Numbers([1, 2])) == [1, 2]
    rebuild = rebuilder(User)
    assert rebuild is not None
    with pytest.raises(PayloadError, match="Cannot make User"):
        rebuild({"nope": 1})


def test_types_with_a_name_of_their_own_are_followed() -> None:
    alias = getattr(typing, "TypeAliasType", None)
    if alias is None:
        pytest.skip("`type X = ...` came with Python 3.12")
    assert through(alias("Owners", list[Owner]), [Owner("a")]) == [Owner("a")]
