"""TASKQ_EAGER=1: a program without Redis, whose jobs run where they are enqueued.

What a test steps through happens at once here: delays are not waited for, and a retry
follows the failure immediately. Everything else is as with `testing("inline")`, on the
machine's own clock, for as long as the process lives.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskq.clock import Clock
from taskq.testing.engine import Engine
from taskq.testing.inline import InlineBroker
from taskq.testing.memory import MemoryRedis
from taskq.testing.waits import StepWaits

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker.records import Accepted, NewJob

_CLEAN_EVERY = 500
"""Jobs after which results whose time is over are looked for: nobody else would delete them."""


def eager_broker(app: TaskQ) -> InlineBroker:
    """A broker that runs each job at once.

    Raises:
        ConfigError: fakeredis is not installed.
    """
    clock = Clock()
    memory = MemoryRedis(clock)
    count = 0

    def arrived(jobs: Sequence[NewJob], _accepted: Sequence[Accepted]) -> None:
        nonlocal count
        engine.know([job.queue for job in jobs])
        count += len(jobs)
        if count >= _CLEAN_EVERY:
            count = 0
            broker.call("DBSIZE")

    def ended(job_ids: list[str]) -> None:
        waits.tell(job_ids)

    def told(name: str, args: Sequence[Any]) -> None:
        waits.told(name, args)

    broker = InlineBroker(memory, clock, arrived)
    engine = Engine(app, broker, ended, at_once=True)
    waits = StepWaits(broker, engine, "eager")
    broker.use(waits, told)
    broker.run_by(engine)
    weakref.finalize(broker, engine.close)  # at the end of the process
    return broker
