"""Values as they are typed: durations, dates, queues, arguments of tasks, filters."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.cli.enqueue import read_arguments, read_value
from taskq.cli.options import Duration, Moment, Since
from taskq.cli.query import iso, took
from taskq.cli.worker import cores, parse_queues
from taskq.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (" 10S ", 10),
        (7, 7),
    ],
)
def test_durations(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 m", "1m1h", "1e3", "m", "\0-5"])
def test_what_is_no_duration(text):
    with pytest.raises(click.BadParameter, match="write seconds, or 90s"):
        Duration().convert(text, None, None)


def test_moments():
    expected = datetime(2026, 11, 22, 18, 0, tzinfo=timezone.utc)
    assert Moment().convert("2026-11-22T18:00:00Z", None, None) == expected
    assert Moment().convert("2026-11-22 19:00+01:00", None, None) == expected
    assert Moment().convert(expected, None, None) is expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [("tomorrow", "is no date"), ("2026-11-22T18:00", "has no time zone"), ("2026-13-01Z", "no d")],
)
def test_what_is_no_moment(text, reason):
    with pytest.raises(click.BadParameter, match=reason):
        Moment().convert(text, None, None)


def test_since_is_a_date_or_back_from_now():
    assert Since().convert("1970-01-02T00:00:00Z", None, None) == 86400
    assert Since().convert("1h", None, None) == pytest.approx(time.time() - 3600, abs=5)


def test_queues_in_strict_order():
    assert parse_queues(["high", "default"]) == (("high", 0.0), ("default", 0.0))


def test_queues_with_weights():
    assert parse_queues(["high=5", "low"]) == (("high", 5.0), ("low", 1.0))
    assert parse_queues(["a=b=2"]) == (("a=b", 2.0),)


@pytest.mark.parametrize("text", ["", " ", "=5", "a=x", "a=0", "a=-1", "a=inf", "a=nan", "a\x1b"])
def test_queues_that_are_none(text):
    with pytest.raises(ConfigError):
        parse_queues([text])


def test_a_queue_given_twice():
    with pytest.raises(ConfigError, match="twice"):
        parse_queues(["a", "a=3"])


def test_cores_are_at_least_one():
    assert 1 <= cores() <= 10_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ('"64"', "64"),
        ("a.png", "a.png"),
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        ("NaN", "NaN"),
        ("[1, NaN]", "[1, NaN]"),
        ("-Infinity", "-Infinity"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_is_json_or_text(text, value):
    assert read_value(text) == value


def test_arguments():
    args = ["a.png", "http://x/?a=b", "\0-5", "size=64", "note=a=b", "empty="]
    assert read_arguments(args) == (
        ["a.png", "http://x/?a=b", -5],
        {"size": 64, "note": "a=b", "empty": ""},
    )


def test_arguments_that_contradict():
    with pytest.raises(ConfigError, match="given twice"):
        read_arguments(["a=1", "a=2"])
    with pytest.raises(ConfigError, match="positional ones come first"):
        read_arguments(["a=1", "2"])


@given(st.text())
def test_any_text_is_some_value(text):
    read_value(text)


def test_times_for_programs():
    assert iso(0.5) == "1970-01-01T00:00:00.500Z"
    assert iso(None) is None
    assert iso(1e300) is None


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [(1.0, 1.25, "250ms"), (1.0, 13.0, "12s"), (None, 1.0, "-"), (2.0, 1.0, "-")],
)
def test_how_long_it_took(start, end, text):
    assert took(start, end) == text


def test_offsets_are_kept():
    moment = Moment().convert("2026-11-22T18:00:00+02:00", None, None)
    assert moment.utcoffset() == timedelta(hours=2)
