"""How the code of schedules asks Redis: as generators that know nothing of sockets.

One text serves blocking callers, asyncio programs, the scheduler with a connection of its
own, and tests. A generator yields a `Run` (one of our scripts) or a list of commands, and
is sent the answer, or the answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from taskq.broker.client import Broker

T = TypeVar("T")


class Run(NamedTuple):
    """Run `lua/NAME.lua` on our two prefixes."""

    name: str
    args: Sequence[Any]


Commands = Sequence[Sequence[Any]]
Steps = Generator[Run | Commands, Any, T]


def run(broker: Broker, steps: Steps[T]) -> T:
    """Carry out `steps`, blocking.

    Raises:
        BrokerUnavailable: no answer before the deadline.
        BrokerError: Redis answered with an error.
    """
    keys = [broker.keys.prefix, broker.keys.own]
    try:
        ask = next(steps)
        while True:
            if isinstance(ask, Run):
                ask = steps.send(broker.script(ask.name, keys, ask.args))
            else:
                ask = steps.send(broker.pipe(ask))
    except StopIteration as stop:
        answer: T = stop.value
        return answer


async def arun(
    broker: Broker,
    steps: Steps[T],
    script: Callable[[str, Sequence[Any], Sequence[Any]], Awaitable[Any]] | None = None,
) -> T:
    """`run` for asyncio programs.

    Args:
        broker: of the app.
        steps: what to carry out.
        script: runs scripts (name, keys, arguments) otherwise than by the broker's own link.
    """
    keys = [broker.keys.prefix, broker.keys.own]
    runs = script or broker.ascript
    try:
        ask = next(steps)
        while True:
            if isinstance(ask, Run):
                ask = steps.send(await runs(ask.name, keys, ask.args))
            else:
                ask = steps.send(await broker.apipe(ask))
    except StopIteration as stop:
        answer: T = stop.value
        return answer
