"""streaQ: anyio on Redis streams, with coredis as client."""

from __future__ import annotations

import logging

import benchtask
from adapter import PROCS, RESULTS, URL, Adapter, main, use_uvloop
from streaq import Worker


class StreaqAdapter(Adapter):
    system = "streaq"
    packages = ("streaq", "coredis", "anyio", "uvloop")
    is_async = True
    bulk = "pipelined"
    variants = {
        "streaq": {
            "n_noop": 3_000,
            "settings": {
                "*": {"concurrency": 32, "prefetch": 500},
                "io": {"concurrency": 500},
                "cpu": {"concurrency": 2, "prefetch": 2},
                "fair": {"concurrency": 1, "prefetch": 1},
            },
        },
    }

    def connect(self, **options):
        self.worker = Worker(redis_url=URL, queue_name="bench", **options)
        ttl = 300 if RESULTS else 0
        self.tasks = {
            name: self.worker.task(name=name, silent=True, ttl=ttl)(function)
            for name, function in benchtask.ASYNC.items()
        }

    def worker_commands(self):
        return [self.py(__file__, "worker")] * PROCS

    def run_worker(self):
        logging.basicConfig(level=logging.WARNING)
        settings = self.settings()
        self.connect(
            concurrency=settings["concurrency"],
            prefetch=settings["prefetch"],
            anyio_kwargs={"use_uvloop": use_uvloop()},
        )
        self.worker.run_sync()

    async def open(self):
        self.connect()
        await self.worker.__aenter__()

    async def close(self):
        await self.worker.__aexit__(None, None, None)

    async def enqueue_one(self, task, i):
        return await self.tasks[task].enqueue(i)

    async def enqueue_bulk(self, task, ids):
        ids, enqueue = list(ids), self.tasks[task].enqueue
        while ids:
            chunk, ids = ids[:1_000], ids[1_000:]
            await self.worker.enqueue_many([enqueue(i) for i in chunk])

    async def roundtrip(self, task, i):
        sent = await self.tasks[task].enqueue(i)
        return (await sent.result(timeout=10)).result


if __name__ == "__main__":
    main(StreaqAdapter())
