"""From raw ends to values and errors, and the words of messages. No Redis."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import timedelta
from typing import Any

import pytest

from taskq import JobFailed, PayloadError, TaskQError, TaskTimeout
from taskq.broker.outcomes import Kind, Outcome, from_entry
from taskq.patience import Picture, sentence
from taskq.pending import seconds_of
from taskq.progress import Progress, parse_progress
from taskq.questions import UNKEPT, as_status
from taskq.states import Status
from taskq.verdict import error_of, last_error, traceback_of, value_of
from tests.endings import pack


class JsonCodec:
    """Stands for the app's codec."""

    def load_value(self, raw: bytes, *, job_id: str, kind: str) -> Any:
        assert (job_id, kind) == ("a", "result")
        return json.loads(raw)


NO_WORKER = "No worker listens to 'default'; start: taskq worker APP -q default."
FRAME = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n    ~^^\n'


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (FRAME + "ValueError: bad\n", ("ValueError", "bad")),
        (FRAME + "KeyboardInterrupt\n", ("KeyboardInterrupt", "")),
        (
            FRAME + "shop.err.NoStock: none\nleft\n  at all\n",
            ("shop.err.NoStock", "none\nleft\n  at all"),
        ),
        (FRAME + "ValueError\n", ("ValueError", "")),
        (FRAME + "ValueError: \n", ("ValueError", "")),
        (
            FRAME + "KeyError: 'a'\n\nDuring handling of the above exception, another exception "
            "occurred:\n\n" + FRAME + "OSError: disk\n",
            ("OSError", "disk"),
        ),
        (
            FRAME[:35] + '  File "a.py", line 1\n    x x\n      ^\nSyntaxError: invalid syntax\n',
            ("SyntaxError", "invalid syntax"),
        ),
        (FRAME + "f.<locals>.Odd: why\n", ("f.<locals>.Odd", "why")),
        ("Job was stuck in intermediate queue.", ("", "Job was stuck in intermediate queue.")),
        (
            "Moved to FailedJobRegistry, due to AbandonedJobError, at 2026-11-22 18:00:00",
            ("", "Moved to FailedJobRegistry, due to AbandonedJobError, at 2026-11-22 18:00:00"),
        ),
        ("first\nlast line\n", ("", "last line")),
        ("", ("", "")),
    ],
)
def test_last_error(trace: str, expected: tuple[str, str]) -> None:
    assert last_error(trace) == expected


def test_a_hostile_traceback_is_cut() -> None:
    bomb = base64.b64encode(zlib.compress(b"x" * 50_000_000))
    assert len(traceback_of({b"exc_string": bomb})) == 1_000_000
    for raw in (b"***", b"", base64.b64encode(b"not zlib")):
        assert traceback_of({b"exc_string": raw}) == ""


@pytest.mark.parametrize("raw", [b"{}", b"[1]", b"garbage", b'["E","m","many"]', b"\xff"])
def test_a_broken_tq_error_falls_back_to_the_traceback(raw: bytes) -> None:
    fields = {b"type": b"2", b"tq_error": raw, b"exc_string": pack(FRAME + "E: m").encode()}
    error = error_of(Outcome(Kind.FAILED, fields), "a")
    assert isinstance(error, JobFailed)
    assert (error.exc_type, error.message, error.attempts) == ("E", "m", 1)


def test_a_failure_without_any_reason() -> None:
    error = error_of(Outcome(Kind.FAILED, {b"type": b"2"}), "a")
    assert str(error) == "Job a failed: no reason is recorded"


def test_time_limit() -> None:
    fields = {b"type": b"2", b"tq_error": b'["taskq.errors.TaskTimeout","over 3 s",1]'}
    assert isinstance(error_of(Outcome(Kind.FAILED, fields), "a"), TaskTimeout)


def test_values() -> None:
    fields = {b"return_value": base64.b64encode(b"[1, 2]")}
    assert value_of(Outcome(Kind.FINISHED, fields), "a", JsonCodec()) == [1, 2]
    assert value_of(Outcome(Kind.FINISHED, fields), "a", JsonCodec(), rebuild=tuple) == (1, 2)
    assert value_of(Outcome(Kind.FINISHED), "a", JsonCodec()) is None
    with pytest.raises(PayloadError, match="not base64"):
        value_of(Outcome(Kind.FINISHED, {b"return_value": b"*"}), "a", JsonCodec())


@pytest.mark.parametrize("kind", [k for k in Kind if k not in (Kind.FINISHED, Kind.LATE)])
def test_every_other_kind_is_an_error(kind: Kind) -> None:
    error = error_of(Outcome(kind), "a")
    assert isinstance(error, TaskQError)
    assert "a" in str(error)


def test_expired_names_the_time() -> None:
    assert str(error_of(Outcome(Kind.EXPIRED), "7f3a", 500.0)) == (
        "The result of 7f3a has expired (result_ttl=500 s)."
    )
    assert str(error_of(Outcome(Kind.EXPIRED, note="60"), "7f3a", 500.0)) == (
        "The result of 7f3a has expired (result_ttl=60 s)."
    )


@pytest.mark.parametrize(
    ("flat", "kind"),
    [
        ([b"type", b"1"], Kind.FINISHED),
        ([b"type", b"2"], Kind.FAILED),
        ([b"type", b"3"], Kind.STOPPED),
        ([b"type", b"5"], Kind.FAILED),
        ([b"type", b"9"], Kind.BROKEN),
        ([], Kind.BROKEN),
        (None, Kind.BROKEN),
        ([b"type"], Kind.BROKEN),
    ],
)
def test_entries(flat: Any, kind: Kind) -> None:
    outcome = from_entry(flat)
    assert outcome is not None
    assert outcome.kind is kind


def test_a_retried_entry_is_no_end() -> None:
    assert from_entry([b"type", b"4"]) is None


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (None, "Redis does not answer. The job is not affected."),
        (Picture(), "Redis knows no job of that id."),
        (
            Picture("queued", "default", ahead=3),
            "queued, 3 ahead of it in 'default'. " + NO_WORKER,
        ),
        (
            Picture("queued", "default", ahead=3, worker_count=2),
            "queued, 3 ahead of it in 'default'. 2 workers on 'default'.",
        ),
        (
            Picture("queued", "default", worker_count=20),
            "queued in 'default'. 20+ workers on 'default'.",
        ),
        (
            Picture("queued", "default", ahead=0, stopped_by="All workers are suspended."),
            "queued, 0 ahead of it in 'default'. All workers are suspended.",
        ),
        (Picture("started", "q", running_s=12.4), "started 12 s ago, still running."),
        (Picture("started", "q"), "started."),
        (
            Picture("scheduled", "q", due_in_s=59.6, worker_count=1),
            "scheduled, due in 60 s on 'q'.",
        ),
        (Picture("deferred", "q"), "deferred, it waits for other jobs."),
        (Picture("queued", ""), "queued."),
    ],
)
def test_sentences(picture: Picture | None, expected: str) -> None:
    assert sentence("thumbnail 7f3a", 10, picture, "APP") == (
        f"No result of thumbnail 7f3a after 10 s: {expected}"
    )


def test_timeouts() -> None:
    assert seconds_of(None) is None
    assert seconds_of(3) == 3.0
    assert seconds_of(timedelta(minutes=1)) == 60.0
    with pytest.raises(TypeError, match="'3'"):
        seconds_of("3")


def test_progress() -> None:
    assert parse_progress(None) is None
    assert parse_progress(b"[2]") is None
    assert parse_progress(b'[2,8,"x"]') == Progress(2, 8, "x")
    assert Progress(9, 8).fraction == 1.0
    assert Progress(1).fraction is None


def test_states() -> None:
    assert as_status("a", "queued") is Status.QUEUED
    assert as_status("a", UNKEPT) is Status.FINISHED
    with pytest.raises(PayloadError, match="'odd'"):
        as_status("a", "odd")
