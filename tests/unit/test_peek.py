"""Payloads as they are shown: every form named, none of it run, nothing too large decoded."""

from __future__ import annotations

import json
import pickle
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.cli.values import call_text, data, value_text
from taskq.inspector.results import read_entries
from taskq.serializers import Codec
from taskq.serializers.peek import MAX_BYTES, peek, task_of

CALL = ["shop.images.thumbnail", None, ["a.png"], {"size": 64}]


def dump(codec, *args, **kwargs):
    return codec.dump_call("shop.images.thumbnail", args, kwargs, job_id="j", queue="q")


@pytest.mark.parametrize("text", ["a.png", "x" * 5_000])
@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_our_own_calls(secret, text):
    stored = dump(Codec(secret=secret), text, size=64)
    found = peek(stored)
    assert task_of(stored) == "shop.images.thumbnail"
    assert (found.form, found.signed) == ("json", secret is not None)
    assert found.value == ["shop.images.thumbnail", None, [text], {"size": 64}]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", [bytes, zlib.compress])
def test_pickled_calls_have_a_name_and_nothing_else(protocol, pack):
    stored = pack(pickle.dumps(("shop.images.thumbnail", None, ("a",), {}), protocol))
    assert task_of(stored) == "shop.images.thumbnail"
    assert peek(stored)[:3] == ("pickle", False, None)


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (b"", ""),
        (b"\x80", ""),
        (b"\x80\x04N.", ""),
        (pickle.dumps(["not a name!"]), ""),
        (b"[1, 2]", ""),
        (b'["\\u0061.b", null', "a.b"),
        (b'["unfinished', ""),
        (b'{"a": 1}', ""),
        (b"\x01", ""),
        (b"x\x9c", ""),
    ],
)
def test_names_of_odd_payloads(stored, name):
    assert task_of(stored) == name


@given(st.binary(max_size=200))
def test_no_bytes_break_it(stored):
    for prefix in (b"", b"\x01", b"\x80\x04", b'["', b"x\x9c"):
        found = peek(prefix + stored)
        assert found.form in ("json", "pickle", "empty", "unreadable")
        assert isinstance(task_of(prefix + stored), str)
        assert isinstance(call_text(found) + value_text(found), str)


def test_what_is_large_is_not_decoded():
    large = json.dumps(["a.b", None, ["x" * MAX_BYTES], {}]).encode()
    for stored in (large, zlib.compress(large)):
        found = peek(stored)
        assert (found.form, found.value, found.cut) == ("json", None, True)
        assert task_of(stored) == "a.b"
        assert "not shown" in value_text(found)


def test_depth_is_no_danger():
    assert peek(b"[" * 500_000).form == "unreadable"


def test_a_call_is_shown_as_it_is_written():
    assert call_text(peek(json.dumps(CALL).encode())) == "thumbnail('a.png', size=64)"
    signed = peek(dump(Codec(secret="s"), "a.png"))
    assert call_text(signed) == "thumbnail('a.png')  (signed)"
    assert call_text(peek(b'["a", 1]')) == "(JSON, 8 bytes: not shown)"
    assert call_text(peek(pickle.dumps(1))) == "(pickled, 5 bytes: not shown)"


def test_values_are_shown_as_pythons():
    stored = Codec().dump_value({"at": {1, 2}, "raw": b"x"}, job_id="j", kind="result")
    assert value_text(peek(stored)) == "{'at': {1, 2}, 'raw': b'x'}"
    assert data(peek(stored))["raw"] == {"$t": "bytes", "v": "eA=="}
    assert value_text(None) == "None"
    assert value_text(peek(b'{"$t": "int", "v": "zz"}')) == '{"$t": "int", "v": "zz"}'


def test_long_values_are_cut_and_escape_codes_shown():
    text = value_text(peek(json.dumps("\u202e" + "x" * 5_000).encode()))
    assert "\u202e" not in text
    assert text.endswith("--json shows all)")


def entry(**fields):
    flat = [part for name, value in fields.items() for part in (name.encode(), value)]
    (found,) = read_entries([[b"1700000000123-0", flat]])
    return found


def test_result_entries():
    ok = entry(type=b"1", return_value=b"NDI=", worker_name=b"w")
    assert (ok.kind, ok.at, ok.value.value, ok.worker) == ("finished", 1700000000.123, 42, "w")
    ours = entry(type=b"2", tq_error=b'["builtins.OSError", "no", 3]')
    assert (ours.kind, ours.error_type, ours.error, ours.attempts) == (
        "failed", "builtins.OSError", "no", 3,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("trace", "kind", "message"),
    [
        ("Traceback ...\n  x\nValueError: bad: very\n", "ValueError", "bad: very"),
        ("Traceback ...\n  x\nshop.errors.Gone\n", "shop.errors.Gone", ""),
        ('T\n  File "a.py"\n    f()\n  File "b"\n    ^\nE: one\ntwo\n', "E", "one"),
        ("Work-horse terminated unexpectedly; signal 9", "", None),
        ("", "", ""),
    ],
)
def test_errors_of_stock_rq_are_read_from_the_traceback(trace, kind, message):
    import base64

    found = entry(type=b"2", exc_string=base64.b64encode(zlib.compress(trace.encode())))
    assert found.error_type == kind
    assert found.error == (trace if message is None else message)


@pytest.mark.parametrize("junk", [b"", b"x", b"===", b"eNo=", b"\xff" * 9])
def test_junk_in_results(junk):
    found = entry(type=junk, return_value=junk, exc_string=junk, tq_error=junk, worker_name=junk)
    assert found.kind == "unreadable"
    assert read_entries([[junk, None], junk, None]) is not None
