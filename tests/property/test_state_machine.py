"""The scripts against a model: random enqueues, crashes, freezes, late ends, orders by people.

500 runs of 50 steps, in five parts that can run side by side; `tests/faults` has a campaign.
"""

from __future__ import annotations

import pytest

from tests.model import check_model


@pytest.mark.timeout(120)  # on a busy machine
@pytest.mark.parametrize("part", range(5))
def test_the_scripts_do_what_the_model_says(broker, redis_client, part):
    check_model(broker, redis_client, runs=100, steps=50)
