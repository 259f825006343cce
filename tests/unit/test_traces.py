"""Tracebacks are what Python itself would write."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest

from taskq.worker import traces
from taskq.worker.traces import packed, shortened, text_of, unpacked, user_part


def raises(text: str = "no") -> None:
    raise ValueError(text)


def deeper(n: int, then: Callable[[], None] = raises) -> None:
    if n:
        deeper(n - 1, then)
    then()


def marked() -> None:
    _ = [1, 2][0] + {"a": [1]}["a"][5] + len("two in one line")


def with_notes() -> None:
    err = KeyError("noted")
    if hasattr(err, "add_note"):
        err.add_note("a note\nof two lines")
    raise err


def syntax() -> None:
    compile("a =\n", "some file", "exec")


def causes() -> None:
    try:
        raises("first")
    except ValueError as err:
        raise OSError("second") from err


def contexts() -> None:
    try:
        raises("first")
    except ValueError:
        raise OSError("second")  # noqa: B904 (on purpose)


def hides() -> None:
    try:
        raises("first")
    except ValueError:
        raise OSError("second") from None


def grouped() -> None:
    kind: Any = getattr(__import__("builtins"), "ExceptionGroup", None)
    if kind is None:
        raises("no groups in Python 3.10")
    raise kind("several", [ValueError("one"), KeyError("two")])


def no_source() -> None:
    exec(compile("1 / 0", "<nowhere>", "exec"))


def silent() -> None:
    raise type("Odd\nName", (Exception,), {"__module__": "a.b", "__str__": lambda _self: ""})


def unreadable() -> None:
    def fails(_self: object) -> str:
        raise RuntimeError("no text for you")

    raise type("Unreadable", (Exception,), {"__str__": fails, "__module__": "a.b"})


def no_module() -> None:
    raise type("NoModule", (Exception,), {"__module__": 7})


def odd_notes() -> None:
    err = ValueError("noted")
    err.__notes__ = 7  # type: ignore[assignment]
    raise err


def misspelt() -> None:
    _ = "text".uper()  # type: ignore[attr-defined]


def unnamed() -> None:
    _ = misspeld()  # type: ignore[name-defined]  # noqa: F821


def unimported() -> None:
    from collections import deqeu  # type: ignore[attr-defined]  # noqa: F401


KINDS = [
    unreadable, no_module, odd_notes, misspelt, unnamed, unimported,
    lambda: sys.exit(3), lambda: next(iter(())), lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    raises, marked, with_notes, syntax, causes, contexts, hides, grouped, no_source, silent,
    lambda: raises("a\nb\n\x00 % \udcff"), lambda: deeper(1), lambda: deeper(2), lambda: deeper(4),
    lambda: deeper(40), lambda: deeper(200), lambda: deeper(sys.getrecursionlimit()),
    lambda: deeper(1, marked),
]  # fmt: skip


def caught(fn: Callable[[], None]) -> BaseException:
    try:
        fn()
    except BaseException as err:  # noqa: BLE001 (what else?)
        return err
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("fn", KINDS, ids=range(len(KINDS)))
def test_the_text_is_pythons(fn: Callable[[], None]):
    for _ in range(2):  # the second time from what is kept
        err = caught(fn)
        for tb in (err.__traceback__, user_part(err.__traceback__), None):
            assert text_of(err, tb) == "".join(traceback.format_exception(type(err), err, tb))


def test_a_limit_of_tracebacks_is_obeyed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "tracebacklimit", 1, raising=False)
    err = caught(lambda: deeper(3))
    assert text_of(err, err.__traceback__) == "".join(
        traceback.format_exception(type(err), err, err.__traceback__)
    )


def test_code_that_is_alike_in_two_files_and_goes_away():
    """Code objects are equal without regard to their file, and their ids are used again."""
    for n in range(3 * traces._PLACES):
        names: dict[str, Any] = {}
        exec(compile("def fn(): raise KeyError", f"<file {n}>", "exec"), names)
        err = caught(names["fn"])
        assert f'File "<file {n}>", line 1, in fn' in text_of(err, err.__traceback__)
    assert len(traces._known) <= traces._PLACES
    assert all(isinstance(code, CodeType) for code, _text in traces._known.values())


@pytest.mark.parametrize("size", [0, 1, 300, 4096, 4097, 99_999, 100_000])
def test_packing(size: int):
    text = ("Zeile \N{SNOWMAN} " * size)[:size]
    data = text.encode()
    assert unpacked(packed(text)) == shortened(text).decode("utf-8", "replace")
    assert unpacked(packed(text)) == text or len(data) > traces.TRACEBACK_BYTES


def test_a_hostile_exception_is_for_the_caller():
    class Hostile(Exception):
        @property
        def __cause__(self) -> BaseException:  # type: ignore[override]
            raise RuntimeError("no cause for you")

    with contextlib.suppress(RuntimeError):
        text_of(Hostile(), None)
    assert "Hostile" not in str(traces._known)
