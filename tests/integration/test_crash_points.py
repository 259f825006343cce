"""Each operation is struck at its commands: the request lost, the reply lost, the client killed.

A part of the points, spread over all of them; `make faults` strikes at every one.
"""

from __future__ import annotations

import pytest

from tests import sweeps
from tests.crashproxy import FAULTS

APP = sweeps.APP

STEP = {"worker": 7, "sweep": 9, "stop": 4, "enqueue": 2, "cancel": 1}
"""Each so-many-th command is struck here."""


@pytest.mark.timeout(60)  # on a busy machine
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", sweeps.OPERATIONS)
def test_some_points(app, redis_client, redis_tcp_url, redis_server, name, fault):
    here = sweeps.Here(app, redis_client, redis_tcp_url, redis_server.port)
    assert sweeps.strike(sweeps.OPERATIONS[name], here, fault, STEP[name])
