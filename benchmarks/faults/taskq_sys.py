"""taskq in the fault harness. Options: mode, queues (comma-separated), processes, grace.

The job's own events go to the harness's ledger. Nothing here is tuned: leases, sweeps and crash
limits are the defaults that users get.
"""

from __future__ import annotations

import pickle
import zlib

from kit import body
from kit.appcli import bin_, main, opt, port, url
from redis import Redis

from taskq import TaskQ

QUEUES = opt("queues", "q").split(",")
MODE = opt("mode", "thread")
queue = TaskQ(url())


def plain(kind, jid, arg=None):
    return body.run_sync(kind, jid, arg)


async def coroutine(kind, jid, arg=None):
    return await body.run_async(kind, jid, arg)


def generator(kind, jid, arg=None):
    yield "begun"
    return body.run_sync(kind, jid, arg)


BODIES = {"asyncio": coroutine, "generator": generator, "thread": plain, "process": plain}


def _task():
    settings = {"name": "systems.taskq_sys.job"}
    if MODE == "process":
        settings["mode"] = "process"
    return queue.task(**settings)(BODIES[MODE])


job = _task()


def enqueue(specs):
    from systems.taskq_sys import job  # noqa: PLC0415 (not __main__'s: workers import it)

    calls = []
    for i, spec in enumerate(specs):
        options = {"queue": QUEUES[i % len(QUEUES)], "job_id": spec["id"]}
        if spec.get("limit"):
            options["timeout"] = spec["limit"]
        if spec.get("delay"):
            options["delay"] = spec["delay"]
        calls.append(job.options(**options).call(spec["kind"], spec["id"], spec.get("arg")))
    job.app.enqueue(calls)


def bulk(n):
    from systems.taskq_sys import job  # noqa: PLC0415 (the same)

    one = job.options(queue=QUEUES[0])
    job.app.enqueue([one.options(job_id=f"b{i}").call("noop", f"b{i}") for i in range(n)])


def worker_argv():
    queues = [part for name in QUEUES for part in ("-q", name)]
    processes = ["--processes", opt("processes", "1")]
    grace = ["--grace", opt("grace")] if opt("grace") else []
    return [bin_("taskq"), "worker", "systems.taskq_sys:queue", *queues, *processes, *grace]


def inspect():
    r = Redis(port=port())
    books = {"pending": 0, "running": 0, "scheduled": 0, "failed": 0, "detail": {}}
    reach = set()
    for name in QUEUES:
        waiting = r.lrange(f"rq:queue:{name}", 0, -1)
        claimed = [x for key in r.keys(f"taskq:claim:*:{name}") for x in r.lrange(key, 0, -1)]
        running = [x.rpartition(b":")[0] for x in r.zrange(f"rq:wip:{name}", 0, -1)]
        kinds = ("scheduled", "failed", "finished")
        scheduled, failed, finished = (r.zrange(f"rq:{kind}:{name}", 0, -1) for kind in kinds)
        books["pending"] += len(waiting) + len(claimed)
        books["running"] += len(running)
        books["scheduled"] += len(scheduled)
        books["failed"] += len(failed)
        books["detail"].setdefault("failed_ids", []).extend(x.decode("latin1") for x in failed)
        reach.update(waiting, claimed, running, scheduled, failed, finished)
    lost = [
        (key[7:].decode("latin1"), (r.hget(key, "status") or b"?").decode())
        for key in r.scan_iter("rq:job:*", count=1000)
        if key[7:] not in reach and b":" not in key[7:]
    ]
    books["detail"]["unreachable_hashes"] = lost[:20]
    books["unreachable"] = len(lost)
    return books


def corrupt(kind):
    """The five kinds that the harness gives RQ, in the same keys."""
    r = Redis(port=port())
    key = "rq:queue:" + QUEUES[0]

    def put(jid, **fields):
        born = "2024-01-01T00:00:00.000000Z"
        record = {"status": "queued", "origin": QUEUES[0], "created_at": born, **fields}
        r.hset("rq:job:" + jid, mapping=record)
        r.rpush(key, jid)

    if kind == "garbage":
        r.rpush(key, b"\xff\xfe\x00garbage\x80")
    if kind == "missing":
        r.rpush(key, "nosuchjob")
    if kind == "unknown":
        put("bad-unknown", data=b'["no.such.func",null,[],{}]')
    if kind == "badpickle":
        put("bad-pickle", data=b"\x80\x04garbage")
    if kind == "badfield":
        call = zlib.compress(pickle.dumps(("os.getpid", None, (), {})))
        put("bad-field", data=call, timeout="soon")


if __name__ == "__main__":
    main(globals())
