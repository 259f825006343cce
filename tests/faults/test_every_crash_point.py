"""Every operation is struck at every one of its commands. Prints what was struck how often."""

from __future__ import annotations

import pytest

from tests import sweeps
from tests.crashproxy import FAULTS

APP = sweeps.APP

MUST = {
    "worker": {"HSET", "SADD", "beat", "recover", "promote", "reserve", "BLMOVE", "settle",
               "release", "SREM", "SUBSCRIBE"},
    "stop": {"settle", "release", "SREM"},
    "enqueue": {"enqueue"},
    "cancel": {"clear"},
    "sweep": {"recover", "reserve", "settle"},
}  # fmt: skip
"""Commands that a sweep has to come by, or it does not test what it says."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", sweeps.OPERATIONS)
def test_every_point(app, redis_client, redis_tcp_url, redis_server, name, fault):
    here = sweeps.Here(app, redis_client, redis_tcp_url, redis_server.port)
    struck = sweeps.strike(sweeps.OPERATIONS[name], here, fault)
    print(f"{name}, {fault}: {sum(struck.values())} points, {dict(struck)}")
    assert set(struck) >= MUST[name]
