"""The end of tasks that run for as long as their worker does."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_S = 1.0


async def cancel_all(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended, whatever they end with.

    Once is not always enough: before Python 3.12 `asyncio.wait_for` swallows a cancellation that
    comes at the same moment as what it waits for, and a loop around it would go on for ever.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # else asyncio reports their errors
