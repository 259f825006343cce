"""Ends of jobs, written into Redis as workers write them: one transaction, or one script."""

from __future__ import annotations

import base64
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

from tests.support import wait_until

NO_SUCH_FILE = (
    "Traceback (most recent call last):\n"
    '  File "shop.py", line 3, in read\n'
    "    open(p)\n"
    "FileNotFoundError: no file a.png\n"
)


class Endings:
    """Jobs in the server of a test, and what becomes of them."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def queued(self, job_id: str, queue: str = "default", **fields: Any) -> str:
        """A job that waits, as `enqueue` leaves it."""
        with self.client.pipeline() as pipe:
            pipe.hset(
                f"rq:job:{job_id}",
                mapping={"status": "queued", "origin": queue, "data": "[]", **fields},
            )
            pipe.rpush(f"rq:queue:{queue}", job_id)
            pipe.execute()
        return job_id

    def status(self, job_id: str, status: str, **fields: Any) -> None:
        """Another status, and nothing in the stream."""
        self.client.hset(f"rq:job:{job_id}", mapping={"status": status, **fields})

    def entry(self, job_id: str, status: str, **fields: Any) -> None:
        """A status and an entry of the result stream."""
        with self.client.pipeline() as pipe:
            pipe.hset(f"rq:job:{job_id}", "status", status)
            pipe.xadd(f"rq:results:{job_id}", {"worker_name": "w1", **fields}, maxlen=10)
            pipe.execute()

    def finish(self, job_id: str, value: Any = None) -> None:
        """The job returned `value`."""
        fields: dict[str, Any] = {"type": 1}
        if value is not None:
            fields["return_value"] = base64.b64encode(json.dumps(value).encode()).decode()
        self.entry(job_id, "finished", **fields)

    def fail(self, job_id: str, exc_type: str, message: str, attempts: int = 1) -> None:
        """The job failed on a worker of ours."""
        error = json.dumps([exc_type, message, attempts])
        self.entry(job_id, "failed", type=2, exc_string=pack(NO_SUCH_FILE), tq_error=error)

    def fail_as_rq(self, job_id: str, trace: str = NO_SUCH_FILE, status: str = "failed") -> None:
        """The job failed on a stock RQ worker."""
        self.entry(job_id, status, type=2, exc_string=pack(trace))

    def finish_unkept(self, job_id: str) -> None:
        """The job finished with `result_ttl=0`."""
        bucket = int(self.client.time()[0]) // 10
        with self.client.pipeline() as pipe:
            pipe.delete(f"rq:job:{job_id}", f"rq:results:{job_id}")
            pipe.sadd(f"taskq:done:{bucket}", job_id)
            pipe.execute()

    def finish_all(self, values: dict[str, Any]) -> None:
        """Several jobs returned, one after the other."""
        for job_id, value in values.items():
            self.finish(job_id, value)

    def blocked(self, count: int = 1) -> bool:
        """Whether so many clients block in XREAD."""
        clients = self.client.client_list()
        found = [c for c in clients if c["cmd"] == "xread" and "b" in c["flags"]]
        return len(found) >= count

    def connections(self) -> int:
        """How many were ever opened: those of earlier tests may still be closing."""
        return int(self.client.info("stats")["total_connections_received"])


def pack(text: str) -> str:
    """A traceback as RQ stores it."""
    return base64.b64encode(zlib.compress(text.encode())).decode()


class Later:
    """Runs a call in a thread once a condition holds; `join` raises what it raised."""

    def __init__(self, when: Callable[[], Any], then: Callable[[], Any]) -> None:
        self._when, self._then = when, then
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            wait_until(self._when, interval=0.002)
            self._then()
        except Exception as error:  # noqa: BLE001 - raised again by join()
            self._error = error

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error
