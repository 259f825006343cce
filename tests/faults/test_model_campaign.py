"""The state machine of `tests/model.py`, for as long as one wants.

TASKQ_MODEL_PARTS (default 4; 40 make 20,000 runs of 100 steps) parts of 500 runs.
"""

from __future__ import annotations

import os

import pytest

from tests.model import check_model

PARTS = int(os.environ.get("TASKQ_MODEL_PARTS", "4"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_scripts_do_what_the_model_says(broker, redis_client, part):
    check_model(broker, redis_client, runs=500, steps=100)
