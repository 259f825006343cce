"""Run by .ci/run with the installed wheel, in a directory without the checkout: one job."""

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
            finally:
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(30) == 0
    print("the installed wheel: imported, started, one job enqueued and run")


if __name__ == "__main__":
    main()
