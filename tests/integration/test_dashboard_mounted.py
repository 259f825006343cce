"""The dashboard inside FastAPI, Flask and Django: the guide's own snippets, in real servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.dashboard import PATHS, fill
from tests.support import ROOT

GUIDE = (ROOT / "docs" / "guides" / "dashboard.md").read_text()
PREFIX = "/ops/jobs"
TOKEN = "correct-horse-battery"
KNOWN = {"Authorization": f"Bearer {TOKEN}"}

DJANGO = """
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
SECRET_KEY, ALLOWED_HOSTS, ROOT_URLCONF = "only-for-this-test", ["*"], __name__
INSTALLED_APPS, DATABASES = [], {}
urlpatterns = [path("own", lambda request: HttpResponse("own page"))]
"""
OWN_PAGE = {
    "with_fastapi": '\n@app.get("/own")\ndef own():\n    return "own page"\n',
    "with_flask": '\n@app.route("/own")\ndef own():\n    return "own page"\n',
}
ASGI = """
import sys, uvicorn
uvicorn.run(sys.argv[1], port=0, log_level="info")
"""
WSGI = """
import importlib, socketserver, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

module, _, name = sys.argv[1].partition(":")
app = getattr(importlib.import_module(module), name)
server = make_server("127.0.0.1", 0, app, server_class=Server)
print(f"http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
"""
CASES = {
    "with_fastapi": ("fastapi", ASGI, "app"),
    "with_flask": ("flask", WSGI, "app"),
    "asgi": ("django", ASGI, "application"),
    "wsgi": ("django", WSGI, "application"),
}


def snippet(name: str) -> str:
    (found,) = re.findall(rf"^```python {name}\.py\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return str(found)


@contextmanager
def served(name: str, folder: Path, url: str) -> Iterator[str]:
    """The snippet as a module of a small application, in a server of its own; its address."""
    _package, server, attribute = CASES[name]
    (folder / f"{name}.py").write_text(snippet(name) + OWN_PAGE.get(name, ""))
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "settings.py").write_text(DJANGO)
    process = subprocess.Popen(
        [sys.executable, "-c", server, f"{name}:{attribute}"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TASKQ_REDIS_URL": url, "DASHBOARD_TOKEN": TOKEN},
    )
    assert process.stderr is not None
    try:
        said = ""
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield address[0]
    finally:
        process.terminate()
        process.communicate(timeout=15)


def ask(address: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(params=sorted(CASES))
def mounted(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> Iterator[tuple[str, str]]:
    """Name of the snippet, and its address with the prefix."""
    pytest.importorskip(CASES[request.param][0], reason="make dev brings it")
    fill(redis_client)
    with served(request.param, tmp_path, redis_url) as root:
        yield request.param, root


def test_all_of_it_below_the_prefix(mounted: tuple[str, str]):
    name, root = mounted
    assert "own page" in ask(f"{root}/own")[1]
    assert ask(f"{root}/healthz")[0] == 404, "nothing of the dashboard elsewhere"
    assert ask(f"{root}{PREFIX}/healthz")[0] == 200
    below: set[str] = set()
    for path in PATHS:
        assert ask(f"{root}{PREFIX}{path}")[0] == 401
        status, page = ask(f"{root}{PREFIX}{path}", **KNOWN)
        assert status == 200, path
        links = re.findall(r'(?:href|src|action|data-series)="(/[^"]*)"', page)
        assert [link for link in links if not link.startswith(f"{PREFIX}/")] == []
        below.update(link.replace("&amp;", "&") for link in links if "/static/" in link)
    assert len(below) >= 4
    assert {ask(root + link, **KNOWN)[0] for link in below} == {200}
    bare = 404 if name == "asgi" else 200  # there Django is asked, which has all other addresses
    assert ask(f"{root}{PREFIX}", **KNOWN)[0] == bare, "without the last slash"
    api = json.loads(ask(f"{root}{PREFIX}/api/job?id=failed-1", **KNOWN)[1])
    assert api["job"]["id"] == "failed-1"
    assert ask(f"{root}{PREFIX}/", "POST", **KNOWN)[0] == 405
    assert ask(f"{root}{PREFIX}/", Host="www.example.com", **KNOWN)[0] == 200
    assert ask(f"{root}{PREFIX}/", Host="evil.example", **KNOWN)[0] == 400
    live = urllib.request.Request(f"{root}{PREFIX}/events?view=%2F", headers=KNOWN)
    if CASES[name][1] is WSGI:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(live, timeout=15)
    else:
        with urllib.request.urlopen(live, timeout=15) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.readline().strip()
