"""Django, django-rq, Flask and FastAPI: the examples, as their users run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import redis
from rq import Queue

from taskq.worker import Worker
from tests.support import ROOT, WorkerStarter, wait_until

SHOP = ROOT / "examples" / "django_shop"


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    why = f"{', '.join(missing)} not installed: make dev brings it"
    return pytest.mark.skipif(bool(missing), reason=why)


@pytest.fixture
def manage(redis_url: str, tmp_path: Path) -> Callable[..., str]:
    """`manage.py` of the example, on this test's Redis and a database of its own."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *words], cwd=SHOP, env=shop_env(redis_url, tmp_path),
            capture_output=True, text=True, timeout=40, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("migrate", "--verbosity", "0")
    return run


def shop_env(redis_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "REDIS_URL": redis_url,
        "SHOP_DB": str(tmp_path / "shop.sqlite3"),
        "PYTHONPATH": str(SHOP),
    }


def rows(tmp_path: Path) -> list[tuple[object, ...]]:
    import sqlite3

    with sqlite3.connect(tmp_path / "shop.sqlite3") as database:
        return database.execute("select item, packed, receipt from orders_order").fetchall()


@pytest.mark.timeout(90)
@needs("django", "django_rq")
def test_django(
    manage: Callable[..., str],
    redis_url: str,
    redis_client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    worker: WorkerStarter,
):
    manage("place_order", "tea")
    assert Queue(connection=redis_client).count == 2
    for name, value in shop_env(redis_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    log = manage("rqworker", "default", "--burst")  # runs the task of taskq as well
    assert "RQ mode: payloads are unpickled" in log
    assert rows(tmp_path) == [("tea", 1, "Thank you for ordering tea.")]
    worker("shop.queue:queue", "--rq")
    assert "Thank you for ordering milk." in manage("place_order", "milk", "--wait")
    wait_until(lambda: rows(tmp_path)[1][1] == 1, 15)


DJANGO = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["taskq.contrib.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
from taskq import TaskQ, context
from taskq.contrib.django import delay_on_commit, setup, task_modules
try:
    task_modules()
except Exception as err:
    assert type(err).__name__ == "ConfigError", err
else:
    raise SystemExit("no error")
setup()
setup()
assert task_modules() == [], task_modules()
assert len(context.thread_hooks) == 1
from django.db import transaction
queue = TaskQ()

@queue.task(name="add")
def add(a, b=1):
    return a + b

def waiting():
    return queue.broker.redis().llen("rq:queue:default")

class Undo(Exception):
    pass

with transaction.atomic():
    handle = delay_on_commit(add, 1, b=2)
    assert waiting() == 0
    for wrong in ((), (1, 2, 3)):
        try:
            delay_on_commit(add, *wrong)
        except TypeError:
            continue
        raise SystemExit("not checked")
assert waiting() == 1
assert handle.status() == "queued"
try:
    with transaction.atomic():
        gone = delay_on_commit(add, 1)
        raise Undo
except Undo:
    pass
assert waiting() == 1
assert delay_on_commit(add, 5).status() == "queued"
try:
    delay_on_commit(add.options(unique=True), 1)
except Exception as err:
    assert "no id before it is sent" in str(err), err
else:
    raise SystemExit("no error")
print("all right", waiting())
"""


@needs("django")
def test_delay_on_commit(redis_url: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", DJANGO], cwd=tmp_path, capture_output=True, text=True, timeout=20,
        env={**os.environ, "REDIS_URL": redis_url}, check=False,
    )  # fmt: skip
    assert done.stdout == "all right 2\n", done.stdout + done.stderr


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples"))  # for the worker
    sys.modules.pop(name, None)
    return importlib.import_module(name)


@needs("flask")
def test_flask(redis_url: str, worker: WorkerStarter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    module = example("flask_app", monkeypatch)
    web = module.app.test_client()
    started = web.post("/thumbnails", data={"path": "a.png", "size": "64"})
    assert started.status_code == 202
    address = f"/thumbnails/{started.json['job']}"
    assert web.get(address).json == {"status": "queued", "result": None}
    assert web.get("/thumbnails/nobody").status_code == 404
    worker("flask_app:queue", "-q", "default")
    wait_until(lambda: web.get(address).json["status"] == "finished", 15)
    assert web.get(address).json["result"] == "a.png at 64 px"
    assert web.post("/thumbnails/now", data={"path": "b"}).json == {"result": "b at 256 px"}
    module.queue.close()


@needs("fastapi", "httpx")
def test_fastapi(redis_url: str, worker: WorkerStarter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    module = example("fastapi_app", monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of starlette, about another package of httpx's name
        from fastapi.testclient import TestClient
    with TestClient(module.app) as web:
        started = web.post("/thumbnails", params={"path": "a.png", "size": 64})
        assert started.status_code == 202
        address = f"/thumbnails/{started.json()['job']}"
        assert web.get(address).json() == {"status": "queued", "result": None}
        assert web.get("/thumbnails/nobody").status_code == 404
        worker("fastapi_app:queue")
        wait_until(lambda: web.get(address).json()["status"] == "finished", 15)
        assert web.get(address).json()["result"] == "a.png at 64 px"
        for address in ("/thumbnails/now", "/thumbnails/sync"):
            assert web.post(address, params={"path": "b"}).json() == {"result": "b at 256 px"}
    module.queue.close()


SENTRY = """
import sentry_sdk

def fail(text):
    sentry_sdk.set_tag("colour", "blue")
    raise ValueError(text)

def fine():
    return 1
"""


@needs("sentry_sdk")
def test_sentry(app_module: Callable[[str], ModuleType], redis_url: str, redis_client: redis.Redis):
    fns = app_module(SENTRY)
    queue = Queue(connection=redis_client)
    bad = queue.enqueue(fns.fail, "a lot")
    good = queue.enqueue(fns.fine)
    done = subprocess.run(
        [sys.executable, "-c", RECORDING, redis_url], capture_output=True, text=True, timeout=20,
        env={**os.environ, "PYTHONPATH": str(Path(fns.__file__ or "").parent)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("event ")]
    assert told == [f"event ValueError 'a lot' {bad.id} {fns.__name__}.fail blue"]
    assert good.return_value() == 1
    assert bad.get_status() == "failed"
    assert Worker.all(connection=redis_client) == []


RECORDING = """
import sys
import redis
import sentry_sdk
from sentry_sdk.integrations.rq import RqIntegration
from sentry_sdk.transport import Transport

events = []

class Recording(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            events.append(event)

sentry_sdk.init("http://key@localhost/1", transport=Recording, integrations=[RqIntegration()],
                default_integrations=False)
from taskq.worker import Worker

client = redis.Redis.from_url(sys.argv[1])
Worker(["default"], connection=client).work(burst=True)
sentry_sdk.flush()
for event in events:
    (shown,) = event["exception"]["values"]
    job = event["extra"]["rq-job"]
    print("event", shown["type"], repr(shown["value"]), job["job_id"], job["func"],
          event["tags"]["colour"])
"""
