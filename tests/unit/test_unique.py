from __future__ import annotations

import decimal
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import pytest

from taskq.signature import CallCheck
from taskq.unique import unique_key


def send(to: object, *more: object, subject: str = "", **rest: object) -> None: ...


CHECK = CallCheck(send, "send")


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: object


class Opaque:
    def __init__(self, value: int) -> None:
        self.value = value


class Model:
    """What unique_key sees of a pydantic model."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self.fields


def key(*args: Any, **kwargs: Any) -> str:
    return unique_key("shop.send", True, CHECK, args, kwargs)


VALUES = {
    "text": "text",
    "int": 3,
    "float": 2.5,
    "none": None,
    "bytes": b"bytes",
    "lists": [1, [2, 3]],
    "dicts": {"a": {"b": 1}, "c": 2},
    "mixed keys": {1: "a", "b": 2},
    "set": {1, 2, "three"},
    "datetime": datetime(2030, 1, 1, tzinfo=timezone.utc),
    "uuid": uuid.UUID(int=3),
    "decimal": decimal.Decimal("1.50"),
    "enum": Colour.RED,
    "dataclass": Point(1, [2]),
    "path": PurePosixPath("/tmp"),
    "model": Model(a=1),
    "pickled": Opaque(3),
}


@pytest.mark.parametrize("kind", VALUES)
def test_equal_arguments_give_equal_keys(kind):
    value = VALUES[kind]
    assert key(value) == key(to=value) == key(value, subject="")
    assert key(value) != key(value, subject="x")
    assert key(value) != key([value, value])
    assert len(key(value)) <= 60


def test_order_does_not_count_where_it_has_no_meaning():
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert key("x", one=1, two=2) == key("x", two=2, one=1)
    assert key([1, 2]) == key((1, 2))
    assert key([1, 2]) != key([2, 1])
    assert key(Model(a=1, b=2)) == key(Model(b=2, a=1))


def test_different_values_give_different_keys():
    values = [1, 1.0, True, "1", b"1", [1], {1}, {"1": 1}, None, Point(1, 1), Colour.RED, Opaque(1)]
    assert len({key(value) for value in values}) == len(values)


def test_keys_belong_to_a_task():
    assert unique_key("a.b", True, CHECK, ("x",), {}) != unique_key("a.c", True, CHECK, ("x",), {})
    assert unique_key("a.b", "nightly", CHECK, ("x",), {}) == "a.b:nightly"
    assert unique_key("a.b", lambda to: to, CHECK, ("x",), {}) == "a.b:x"


def test_long_texts_become_short():
    long = unique_key("a.b", "x" * 100, CHECK, ("x",), {})
    assert len(long) <= 60
    assert long != unique_key("a.b", "x" * 101, CHECK, ("x",), {})


def test_keys_are_the_same_in_every_process():
    program = (
        "from taskq.signature import CallCheck\n"
        "from taskq.unique import unique_key\n"
        "def send(to): ...\n"
        "check = CallCheck(send, 'send')\n"
        "print(unique_key('a.b', True, check, ({'x', 'y', 'z', 1}, ), {}))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
