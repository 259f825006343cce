"""taskq: async tasks, plain tasks on threads and in job processes; ``adelay`` in asyncio programs.

Runs in this benchmark and in any harness with the same ``adapter`` and ``benchtask`` modules.
"""

from __future__ import annotations

import os

import benchtask
from adapter import PROCS, RESULTS, URL, VARIANT, Adapter, gather_bounded, main

from taskq import TaskQ

queue = TaskQ(URL)
PLAIN = ("taskq-thread", "taskq-process")
FUNCTIONS = benchtask.SYNC if VARIANT in PLAIN else benchtask.ASYNC
RESULT_TTL = int(os.environ.get("BENCH_RESULT_TTL") or 500) if RESULTS else 0
MODE = "process" if VARIANT == "taskq-process" else None
TASKS = {name: queue.task(result_ttl=RESULT_TTL, mode=MODE)(f) for name, f in FUNCTIONS.items()}


class TaskQAdapter(Adapter):
    system = "taskq"
    packages = ("taskq", "rq", "redis", "hiredis", "uvloop")
    bulk = "pipelined"
    variants = {
        "taskq-async": {
            "n_noop": 20_000,
            "settings": {
                "*": {"concurrency": 100, "threads": 8},
                "io": {"concurrency": 500},
                "cpu": {"concurrency": 2},
                "fair": {"concurrency": 1, "threads": 1},
            },
        },
        "taskq-thread": {
            "n_noop": 20_000,
            "settings": {
                "*": {"concurrency": 100, "threads": 8},
                "io": {"threads": 100},
                "cpu": {"threads": 1},
                "fair": {"concurrency": 1, "threads": 1},
            },
        },
        "taskq-process": {
            "scenarios": ["noop", "cpu"],
            "n_noop": 20_000,
            "settings": {"*": {"concurrency": 100, "threads": 8, "pool": 1}},
        },
        "taskq-adelay": {
            "scenarios": ["enqueue", "roundtrip"],
            "bulk": "gather",
            "settings": {"*": {"concurrency": 100, "threads": 8}},
        },
    }

    def worker_commands(self):
        settings = self.settings()
        return [
            [
                self.bin("taskq"),
                "worker",
                "taskq_adapter:queue",
                *("--processes", str(PROCS)),
                *("--concurrency", str(settings["concurrency"])),
                *("--threads", str(settings["threads"])),
                *("--pool", str(settings.get("pool", 1))),
                *("--log-level", "warning"),
            ]
        ]

    def close(self):
        queue.close()

    def enqueue_one(self, task, i):
        return TASKS[task].delay(i)

    def enqueue_bulk(self, task, ids):
        call = TASKS[task].call
        return queue.enqueue([call(i) for i in ids])

    def roundtrip(self, task, i):
        return TASKS[task].delay(i).result(timeout=10)


class AsyncTaskQAdapter(TaskQAdapter):
    """The same worker; the enqueuing program is asyncio."""

    is_async = True
    bulk = "gather"

    async def close(self):
        await queue.aclose()

    async def enqueue_one(self, task, i):
        return await TASKS[task].adelay(i)

    async def enqueue_bulk(self, task, ids):
        await gather_bounded(TASKS[task].adelay, ids, limit=GATHER)

    async def roundtrip(self, task, i):
        return await (await TASKS[task].adelay(i)).aresult(timeout=10)


# As many calls in flight as for the peers, unless a run asks for another number.
GATHER = int(os.environ.get("BENCH_GATHER") or 100)

if __name__ == "__main__":
    main(AsyncTaskQAdapter() if VARIANT == "taskq-adelay" else TaskQAdapter())
