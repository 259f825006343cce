"""An order that survives crashes: each step is recorded, and its worker is killed twice.

    python examples/durable_order.py        # brings its own Redis and worker

Watch the process ids: the job goes on in another process after the last recorded step. The guide is
docs/guides/durable-steps.md.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from taskq import Retry, TaskQ, sleep, step
from taskq.embedded import EmbeddedRedis

queue = TaskQ()


def say(*words: object) -> None:
    """One line, with the process that says it."""
    print(f"   [{os.getpid()}]", *words, flush=True)


def reserve(order: int) -> list[str]:
    """Take the things of an order from the shelf."""
    say("reserve", order)
    return ["book", "pen", "lamp"]


async def charge(order: int, cents: int) -> str:
    """Take the money."""
    say("charge", order, cents)
    return f"receipt {order}"


def pack(item: str, marks: str) -> str:
    """Put one thing into a box. The first time that a lamp is packed, the worker dies."""
    say("pack", item)
    die_once(Path(marks) / item, if_it_is=item == "lamp")
    return f"box of {item}"


def ship(order: int, boxes: list[str], marks: str) -> str:
    """Send the boxes; the worker dies once before."""
    die_once(Path(marks) / "ship", if_it_is=True)
    say("ship", order, boxes)
    return f"order {order}: {len(boxes)} boxes"


def die_once(mark: Path, *, if_it_is: bool) -> None:
    """What `kill -9` does."""
    if if_it_is and not mark.exists():
        mark.touch()
        say("-- killed --")
        os.kill(os.getpid(), signal.SIGKILL)


@queue.task(durable=True)
def order(number: int, marks: str) -> Generator[Any, Any, str]:
    """Everything about one order."""
    items = yield step(reserve, number)
    receipt = yield step(charge, number, 4200).options(retry=Retry(5, on=(OSError,)), timeout=30)
    boxes = yield [step(pack, item, marks) for item in items]
    yield sleep(1)
    sent = yield step(ship, number, boxes, marks)
    return f"{sent}, {receipt}"


def main() -> None:
    """Start a Redis and a worker, and have one order done."""
    with EmbeddedRedis.start() as redis, tempfile.TemporaryDirectory() as marks:
        os.environ["TASKQ_REDIS_URL"] = redis.url
        command = [sys.executable, "-m", "taskq", "worker", __file__, "--processes", "1"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as worker:
            try:
                began = time.monotonic()
                print(order.delay(17, marks).result(timeout=60))
                print(f"after {time.monotonic() - began:.1f} s and two deaths")
            finally:
                worker.terminate()


if __name__ == "__main__":
    main()
