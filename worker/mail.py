"""What callers send to generator tasks: from their boxes in Redis to the runs here.

The box of a job is a stream that its executions read from the start. Whoever writes to it
publishes the job's id to the worker that has the job; who reads a stream on which its task
waits publishes how far it is. Both are looked up again after a lost connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

from taskq.broker.link import pack_all
from taskq.broker.tap import position
from taskq.commands import unpack_error
from taskq.errors import BrokerUnavailable, PayloadError

if TYPE_CHECKING:
    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.serializers import Codec
    from taskq.worker.generator_run import Run

log = logging.getLogger("taskq.worker")

_PATIENCE_S = 15.0
_PAGE = 1_000
"""Messages of one box in one reply."""


class Mail:
    """Brings them.

    Attributes:
        runs: generators of this process by job id; kept by the runners.
    """

    def __init__(self, broker: Broker, link: AsyncLink, codec: Codec) -> None:
        """Nobody waits for mail.

        Args:
            broker: for key names.
            link: carries the questions.
            codec: reads what was sent.
        """
        self.runs: dict[str, Run] = {}
        self._keys = broker.keys
        self._link = link
        self._codec = codec
        self._wanted: dict[str, Run] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, run: Run) -> None:
        """A run begins: it gets what was sent before."""
        self.runs[run.claim.id] = run
        self._look(run)

    def remove(self, run: Run) -> None:
        """A run has ended."""
        if self.runs.get(run.claim.id) is run:
            del self.runs[run.claim.id]

    def heard(self, text: str) -> None:
        """Something was published to this worker: an id; an id and what was read; or "": look."""
        if not text:
            for one in self.runs.values():
                self._look(one)
            return
        job_id, _, read = text.partition(" ")
        run = self.runs.get(job_id)
        if run is not None and read:
            self._note(run, read.encode())
        elif run is not None:
            self._look(run)

    def _look(self, run: Run) -> None:
        self._wanted[run.claim.id] = run
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._wanted:
                runs, self._wanted = list(self._wanted.values()), {}
                try:
                    await self._fetch(runs)
                except BrokerUnavailable as err:
                    log.warning("%s What was sent to %d generators waits", err, len(runs))
                    for run in runs:
                        self._wanted.setdefault(run.claim.id, run)
                    await asyncio.sleep(random.uniform(0.2, 0.5))  # noqa: S311 (not a secret)
        except Exception:
            log.exception("What was sent to generators could not be read")
        finally:
            self._task = None

    async def _fetch(self, runs: list[Run]) -> None:
        commands: list[tuple[Any, ...]] = []
        for run in runs:
            job_id = run.claim.id
            box = self._keys.sent(job_id)
            commands.append(("XRANGE", box, b"(" + run.mail_id, "+", "COUNT", _PAGE))
            commands.append(("HGET", self._keys.job(job_id), "tq_read"))
        packed = pack_all(commands)
        replies = await self._link.ask(lambda _resend: packed, len(commands), _PATIENCE_S)
        for run, entries, read in zip(runs, replies[::2], replies[1::2], strict=True):
            if isinstance(read, bytes):
                self._note(run, read)
            if isinstance(entries, list) and entries:
                self._deliver(run, entries)
                if len(entries) == _PAGE:
                    self._look(run)

    def _deliver(self, run: Run, entries: list[Any]) -> None:
        for _entry_id, flat in entries:
            run.mail.append(self._open(run, flat[0], flat[1]))
        run.mail_id = entries[-1][0]
        run.nudge()

    def _open(self, run: Run, kind: bytes, body: bytes) -> tuple[Any, Exception | None]:
        if kind == b"t":
            return None, unpack_error(body)
        try:
            value = self._codec.load_value(body, job_id=run.claim.id, kind="send")
            return (value if run.rebuild is None else run.rebuild(value)), None
        except PayloadError as err:
            return None, err

    def _note(self, run: Run, read: bytes) -> None:
        try:
            run.note_read(*position(read))
        except ValueError:
            return
