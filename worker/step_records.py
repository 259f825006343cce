"""The records of durable jobs go to Redis in batches, and come from there.

One call is in flight at a time, and what ends meanwhile goes with the next, as with streams
(`yields`). While Redis is away records wait here, and their tasks with them: a step counts as
done when its record is in Redis.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from taskq.broker.client import BrokerError, run_script
from taskq.broker.link import pack_all, pack_script
from taskq.broker.scripts import script
from taskq.errors import BrokerUnavailable, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.broker import Broker
    from taskq.broker.alink import AsyncLink
    from taskq.worker.claim import Claim
    from taskq.worker.generator_run import Run

log = logging.getLogger("taskq.worker")

PATIENCE_S = 15.0
BATCH = 100
BATCH_BYTES = 2_000_000
MOST_BYTES = 16_000_000
"""What the records of one job may have in all."""
MOST_STEPS = 10_000
KEEP_S = 90 * 86_400
"""Records of a job that goes on are kept so long after the last of them, or after its timer."""
_STREAM_S = 604_800

RECORDED, LOST, FULL = 1, 0, 2


class Record(NamedTuple):
    """One record to write.

    Attributes:
        claim: the job.
        place: of the step.
        kind: of the record, see `journal`.
        wait_s: seconds that the job may wait before it goes on.
        head: for people: name, when it began and how long it took, tries, due.
        body: for the worker.
        then: called on the loop with the answer: RECORDED, LOST, FULL, or above: the key is broken.
    """

    claim: Claim
    place: str
    kind: str
    wait_s: float
    head: list[Any]
    body: bytes
    then: Callable[[int], None]


class StepRecords:
    """Writes and reads them. On the event loop."""

    def __init__(self, broker: Broker, link: AsyncLink) -> None:
        """Write nothing yet; `link` carries the calls."""
        self._broker = broker
        self._keys = [broker.keys.prefix, broker.keys.own]
        self._link = link
        self._waiting: list[Record] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, record: Record) -> None:
        """Write a record with the next batch."""
        self._waiting.append(record)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                answers = await self._send(batch)
                del self._waiting[: len(batch)]
                for record, answer in zip(batch, answers, strict=True):
                    record.then(answer)
        except BrokerUnavailable as err:  # the link has its own patience
            log.warning("%s %d steps wait to be recorded", err, len(self._waiting))
            await asyncio.sleep(random.uniform(0.2, 0.5))  # noqa: S311 (not a secret)
        except BrokerError as err:
            log.error("Redis refuses to record %d steps: %s Trying again", len(self._waiting), err)
            await asyncio.sleep(0.5)
        finally:
            self._task = None
            if self._waiting:
                self._task = asyncio.get_running_loop().create_task(self._run())

    def _next(self) -> list[Record]:
        size = n = 0
        for record in self._waiting[:BATCH]:
            size += len(record.body)
            if n and size > BATCH_BYTES:
                break
            n += 1
        return self._waiting[:n]

    async def _send(self, batch: list[Record]) -> list[int]:
        args: list[Any] = [MOST_BYTES, MOST_STEPS, KEEP_S]
        for record in batch:
            claim = record.claim
            head = json.dumps(record.head, separators=(",", ":"))
            args += (claim.queue, claim.id, claim.exec_id, record.place, record.kind)
            args += (f"{max(record.wait_s, 0.0):.0f}", head, record.body)
        chosen = script("record")
        packed = pack_script(chosen, self._keys, args)
        return [int(x) for x in await run_script(self._link, chosen, lambda _: packed, PATIENCE_S)]

    async def load(self, run: Run) -> None:
        """Fill the journal of a run, and let its stream go on where it was; waits for Redis.

        Raises:
            PayloadError: what stands in Redis is no journal.
            StepMismatch: records are missing.
        """
        claim, keys = run.claim, self._broker.keys
        assert run.journal is not None
        stream = keys.stream(claim.id)
        commands = [
            ("HGETALL", keys.steps(claim.id)),
            ("XREVRANGE", stream, "+", "-", "COUNT", 1),
            ("EXPIRE", stream, _STREAM_S),
        ]
        found, last, _ = await self._ask(claim, commands)
        stored, forgotten = _as_dict(found), 0
        if run.journal.is_stale(stored):
            again = ("EVAL", script("steps").text, 2, *self._keys, claim.id, "again")
            _, found = await self._ask(claim, [again, commands[0]])
            forgotten = stored[b"x"].count(b",") + 1
            stored = _as_dict(found)
        run.journal.fill(stored, forgotten)
        generation = claim.fields.get(b"tq_stream", b"").partition(b":")[0]
        if isinstance(last, list) and last:
            of, _, number = last[0][0].partition(b"-")
            if of == generation:
                run.go_on_streaming(generation, int(number))

    async def _ask(self, claim: Claim, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Replies to commands, as long as it takes."""
        packed = pack_all(commands)
        while True:
            try:
                return await self._link.ask(lambda _resend: packed, len(commands), PATIENCE_S)
            except BrokerUnavailable as err:
                log.warning("%s Job %s waits for its recorded steps", err, claim.id)
                await asyncio.sleep(random.uniform(0.2, 0.5))  # noqa: S311 (not a secret)


def _as_dict(found: Any) -> dict[bytes, bytes]:
    """The reply to HGETALL.

    Raises:
        PayloadError: it is an error.
    """
    if isinstance(found, list):
        flat = iter(found)
        return dict(zip(flat, flat))  # one iterator, twice
    if not isinstance(found, dict):
        raise PayloadError(f"The recorded steps of the job cannot be read: {found}")
    return found
