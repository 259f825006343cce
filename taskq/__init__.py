"""taskq: a Redis-backed task queue on RQ's data."""
