"""Run by .ci/run with the installed wheel, away from the checkout: one job, one page."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

APP = """
from taskq import TaskQ

queue = TaskQ()

@queue.task
def add(a: int, b: int) -> int:
    return a + b
"""


def look(url: str) -> None:
    """A page of the dashboard, with the templates and files that are in the wheel."""
    from taskq.dashboard import create_wsgi_app

    app = create_wsgi_app(url)
    said: list[str] = []
    for path in ("/", "/static/taskq.css"):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_HOST": "localhost",
                   "REMOTE_ADDR": "127.0.0.1", "SERVER_PORT": "80"}  # fmt: skip
        body = b"".join(app(environ, lambda status, _headers: said.append(status)))
        assert len(body) > 2_000, body
    assert said == ["200 OK", "200 OK"], said
    app.close()


def main() -> None:
    import taskq
    import taskq.dashboard
    import taskq.worker
    from taskq.embedded import EmbeddedRedis

    here = Path.cwd()
    for module in (taskq, taskq.worker, taskq.dashboard):
        assert module.__file__, module
        assert Path(module.__file__).is_relative_to(sys.prefix), module.__file__
    (here / "smoke_app.py").write_text(APP)
    with EmbeddedRedis.start() as server:
        os.environ["TASKQ_REDIS_URL"] = server.url
        program = str(Path(sys.executable).with_name("taskq"))
        command = [program, "worker", "smoke_app:queue", "--processes", "1"]
        with subprocess.Popen(command) as worker:
            try:
                sys.path.insert(0, str(here))
                smoke_app = importlib.import_module("smoke_app")
                assert smoke_app.add.delay(2, b=3).result(timeout=30) == 5
                look(server.url)
            finally:
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(30) == 0
    print("the installed wheel: imported, started, one job enqueued, run, and shown")


if __name__ == "__main__":
    main()
