"""SAQ: asyncio, one BLMOVE for each lane."""

from __future__ import annotations

import benchtask
from adapter import PROCS, RESULTS, URL, Adapter, gather_bounded, main, use_uvloop
from saq import Queue


def with_context(function):
    async def run(_context, *, i):
        return await function(i)

    return run


def settings():
    """What the ``saq`` command asks this module for."""
    use_uvloop()
    return {
        "queue": Queue.from_url(URL, name="bench"),
        "concurrency": SaqAdapter().settings()["concurrency"],
        "functions": [(name, with_context(f)) for name, f in benchtask.ASYNC.items()],
    }


class SaqAdapter(Adapter):
    system = "saq"
    packages = ("saq", "redis", "hiredis", "uvloop")
    is_async = True
    bulk = "gather"
    variants = {
        "saq": {
            "n_noop": 5_000,
            "settings": {
                "*": {"concurrency": 50},
                "io": {"concurrency": 500},
                "cpu": {"concurrency": 1},
                "fair": {"concurrency": 1},
            },
        },
    }

    def worker_commands(self):
        return [[self.bin("saq"), "saq_adapter.settings"]] * PROCS

    async def open(self):
        self.queue = Queue.from_url(URL, name="bench")
        await self.queue.connect()
        self.options = {} if RESULTS else {"ttl": -1}

    async def close(self):
        await self.queue.disconnect()

    async def enqueue_one(self, task, i):
        return await self.queue.enqueue(task, i=i, **self.options)

    async def enqueue_bulk(self, task, ids):
        await gather_bounded(lambda i: self.enqueue_one(task, i), ids)

    async def roundtrip(self, task, i):
        # apply() polls, every half second unless told otherwise.
        return await self.queue.apply(task, timeout=10, poll_interval=0.005, i=i)


if __name__ == "__main__":
    main(SaqAdapter())
