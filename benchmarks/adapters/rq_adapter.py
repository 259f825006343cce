"""RQ: one job at a time in each worker process; the default worker forks for every job."""

from __future__ import annotations

import benchtask
from adapter import PROCS, RESULTS, URL, Adapter, main


class RQAdapter(Adapter):
    system = "rq"
    packages = ("rq", "redis", "hiredis")
    bulk = "pipelined"
    variants = {
        "rq-simple": {
            "n_noop": 1_000,
            "n_io": 40,
            "n_enqueue": 4_000,
            "settings": {"*": {"worker_class": "rq.worker.SimpleWorker"}},
        },
        "rq-fork": {
            "n_noop": 250,
            "n_io": 40,
            "n_cpu": 100,
            "wid": "ppid",
            "enqueue_of": "rq-simple",
            "settings": {"*": {"worker_class": "rq.worker.Worker"}},
        },
    }

    def worker_commands(self):
        one = [self.bin("rq"), "worker", "--quiet", "--disable-job-desc-logging", "--url", URL]
        return [[*one, "--worker-class", self.settings()["worker_class"], "bench"]] * PROCS

    def open(self):
        import redis  # noqa: PLC0415 - the worker's side never needs it
        import rq  # noqa: PLC0415 (late: only this way needs it)

        self.queue = rq.Queue("bench", connection=redis.Redis.from_url(URL))
        self.options = {} if RESULTS else {"result_ttl": 0}

    def enqueue_one(self, task, i):
        return self.queue.enqueue(benchtask.SYNC[task], i, **self.options)

    def enqueue_bulk(self, task, ids):
        prepare, function, ids = self.queue.prepare_data, benchtask.SYNC[task], list(ids)
        while ids:
            chunk, ids = ids[:1_000], ids[1_000:]
            self.queue.enqueue_many([prepare(function, args=(i,), **self.options) for i in chunk])

    def roundtrip(self, task, i):
        return self.enqueue_one(task, i).latest_result(timeout=10).return_value


if __name__ == "__main__":
    main(RQAdapter())
