"""Retry: its delays, what it is retried for, and what is stored."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import math
import pickle
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from rq.job import Retry as RqRetry

from taskq.errors import ConfigError, TaskTimeout
from taskq.exc_names import class_names
from taskq.retry import Retry, RetryLater


class ShopError(Exception):
    class Closed(Exception):
        pass


class OutOfStock(ShopError):
    pass


def matches(retry: Retry, kind: type[BaseException]) -> bool:
    return retry.matches(class_names(kind))


# Delays


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(3), [1, 1, 1]),
        (Retry(3, base=600), [600, 600, 600]),
        (Retry(3, backoff="linear", base=2), [2, 4, 6]),
        (Retry(4, backoff="linear", base=100, cap=250), [100, 200, 250, 250]),
        (Retry(5, backoff="exponential", base=1, cap=300), [1, 2, 4, 8, 16]),
        (Retry(4, backoff="exponential", base=0.5, cap=3), [0.5, 1, 2, 3]),
        (Retry(3, backoff=lambda attempt: attempt * 1000), [1000, 2000, 3000]),
        (Retry(2, base=timedelta(minutes=1)), [60, 60]),
        (Retry(1, backoff="exponential", cap=timedelta(hours=1), base=3600), [3600]),
    ],
    ids=[f"case {n}" for n in range(9)],
)
def test_delays(retry: Retry, delays: list[float]) -> None:
    assert [retry.delay_s(n + 1) for n in range(retry.max)] == delays


def test_growth_ends_at_the_cap_however_late_the_attempt() -> None:
    assert Retry(5, backoff="exponential", base=1, cap=300).delay_s(1_000_000) == 300
    assert Retry(5, backoff="linear", base=1, cap=300).delay_s(10**9) == 300


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="attempt is 0: they count from 1"):
        Retry(3).delay_s(0)


def test_jitter_takes_a_part_between_half_and_all() -> None:
    retry = Retry(3, jitter=True)
    assert retry.jittered(10, rng=lambda: 0.0) == 5
    assert retry.jittered(10, rng=lambda: 0.5) == 7.5
    assert retry.jittered(10, rng=lambda: math.nextafter(1, 0)) <= 10
    assert all(5 <= retry.jittered(10) <= 10 for _ in range(1000))
    assert Retry(3).jittered(10) == 10


# RQ's fields


@pytest.mark.parametrize(
    ("retry", "intervals"),
    [
        (Retry(5), [1]),
        (Retry(10**9, base=2.5), [2.5]),
        (Retry(3, base=0), []),
        (Retry(3, backoff=lambda _: 0), []),
        (Retry(3, backoff="linear", base=0), []),
        (Retry(3, backoff="exponential"), [1, 2, 4]),
        (Retry(3, backoff=lambda n: n / 3), [0.333, 0.667, 1]),
    ],
    ids=[f"case {n}" for n in range(7)],
)
def test_intervals_are_what_rq_stores(retry: Retry, intervals: list[float]) -> None:
    assert retry.intervals() == intervals
    assert json.dumps(retry.intervals()) == json.dumps(intervals)  # whole seconds as int


def test_a_stock_worker_waits_as_long_as_we_say() -> None:
    retry = Retry(4, backoff="exponential", base=3)
    left = 4
    for attempt in range(1, 5):
        # Job.get_retry_interval
        index = max(len(retry.intervals()) - left, 0)
        assert retry.intervals()[index] == retry.delay_s(attempt)
        left -= 1
    assert RqRetry(4, interval=retry.intervals()).intervals == [3, 6, 12, 24]  # type: ignore[arg-type]


def test_an_int_means_so_many_at_once() -> None:
    retry = Retry.of(3)
    assert retry is not None
    assert (retry.max, retry.intervals(), retry.to_field()) == (3, [], "")
    assert Retry.of(None) is None
    assert Retry.of(0) is None
    assert Retry.of(retry) is retry


# Which exceptions


def test_all_exceptions_unless_said() -> None:
    assert matches(Retry(1), ValueError)
    assert Retry(1).matches([])


@pytest.mark.parametrize(
    ("on", "kind", "expected"),
    [
        (OSError, ConnectionResetError, True),
        ((OSError, ShopError), OutOfStock, True),
        ([OSError], ValueError, False),
        ("OSError", FileNotFoundError, True),
        ("builtins.OSError", FileNotFoundError, True),
        ("IOError", FileNotFoundError, True),
        (asyncio.TimeoutError, asyncio.TimeoutError, True),
        ("asyncio.TimeoutError", asyncio.TimeoutError, True),
        ("taskq.errors.TaskTimeout", TaskTimeout, True),
        (TimeoutError, TaskTimeout, True),
        (f"{__name__}.ShopError", OutOfStock, True),
        (f"{__name__}.ShopError.Closed", ShopError.Closed, True),
        (ShopError.Closed, ShopError, False),
        ("elsewhere.ShopError", ShopError, False),
    ],
    ids=[f"case {n}" for n in range(14)],
)
def test_on_takes_classes_and_names(on: Any, kind: type[BaseException], expected: bool) -> None:
    assert matches(Retry(1, on=on), kind) is expected
    assert matches(Retry(1, never_on=on), kind) is not expected


def test_never_on_wins() -> None:
    retry = Retry(1, on=(OSError,), never_on=(FileNotFoundError,))
    assert matches(retry, ConnectionError)
    assert not matches(retry, FileNotFoundError)
    assert not matches(retry, ValueError)


def test_a_name_from_further_up_in_the_package_matches() -> None:
    retry = Retry(1, on="no_such_package.ConnectionError")
    found = ["no_such_package.exceptions.ConnectionError", "builtins.OSError"]
    assert retry.matches(found)
    assert not retry.matches(["no_such_package_2.exceptions.ConnectionError"])
    assert not retry.matches(["no_such_package.exceptions.MyConnectionError"])


def test_nothing_is_imported_for_a_name() -> None:
    Retry(1, on="xml.parsers.expat.ExpatError", never_on=["no.such.module.Error"])
    assert "no.such.module" not in sys.modules


# The field


def test_the_field_is_left_out_where_rqs_fields_say_all() -> None:
    assert Retry(5, backoff="exponential").to_field() == ""


def test_the_field_says_the_rest() -> None:
    retry = Retry(5, backoff="linear", jitter=True, on=(OSError,), never_on=("a.B", ShopError))
    text = retry.to_field()
    assert json.loads(text) == {
        "n": 5,
        "j": 1,
        "on": ["builtins.OSError"],
        "no": ["a.B", f"{__name__}.ShopError"],
    }
    for stored in (text, text.encode()):
        back = Retry.from_field(stored)
        assert (back.max, back.jitter) == (5, True)
        assert (back.on, back.never_on) == (retry.on, retry.never_on)
        assert back.intervals() == []
        assert back.to_field() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "null",
        "[]",
        "{}",
        '{"n":0}',
        '{"n":"5"}',
        '{"n":1,"on":"OSError"}',
        '{"n":1,"on":[1]}',
        '{"n":1,"no":["a b"]}',
        '{"n":1,"on":{}}',
        b"\xff",
    ],
    ids=[f"case {n}" for n in range(12)],
)
def test_a_broken_field_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="tq_retry cannot be read"):
        Retry.from_field(text)


# Checks


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"max": 0}, ConfigError, "max is 0: 1 to 1,000,000,000 is allowed"),
        ({"max": -1}, ConfigError, "max is -1"),
        ({"max": 1.5}, TypeError, "max is 1.5: a whole number is allowed"),
        ({"max": True}, TypeError, "max is True"),
        ({"max": "3"}, TypeError, "max is '3'"),
        ({"backoff": "quadratic"}, ConfigError, 'backoff is \'quadratic\': "fixed", "linear"'),
        ({"backoff": 2}, ConfigError, "backoff is 2"),
        ({"backoff": []}, ConfigError, r"backoff is \[\]"),
        ({"backoff": lambda _: -1}, ConfigError, r"backoff <lambda>\(1\) is -1 s: 0 to"),
        ({"backoff": lambda _: "1"}, TypeError, r"<lambda>\(1\) is '1': seconds or a timedelta"),
        ({"backoff": lambda n: 1 if n < 3 else None}, TypeError, r"<lambda>\(3\) is None"),
        ({"backoff": "linear", "max": 1001}, ConfigError, "max is 1,001 with linear backoff, .*"),
        ({"base": -1}, ConfigError, "base is -1 s: 0 to 316224000 .ten years. is allowed"),
        ({"base": math.nan}, ConfigError, "base is nan"),
        ({"base": math.inf}, ConfigError, "base is inf"),
        ({"base": "1"}, TypeError, "base is '1'"),
        ({"base": True}, TypeError, "base is True"),
        ({"base": timedelta(-1)}, ConfigError, "base is -86400.0 s"),
        ({"cap": -1}, ConfigError, "cap is -1 s"),
        ({"base": 301, "backoff": "exponential"}, ConfigError, "base .301 s. is above cap .300 s."),
        ({"jitter": 1}, TypeError, "jitter is 1: True or False is allowed"),
        ({"on": 1}, TypeError, "on is 1: exception classes or names are allowed"),
        ({"on": {OSError}}, TypeError, "on is {"),
        ({"on": (1,)}, TypeError, "on has 1: an exception class or a dotted name"),
        ({"on": int}, TypeError, "on has <class 'int'>"),
        ({"on": (OSError(),)}, TypeError, "on has OSError"),
        ({"never_on": "a b"}, ConfigError, "never_on has 'a b', which is no dotted name"),
        ({"on": ""}, ConfigError, "on has '', which is no dotted name"),
        ({"on": "Timeout"}, ConfigError, 'no built-in exception: .*"package.module.Timeout"'),
        ({"on": "int"}, ConfigError, "on has 'int', which is no built-in exception"),
    ],
    ids=[f"case {n}" for n in range(30)],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Retry(**{"max": 3, **arguments})


@pytest.mark.parametrize("value", [True, "3", 1.0, object])
def test_other_things_are_no_retry(value: Any) -> None:
    with pytest.raises(TypeError, match=r"an int, a Retry\(\.\.\.\) or None is allowed"):
        Retry.of(value)


def test_a_negative_number_is_no_retry() -> None:
    with pytest.raises(ConfigError, match="max is -1"):
        Retry.of(-1)


def test_only_max_is_positional() -> None:
    with pytest.raises(TypeError):
        Retry(3, "linear")  # type: ignore[call-arg]


def test_it_is_immutable_comparable_and_shows_itself() -> None:
    retry = Retry(3, on=OSError)
    assert retry == Retry(3, on=["OSError"])
    assert hash(retry) == hash(Retry(3, on=("OSError",)))
    assert "max=3" in repr(retry)
    assert "builtins.OSError" in repr(retry)
    with pytest.raises(dataclasses.FrozenInstanceError):
        retry.max = 4  # type: ignore[misc]


def test_it_survives_replace_copy_and_pickle() -> None:
    retry = Retry(3, backoff="linear", base=2, jitter=True, on=OSError, never_on="a.B")
    assert dataclasses.replace(retry, max=4) == Retry(
        4, backoff="linear", base=2, jitter=True, on=OSError, never_on="a.B"
    )
    assert copy.deepcopy(retry) == retry
    assert pickle.loads(pickle.dumps(retry)) == retry


# Later


@pytest.mark.parametrize(("given", "seconds"), [(0, 0), (2.5, 2.5), (timedelta(minutes=1), 60)])
def test_later_is_an_exception_with_the_time(given: Any, seconds: float) -> None:
    error = Retry.later(given)
    assert isinstance(error, RetryLater)
    assert error.seconds == seconds
    with pytest.raises(RetryLater, match=f"run again in {seconds:g} s"):
        raise error


@pytest.mark.parametrize("given", [-1, math.nan, math.inf, timedelta(-1)])
def test_later_refuses_a_wrong_time(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"Retry\.later\(\) is "):
        Retry.later(given)
    with pytest.raises(TypeError):
        Retry.later("1")  # type: ignore[arg-type]


def test_class_names_are_nearest_first() -> None:
    names: Sequence[str] = class_names(OutOfStock)
    assert names == [
        f"{__name__}.OutOfStock",
        f"{__name__}.ShopError",
        "builtins.Exception",
        "builtins.BaseException",
    ]


def test_a_mixin_can_be_named() -> None:
    class Passing:
        pass

    class Busy(Passing, OSError):
        pass

    name = f"{__name__}.test_a_mixin_can_be_named.<locals>.Passing"
    assert matches(Retry(1, on=(name,)), Busy)
    assert not matches(Retry(1, on=(name,)), OSError)
