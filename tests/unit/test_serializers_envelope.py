"""Signed payloads: made for one job, one queue, one purpose; keys that rotate."""

from __future__ import annotations

import hashlib
import hmac
import pickle
import zlib
from typing import Any

import pytest

from taskq.errors import PayloadError
from taskq.serializers import Codec, envelope
from taskq.serializers import json as json_module

SIGNED = Codec(secret="correct horse")
UNSIGNED = Codec()
JOB = {"job_id": "abc", "queue": "default"}


@pytest.fixture
def data() -> bytes:
    return SIGNED.dump_call("shop.pay", (100,), {"to": "bob"}, **JOB)


def test_a_signed_call_comes_back(data: bytes) -> None:
    assert SIGNED.load_call(data, **JOB) == ("shop.pay", None, [100], {"to": "bob"})


def test_large_and_unicode_parts_come_back() -> None:
    job = {"job_id": "ä" * 300, "queue": "grün 🎉"}
    data = SIGNED.dump_call("f", ("x" * 5000,), {}, **job)
    assert len(data) < 1100
    assert SIGNED.load_call(data, **job)[2] == ["x" * 5000]


def test_the_signature_is_hmac_sha256_over_all_that_follows_it(data: bytes) -> None:
    assert data[0] == 1
    assert data[5:37] == hmac.digest(b"correct horse", data[37:], hashlib.sha256)
    assert b"correct horse" not in data


def test_every_changed_bit_is_refused(data: bytes) -> None:
    for index in range(len(data) * 8):
        changed = bytearray(data)
        changed[index // 8] ^= 1 << index % 8
        with pytest.raises(PayloadError):
            SIGNED.load_call(bytes(changed), **JOB)


def test_every_shortened_or_lengthened_payload_is_refused(data: bytes) -> None:
    for end in range(len(data)):
        with pytest.raises(PayloadError):
            SIGNED.load_call(data[:end], **JOB)
    with pytest.raises(PayloadError, match="changed after it was signed"):
        SIGNED.load_call(data + b" ", **JOB)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"job_id": "abd", "queue": "default"}, "signed for another job, and copied here"),
        ({"job_id": "", "queue": "default"}, "another job"),
        ({"job_id": "abc", "queue": "high"}, "signed for the queue 'default', and moved to 'high'"),
        ({"job_id": "ab", "queue": "cdefault"}, "another job"),
    ],
    ids=["job", "no job", "queue", "shifted"],
)
def test_a_payload_of_another_job_or_queue_is_refused(
    data: bytes, job: dict[str, str], message: str
) -> None:
    with pytest.raises(PayloadError, match=message):
        SIGNED.load_call(data, **job)


def test_a_payload_of_another_purpose_is_refused() -> None:
    call: Any = ["os.system", None, ["true"], {}]  # a result that would make a call
    result = SIGNED.dump_value(call, job_id="abc", kind="result")
    meta = SIGNED.dump_value({"a": 1}, job_id="abc", kind="meta")
    unbound = SIGNED.dump_unbound(call)
    for raw in (result, meta, unbound):
        with pytest.raises(PayloadError, match="signed for another purpose"):
            SIGNED.load_call(raw, job_id="abc", queue="")
    with pytest.raises(PayloadError, match="another purpose"):
        SIGNED.load_value(meta, job_id="abc", kind="result")
    with pytest.raises(PayloadError, match="another purpose"):
        SIGNED.load_value(result, job_id="abc", kind="meta")
    with pytest.raises(PayloadError, match="another job"):
        SIGNED.load_value(result, job_id="abd", kind="result")
    assert SIGNED.load_value(result, job_id="abc", kind="result") == call


def test_what_is_not_signed_is_refused_where_there_is_a_secret() -> None:
    plain = UNSIGNED.dump_call("f", (), {}, **JOB)
    pickles = Codec(secret="x", accept=("json", "pickle"))
    for raw in (plain, zlib.compress(plain), pickle.dumps(("f", None, (), {})), b"", b"\x00"):
        for codec in (SIGNED, pickles):
            with pytest.raises(PayloadError, match="not signed, but this app has a secret"):
                codec.load_call(raw, **JOB)
            with pytest.raises(PayloadError, match="not signed"):
                codec.load_value(raw, job_id="abc", kind="result")
            with pytest.raises(PayloadError, match="not signed"):
                codec.load_unbound(raw)


def test_what_is_signed_is_refused_where_there_is_no_secret(data: bytes) -> None:
    with pytest.raises(PayloadError, match="signed, but this app has no secret"):
        UNSIGNED.load_call(data, **JOB)


def test_nothing_is_decoded_before_the_signature_is_verified(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(json_module, "decode", never)
    monkeypatch.setattr(zlib, "decompressobj", never)
    with pytest.raises(PayloadError):
        SIGNED.load_call(data[:-1] + b"!", **JOB)


# Keys


def test_keys_rotate() -> None:
    old, both, new = Codec(secret="old"), Codec(secret=["new", "old"]), Codec(secret="new")
    first = old.dump_call("f", (), {}, **JOB)
    second = both.dump_call("f", (), {}, **JOB)
    assert both.load_call(first, **JOB)[0] == "f"
    assert both.load_call(second, **JOB)[0] == "f"
    assert new.load_call(second, **JOB)[0] == "f"
    with pytest.raises(PayloadError, match="signed with a key that this app does not have"):
        new.load_call(first, **JOB)
    with pytest.raises(PayloadError, match="a key that this app does not have"):
        old.load_call(second, **JOB)


def test_a_text_may_hold_several_keys() -> None:
    data = Codec(secret="old").dump_call("f", (), {}, **JOB)
    secrets: Any = ("new,old", " new , old ", ("new", "old"), ["new", b"old"], "old,new", "old\n")
    for secret in secrets:
        assert Codec(secret=secret).load_call(data, **JOB)[0] == "f"
    with pytest.raises(PayloadError):
        Codec(secret=b"new,old").load_call(data, **JOB)  # bytes are one key


def test_keys_whose_ids_collide_are_all_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "_key_id", lambda _: b"same")
    data = Codec(secret="old").dump_call("f", (), {}, **JOB)
    assert Codec(secret="new,old").load_call(data, **JOB)[0] == "f"
    with pytest.raises(PayloadError, match="the signature is wrong"):
        Codec(secret="new").load_call(data, **JOB)


def test_a_well_signed_envelope_of_another_form_is_refused() -> None:
    seal = envelope.Seal([b"k"])
    for parts in (b"", b"c", b"?\x00\x00\x00\x00", b"c\xff\xff", b"c\x00\x01\xff\x00\x00"):
        mac = hmac.digest(b"k", parts, "sha256")
        raw = b"\x01" + envelope._key_id(b"k") + mac + parts
        with pytest.raises(PayloadError, match="signed by another version of taskq"):
            seal.open(raw)


def test_a_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 65,535 bytes"):
        SIGNED.dump_call("f", (), {}, job_id="x" * 70_000, queue="q")


# Beside a stock RQ


def test_rq_takes_an_envelope_as_it_is(data: bytes) -> None:
    with pytest.raises(zlib.error):
        zlib.decompress(data)


def test_an_envelope_that_rq_has_deflated_is_read(data: bytes) -> None:
    assert SIGNED.load_call(zlib.compress(data), **JOB)[0] == "shop.pay"
    with pytest.raises(PayloadError, match="another job"):
        SIGNED.load_call(zlib.compress(data), job_id="x", queue="default")


def test_what_rq_signs_is_bound_to_no_job_but_is_a_call_or_a_value() -> None:
    call = SIGNED.dump_unbound(("f", None, (1,), {}))
    value = SIGNED.dump_unbound({"a": (1,)})
    assert SIGNED.load_call(call, **JOB) == ("f", None, [1], {})
    assert SIGNED.load_value(value, job_id="abc", kind="result") == {"a": (1,)}
    assert SIGNED.load_value(value, job_id="abc", kind="meta") == {"a": (1,)}
    with pytest.raises(PayloadError, match="another purpose"):
        SIGNED.load_call(value, **JOB)
    with pytest.raises(PayloadError, match="another purpose"):
        SIGNED.load_value(call, job_id="abc", kind="result")


def test_pickle_can_be_signed() -> None:
    codec = Codec("pickle", secret="x")
    data = codec.dump_call("f", ({1},), {}, **JOB)
    assert codec.load_call(data, **JOB) == ("f", None, ({1},), {})
