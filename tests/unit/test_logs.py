from __future__ import annotations

import io
import json
import logging

import pytest

from taskq import logs


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Closed(list):
    """Handlers of a logger that takes no more: pytest adds its own before each test."""

    def append(self, handler) -> None:
        pass


@pytest.fixture
def bare_logging():
    """No handlers, as in a fresh process."""
    root, ours = logging.getLogger(), logging.getLogger("taskq")
    before = root.handlers[:], ours.handlers[:], ours.level
    root.handlers, ours.handlers = _Closed(), []
    yield logging.getLogger("taskq.test")
    root.handlers, ours.handlers = before[0], before[1]
    ours.setLevel(before[2])


def test_text_has_the_job_and_no_forged_lines(bare_logging):
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    bare_logging.info("done\x1b[2J\n12:00 forged", extra={"job_id": "7f3a", "task": "a.b"})
    first, second, _ = stream.getvalue().split("\n")
    assert first.endswith("INFO taskq.test: done\\x1b[2J")
    assert second == "    12:00 forged job_id=7f3a task=a.b"


def test_a_traceback_is_indented(bare_logging):
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    try:
        raise ValueError("bad\x1b")
    except ValueError:
        bare_logging.exception("failed")
    lines = stream.getvalue().splitlines()
    assert lines[1] == "    Traceback (most recent call last):"
    assert lines[-1] == "    ValueError: bad\\x1b"


def test_json_is_one_object_a_line(bare_logging):
    stream = io.StringIO()
    logs.configure("debug", "json", stream=stream)
    try:
        raise ValueError("bad\n")
    except ValueError:
        bare_logging.exception("a\nb %s", "c", extra={"job_id": "7f3a", "attempt": 2, "odd": {1}})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record["message"] == "a\nb c"
    assert (record["level"], record["logger"]) == ("error", "taskq.test")
    assert (record["job_id"], record["attempt"], record["odd"]) == ("7f3a", 2, "{1}")
    assert record["time"].endswith("Z")
    assert "ValueError: bad" in record["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_wrong_format_string_costs_no_record(bare_logging, form):
    stream = io.StringIO()
    logs.configure("info", form, stream=stream)
    bare_logging.info("%d jobs", "many")
    assert "%d jobs" in stream.getvalue()


def test_an_app_that_has_handlers_is_left_alone(bare_logging):
    logging.getLogger().handlers = [logging.NullHandler()]
    logs.configure("info", stream=io.StringIO())
    assert logging.getLogger("taskq").handlers == []


def test_an_app_that_configures_later_is_not_doubled(bare_logging):
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    logging.getLogger().handlers = [logging.NullHandler()]
    bare_logging.info("once")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_our_handler(bare_logging):
    logs.configure("info", stream=io.StringIO())
    stream = io.StringIO()
    logs.configure("warning", stream=stream)
    bare_logging.info("not this")
    bare_logging.warning("this")
    assert stream.getvalue().count("this") == 1
    assert len(logging.getLogger("taskq").handlers) == 1


def test_the_root_logger_is_never_touched(bare_logging):
    logs.configure("debug", stream=io.StringIO())
    assert logging.getLogger().handlers == []


def test_fields_of_the_running_job_are_added(bare_logging):
    stream = io.StringIO()
    logs.configure("info", stream=stream, fields=lambda: {"job_id": "from-context"})
    bare_logging.info("a")
    bare_logging.info("b", extra={"job_id": "own"})
    assert "job_id=from-context" in stream.getvalue().splitlines()[0]
    assert "job_id=own" in stream.getvalue().splitlines()[1]


def test_colours_only_on_a_terminal(bare_logging, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, colored in ((_Terminal(), True), (io.StringIO(), False)):
        logs.configure("info", stream=stream)
        bare_logging.error("oh")
        assert ("\x1b[31m" in stream.getvalue()) is colored
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Terminal()
    logs.configure("info", stream=stream)
    bare_logging.error("oh")
    assert "\x1b" not in stream.getvalue()
