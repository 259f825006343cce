from __future__ import annotations

import asyncio
import gc
import importlib
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import taskq
from taskq import (
    AmbiguousApp,
    ConfigError,
    Handle,
    InvalidArguments,
    TaskQ,
    UnknownTask,
    task,
)
from taskq.finder import find_app
from taskq.registry import REGISTRY
from tests.fake_broker import FakeBroker, app_with, fields_of


def thumbnail(path: str, size: int = 256) -> str:
    return f"{path}:{size}"


def resize(path: str) -> str:
    return path


@pytest.fixture
def fake() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def app(fake: FakeBroker) -> TaskQ:
    return app_with(fake)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The apps of other test modules are out of sight."""
    gc.collect()
    monkeypatch.setattr(REGISTRY, "_apps", [])
    monkeypatch.setattr(REGISTRY, "changes", REGISTRY.changes + 1)


LIBRARY = """
    from taskq import task

    @task(queue="images", aliases=["old.resize"])
    def resize(path: str) -> str:
        return path
"""


# --- the tasks of an app ----------------------------------------------------------------


def test_tasks_by_name_and_alias(app):
    made = app.task(aliases=["old.thumbnail"])(thumbnail)
    assert app.tasks == {f"{__name__}.thumbnail": made, "old.thumbnail": made}
    assert app.lookup("old.thumbnail") is made


def test_an_unknown_task_names_the_nearest(app):
    app.task(name="shop.images.resize")(resize)
    app.task(name="shop.images.thumbnail")(thumbnail)
    app.name = "shop.queue:queue"
    with pytest.raises(UnknownTask) as caught:
        app.lookup("shop.tasks.resize")
    assert str(caught.value) == (
        "no task 'shop.tasks.resize' in app shop.queue:queue (2 tasks; nearest: "
        "'shop.images.resize'). Renamed, or its module missing from include=[...]?"
    )
    with pytest.raises(UnknownTask, match=re.escape("(2 tasks). Renamed")):
        app.lookup("quite.other")


@pytest.mark.parametrize(
    "second", [{"name": "a.b"}, {"name": "c.d", "aliases": ["a.b"]}, {"aliases": ["old"]}]
)
def test_a_name_taken_twice_is_refused(app, second):
    app.task(name="a.b", aliases=["old"])(thumbnail)
    with pytest.raises(ConfigError, match="is taken twice: by .*thumbnail and by .*resize"):
        app.task(**second)(resize)
    assert set(app.tasks) == {"a.b", "old"}


def test_the_same_function_twice_is_refused(app):
    app.task(thumbnail)
    with pytest.raises(ConfigError, match="taken twice"):
        app.task(queue="web")(thumbnail)


@pytest.mark.parametrize("decorator", ["queue.task", "task"])
def test_two_functions_of_one_name_in_a_module_are_refused(app_module, decorator):
    with pytest.raises(ConfigError, match="taken twice"):
        app_module(f"""
            from taskq import TaskQ, task
            queue = TaskQ()

            @{decorator}
            def resize() -> None: ...

            @{decorator}
            def resize() -> None: ...
        """)


def test_a_module_can_be_reloaded(app_module):
    module = app_module("""
        from taskq import TaskQ, task
        try:
            queue  # the app of another module would survive, too
        except NameError:
            queue = TaskQ()

        @queue.task
        def resize() -> None: ...

        @task
        def unbound() -> None: ...
    """)
    first = module.resize
    importlib.reload(module)
    assert module.resize is not first
    assert module.queue.tasks[module.resize.name] is module.resize


# --- unbound tasks ----------------------------------------------------------------------


def test_load_imports_what_include_names(app_module, fake, tmp_path):
    module = app_module(LIBRARY)
    name = module.__name__
    del sys.modules[name], module
    app = app_with(fake, include=[name])
    assert app.tasks == {}
    app.load()
    app.load()
    assert set(app.tasks) == {f"{name}.resize", "old.resize"}
    assert sys.modules[name].resize.delay("a").id == fake.jobs[0].id


def test_a_module_includes_itself_when_its_app_is_found_there(app_module):
    module = app_module("""
        from taskq import TaskQ, task
        queue = TaskQ()

        @task
        def resize() -> None: ...
    """)
    assert find_app(module.__name__).tasks == {}
    module.queue.load()
    assert module.queue.tasks == {f"{module.__name__}.resize": module.resize}


def test_a_package_in_include_covers_what_it_imports(fake, tmp_path, monkeypatch):
    package = tmp_path / "lib_of_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("import lib_of_tasks.images")
    (package / "images.py").write_text(textwrap.dedent(LIBRARY))
    monkeypatch.syspath_prepend(str(tmp_path))
    app = app_with(fake, include=["lib_of_tasks"])
    try:
        app.load()
        assert "lib_of_tasks.images.resize" in app.tasks
    finally:
        for name in ("lib_of_tasks", "lib_of_tasks.images"):
            sys.modules.pop(name, None)


def test_a_missing_included_module_is_named(app_module):
    with pytest.raises(ConfigError, match="include names 'shop_x.tasks', and there is no module"):
        TaskQ(include=["shop_x.tasks"]).load()
    broken = app_module("", name="broken_include")
    Path(broken.__file__).write_text("import not_there_at_all")
    del sys.modules["broken_include"]
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        TaskQ(include=["broken_include"]).load()


def test_an_included_module_imported_late_is_found(app_module, fake):
    app = app_with(fake, include=["late_library"])
    module = app_module(LIBRARY, name="late_library")
    assert app.lookup("late_library.resize") is module.resize


def test_an_unbound_task_goes_to_the_app_that_includes_it(app_module, fake, alone):
    module = app_module(LIBRARY)
    other = app_with(FakeBroker())
    app = app_with(fake, include=[module.__name__])
    module.resize.delay("a")
    assert module.resize.app is app
    assert [job.queue for job in fake.jobs] == ["images"]
    assert other.tasks == {}


def test_the_longest_include_wins(fake, alone):
    unbound = task(resize)
    package, _, _ = __name__.rpartition(".")
    outer, inner = app_with(FakeBroker(), include=[package]), app_with(fake, include=[__name__])
    assert unbound.app is inner
    assert outer is not inner


def test_the_only_app_is_meant(fake, alone):
    unbound = task(resize)
    app = app_with(fake)
    unbound.delay("a")
    assert len(fake.jobs) == 1
    assert unbound.app is app


def test_several_apps_are_ambiguous(alone):
    unbound = task(resize)
    first, second = app_with(FakeBroker()), app_with(FakeBroker())
    first.name, second.name = "a:queue", "b:queue"
    with pytest.raises(AmbiguousApp) as caught:
        unbound.delay("a")
    assert str(caught.value) == (
        f"Which app does the task '{__name__}.resize' belong to? It is unbound, and there are 2 "
        f"apps and none includes its module '{__name__}': a:queue, b:queue. Add '{__name__}' to "
        "the include=[...] of one, or enqueue with that app: app.enqueue([task.call(...)]). "
        "Nothing was enqueued."
    )


def test_two_apps_that_include_it_are_ambiguous(alone):
    unbound = task(resize)
    apps = [app_with(FakeBroker(), include=[__name__]) for _ in range(2)]
    with pytest.raises(AmbiguousApp, match="2 apps include its module"):
        unbound.delay("a")
    assert len(apps) == 2


def test_dropped_apps_do_not_count(fake, alone):
    unbound = task(resize)
    app = app_with(FakeBroker())
    app.task(thumbnail)
    del app
    keep = app_with(fake)
    unbound.delay("a")
    assert unbound.app is keep


def test_the_answer_follows_the_apps(alone):
    unbound = task(resize)
    first = app_with(FakeBroker())
    assert unbound.app is first
    second = app_with(FakeBroker(), include=[__name__])
    assert unbound.app is second
    assert unbound.options(queue="x").app is second


def test_threads_see_the_same_app(alone):
    unbound = task(resize)
    app = app_with(FakeBroker())
    seen = []
    thread = threading.Thread(target=lambda: seen.append(unbound.app))
    thread.start()
    thread.join()
    assert seen == [app]


def test_without_an_app_one_is_made_from_the_environment(tmp_path):
    (tmp_path / "lib.py").write_text(textwrap.dedent(LIBRARY))
    program = """
        import lib
        assert lib.resize.app is lib.resize.options(queue="x").app
        print(lib.resize.app.url)
        from taskq import TaskQ
        later = TaskQ("redis://other:6379/0")
        print(lib.resize.app is later)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, "TASKQ_REDIS_URL": "redis://from-environment:6379/3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stdout.split() == ["redis://from-environment:6379/3", "True"], done.stderr


# --- enqueueing several -----------------------------------------------------------------


def test_enqueue_takes_calls_of_any_tasks(app, fake, alone):
    first, second = app.task(thumbnail), task(resize)
    batch = app.enqueue([first.call("a", 64), second.options(queue="web").call("b")])
    assert fake.trips == [2]
    assert [handle.id for handle in batch] == [job.id for job in fake.jobs]
    assert [job.queue for job in fake.jobs] == ["default", "web"]
    assert fields_of(fake.jobs[1]) == {"result_ttl": "86400"}


def test_aenqueue(app, fake):
    made = app.task(thumbnail)
    batch = asyncio.run(app.aenqueue(made.call(str(n)) for n in range(3)))
    assert len(list(batch)) == 3
    assert fake.trips == [3]


def test_enqueue_refuses_what_is_no_call(app, fake):
    made = app.task(thumbnail)
    with pytest.raises(InvalidArguments, match="and got a Task. Nothing was enqueued"):
        app.enqueue([made.call("a"), made])
    assert fake.trips == []


def test_enqueue_refuses_another_apps_task(app, fake):
    other = app_with(FakeBroker())
    other.name = "shop:other"
    foreign = other.task(thumbnail)
    with pytest.raises(ConfigError, match="thumbnail belongs to shop:other, not to"):
        app.enqueue([foreign.call("a")])
    assert fake.trips == []


def test_handle(app):
    assert isinstance(app.handle("abc"), Handle)
    with pytest.raises(ConfigError, match=re.escape("handle(): job_id='a:b'")):
        app.handle("a:b")


# --- the app itself ---------------------------------------------------------------------


def test_nothing_is_connected_or_even_known_before_the_first_use(monkeypatch):
    app = TaskQ()
    monkeypatch.setenv("TASKQ_REDIS_URL", "redis://later:6379/1")
    assert app.url == "redis://later:6379/1"
    broker = app.broker
    assert (broker.url, broker.source) == ("redis://later:6379/1", "TASKQ_REDIS_URL")
    assert app.broker is broker


def test_threads_share_one_broker(app_module):
    app = TaskQ("redis://nowhere:6379/0")
    found = []
    threads = [threading.Thread(target=lambda: found.append(app.broker)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_its_text_hides_the_password():
    assert str(TaskQ("redis://:secret@host:6379/0")) == "TaskQ('redis://:***@host:6379/0')"
    assert "secret" not in repr(TaskQ("redis://:secret@host/0"))


def test_its_name_is_where_it_is_kept(app_module):
    module = app_module("""
        from taskq import TaskQ
        high = TaskQ()

        @high.task
        def resize() -> None: ...
    """)
    assert str(module.high) == f"{module.__name__}:high"


def test_serializer_settings(monkeypatch):
    assert TaskQ().codec.serializer == "json"
    monkeypatch.setenv("TASKQ_SERIALIZER", "pickle")
    monkeypatch.setenv("TASKQ_ACCEPT", "json,pickle")
    assert TaskQ().codec.serializer == "pickle"
    assert TaskQ(serializer="json", accept=["json"]).codec.accept == {"json"}
    with pytest.raises(ConfigError, match="serializer"):
        TaskQ(serializer="yaml")


def test_a_secret_of_the_environment_signs(monkeypatch):
    monkeypatch.setenv("TASKQ_SECRET", "of the environment")
    from_environment = TaskQ()
    given = TaskQ(secret="of the environment")
    data = from_environment.codec.dump_call("a.b", (1,), {}, job_id="x", queue="default")
    assert data[0] == 1
    assert given.codec.load_call(data, job_id="x", queue="default")[2] == [1]


@pytest.mark.parametrize("secret", ["", ",", " ", "a,", [], [""], [b""], b"", ["a", ","]], ids=repr)
def test_an_empty_secret_is_refused(secret, monkeypatch):
    with pytest.raises(ConfigError, match="is empty or has an empty part"):
        TaskQ(secret=secret)
    if isinstance(secret, str):
        monkeypatch.setenv("TASKQ_SECRET", secret)
        with pytest.raises(ConfigError, match="TASKQ_SECRET is empty or has an empty part"):
            TaskQ()


def test_include_is_a_list():
    with pytest.raises(ConfigError, match=re.escape("must be a list of modules: ['shop.tasks']")):
        TaskQ(include="shop.tasks")


def test_what_stock_rq_needs(app):
    loaded = app.rq_serializer.loads(app.codec.dump_call("a.b", (1,), {}, job_id="x", queue="q"))
    assert list(loaded) == ["a.b", None, [1], {}]
    assert app.rq_serializer_path == "taskq.serializers.rq"


def test_as_context_managers():
    closed = []

    class Closing(FakeBroker):
        def close(self) -> None:
            closed.append("close")

        async def aclose(self) -> None:
            closed.append("aclose")

    async def program() -> None:
        async with app_with(Closing()) as app:
            assert isinstance(app, TaskQ)

    with app_with(Closing()):
        pass
    asyncio.run(program())
    TaskQ().close()
    asyncio.run(TaskQ().aclose())
    assert closed == ["close", "aclose"]


# --- the package ------------------------------------------------------------------------


def test_exported_names_are_no_modules():
    modules = {path.stem for path in Path(taskq.__file__).parent.iterdir()}
    assert modules.isdisjoint(taskq.__all__)
    for name in taskq.__all__:
        assert getattr(taskq, name) is not None
    assert set(taskq.__all__) <= set(dir(taskq))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        taskq.Nothing  # noqa: B018 (reading it is the test)


def test_exported_names_are_the_typed_ones():
    source = Path(taskq.__file__).read_text()
    typed = re.findall(r"^    from (\S+) import (\w+) as \2$", source, re.MULTILINE)
    assert {name for _, name in typed} == set(taskq.__all__)
    for module, name in typed:
        assert getattr(importlib.import_module(module), name) is getattr(taskq, name)


def test_importing_the_package_imports_nothing_big():
    program = "import sys, taskq; print('redis' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"False", b"False"]
