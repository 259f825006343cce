"""Huey: worker threads on a Redis list."""

from __future__ import annotations

import os

import benchtask
from adapter import PROCS, RESULTS, URL, Adapter, main
from huey import RedisHuey

# A caller can only block for a result if the worker notifies; the other scenarios do not pay.
NOTIFY = os.environ.get("BENCH_SCENARIO") == "roundtrip"
huey = RedisHuey("bench", url=URL, results=RESULTS, notify_result=NOTIFY)
TASKS = {name: huey.task(name=name)(function) for name, function in benchtask.SYNC.items()}


class HueyAdapter(Adapter):
    system = "huey"
    packages = ("huey", "redis", "hiredis")
    variants = {
        "huey": {
            "n_noop": 10_000,
            "settings": {
                "*": {"workers": 4},
                "io": {"workers": 100},
                "cpu": {"workers": 1},
                "fair": {"workers": 1},
            },
        },
    }

    def worker_commands(self):
        threads = str(self.settings()["workers"])
        one = [self.bin("huey_consumer"), "huey_adapter.huey", "--quiet", "--no-periodic"]
        return [[*one, "--worker-type", "thread", "--workers", threads]] * PROCS

    def enqueue_one(self, task, i):
        return TASKS[task](i)

    def roundtrip(self, task, i):
        return TASKS[task](i).get(blocking=True, timeout=10)


if __name__ == "__main__":
    main(HueyAdapter())
