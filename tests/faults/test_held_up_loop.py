"""An event loop that stands still for longer than a lease: its worker keeps its jobs."""

from __future__ import annotations

from tests.engine import misplaced
from tests.support import LEDGER, wait_until

APP = (
    LEDGER
    + """
import asyncio, ctypes, time
from taskq import TaskQ, current_job

queue = TaskQ()

@queue.task(timeout=None)
async def blocks(seconds):
    note("blocks")
    time.sleep(seconds)
    return current_job().attempt

@queue.task(timeout=None)
async def keeps_the_interpreter(seconds):
    note("keeps")
    ctypes.PyDLL(None).sleep(seconds)
    return current_job().attempt

@queue.task(timeout=None)
async def neighbour(seconds):
    note("neighbour")
    await asyncio.sleep(seconds)
    return current_job().attempt
"""
)


def test_a_held_up_loop_costs_no_lease(app, target, worker, ledger, redis_client):
    """Leases last 15 s from the last heartbeat; another server sweeps every 5 s."""
    worker(target, "--name", "other", "-q", "elsewhere", timeout=60)
    held = worker(target, "--name", "held", processes=2, timeout=60)
    handles = [app.neighbour.delay(30) for _ in range(20)]
    wait_until(lambda: ledger.count("neighbour") == 20)
    handles.append(app.blocks.delay(25))
    wait_until(lambda: len(ledger.lines()) == 21)  # one process has it, the other takes the next
    handles.append(app.keeps_the_interpreter.delay(25))
    wait_until(lambda: len(ledger.lines()) == 22, 40)
    assert [one.result(timeout=60) for one in handles] == [1] * 22
    assert len(ledger.lines()) == 22
    assert misplaced(redis_client, [one.id for one in handles]) == {}
    assert "has held up the event loop" in held.log()
    assert "C code kept the interpreter" in held.log()
    assert "no longer belongs" not in held.log()
