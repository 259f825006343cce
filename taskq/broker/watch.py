"""What is asked of Redis about a job somebody waits for, and what the answers mean. No I/O.

A conversation is a generator: it yields commands (sent as one pipeline), is sent their
replies, and returns its finding. Blocking and asyncio callers run the same ones.

Keys read: RQ's job hashes and result streams, our done-markers and the failures beside them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from taskq.broker.outcomes import Kind, Outcome, from_entry
from taskq.keys import Keys
from taskq.states import Status

T = TypeVar("T")

Command = tuple[Any, ...]
Conversation = Generator[Sequence[Command], list[Any], T]
"""Error replies stand in the list as exceptions."""
Sink = Callable[[Any, Outcome], None]
"""Called with a caller's tag and the end of its job; must neither block nor raise."""

_START = b"0-0"
_MARKER_BUCKETS = 8
"""Done-markers live 70 s at most, in sets of 10 s."""


class Target(NamedTuple):
    """A job to wait for.

    Attributes:
        job_id: its id.
        is_fresh: this process enqueued it a moment ago: no earlier run can have left a result.
        is_known: it existed: when it is gone, its result has expired.
    """

    job_id: str
    is_fresh: bool = False
    is_known: bool = False


class Watch:
    """One job that is waited for, by one or more callers.

    Attributes:
        cursor: id of the last stream entry that is not the end we wait for.
        is_looked_up: entries of an earlier run, if any, are before `cursor`.
        is_patient: somebody waits without a time limit and has not been told why it takes long.
    """

    __slots__ = (
        "cursor", "is_known", "is_looked_up", "is_patient", "job_id", "key", "since", "sinks",
    )  # fmt: skip

    def __init__(self, keys: Keys, target: Target, since: float = 0.0) -> None:
        """Begin at the start of the job's result stream."""
        self.job_id = target.job_id
        self.key = keys.results(target.job_id).encode()
        self.is_known = target.is_known
        self.is_looked_up = target.is_fresh
        self.is_patient = False
        self.since = since
        self.cursor = _START
        self.sinks: list[tuple[Sink, Any]] = []

    def take(self, entries: Any) -> Outcome | None:
        """Digest entries after the cursor; the last one decides."""
        if not entries:
            return None
        entry_id, flat = entries[-1]
        outcome = from_entry(flat)
        if outcome is None:
            self.cursor = entry_id
        return outcome

    def newest(self, reply: Any) -> Outcome | None:
        """Digest the reply of `XREVRANGE COUNT 1`, which does not know the cursor."""
        if reply and _position(reply[0][0]) > _position(self.cursor):
            return from_entry(reply[0][1])
        return None


Ended = tuple[Watch, Outcome]


def look(keys: Keys, watches: Sequence[Watch]) -> Conversation[list[Ended]]:
    """Find which jobs have ended, also those that leave no entry in their stream.

    One round trip while nothing has happened; up to four where jobs ended or are gone.

    A script (or RQ's MULTI) writes a result and its status together. So an entry read
    *before* a status that is not final belongs to an earlier run (the job was requeued),
    and after a final status the entry must be there, unless it is no longer kept.
    """
    commands: list[Command] = []
    for watch in watches:
        if not watch.is_looked_up:
            commands.append(_newest_entry(watch))
        commands.append(("HMGET", keys.job(watch.job_id), "status"))
    replies = iter((yield commands))
    ended: list[Ended] = []
    doubtful: list[tuple[Watch, str]] = []
    for watch in watches:
        entries = None if watch.is_looked_up else next(replies)
        reply = next(replies)
        if (broken := _broken(entries, reply)) is not None:
            ended.append((watch, broken))
            continue
        status = (reply[0] or b"").decode("utf-8", "replace")
        outcome = _first_sight(watch, entries, status)
        if outcome is not None:
            ended.append((watch, outcome))
        elif status in ("", Status.FINISHED, Status.FAILED):
            doubtful.append((watch, status))
    if doubtful:
        ended += yield from _second_look(keys, doubtful)
    return (yield from explain_failures(keys, ended))


def _first_sight(watch: Watch, entries: Any, status: str) -> Outcome | None:
    if status == Status.CANCELED:
        return Outcome(Kind.CANCELED, status=status)
    if status == Status.STOPPED:
        return Outcome(Kind.STOPPED, status=status)
    if status in ("", Status.FINISHED, Status.FAILED):
        return watch.newest(entries)
    watch.is_known = watch.is_looked_up = True
    if entries:
        watch.cursor = entries[0][0]
    return None


def _second_look(keys: Keys, doubtful: Sequence[tuple[Watch, str]]) -> Conversation[list[Ended]]:
    """For ended or missing jobs without an entry so far: the stream again, then the markers."""
    commands: list[Command] = [("TIME",)]
    for watch, _status in doubtful:
        commands += [_newest_entry(watch), ("HMGET", keys.job(watch.job_id), "result_ttl")]
    replies = yield commands
    ended: list[Ended] = []
    lost: list[Watch] = []
    for n, (watch, status) in enumerate(doubtful):
        entries, ttl = replies[1 + 2 * n : 3 + 2 * n]
        if (broken := _broken(entries, ttl)) is not None:
            ended.append((watch, broken))
        elif (outcome := watch.newest(entries)) is not None:
            ended.append((watch, outcome))
        elif status:
            note = (ttl[0] or b"").decode("utf-8", "replace")
            ended.append((watch, Outcome(Kind.EXPIRED, status=status, note=note)))
        else:
            lost.append(watch)
    if lost:
        marked = yield from find_marked(keys, [w.job_id for w in lost], replies[0])
        ended += [(watch, _gone(watch, marked.get(watch.job_id))) for watch in lost]
    return ended


def _gone(watch: Watch, marked: bytes | None) -> Outcome:
    if marked is None:
        return Outcome(Kind.EXPIRED if watch.is_known else Kind.UNKNOWN)
    return Outcome(Kind.FAILED, {b"tq_error": marked}) if marked else Outcome(Kind.UNKEPT)


def find_marked(
    keys: Keys, job_ids: Sequence[str], time_reply: Any
) -> Conversation[dict[str, bytes]]:
    """Which of these jobs ended within the last minute and kept nothing.

    Args:
        keys: names of keys.
        job_ids: their hashes are missing.
        time_reply: reply of TIME: the markers' buckets are on the clock of Redis.

    Returns:
        Those that did, each with the error of its failure; empty if it finished.
    """
    if isinstance(time_reply, Exception):
        return {}
    bucket = int(time_reply[0]) // 10
    buckets = range(bucket - _MARKER_BUCKETS + 1, bucket + 2)
    replies = yield [
        *(("SMISMEMBER", keys.done(b), *job_ids) for b in buckets),
        *(("HMGET", keys.failures(b), *job_ids) for b in buckets),
    ]
    marked: dict[str, bytes] = {}
    for hits, errors in zip(replies[: len(buckets)], replies[len(buckets) :], strict=True):
        if not isinstance(hits, list):
            continue
        known = errors if isinstance(errors, list) else [None] * len(hits)
        for job_id, hit, error in zip(job_ids, hits, known, strict=True):
            if hit:  # of an id that was used twice, the end that came last counts
                marked[job_id] = error or b""
    return marked


def unblock(client_id: Any) -> Conversation[Any]:
    """Make another connection's XREAD return at once: 1; 0 if it does not block (yet)."""
    replies = yield [("CLIENT", "UNBLOCK", client_id)]
    return replies[0]


def explain_failures(keys: Keys, ended: list[Ended]) -> Conversation[list[Ended]]:
    """Complete what stock RQ's failure entries leave out: attempts, and whether it was stopped.

    RQ writes a stopped job's entry as a failure; only the status tells.
    """
    bare = [n for n, (_watch, outcome) in enumerate(ended) if _is_bare(outcome)]
    if not bare:
        return ended
    commands = [
        ("HMGET", keys.job(ended[n][0].job_id), "status", "number_of_retries") for n in bare
    ]
    replies = yield commands
    for n, reply in zip(bare, replies, strict=True):
        if isinstance(reply, Exception):
            continue
        watch, outcome = ended[n]
        if reply[0] == b"stopped":
            ended[n] = (watch, Outcome(Kind.STOPPED, outcome.fields, status="stopped"))
        else:
            retries = int(reply[1]) if reply[1] and reply[1].isdigit() else 0
            ended[n] = (watch, outcome._replace(attempts=retries + 1))
    return ended


def _is_bare(outcome: Outcome) -> bool:
    return outcome.kind is Kind.FAILED and b"tq_error" not in outcome.fields


def _newest_entry(watch: Watch) -> Command:
    return ("XREVRANGE", watch.key, "+", "-", "COUNT", 1)


def _position(entry_id: bytes) -> tuple[int, int]:
    ms, _, seq = entry_id.partition(b"-")
    return int(ms), int(seq or 0)


def _broken(*replies: Any) -> Outcome | None:
    for reply in replies:
        if isinstance(reply, Exception):
            return Outcome(Kind.BROKEN, note=str(reply))
    return None


def converse(conversation: Conversation[T], ask: Callable[[Sequence[Command]], list[Any]]) -> T:
    """Run a conversation to its end; `ask` sends one pipeline (`Broker.pipe` does)."""
    try:
        commands = next(conversation)
        while True:
            commands = conversation.send(ask(commands))
    except StopIteration as stop:
        result: T = stop.value
        return result


async def aconverse(
    conversation: Conversation[T], ask: Callable[[Sequence[Command]], Awaitable[list[Any]]]
) -> T:
    """`converse` for asyncio programs (`Broker.apipe`)."""
    try:
        commands = next(conversation)
        while True:
            commands = conversation.send(await ask(commands))
    except StopIteration as stop:
        result: T = stop.value
        return result
