"""A Redis client for RQ's code whose deciding transaction is fenced.

The transaction that ends an execution is known by what it does: it deletes the
execution's record. It is carried out only while the record and the lease exist
(recovery takes both away when it gives the job to somebody else), and it leaves a
mark, so that after a lost reply one can tell whether it was carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.client import Pipeline

MARK_TTL_S = 900


class LeaseLost(BaseException):
    """The job belongs to somebody else by now: nothing was written.

    Not an `Exception`: RQ's `except Exception` must let it through.
    """


class Fence:
    """What guards the end of one execution.

    Attributes:
        record: key of RQ's record of the execution.
        registry: key of the queue's started registry.
        member: the execution in it: the lease.
        mark: key that says that the transaction was carried out.
        also: further commands of that transaction.
        committed: whether this process knows that it was carried out.
        error: why the last try was not, if so.
    """

    __slots__ = ("also", "committed", "error", "mark", "member", "record", "registry")

    def __init__(self, record: str, registry: str, member: str, mark: str) -> None:
        """Guard one execution."""
        self.record = record
        self.registry = registry
        self.member = member
        self.mark = mark
        self.also: list[Sequence[Any]] = []
        self.committed = False
        self.error: Exception | None = None


class FencedPipeline(Pipeline):
    """A transaction; fenced if it deletes the execution's record."""

    fence: Fence

    def _decides(self, commands: Any) -> bool:
        return any(args[0] == "DEL" and self.fence.record in args[1:] for args, _ in commands)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Carry it out, with the fence's own commands if it is the deciding one."""
        if not self._decides(self.command_stack):
            return super().execute(raise_on_error)
        own = [("SET", self.fence.mark, "1", "EX", MARK_TTL_S), *self.fence.also]
        for command in own:
            self.execute_command(*command)  # type: ignore[no-untyped-call]
        try:
            answers = super().execute(raise_on_error)
        except Exception as err:
            self.fence.error = err
            raise
        self.fence.committed = True
        return answers[: -len(own)]

    def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        if self._decides(commands):
            fence = self.fence
            self.watching = True
            asked = [("WATCH", fence.record), ("EXISTS", fence.record),
                     ("ZSCORE", fence.registry, fence.member)]  # fmt: skip
            connection.send_packed_command(connection.pack_commands(asked))
            answers = [connection.read_response() for _ in asked]
            if not answers[1] or answers[2] is None:
                raise LeaseLost
        return super()._execute_transaction(connection, commands, raise_on_error)


class FencedRedis(redis.Redis):
    """A client for RQ's code; with a fence while it ends a job."""

    fence: Fence | None = None

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """RQ asks for its transactions here."""
        if self.fence is None:
            return super().pipeline(transaction, shard_hint)
        made = FencedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.fence = self.fence
        return made
