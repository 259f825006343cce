from __future__ import annotations

import re

import pytest

from taskq.errors import InvalidArguments
from taskq.signature import CallCheck


def thumbnail(path: str, size: int = 256) -> str:
    return f"{path}{size}"


def no_arguments() -> None: ...


def everything(a: int, b: int, /, c: int, *more: int, key: str, **rest: int) -> None: ...


def only_names(*, first: int, second: int = 2) -> None: ...


def positional_only(a: int, /, **rest: int) -> None: ...


def check(fn, *args, **kwargs) -> None:
    CallCheck(fn, fn.__name__).check(args, kwargs)


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (thumbnail, ("a",), {}),
        (thumbnail, ("a", 1), {}),
        (thumbnail, ("a",), {"size": 1}),
        (thumbnail, (), {"path": "a"}),
        (thumbnail, (), {"size": 1, "path": "a"}),
        (no_arguments, (), {}),
        (everything, (1, 2, 3), {"key": "x"}),
        (everything, (1, 2, 3, 4, 5), {"key": "x", "other": 1}),
        (everything, (1, 2), {"c": 3, "key": "x"}),
        (everything, (1, 2, 3), {"key": "x", "a": 1}),  # `a` lands in **rest
        (only_names, (), {"first": 1}),
        (positional_only, (1,), {"a": 2}),
    ],
)
def test_calls_that_fit_pass(fn, args, kwargs):
    check(fn, *args, **kwargs)


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "message"),
    [
        (
            thumbnail,
            ("a.png",),
            {"sice": 64},
            (
                "thumbnail() got an unexpected argument 'sice'. Did you mean 'size'? "
                "Signature: thumbnail(path: str, size: int = 256). Nothing was enqueued."
            ),
        ),
        (
            thumbnail,
            (),
            {},
            (
                "thumbnail() misses the argument 'path'. "
                "Signature: thumbnail(path: str, size: int = 256). Nothing was enqueued."
            ),
        ),
        (
            thumbnail,
            ("a", 1, 2),
            {},
            (
                "thumbnail() takes at most 2 positional arguments, got 3. "
                "Signature: thumbnail(path: str, size: int = 256). Nothing was enqueued."
            ),
        ),
        (
            thumbnail,
            ("a",),
            {"path": "b"},
            (
                "thumbnail() got 'path' twice: by position and by name. "
                "Signature: thumbnail(path: str, size: int = 256). Nothing was enqueued."
            ),
        ),
        (
            no_arguments,
            (1,),
            {},
            (
                "no_arguments() takes no positional arguments, got 1. "
                "Signature: no_arguments(). Nothing was enqueued."
            ),
        ),
        (
            only_names,
            (),
            {"second": 1},
            (
                "only_names() misses the argument 'first'. "
                "Signature: only_names(*, first: int, second: int = 2). Nothing was enqueued."
            ),
        ),
        (
            everything,
            (1,),
            {},
            (
                "everything() misses the arguments 'b', 'c', 'key'. "
                "Signature: everything(a: int, b: int, /, c: int, *more: int, key: str, "
                "**rest: int). Nothing was enqueued."
            ),
        ),
        (
            positional_only,
            (),
            {"a": 1},
            (
                "positional_only() misses the argument 'a'. "
                "Signature: positional_only(a: int, /, **rest: int). Nothing was enqueued."
            ),
        ),
    ],
)
def test_calls_that_do_not_fit_say_why(fn, args, kwargs, message):
    with pytest.raises(InvalidArguments, match=f"^{re.escape(message)}$") as caught:
        check(fn, *args, **kwargs)
    assert isinstance(caught.value, TypeError)


def test_a_positional_only_parameter_by_name_is_said_so():
    def area(width: int, /, height: int) -> int:
        return width * height

    with pytest.raises(InvalidArguments, match="takes 'width' by position, not by name"):
        CallCheck(area, "area").check((), {"width": 1, "height": 2})


def test_no_suggestion_where_nothing_is_near():
    with pytest.raises(InvalidArguments, match="unexpected argument 'owner'. Signature"):
        check(thumbnail, "a", owner=1)


def test_a_given_argument_is_not_suggested_again():
    with pytest.raises(InvalidArguments, match="unexpected argument 'sizes'. Signature"):
        check(thumbnail, "a", 1, sizes=3)


def test_bind_fills_in_defaults():
    checker = CallCheck(thumbnail, "thumbnail")
    assert checker.bind(("a",), {}) == checker.bind((), {"size": 256, "path": "a"})


def test_annotations_that_are_real_objects_show_by_name():
    def plain(path, size=256): ...

    plain.__annotations__ = {"path": str, "size": int | None}
    assert CallCheck(plain, "plain").text() == "plain(path: str, size: int | None = 256)"


def test_positions():
    checker = CallCheck(everything, "everything")
    assert checker.positional_names == ("a", "b", "c")
    assert checker.position("c") == 2
    assert checker.position("key") is None
    assert checker.single_parameters() == ["a", "b", "c", "key"]
