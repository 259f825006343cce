"""arq: asyncio, polls a sorted set (every half second by default)."""

from __future__ import annotations

import benchtask
from adapter import PROCS, RESULTS, Adapter, gather_bounded, main, port, use_uvloop
from arq import create_pool, func
from arq.connections import RedisSettings


def with_context(function):
    async def run(_context, i):
        return await function(i)

    return run


class ArqAdapter(Adapter):
    system = "arq"
    packages = ("arq", "redis", "hiredis", "uvloop")
    is_async = True
    bulk = "gather"
    variants = {
        "arq": {
            "n_noop": 4_000,
            "n_roundtrip": 20,
            "settings": {
                "*": {"max_jobs": 200, "poll_delay_ms": 500},
                "io": {"max_jobs": 500},
                "cpu": {"max_jobs": 5, "poll_delay_ms": 10},
                "fair": {"max_jobs": 1, "poll_delay_ms": 10},
            },
        },
        "arq-poll10ms": {
            "enqueue_of": "arq",
            "scenarios": ["latency", "idle", "roundtrip"],
            "settings": {"*": {"max_jobs": 200, "poll_delay_ms": 10}},
        },
    }

    def address(self):
        return RedisSettings(host="127.0.0.1", port=port())

    def worker_commands(self):
        return [self.py(__file__, "worker")] * PROCS

    def run_worker(self):
        use_uvloop()
        from arq.worker import run_worker  # noqa: PLC0415 - after the loop's policy is set

        settings = self.settings()
        run_worker(
            {
                "functions": [func(with_context(f), name=n) for n, f in benchtask.ASYNC.items()],
                "redis_settings": self.address(),
                "max_jobs": settings["max_jobs"],
                "poll_delay": settings["poll_delay_ms"] / 1_000,
                "keep_result": 3_600 if RESULTS else 0,
                "log_results": False,
            }
        )

    async def open(self):
        self.pool = await create_pool(self.address())

    async def close(self):
        await self.pool.aclose()

    async def enqueue_one(self, task, i):
        return await self.pool.enqueue_job(task, i)

    async def enqueue_bulk(self, task, ids):
        await gather_bounded(lambda i: self.enqueue_one(task, i), ids)

    async def roundtrip(self, task, i):
        sent = await self.pool.enqueue_job(task, i)
        return await sent.result(timeout=10, poll_delay=0.005)


if __name__ == "__main__":
    main(ArqAdapter())
