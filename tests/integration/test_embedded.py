"""The private Redis server: starts, is only ours, and never outlives us."""

from __future__ import annotations

import redis

from taskq.embedded import EmbeddedRedis


def test_starts_and_stops(redis_server: EmbeddedRedis, redis_client: redis.Redis):
    assert redis_server.alive
    assert redis_client.ping()
