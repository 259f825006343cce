"""Scripts are loaded where a server does not know them, also if it is another one by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import exceptions as rexc

from taskq.broker.answers import BrokerError, run_script, run_script_blocking
from taskq.broker.scripts import script


class Link:
    """Servers that follow each other: each knows no script, and takes so many requests."""

    def __init__(self, forgets: int) -> None:
        self.forgets = forgets
        self.knows = False
        self.loads = 0

    def ask(self, make: Callable[[bool], bytes], *_rest: Any, **_more: Any) -> list[Any]:
        if b"SCRIPT" in make(False):
            self.loads += 1
            self.knows = self.loads > self.forgets
            return [b"sha"]
        return [b"done"] if self.knows else [rexc.NoScriptError("No matching script.")]


class AsyncLink(Link):
    async def ask(self, *args: Any, **more: Any) -> list[Any]:  # type: ignore[override]
        return Link.ask(self, *args, **more)


async def run(forgets: int, *, blocking: bool) -> tuple[Any, int]:
    chosen = script("settle")
    if blocking:
        link = Link(forgets)
        answer = run_script_blocking(link, chosen, lambda _resend: b"EVALSHA", 1.0)  # type: ignore[arg-type]
        return answer, link.loads
    alink = AsyncLink(forgets)
    answer = await run_script(alink, chosen, lambda _resend: b"EVALSHA", 1.0)  # type: ignore[arg-type]
    return answer, alink.loads


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("forgets", [0, 1, 3])
async def test_a_script_is_loaded_as_often_as_it_is_gone(forgets: int, *, blocking: bool):
    assert await run(forgets, blocking=blocking) == (b"done", forgets + 1)


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_server_that_never_keeps_it_is_an_error(*, blocking: bool):
    with pytest.raises(BrokerError, match="No matching script"):
        await run(1000, blocking=blocking)
