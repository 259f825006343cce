"""Celery: Redis as broker and result backend, threads or child processes."""

from __future__ import annotations

import benchtask
from adapter import PROCS, RESULTS, URL, Adapter, main
from celery import Celery

app = Celery("bench", broker=URL, backend=URL if RESULTS else None)
app.conf.update(
    task_default_queue="bench",
    task_ignore_result=not RESULTS,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
)
TASKS = {name: app.task(name=f"bench.{name}")(f) for name, f in benchtask.SYNC.items()}
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]


class CeleryAdapter(Adapter):
    system = "celery"
    packages = ("celery", "kombu", "billiard", "redis", "hiredis")
    variants = {
        "celery-threads": {
            "n_noop": 2_000,
            "n_enqueue": 4_000,
            "settings": {
                "*": {"pool": "threads", "concurrency": 2, "prefetch": 64},
                "io": {"concurrency": 100, "prefetch": 4},
                "cpu": {"concurrency": 1, "prefetch": 4},
                "fair": {"concurrency": 1, "prefetch": 1},
            },
        },
        "celery-prefork": {
            "n_noop": 2_000,
            "n_io": 400,
            "enqueue_of": "celery-threads",
            "settings": {
                "*": {"pool": "prefork", "concurrency": 1, "prefetch": 64},
                "io": {"concurrency": 20, "prefetch": 4},
                "cpu": {"prefetch": 4},
                "fair": {"prefetch": 1},
            },
        },
    }

    def worker_commands(self):
        settings = self.settings()
        nodes, slots = PROCS, settings["concurrency"]
        if settings["pool"] == "prefork":  # brings its own processes: one node, more children
            nodes, slots = 1, slots * PROCS
        one = [self.bin("celery"), "-A", "celery_adapter", "worker", *QUIET]
        sizes = ["--pool", settings["pool"], "--concurrency", str(slots)]
        sizes += ["--prefetch-multiplier", str(settings["prefetch"])]
        return [[*one, *sizes, "--hostname", f"node{k}@bench"] for k in range(nodes)]

    def enqueue_one(self, task, i):
        return TASKS[task].delay(i)

    def roundtrip(self, task, i):
        return TASKS[task].delay(i).get(timeout=10)


if __name__ == "__main__":
    main(CeleryAdapter())
