"""The root of the command line: lazy, helpful, with one place for errors and settings."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from taskq.cli import group, main
from taskq.cli.appcheck import in_child
from taskq.cli.options import Command, Setting, command, setting
from taskq.errors import (
    BrokerUnavailable,
    ConfigError,
    InvalidArguments,
    JobFailed,
    TaskQError,
    UnknownTask,
)
from taskq.inspector import (
    JobRow,
    JobStory,
    QueueInfo,
    ResultEntry,
    ScheduleRow,
    ServerInfo,
    WorkerInfo,
)
from tests.support import ROOT

COMMANDS = list(main.entries)
CONTEXT = click.Context(main)


def run(*args, **settings):
    return CliRunner().invoke(main, args, **settings)


def python(code, *args):
    # Coverage, where it follows subprocesses, would be among the modules.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return done.stdout


# --- help -----------------------------------------------------------------------------


def test_help_imports_neither_redis_nor_any_command():
    loaded = python(
        "import sys; from taskq.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(*sorted(sys.modules), sep='\\n')"
    ).splitlines()
    for heavy in ("redis", "rq", "asyncio", "socket", "rich", "taskq.app", "taskq.cli.worker"):
        assert heavy not in loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_needs_no_redis_package(name):
    loaded = python(
        "import sys; from taskq.cli import main\n"
        "main([sys.argv[1], '--help'], standalone_mode=False)\n"
        "print('redis' in sys.modules, 'rq' in sys.modules)",
        name,
    )
    assert loaded.splitlines()[-1] == "False False"


def test_help_lists_all_commands_with_their_own_summaries():
    text = run("--help").output
    for name, entry in main.entries.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", text, re.MULTILINE)
        assert main.get_command(CONTEXT, name).short_help == entry.summary


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples(name):
    text = run(name, "--help").output
    assert "Examples:" in text
    assert f"taskq {name}" in text.partition("Examples:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_can_be_set_from_outside(name):
    for param in main.get_command(CONTEXT, name).params:
        if isinstance(param, click.Option) and param.name != "redis_url":
            assert isinstance(param, Setting), f"--{param.name} has no TASKQ_* and no key"


def test_json_keys_are_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    for kind in (
        ServerInfo,
        QueueInfo,
        WorkerInfo,
        JobRow,
        JobStory,
        ResultEntry,
        ScheduleRow,
    ):
        for name in {field.name for field in fields(kind)} - {"row", "others"}:
            assert f"`{name}`" in text, f"{kind.__name__}.{name} is not in docs/cli.md"


def test_commands_are_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    for name in COMMANDS:
        assert f"`taskq {name}" in text


def test_version():
    result = run("--version")
    assert re.fullmatch(r"taskq \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+\)\n", result.output)
    assert result.exit_code == 0


# --- wrong usage ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["worke"], 'Error: No command "worke". Did you mean "taskq worker"?\n'),
        (["frobnicate"], 'Error: No command "frobnicate". "taskq --help" lists them.'),
        (["info", "--wath"], "No such option"),
        (["worker", "--threads", "0"], "--threads"),
        (["worker", "a", "b"], "unexpected extra argument"),
        (["job"], "Missing argument"),
        (["jobs", "--limit", "x"], "'x' is not a valid int"),
        (["ping", "--redis-url", "http://x"], "no Redis URL"),
        (["enqueue", "t", "--timeout", "3", "--app", "x"], "--timeout goes with --wait."),
        (["retry"], "Which jobs? Give ids, a filter, or --all."),
        (["cancel", "x", "--task", "y"], "Give ids or filters, not both."),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(args, message):
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("bad"), 2, "bad"),
        (InvalidArguments("f() misses"), 2, "f() misses"),
        (UnknownTask("no task 'x'"), 2, "no task 'x'"),
        (BrokerUnavailable("No Redis"), 1, "No Redis"),
        (JobFailed("7f", "ValueError", "a\x1b[2J"), 1, "Job 7f failed: ValueError: a\\x1b[2J"),
        (TaskQError("x"), 1, "x"),
        (FileNotFoundError(2, "gone", "f.txt"), 1, "[Errno 2] gone: 'f.txt'"),
        (KeyError("k"), 1, "Unexpected KeyError: 'k'. TASKQ_DEBUG=1 shows where."),
    ],
)
def test_errors_are_one_line_with_their_exit_code(capsys, error, code, text):
    assert group.report(error) == code
    assert capsys.readouterr().err == f"Error: {text}\n"


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("TASKQ_DEBUG", "1")
    try:
        raise KeyError("k")
    except KeyError as error:
        group.report(error)
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("Error: Unexpected KeyError: 'k'.\n")


def test_interrupted_is_130(monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("taskq.cli.ping.open_broker", interrupt)
    result = run("ping")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_TASKQ_COMPLETE" in result.output


def test_completion_of_commands_and_options():
    env = {"_TASKQ_COMPLETE": "bash_complete", "COMP_WORDS": "taskq wor", "COMP_CWORD": "1"}
    assert "plain,worker" in run(env=env).output
    env.update(COMP_WORDS="taskq worker --gr", COMP_CWORD="2")
    assert "plain,--grace" in run(env=env).output


# --- settings: flag, environment, file --------------------------------------------------


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """A command `probe` with two options, and a pyproject.toml to write."""
    monkeypatch.chdir(tmp_path)
    seen = {}

    @command("probe", text="...", summary="...")
    @setting("--threads", type=int, default=8, shared=True)
    @setting("--queue", "-q", "queues", multiple=True)
    @setting("--burst", is_flag=True)
    def probe_command(**values):
        seen.update(values)

    @click.group(context_settings={"auto_envvar_prefix": "TASKQ"})
    def root():
        pass

    root.add_command(probe_command)

    def run_probe(*args, file=None, env=None, ok=True):
        if file is not None:
            (tmp_path / "pyproject.toml").write_text(file)
        result = CliRunner().invoke(root, ["probe", *args], env=env)
        if ok:
            assert result.exit_code == 0, result.output
            return dict(seen)
        return result

    return run_probe


def test_the_default_comes_last(probe):
    assert probe() == {"threads": 8, "queues": (), "burst": False}


def test_flag_before_environment_before_file(probe):
    file = "[tool.taskq]\nthreads = 1\n"
    assert probe(file=file)["threads"] == 1
    assert probe(env={"TASKQ_THREADS": "2"})["threads"] == 2
    assert probe("--threads", "3", env={"TASKQ_THREADS": "2"})["threads"] == 3


def test_the_commands_own_name_before_the_shared_one(probe):
    file = "[tool.taskq]\nthreads = 1\n[tool.taskq.probe]\nthreads = 2\n"
    assert probe(file=file)["threads"] == 2
    assert probe(env={"TASKQ_THREADS": "3"})["threads"] == 3
    assert probe(env={"TASKQ_THREADS": "3", "TASKQ_PROBE_THREADS": "4"})["threads"] == 4


def test_an_option_of_one_command_is_not_shared(probe):
    assert probe(file="[tool.taskq]\nburst = true\n")["burst"] is False
    assert probe(env={"TASKQ_BURST": "1"})["burst"] is False
    assert probe(env={"TASKQ_PROBE_BURST": "1"})["burst"] is True
    assert probe(file="[tool.taskq.probe]\nburst = true\n")["burst"] is True


def test_several_values(probe):
    assert probe("-q", "a", "-q", "b")["queues"] == ("a", "b")
    assert probe(env={"TASKQ_PROBE_QUEUE": "a, b c"})["queues"] == ("a", "b", "c")
    assert probe(env={"TASKQ_PROBE_QUEUES": "a"})["queues"] == ("a",)
    assert probe(file='[tool.taskq.probe]\nqueues = ["a", "b"]\n')["queues"] == ("a", "b")


@pytest.mark.parametrize(
    ("file", "env", "message"),
    [
        (None, {"TASKQ_THREADS": "x"}, "(from TASKQ_THREADS)"),
        ('[tool.taskq]\nthreads = "x"\n', None, "(from threads under [tool.taskq] in "),
        ("[tool.taskq.probe]\nthread = 3\n", None, "is no option of"),
        ("[tool.taskq\n", None, "Cannot read"),
    ],
)
def test_a_wrong_value_says_where_it_stands(probe, file, env, message):
    result = probe(file=file, env=env, ok=False)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)


def test_commands_are_of_our_class():
    for name in COMMANDS:
        assert isinstance(main.get_command(CONTEXT, name), Command)


# --- the app, looked at in a child -------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3 ("),
        ("import os; os._exit(3)", "ended the process (exit code 3)"),
        ("import os; os.kill(os.getpid(), 9)", "ended the process (signal 9)"),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all' ("),
        ("1/0", "ZeroDivisionError: division by zero ("),
        ("def", "SyntaxError"),
        ("x = 1", "No app"),
    ],
)
def test_an_app_that_cannot_be_loaded(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_app.py").write_text(source)
    with pytest.raises(ConfigError) as caught:
        in_child("broken_app.py")
    assert message in str(caught.value)
    assert "broken_app" not in sys.modules


def test_looking_at_an_app_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKQ_REDIS_URL", "redis://:secret@host/3")
    (tmp_path / "child_app.py").write_text(
        "import os, time\n"
        "print('hello from the app')\n"
        "child = os.fork()\n"  # holds our pipe; must not hold us up
        "if child == 0:\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "open('pid', 'w').write(str(child))\n"
        "from taskq import TaskQ\n"
        "queue = TaskQ()\n"
        "@queue.task(queue='web', aliases=['old.name'])\n"
        "async def fetch(): ...\n"
    )
    facts = in_child("child_app.py")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert facts.name == "child_app:queue"
    assert facts.tasks == (("child_app.fetch", "asyncio", "web"),)
    assert (facts.url, facts.url_source) == ("redis://:secret@host/3", "TASKQ_REDIS_URL")
    assert "secret" not in repr(facts)
    assert "child_app" not in sys.modules
    assert capfd.readouterr().out == ""
