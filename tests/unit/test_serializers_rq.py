"""The serializer that a stock RQ gets: settings, and RQ's own classes on our bytes."""

from __future__ import annotations

import datetime as dt
import pickle
import subprocess
import sys
import zlib
from typing import Any

import pytest
from rq.job import Job
from rq.serializers import resolve_serializer

from taskq.errors import ConfigError, NotSerializable, PayloadError
from taskq.serializers import Codec
from taskq.serializers import rq as module

PATH = "taskq.serializers.rq"
CALL: Any = ("os.path.join", None, ("a", "b"), {})


class Nothing:
    """A connection that no test here may use."""


def restored(data: bytes, serializer: Any, **fields: bytes) -> Job:
    job = Job("abc", connection=Nothing(), serializer=serializer)  # type: ignore[arg-type]
    job.restore({b"data": data, **{key.encode(): value for key, value in fields.items()}})
    return job


def test_rq_finds_the_module_by_its_path() -> None:
    assert resolve_serializer(PATH) is module


@pytest.mark.parametrize("secret", [None, "hush"])
@pytest.mark.parametrize("text", ["a", "x" * 5000])
def test_rq_reads_calls_and_meta_of_taskq(
    secret: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec(secret=secret)
    if secret:
        monkeypatch.setenv("TASKQ_SECRET", secret)
    data = codec.dump_call("shop.f", (text, (1,)), {"k": {2}}, job_id="abc", queue="q")
    meta = codec.dump_value({"when": dt.date(2026, 1, 1)}, job_id="abc", kind="meta")
    for serializer in (PATH, codec.rq_serializer()):
        job = restored(data, serializer, meta=meta)
        assert (job.func_name, job.instance) == ("shop.f", None)
        assert (list(job.args), job.kwargs) == ([text, (1,)], {"k": {2}})
        assert job.meta == {"when": dt.date(2026, 1, 1)}


@pytest.mark.parametrize("secret", [None, "hush"])
def test_taskq_reads_calls_that_rq_wrote_with_our_serializer(secret: str | None) -> None:
    codec = Codec(secret=secret)
    job = Job.create(
        "shop.f",
        args=("a", (1, {2})),
        kwargs={"k": 3},
        id="abc",
        connection=Nothing(),  # type: ignore[arg-type]
        serializer=codec.rq_serializer(),
        meta={"a": (1,)},
    )
    stored = job.to_dict()
    assert stored["data"][:1] == b"x"
    call = codec.load_call(stored["data"], job_id="abc", queue="default")
    assert call == ("shop.f", None, ["a", (1, {2})], {"k": 3})
    assert codec.load_value(stored["meta"], job_id="abc", kind="meta") == {"a": (1,)}


def test_settings_come_from_the_environment_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(CALL)
    with pytest.raises(PayloadError, match="pickle"):
        module.loads(pickled)
    monkeypatch.setenv("TASKQ_ACCEPT", "json,pickle")
    assert module.loads(pickled) == CALL
    monkeypatch.setenv("TASKQ_SERIALIZER", "pickle")
    assert pickle.loads(module.dumps({1: 2})) == {1: 2}
    monkeypatch.setenv("TASKQ_SECRET", "new, old")
    sealed = module.dumps(CALL)
    assert sealed[:1] == b"\x01"
    assert module.loads(sealed) == CALL
    with pytest.raises(PayloadError, match="not signed"):
        module.loads(pickled)
    monkeypatch.delenv("TASKQ_SECRET")
    for name in ("TASKQ_ACCEPT", "TASKQ_SERIALIZER"):
        monkeypatch.setenv(name, "")  # as not set
    assert module.dumps({"a": 1}) == b'{"a":1}'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TASKQ_ACCEPT", "yaml"),
        ("TASKQ_SERIALIZER", "xml"),
        ("TASKQ_SECRET", ","),
        ("TASKQ_MAX_BYTES", "many"),
        ("TASKQ_MAX_BYTES", "0"),
    ],
)
def test_wrong_settings_are_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=value):
        module.dumps(1)


def test_a_call_is_written_as_stock_rqs_json_serializer_writes_it() -> None:
    assert module.dumps(CALL) == b'["os.path.join",null,["a","b"],{}]'
    assert module.loads(module.dumps(CALL)) == ["os.path.join", None, ["a", "b"], {}]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1],
        {"a": (1,)},
        ("f", None, (1,)),
        ("f", None, (), {1: 2}) and ("f", None, 1, {}),
        (1, None, (), {}),
        "x" * 5000,
    ],
    ids=[f"case {n}" for n in range(7)],
)
def test_results_come_back(value: Any) -> None:
    assert module.loads(module.dumps(value)) == value


def test_a_payload_that_rq_left_deflated_is_read() -> None:
    assert module.loads(zlib.compress(module.dumps([1]))) == [1]


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(NotSerializable, match=r"^f\(\): argument 'k\[0\]' is an object, "):
        module.dumps(("shop.f", None, (), {"k": [object()]}))
    with pytest.raises(NotSerializable, match=r"^The value is an object, .* Use an id instead"):
        module.dumps(object())
    with pytest.raises(NotSerializable, match=r"^f\(\): a method of an object"):
        module.dumps(("f", object(), (), {}))


def test_methods_of_objects_go_through_pickle() -> None:
    codec = Codec("pickle", secret="x")
    when = dt.date(2026, 1, 1)
    data = codec.dump_unbound(("isoformat", when, (), {}))
    assert codec.load_call(data, job_id="any", queue="any") == ("isoformat", when, (), {})


def test_the_object_has_a_path_as_rqs_workers_note_it() -> None:
    serializer = Codec().rq_serializer()
    assert f"{serializer.__module__}.{serializer.__qualname__}" == PATH


def test_rq_finds_it_in_a_process_that_has_not_imported_taskq() -> None:
    code = (
        f"from rq.serializers import resolve_serializer as find; print(find({PATH!r}).dumps([1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "b'[1]'"


def test_neither_rq_nor_redis_is_imported_for_it() -> None:
    code = (
        "import sys, taskq.serializers.rq; print([m for m in ('rq', 'redis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("secret", ["", ",", " ", "a,"])
def test_an_empty_secret_is_refused(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQ_SECRET", secret)
    for call in (lambda: module.dumps(1), lambda: module.loads(b"1")):
        with pytest.raises(ConfigError, match="TASKQ_SECRET.* is empty or has an empty part"):
            call()
