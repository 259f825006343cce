"""taskiq with taskiq-redis: its list broker and its stream broker."""

from __future__ import annotations

import benchtask
from adapter import PROCS, RESULTS, URL, VARIANT, Adapter, gather_bounded, main
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

if VARIANT == "taskiq-stream":
    # Its default consumer_id "$" would skip what was queued before the worker came.
    broker = RedisStreamBroker(URL, queue_name="bench", consumer_id="0")
else:
    broker = ListQueueBroker(URL, queue_name="bench")
if RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3_600))


def registered(name, function):
    async def run(i):
        return await function(i)

    return broker.register_task(run, task_name=name)


TASKS = {name: registered(name, function) for name, function in benchtask.ASYNC.items()}
SETTINGS = {
    "*": {"max_async_tasks": 30, "prefetch": 0},
    "io": {"max_async_tasks": 500},
    "cpu": {"max_async_tasks": 2},
    "fair": {"max_async_tasks": 1},
}


class TaskiqAdapter(Adapter):
    system = "taskiq"
    packages = ("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop")
    is_async = True
    bulk = "gather"
    variants = {
        "taskiq-list": {"n_noop": 5_000, "settings": SETTINGS},
        "taskiq-stream": {"n_noop": 5_000, "settings": SETTINGS},
    }

    def worker_commands(self):
        settings = self.settings()
        return [
            [
                *(self.bin("taskiq"), "worker", "taskiq_adapter:broker", "--no-parse"),
                *("--workers", str(PROCS), "--log-level", "WARNING"),
                *("--max-async-tasks", str(settings["max_async_tasks"])),
                *("--max-prefetch", str(settings["prefetch"])),
            ]
        ]

    async def open(self):
        await broker.startup()

    async def close(self):
        await broker.shutdown()

    async def enqueue_one(self, task, i):
        return await TASKS[task].kiq(i)

    async def enqueue_bulk(self, task, ids):
        await gather_bounded(TASKS[task].kiq, ids)

    async def roundtrip(self, task, i):
        sent = await TASKS[task].kiq(i)
        return (await sent.wait_result(check_interval=0.005, timeout=10)).return_value


if __name__ == "__main__":
    main(TaskiqAdapter())
