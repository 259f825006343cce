"""repid: asyncio actors on a Redis stream; stores no results."""

from __future__ import annotations

import asyncio
import logging

import benchtask
from adapter import PROCS, URL, Adapter, gather_bounded, main, use_uvloop
from repid import RedisServer, Repid, Router


def actor(function):
    async def run(i: int):
        return await function(i)

    return run


class RepidAdapter(Adapter):
    system = "repid"
    packages = ("repid", "redis", "hiredis", "uvloop")
    is_async = True
    bulk = "gather"
    can_store_results = False
    variants = {
        "repid": {
            "n_noop": 20_000,
            "settings": {
                "*": {"tasks_limit": 50, "batch_size": 50},
                "io": {"tasks_limit": 500, "batch_size": 500},
                "cpu": {"tasks_limit": 2, "batch_size": 2},
                # With tasks_limit=1 repid 2.1 stops after a few jobs, so it has no fair run.
                "fair": {"tasks_limit": 2, "batch_size": 1},
            },
        },
    }

    def connect(self, batch_size=100):
        self.app = Repid(title="bench", version="1")
        self.server = RedisServer(URL, batch_size=batch_size)
        self.app.servers.register_server("default", self.server, is_default=True)

    def worker_commands(self):
        return [self.py(__file__, "worker")] * PROCS

    def run_worker(self):
        logging.basicConfig(level=logging.WARNING)
        use_uvloop()
        settings = self.settings()
        self.connect(settings["batch_size"])
        router = Router()
        for name, function in benchtask.ASYNC.items():
            router.actor(name=name, channel="bench")(actor(function))
        self.app.include_router(router)

        async def serve():
            async with self.server.connection():
                await self.app.run_worker(tasks_limit=settings["tasks_limit"])

        asyncio.run(serve())

    async def open(self):
        self.connect()
        await self.server.connect()

    async def close(self):
        await self.server.disconnect()

    async def enqueue_one(self, task, i):
        await self.app.send_message_json(channel="bench", payload={"i": i}, headers={"topic": task})

    async def enqueue_bulk(self, task, ids):
        await gather_bounded(lambda i: self.enqueue_one(task, i), ids)


if __name__ == "__main__":
    main(RepidAdapter())
