"""The scripts against a model: random enqueues, crashes, freezes, late ends, repairs by people.

TASKQ_MODEL_RUNS and TASKQ_MODEL_STEPS make a campaign of it (`make faults` has one).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model import Machine

RUNS = int(os.environ.get("TASKQ_MODEL_RUNS", "100"))
STEPS = int(os.environ.get("TASKQ_MODEL_STEPS", "50"))


def test_the_scripts_do_what_the_model_says(broker, redis_client):
    machine = type("Here", (Machine,), {"broker": broker, "client": redis_client})
    chosen = settings(
        max_examples=RUNS,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
