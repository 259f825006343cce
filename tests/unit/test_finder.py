from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskq import ConfigError
from taskq.finder import find_app

Write = Callable[[str, str], Path]

APP = """
    from taskq import TaskQ
    queue = TaskQ()

    @queue.task
    def greet(name: str) -> str:
        return name
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file into the current directory; forget what is imported from it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def make(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    yield make
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("target", ["find_me:queue", "find_me", "find_me.py", "./find_me.py:queue"])
def test_the_ways_to_name_an_app(write, target):
    write("find_me.py", APP)
    app = find_app(target)
    assert app.name == "find_me:queue"
    assert list(app.tasks) == ["find_me.greet"]
    assert sys.modules["find_me"].queue is app
    assert find_app(target) is app


def test_in_a_package_and_inside_a_class(write):
    write("find_pkg/__init__.py", "")
    write("find_pkg/queue.py", APP + "\n    class Apps:\n        main = queue\n")
    assert find_app("find_pkg.queue:queue").name == "find_pkg.queue:queue"
    assert find_app("find_pkg.queue:Apps.main").name == "find_pkg.queue:Apps.main"


def test_a_file_elsewhere_imports_what_stands_beside_it(write, tmp_path):
    write("else_where/find_sub.py", "import find_neighbour\n" + textwrap.dedent(APP))
    write("else_where/find_neighbour.py", "")
    assert find_app("else_where/find_sub.py").name == "find_sub:queue"
    assert find_app(str(tmp_path / "else_where" / "find_sub.py")).name == "find_sub:queue"


def test_one_app_under_two_names_is_one(write):
    write("find_two_names.py", APP + "\n    app = queue\n")
    assert find_app("find_two_names").name == "find_two_names:queue"


@pytest.mark.parametrize("target", [None, ""])
def test_no_target(target):
    with pytest.raises(ConfigError) as caught:
        find_app(target)
    assert str(caught.value) == (
        'Which app? "taskq worker" needs one: "taskq worker shop.queue:queue", TASKQ_APP, or '
        'app = "..." under [tool.taskq]. For plain RQ jobs: "taskq worker --rq".'
    )


def test_a_bare_word_is_most_likely_a_queue(write):
    with pytest.raises(ConfigError) as caught:
        find_app("high")
    assert str(caught.value) == 'Cannot import "high". Queues are chosen with -q.'


def test_what_cannot_be_found_is_named(write, tmp_path):
    write("find_pkg2/__init__.py", "from taskq import TaskQ\nqueue = TaskQ()\n")
    write("no-module.py", APP)
    write("json.py", APP)
    for target, message in {
        "find_nothing.queue:queue": "There is no module 'find_nothing' in ",
        "find_nothing:queue": "There is no module 'find_nothing' in ",
        "find_pkg2.queue": "There is no module 'find_pkg2.queue'. An app? \"find_pkg2:queue\"",
        "find_pkg2.tasks:queue": "There is no module 'find_pkg2.tasks' in ",
        "nothing.py": "There is no file nothing.py in ",
        "no-module.py": "'no-module' is no name for a module: rename the file",
        "json.py": "The name 'json' is taken by another module (",
        "a b": "It is no name of a module",
        ":queue": "It is no name of a module",
        "find_pkg2:": "It is no name of a module",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(f'Cannot import "{target}". ')) as caught:
            find_app(target)
        assert message in str(caught.value)


def test_errors_inside_the_module_come_through(write):
    write("find_broken.py", "import find_not_there\n")
    write("find_bug.py", "1 / 0\n")
    for target in ("find_broken", "find_broken.py"):
        with pytest.raises(ModuleNotFoundError, match="find_not_there"):
            find_app(target)
    for target in ("find_bug", "find_bug.py"):
        with pytest.raises(ZeroDivisionError):
            find_app(target)
        assert "find_bug" not in sys.modules


def test_no_app_or_several_in_a_module(write):
    write("find_none.py", "x = 1\n")
    write("find_several.py", "from taskq import TaskQ\nhigh = TaskQ()\nlow = TaskQ()\nx = 1\n")
    for target, message in {
        "find_none": 'No app in "find_none": find_none has no TaskQ. Add one: queue = TaskQ().',
        "find_none:x": 'No app "find_none:x": find_none has a int there, no TaskQ.',
        "find_several": (
            'Which app? "find_several" has 2: "find_several:high", "find_several:low". Name one.'
        ),
        "find_several:hihg": (
            'No app "find_several:hihg": find_several has no such name. '
            'Apps there: "find_several:high", "find_several:low".'
        ),
    }.items():
        with pytest.raises(ConfigError) as caught:
            find_app(target)
        assert str(caught.value) == message


def test_included_modules_can_be_imported_from_here(write):
    write("find_tasks.py", "from taskq import task\n@task\ndef resize() -> None: ...\n")
    write("find_main.py", "from taskq import TaskQ\nqueue = TaskQ(include=['find_tasks'])\n")
    app = find_app("find_main")
    app.load()
    assert list(app.tasks) == ["find_tasks.resize"]
