"""Dramatiq: worker threads, its Redis broker and result backend."""

from __future__ import annotations

import benchtask
import dramatiq
from adapter import PROCS, RESULTS, URL, Adapter, main
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=URL)
if RESULTS:
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True))
dramatiq.set_broker(broker)
TASKS = {name: dramatiq.actor(f, actor_name=name) for name, f in benchtask.SYNC.items()}


class DramatiqAdapter(Adapter):
    system = "dramatiq"
    packages = ("dramatiq", "redis", "hiredis")
    variants = {
        "dramatiq": {
            "n_noop": 10_000,
            "settings": {
                "*": {"threads": 4, "prefetch": 1_000},
                "io": {"threads": 100},
                "cpu": {"threads": 1, "prefetch": 4},
                "fair": {"threads": 1, "prefetch": 1},
            },
        },
    }

    def worker_commands(self):
        settings = self.settings()
        environment = ["env", f"dramatiq_queue_prefetch={settings['prefetch']}"]
        sizes = ["--processes", str(PROCS), "--threads", str(settings["threads"])]
        return [[*environment, self.bin("dramatiq"), "dramatiq_adapter", *sizes]]

    def enqueue_one(self, task, i):
        return TASKS[task].send(i)

    def roundtrip(self, task, i):
        return TASKS[task].send(i).get_result(block=True, timeout=10_000)


if __name__ == "__main__":
    main(DramatiqAdapter())
