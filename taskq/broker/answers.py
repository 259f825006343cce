"""What Redis answered: a value, or an error in words; a script it does not know is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import exceptions as rexc

from taskq.broker import tls
from taskq.broker.alink import AsyncLink
from taskq.broker.link import SyncLink, pack
from taskq.broker.scripts import Script
from taskq.broker.sentinel import is_refused
from taskq.errors import TaskQError

_LOADS = 5
"""A script may have to be loaded again: what it was loaded into may be gone by the next request."""


class BrokerError(TaskQError):
    """Redis answered a request of ours with an error; the text is its own."""


def value_of(answer: Any) -> Any:
    """The answer itself.

    Raises:
        BrokerError: it is an error.
    """
    if isinstance(answer, rexc.NoPermissionError):
        raise BrokerError(f"Redis refused it for this user: {answer}")
    if isinstance(answer, rexc.RedisError):
        raise BrokerError(f"Redis answered with an error: {answer}")
    return answer


def reason_of(err: Exception) -> str:
    """Why Redis could not be reached, in a few words."""
    refused = tls.certificate_error(err)
    if refused is not None:
        return tls.refusal(refused)
    text = str(err).strip().rstrip(".")
    if is_refused(err):
        return "connection refused"
    if isinstance(err, rexc.TimeoutError) or "imed out" in text:
        return "no answer in time; whether the last request was carried out is not known"
    return text or type(err).__name__


async def run_script(
    link: AsyncLink,
    chosen: Script,
    make: Callable[[bool], bytes],
    deadline_s: float,
    *,
    once: bool = False,
) -> Any:
    """Run a script on a link, loading it where the server does not know it yet.

    Args:
        link: carries it.
        chosen: the script.
        make: gives the packed request; its argument says whether this is a resend.
        deadline_s: seconds until giving up.
        once: a lost answer is an error instead of a resend.

    Raises:
        BrokerUnavailable: no answer before the deadline.
        BrokerError: the script refused.
    """
    return value_of((await ask_script(link, chosen, make, deadline_s, once=once))[0])


async def ask_script(
    link: AsyncLink,
    chosen: Script,
    make: Callable[[bool], bytes],
    deadline_s: float,
    replies: int = 1,
    *,
    once: bool = False,
) -> list[Any]:
    """`run_script` for a request with further commands behind the script: all the replies."""
    answers = await link.ask(make, replies, deadline_s, once=once)
    for _ in range(_LOADS):
        if not isinstance(answers[0], rexc.NoScriptError):
            break
        await link.ask(lambda _resend: _load(chosen), 1, deadline_s)
        answers = await link.ask(make, replies, deadline_s, once=once)
    return answers


def run_script_blocking(
    link: SyncLink, chosen: Script, make: Callable[[bool], bytes], deadline_s: float
) -> Any:
    """`run_script` on a blocking link."""
    return value_of(ask_script_blocking(link, chosen, make, deadline_s)[0])


def ask_script_blocking(
    link: SyncLink,
    chosen: Script,
    make: Callable[[bool], bytes],
    deadline_s: float,
    replies: int = 1,
) -> list[Any]:
    """`ask_script` on a blocking link."""
    answers = link.ask(make, replies, deadline_s)
    for _ in range(_LOADS):
        if not isinstance(answers[0], rexc.NoScriptError):
            break
        link.ask(lambda _resend: _load(chosen), 1, deadline_s)
        answers = link.ask(make, replies, deadline_s)
    return answers


def _load(chosen: Script) -> bytes:
    return pack(("SCRIPT", "LOAD", chosen.text))
