"""Whatever is written is read again; whatever else stands in Redis is a PayloadError."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import math
import pickle
import random
import zlib
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from taskq.errors import NotSerializable, PayloadError
from taskq.serializers import Codec
from taskq.serializers import json as json_module
from taskq.serializers.tags import _UNPACK, MARK

PLAIN = Codec()
SIGNED = Codec(secret="new,old")
PICKLES = Codec(accept=("json", "pickle"))
ENGINES = [json_module.stdlib_engine(), json_module.msgspec_engine()]

ZONES = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(
    lambda offset: dt.timezone(dt.timedelta(seconds=int(offset.total_seconds())))
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = TEXT | st.sampled_from([MARK, "v", "c"])
HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**700), 10**700)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.binary()
    | st.datetimes(timezones=st.none() | ZONES)
    | st.dates()
    | st.times(timezones=st.none() | ZONES)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
    | TEXT.map(PurePosixPath),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE | st.builds(bytearray, st.binary()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=15,
)
NAMES = TEXT.filter(bool)


@pytest.fixture(scope="module", params=[0, 1], ids=["stdlib", "msgspec"], autouse=True)
def _engine(request: pytest.FixtureRequest) -> Any:
    engine = ENGINES[request.param]
    if engine is None:
        pytest.skip("msgspec is not installed")
    before = json_module._write, json_module._read
    json_module._write, json_module._read = engine
    yield
    json_module._write, json_module._read = before


def same(left: Any, right: Any) -> bool:
    """Equal, with equal types all the way down; 1 is not True, -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return bool(left == right) and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    if isinstance(left, dt.datetime):
        return bool(left == right) and left.utcoffset() == right.utcoffset()
    return bool(left == right)


@given(NAMES, st.lists(VALUES, max_size=3), st.dictionaries(KEYS, VALUES, max_size=3), NAMES, TEXT)
def test_calls_come_back(name: str, args: Any, kwargs: Any, job_id: str, queue: str) -> None:
    for codec in (PLAIN, SIGNED):
        data = codec.dump_call(name, tuple(args), kwargs, job_id=job_id, queue=queue)
        back = codec.load_call(data, job_id=job_id, queue=queue)
        assert same(list(back), [name, None, args, kwargs])
        assert same(list(codec.load_unbound(data)), [name, None, args, kwargs])


@given(VALUES, NAMES)
def test_values_come_back(value: Any, job_id: str) -> None:
    for codec in (PLAIN, SIGNED):
        raw = codec.dump_value(value, job_id=job_id, kind="result")
        assert same(codec.load_value(raw, job_id=job_id, kind="result"), value)
        assert same(codec.load_unbound(codec.dump_unbound(value)), value)


@given(VALUES)
def test_what_is_written_is_json_for_everybody(value: Any) -> None:
    text = PLAIN.dump_value(value, job_id="j", kind="result").decode()

    def never(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(text, parse_constant=never)


@given(
    st.recursive(
        VALUES | st.floats() | st.text() | st.just(object) | st.builds(object),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=10,
    )
)
def test_writing_fails_with_our_errors_only(value: Any) -> None:
    try:
        data = PLAIN.dump_call("f", (value,), {}, job_id="j", queue="q")
    except NotSerializable as error:
        if not str(error).endswith("Nothing was enqueued."):
            raise
    else:
        PLAIN.load_call(data, job_id="j", queue="q")


# Hostile bytes


def refused_or_read(codec: Codec, data: bytes) -> None:
    """Read all ways; anything but PayloadError is a failure of the test."""
    for read in (
        lambda: codec.load_call(data, job_id="j", queue="q"),
        lambda: codec.load_value(data, job_id="j", kind="result"),
        lambda: codec.load_value(data, job_id="j", kind="meta"),
        lambda: codec.load_unbound(data),
    ):
        with contextlib.suppress(PayloadError):
            read()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A genuine payload with a few bytes changed, cut out or put in."""
    value = draw(VALUES)
    codec = draw(st.sampled_from([PLAIN, SIGNED]))
    data = bytearray(codec.dump_call("f", (value, "x" * 20), {}, job_id="j", queue="q"))
    if draw(st.booleans()):
        data = bytearray(zlib.compress(data))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(start + 3, len(data))))
        data[start:end] = draw(
            st.binary(max_size=3)
            | st.sampled_from([b'"', b"[", b"]", b"{", b"\\u", b"NaN", b"1e9"])
        )
    return bytes(data)


@given(mutated())
def test_mutated_bytes_raise_nothing_but_payload_errors(data: bytes) -> None:
    for codec in (PLAIN, SIGNED):
        refused_or_read(codec, data)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_payload_errors(data: bytes) -> None:
    for start in (b"", b"\x01", b"x", b"x\x9c", b"[", b'["f",null,', b'{"$t":'):
        for codec in (PLAIN, SIGNED):
            refused_or_read(codec, start + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(
            lambda name, value: {MARK: name, "v": value}, st.sampled_from(sorted(_UNPACK)), inner
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_a_value_or_a_payload_error(value: Any) -> None:
    refused_or_read(PLAIN, json.dumps(value).encode())
    refused_or_read(PLAIN, json.dumps(["f", None, [value], {"k": value}]).encode())


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_broken_pickles_raise_nothing_but_payload_errors(data: bytes) -> None:
    # Only opcodes that call nothing: the rest runs what the bytes say, as pickle does. And not
    # p and r: they make the unpickler take 64 GB for a memo, as whoever may send pickles can.
    harmless = bytes(byte for byte in data if byte not in b"ciobRO\x81\x92\x93PQ\x82\x83\x84pr")
    refused_or_read(PICKLES, b"\x80\x05" + harmless)
    genuine = pickle.dumps(("f", None, (1, "a"), {"k": [1]}))
    refused_or_read(PICKLES, genuine[: len(data)])


# Signatures


@given(VALUES, st.data())
def test_every_bit_of_a_signed_payload_counts(value: Any, data: st.DataObject) -> None:
    raw = bytearray(SIGNED.dump_call("f", (value,), {}, job_id="j", queue="q"))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PayloadError):
        SIGNED.load_call(bytes(raw), job_id="j", queue="q")
    with pytest.raises(PayloadError):
        SIGNED.load_unbound(bytes(raw))


def test_ten_thousand_bit_flips_are_refused() -> None:
    chance = random.Random(7)
    genuine = SIGNED.dump_call("shop.pay", (100, "x" * 200), {"to": "bob"}, job_id="j", queue="q")
    for _ in range(10_000):
        raw = bytearray(genuine)
        bit = chance.randrange(len(raw) * 8)
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError):
            SIGNED.load_call(bytes(raw), job_id="j", queue="q")


@given(NAMES, NAMES, NAMES, NAMES)
def test_replays_to_another_job_or_queue_are_refused(
    job: str, queue: str, other_job: str, other_queue: str
) -> None:
    assume((job, queue) != (other_job, other_queue))
    raw = SIGNED.dump_call("f", (1,), {}, job_id=job, queue=queue)
    with pytest.raises(PayloadError, match="signed for"):
        SIGNED.load_call(raw, job_id=other_job, queue=other_queue)
    if job != other_job:
        for kind in ("result", "meta"):
            value = SIGNED.dump_value({}, job_id=job, kind=kind)
            with pytest.raises(PayloadError, match="signed for another job"):
                SIGNED.load_value(value, job_id=other_job, kind=kind)


@given(NAMES, NAMES)
def test_other_keys_are_refused(left: str, right: str) -> None:
    assume(left.rstrip("\0") != right.rstrip("\0"))  # HMAC pads keys with zeros
    raw = Codec(secret=[left.encode()]).dump_call("f", (), {}, job_id="j", queue="q")
    with pytest.raises(PayloadError):
        Codec(secret=[right.encode()]).load_call(raw, job_id="j", queue="q")


def test_base64_of_a_sealed_result_survives_rqs_stream() -> None:
    raw = SIGNED.dump_value([1], job_id="j", kind="result")
    assert SIGNED.load_value(base64.b64decode(base64.b64encode(raw)), job_id="j", kind="result")
