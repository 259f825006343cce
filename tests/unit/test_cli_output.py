from __future__ import annotations

import json
import os

import pytest

from taskq.cli import output
from taskq.cli.banner import banner
from taskq.cli.info_rates import short, spark
from taskq.cli.output import Cell, Column, ago, facts, plural, size, table


@pytest.fixture
def terminal(monkeypatch):
    """stdout is a terminal, 40 columns wide."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((40, 20)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (12.9, "12s"),
        (200, "3m 20s"),
        (18_720, "5h 12m"),
        (273_600, "3d 4h"),
        (-5, "-5.0s"),
    ],
)
def test_durations(seconds, text):
    assert ago(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (4_210, "4.2 kB"),
        (1_300_000, "1.3 MB"),
        (7 * 10**12, "7.0 TB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


def test_plurals():
    assert (plural(1, "job"), plural(1200, "job")) == ("1 job", "1,200 jobs")


def test_a_table_is_aligned_and_safe():
    columns = [Column("name"), Column("n", right=True)]
    lines = table(columns, [["a\x1b[2J", "1"], ["long\nname", "1,000"]])
    assert lines == ["name           n", "a\\x1b[2J       1", "long name  1,000"]


def test_without_a_terminal_nothing_is_cut():
    assert table([Column("id", cut=True)], [["x" * 300]])[1] == "x" * 300


def test_on_a_terminal_the_widest_column_gives_way(terminal):
    columns = [Column("id", cut=True), Column("task", cut=True), Column("n", right=True)]
    lines = table(columns, [["i" * 22, "t" * 60, "1"]])
    plain = lines[1]
    assert len(plain) <= 40
    assert plain.endswith("1")
    assert "…" in plain


def test_colours_only_on_a_terminal(terminal, monkeypatch):
    assert "\x1b[31m" in table([Column("n")], [[Cell("3", "red")]])[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in table([Column("n")], [[Cell("3", "red")]])[1]


def test_facts_leave_out_what_is_empty():
    assert facts([("a", "1"), ("bcd", ""), ("ef", "x\ny")]) == ["a   1", "ef  x", "    y"]


def test_json_is_ascii_and_one_line_for_programs(capsys):
    output.print_json({"name": "\x1b\u202e\udcff"})
    line = capsys.readouterr().out
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line) == {"name": "\x1b\u202e\udcff"}


def test_complaints_go_to_stderr(capsys):
    output.complain("bad\x1b", label="Error:")
    assert capsys.readouterr() == ("", "Error: bad\\x1b\n")


def _banner(**changes):
    given = {
        "app": "shop.queue:queue",
        "url": "redis://:***@host/0",
        "queues": [("high", 0.0), ("default", 0.0)],
        "tasks": [("shop.b", "asyncio"), ("shop.aa", "thread")],
        "slots": "2 processes",
    }
    return banner(**{**given, **changes})


def test_banner():
    assert _banner() == [
        "     app  shop.queue:queue",
        "   redis  redis://:***@host/0",
        "  queues  high before default",
        "   slots  2 processes",
        "   tasks  shop.aa  thread",
        "          shop.b   asyncio",
    ]


def test_banner_with_weights():
    assert "  queues  a (weight 5), b (weight 0.5)" in _banner(queues=[("a", 5.0), ("b", 0.5)])


def test_banner_without_an_app_or_tasks():
    assert _banner(app="", tasks=[])[0] == "     app  none: any RQ job"
    assert "Missing @queue.task" in _banner(tasks=[])[-1]


def test_banner_of_many_tasks_is_short():
    lines = _banner(tasks=[(f"shop.t{n:03}", "thread") for n in range(100)])
    assert len(lines) < 40
    assert lines[-1].strip() == "and 70 more"


@pytest.mark.parametrize(
    ("depth", "line"),
    [
        ([], ""),
        ([None, 0, 0], "·▁▁"),
        ([1, 2, None, 8], "▂▃·█"),
        ([0] * 59 + [1000], "▁" * 19 + "█"),
    ],
)
def test_a_line_of_depths(depth, line):
    assert spark(depth) == line


def test_short_durations():
    assert [short(s) for s in (None, 0.0008, 0.0121, 1.5, 200.0)] == [
        "-", "0.8ms", "12ms", "1.5s", "3m 20s",
    ]  # fmt: skip
