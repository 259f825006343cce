# ruff: noqa: SLF001 - the inside of handles is shared with this module
# pyright: reportPrivateUsage=false
"""Several jobs enqueued together, and their results.

The jobs of a batch are enqueued with a `result_ttl` of a day, so that the first results
are still there when the last job ends. Once all have been read here, Redis is told to
keep them no longer than their tasks say.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from taskq.broker.outcomes import Kind
from taskq.broker.watch import Command, Conversation, aconverse, converse
from taskq.errors import TaskQError
from taskq.future import Handle
from taskq.keys import Keys
from taskq.pending import Timeout, refuse_in_loop
from taskq.questions import MISSING, UNKEPT, ask_states
from taskq.waiting import Arrivals, agather, gather_blocking

R_co = TypeVar("R_co", covariant=True)

GONE = "gone"
"""In `counts()`: jobs that Redis no longer knows."""
_CHUNK = 500
"""Jobs in one pipeline of the trimming."""
_DEFAULT_TTL_S = 500.0


class Batch(Generic[R_co]):
    """Handles of jobs that were enqueued together. Immutable.

    Attributes:
        id: made by the client; nothing in Redis has it.
    """

    def __init__(self, app: Any, handles: Sequence[Handle[R_co]], batch_id: str) -> None:
        """Keep the handles, in the order of the calls."""
        self.id = batch_id
        self._app = app
        self._handles = tuple(handles)
        self._is_trimmed = False

    def __repr__(self) -> str:
        return f"<Batch {self.id} of {len(self._handles)} jobs>"

    @property
    def handles(self) -> tuple[Handle[R_co], ...]:
        """All handles, in the order of the calls."""
        return self._handles

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle[R_co]]:
        return iter(self._handles)

    @overload
    def __getitem__(self, index: int) -> Handle[R_co]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Handle[R_co], ...]: ...
    def __getitem__(self, index: int | slice) -> Handle[R_co] | tuple[Handle[R_co], ...]:
        return self._handles[index]

    def counts(self) -> dict[str, int]:
        """How many jobs are in which status; "gone": Redis no longer knows them.

        One HMGET for each job whose end is not known yet, 1,000 in a round trip.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        broker = self._app.broker
        return self._count(converse(ask_states(broker.keys, self._open_ids()), broker.pipe))

    async def acounts(self) -> dict[str, int]:
        """`counts` for asyncio programs."""
        broker = self._app.broker
        return self._count(await aconverse(ask_states(broker.keys, self._open_ids()), broker.apipe))

    def as_completed(self, timeout: Timeout = None) -> Arrivals[R_co]:
        """Give the handles in the order in which their jobs end; see `taskq.as_completed`."""
        return Arrivals(self._handles, timeout)

    @overload
    def results(self, timeout: Timeout = None) -> list[R_co]: ...
    @overload
    def results(
        self, timeout: Timeout = None, *, return_exceptions: bool
    ) -> list[R_co | TaskQError]: ...
    def results(self, timeout: Timeout = None, *, return_exceptions: bool = False) -> list[Any]:
        """Wait for all jobs and return their results, in the order of the calls. Blocks.

        Args:
            timeout: seconds for all of them; None waits for ever.
            return_exceptions: put errors into the list instead of raising the first one.

        Raises:
            JobFailed: a job failed; raised as soon as that is known, the others go on.
            ResultTimeout: the time is over; the jobs go on.
            TaskQError: whatever else `Handle.result` raises.
        """
        refuse_in_loop(f"results() of batch {self.id}", "`await batch`, or its a... twin")
        found = gather_blocking(self._handles, timeout, return_exceptions=return_exceptions)
        if not self._is_trimmed:
            broker = self._app.broker
            converse(_trim(broker.keys, self._kept()), broker.pipe)
            self._is_trimmed = True
        return found

    @overload
    async def aresults(self, timeout: Timeout = None) -> list[R_co]: ...
    @overload
    async def aresults(
        self, timeout: Timeout = None, *, return_exceptions: bool
    ) -> list[R_co | TaskQError]: ...
    async def aresults(
        self, timeout: Timeout = None, *, return_exceptions: bool = False
    ) -> list[Any]:
        """`results` for asyncio programs."""
        found = await agather(self._handles, timeout, return_exceptions=return_exceptions)
        if not self._is_trimmed:
            broker = self._app.broker
            await aconverse(_trim(broker.keys, self._kept()), broker.apipe)
            self._is_trimmed = True
        return found

    def __await__(self) -> Generator[Any, None, list[R_co]]:
        """Wait for all results in an asyncio program."""
        return self.aresults().__await__()

    def _open_ids(self) -> list[str]:
        return [handle.id for handle in self._handles if handle._outcome is None]

    def _count(self, states: list[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        names = {UNKEPT: "finished", MISSING: GONE}
        known = [handle._outcome.kind for handle in self._handles if handle._outcome is not None]
        ended = {Kind.UNKEPT: "finished", Kind.EXPIRED: GONE}
        for name in [
            *(names.get(state, state) for state in states),
            *(ended.get(kind, kind.value) for kind in known),
        ]:
            counts[name] = counts.get(name, 0) + 1
        return counts

    def _kept(self) -> list[tuple[str, int]]:
        """Finished jobs of this batch, and how long their tasks keep results."""
        kept: list[tuple[str, int]] = []
        for handle in self._handles:
            outcome = handle._outcome
            if outcome is None or outcome.kind is not Kind.FINISHED or not handle.created:
                continue  # `unique` gave somebody else's job: it is not ours to shorten
            opts = getattr(handle._task, "opts", None)
            ttl = getattr(opts, "result_ttl", _DEFAULT_TTL_S)
            if ttl > 0:
                kept.append((handle.id, int(ttl)))
        return kept


def _trim(keys: Keys, kept: Sequence[tuple[str, int]]) -> Conversation[None]:
    """Shorten the life of results that have been read; never lengthens one.

    Redis 6.2 has no `EXPIRE ... LT`: the present TTL is asked first.
    """
    for start in range(0, len(kept), _CHUNK):
        chunk = kept[start : start + _CHUNK]
        asked: list[Command] = [("TIME",)]
        for job_id, _ttl in chunk:
            asked += [("TTL", keys.job(job_id)), ("HMGET", keys.job(job_id), "status", "origin")]
        replies = yield asked
        commands: list[Command] = []
        for n, (job_id, ttl) in enumerate(chunk):
            left_s, fields = replies[1 + 2 * n : 3 + 2 * n]
            if not isinstance(left_s, int) or left_s <= ttl or isinstance(fields, Exception):
                continue
            if fields[0] != b"finished":
                continue
            ends_at = int(replies[0][0]) + ttl
            queue = (fields[1] or b"").decode("utf-8", "replace")
            commands += [
                ("EXPIRE", keys.job(job_id), ttl),
                ("EXPIRE", keys.results(job_id), ttl),
                ("ZADD", keys.finished(queue), "XX", "LT", ends_at, job_id),
            ]
        if commands:
            yield commands
