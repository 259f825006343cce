"""What defines a schedule and what writes it; `@queue.cron`; schedules in `queue.testing()`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType

import pytest

from taskq import BrokerUnavailable, ConfigError, Cron, Every, TaskQ
from tests.conftest import AppModule
from tests.support import ROOT

HEAD = """
from taskq import Cron, Every, TaskQ, current_job

queue = TaskQ("redis://127.0.0.1:1/0")          # nothing listens there
ran = []

@queue.task
def note(word: str = "-") -> None:
    ran.append((word, current_job().scheduled_for))
"""
START = datetime(2026, 3, 27, 12, tzinfo=timezone.utc)


def names(app: ModuleType) -> list[str]:
    return [entry.name for entry in app.queue.schedules.defined()]


# --- defined or written ----------------------------------------------------------------


def test_a_module_defines_also_through_functions_that_it_calls(app_module: AppModule) -> None:
    app = app_module(
        HEAD
        + """
queue.schedule("a", note.call("x"), Every(5))

def more():
    queue.schedule("b", note.call(), Cron("@daily"))

class Plans:
    queue.schedule("c", note.call(), Cron("@hourly"))

more()
"""
    )
    assert sorted(names(app)) == ["a", "b", "c"]
    app.queue.broker.deadline_s = 0.1
    with pytest.raises(BrokerUnavailable):  # not while it is imported: written at once
        app.more()
    with pytest.raises(BrokerUnavailable):
        app.queue.schedules.set("d", app.note.call(), Every(5))


def test_code_below_exec_is_no_module_that_is_imported(app_module: AppModule) -> None:
    """xdist, for one, runs all tests from a module without a spec."""
    app = app_module(HEAD + "def later():\n    queue.schedule('a', note.call(), Every(5))\n")
    app.queue.broker.deadline_s = 0.1
    with pytest.raises(BrokerUnavailable):
        exec("later()", {"__name__": "__channelexec__", "later": app.later})
    assert names(app) == []


PROGRAM = """
import sys
from taskq import Every
{head}
queue.broker.deadline_s = 0.1
try:
    queue.schedule("a", note.call(), Every(5))
except Exception as error:
    print(type(error).__name__)
print(queue.schedules)
"""


def test_a_program_defines_for_its_own_tasks_and_writes_for_others(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PROGRAM.format(head=HEAD))
    (tmp_path / "lib.py").write_text(HEAD)
    (tmp_path / "script.py").write_text(PROGRAM.format(head="from lib import note, queue"))

    def run(*command: str, text: str | None = None) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, text=True, capture_output=True, check=True,
            input=text, timeout=20, env={"PYTHONPATH": f"{ROOT}"},
        )  # fmt: skip
        return done.stdout

    assert "1 defined by its code" in run("own.py")
    assert run("script.py").startswith("BrokerUnavailable")
    typed = (tmp_path / "script.py").read_text()
    assert run("-", text=typed).startswith("BrokerUnavailable")  # as in an interactive session


def test_a_name_is_defined_once(app_module: AppModule) -> None:
    twice = 'queue.schedule("a", note.call(), Every(5))\n'
    with pytest.raises(ConfigError, match=r"Two schedules have the name 'a': at .*:\d+ and at "):
        app_module(HEAD + twice + twice, name="defined_twice")
    app = app_module(HEAD + twice, name="defined_once")
    importlib.reload(app)  # the same line once more
    assert names(app) == ["a"]


# --- @queue.cron -----------------------------------------------------------------------


def test_cron_above_a_task(app_module: AppModule) -> None:
    app = app_module(
        HEAD
        + """
@queue.cron("0 7 * * mon-fri", tz="Europe/Berlin", missed="skip")
@queue.cron("@hourly", name="often")
@queue.task
def report(days: int = 30) -> int:
    return days
"""
    )
    assert app.report(3) == 3
    assert names(app) == ["often", f"{app.__name__}.report"]
    often, daily = app.queue.schedules.defined()
    assert often.terms.when == Cron("@hourly")
    assert (daily.terms.when, daily.terms.missed) == (
        Cron("0 7 * * mon-fri", tz="Europe/Berlin"), "skip",
    )  # fmt: skip


def test_cron_elsewhere_is_a_type_error_that_says_so() -> None:
    queue = TaskQ("redis://127.0.0.1:1/0")

    def plain() -> None: ...

    with pytest.raises(TypeError, match=r"write @queue\.cron\(\.\.\.\) above @queue\.task"):
        queue.cron("@daily")(plain)  # type: ignore[arg-type]


def test_cron_of_a_task_that_needs_arguments(app_module: AppModule) -> None:
    with pytest.raises(ConfigError, match=r"called without arguments, and need\(\) .*'a'"):
        app_module(HEAD + '@queue.cron("@daily")\n@queue.task\ndef need(a: int) -> None: ...\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('Cron("* * * *")', "4 fields"),
        ('Cron("* * * * * *")', "six fields"),
        ('Cron("60 * * * *")', "the minute cannot be read; 0 to 59"),
        ('Cron("* 24 * * *")', "the hour cannot be read; 0 to 23"),
        ('Cron("* * 0 * *")', "the day of the month cannot be read"),
        ('Cron("* * 30 2 *")', "no such day in some months"),
        ('Cron("* * * 13 *")', "the month cannot be read"),
        ('Cron("* * * * 8")', "the day of the week cannot be read"),
        ('Cron("@reboot")', "no such name; there are @yearly"),
        ("Cron(5)", "must be a text"),
        ('Cron("@daily", tz="Europe/Berlinn")', "did you mean 'Europe/Berlin'"),
        ('Cron("@daily", tz="../../etc/passwd")', "no such time zone"),
        ('Cron("@daily", tz="")', "must be the name of a time zone"),
        ("Every()", "of 0 s: 0.1 s to ten years"),
        ('Every(seconds=float("nan"))', "0.1 s to ten years"),
        ("Every(days=4000)", "0.1 s to ten years"),
        ('Every("1h")', "must be numbers, or one timedelta"),
    ],
)
def test_wrong_times_say_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        eval(text)


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (Cron("0 7 * * mon-fri"), "At 07:00 on Monday through Friday"),
        (Cron("@hourly"), "At the start of every hour"),
        (Cron("*/5 * * * *"), "Every fifth minute of every hour"),
        (Cron("30 2 29 2 *"), "At 02:30 on February 29"),
        (Every(30), "Every 30 seconds"),
        (Every(timedelta(days=1)), "Every day"),
        (Every(hours=1, minutes=30), "Every 1 hour 30 minutes"),
        (Every(0.25), "Every 0.25 seconds"),
    ],
)
def test_in_words(when: Cron | Every, words: str) -> None:
    assert when.words == words


# --- in tests --------------------------------------------------------------------------


PLANNED = (
    HEAD
    + """
queue.schedule("daily", note.call("daily"), Cron("30 2 * * *", tz="Europe/Berlin"))
"""
)


def test_advance_fires_schedules_each_at_its_time(app_module: AppModule) -> None:
    app = app_module(PLANNED)
    with app.queue.testing("manual", now=START) as t:
        assert t.advance(timedelta(days=3)) == 3
        assert [(word, at.isoformat()) for word, at in app.ran] == [
            ("daily", "2026-03-28T02:30:00+01:00"),
            ("daily", "2026-03-29T03:00:00+02:00"),
            ("daily", "2026-03-30T02:30:00+02:00"),
        ]
        assert [call.args for call in t.enqueued(app.note)] == [("daily",)] * 3
        # at run time, too
        app.queue.schedule("tick", app.note.call("tick"), Every(60), max_runs=2)
        app.queue.schedules["daily"].pause()
        assert t.advance(timedelta(days=2)) == 2
        assert app.ran[-1] == ("tick", t.now - timedelta(days=2) + timedelta(minutes=2))


async def test_aadvance_fires_them_as_well(app_module: AppModule) -> None:
    app = app_module(PLANNED)
    async with app.queue.testing("inline", now=START) as t:
        await app.queue.aschedule("tick", app.note.call("tick"), Every(600))
        assert await t.aadvance(3600) == 6


def test_an_occurrence_that_waits_runs_after_the_one_before(app_module: AppModule) -> None:
    app = app_module(
        "from taskq import Retry\n"
        + HEAD
        + """
@queue.task(retry=Retry(1, base=90))
def flaky() -> None:
    ran.append(current_job().scheduled_for)
    if len(ran) == 1:
        raise OSError("again in 90 s")

queue.schedule("flaky", flaky.call(), Every(60), overlap="queue_one", max_runs=3)
"""
    )
    with app.queue.testing("manual", now=START) as t:
        t.advance(149)
        assert app.ran == [START + timedelta(seconds=60)]
        t.advance(1)  # the retry, and then the one that has been due since 120
        assert app.ran[1:] == [START + timedelta(seconds=60), START + timedelta(seconds=120)]
        t.advance(600)
        assert app.ran[3:] == [START + timedelta(seconds=180)]
