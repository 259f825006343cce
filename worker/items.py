"""Items of the settle script: one for each way in which an execution can end.

The script takes them in groups that share kind, queue, execution, unique lock and
option, so that what is the same for a whole batch is sent once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from taskq.worker.claim import Claim


class Item(NamedTuple):
    """One job of a settle call.

    Attributes:
        kind: f finished, e finished and to be repeated, x failed, r retry, y returned RQ's Retry,
            g give back, d its process died, u unknown task, c canceled, s sleeps.
        unique: the unique lock to let go, or "".
        option: f: ttl in s, after "m" to leave a done-marker; e, x: ttl in s; y: the same or "";
            else "".
        rest: what the script wants after the job's id.
        size: bytes of result or traceback.
    """

    kind: str
    unique: str
    option: str
    rest: tuple[Any, ...]
    size: int = 0


def finished(
    started: float, ended: float, value: bytes, ttl_s: int, *, marker: bool, unique: str
) -> Item:
    """The job returned; `value` is base64, empty for None."""
    option = f"m{ttl_s}" if marker else str(ttl_s)
    return Item("f", unique, option, (f"{started:.6f}", f"{ended:.6f}", value), len(value))


def repeated(
    done: Item, raw: bytes, delay_s: float, left: int, intervals: bytes | None = None
) -> Item:
    """It finished and runs again, by RQ's `Repeat`.

    Args:
        done: its end, as if it were the last.
        raw: its result as RQ writes it into the record; empty for None.
        delay_s: pause before the next execution.
        left: further executions after that.
        intervals: pauses from then on, as JSON; None: as they are.
    """
    return Item("e", "", done.option, (*done.rest, _delay(delay_s), left, intervals or "", raw),
                done.size + len(raw))  # fmt: skip


def asked_again(
    done: Item, raw: bytes, ttl_s: int | None, delay_s: float, *, front: bool, number: int
) -> Item:
    """It returned RQ's `Retry`.

    Args:
        done: its end, as if that were its result.
        raw: the same as RQ writes it into the record.
        ttl_s: for how long the result entry is kept; None: as long as those before it.
        delay_s: pause before the next execution.
        front: whether it comes to the head of its queue.
        number: how often it has asked by now.
    """
    rest = (*done.rest, _delay(delay_s), "1" if front else "", number, raw)
    return Item("y", "", "" if ttl_s is None else str(ttl_s), rest, done.size + len(raw))


def failed(started: float, ended: float, text: bytes, error: str, ttl_s: int, unique: str) -> Item:
    """The job ended for good without a result; `text` is zlib and base64, `error` our JSON."""
    rest = (f"{started:.6f}", f"{ended:.6f}", text, error)
    return Item("x", unique, str(ttl_s), rest, len(text))


def retried(run: str, delay_s: float, *, front: bool = False, left: int | None = None) -> Item:
    """It runs again, now or later; `run` is how it ended this time (see runs.py)."""
    rest = (_delay(delay_s), "1" if front else "", "" if left is None else left, run)
    return Item("r", "", "", rest)


def _delay(seconds: float) -> str:
    return f"{seconds:.6f}" if seconds > 0 else ""


def unknown(delay_s: float) -> Item:
    """This worker does not know the task: looked at again later."""
    return Item("u", "", "", (f"{delay_s:.3f}",))


def canceled(unique: str) -> Item:
    """It was canceled while it ran, or before."""
    return Item("c", unique, "", ())


def asleep(due: float, place: str) -> Item:
    """A durable job has come to a timer; `due` is in seconds since 1970, `place` its own."""
    return Item("s", "", "", (f"{due:.6f}", place))


def given_back(run: str) -> Item:
    """To the head of its queue, after it had begun."""
    return Item("g", "", "", (run,))


def crashed(run: str) -> Item:
    """The same, after the process that ran it died: that counts."""
    return Item("d", "", "", (run,))


GIVEN_BACK = given_back("")
"""To the head of its queue; it had not begun."""


def pack_items(batch: Iterable[tuple[Claim, Item]]) -> tuple[list[Any], list[int]]:
    """Arguments of the script, and for each answer the position of its job in the batch."""
    groups: dict[tuple[Any, ...], tuple[list[Any], list[int]]] = {}
    for position, (claim, item) in enumerate(batch):
        option: str | bytes = item.option
        if claim.overwrites or claim.dependents_by_rq or claim.durable or not claim.is_plain:
            option = _option(claim, item)
        key = (item.kind, claim.position, claim.exec_id, item.unique, option)
        group = groups.get(key)
        if group is None:
            group = groups[key] = ([], [])
        group[0].append(claim.id)
        group[0].extend(item.rest)
        group[1].append(position)
    args: list[Any] = []
    order: list[int] = []
    for key, (jobs, positions) in groups.items():
        args.extend(key)
        args.append(len(positions))
        args.extend(jobs)
        order.extend(positions)
    return args, order


def _option(claim: Claim, item: Item) -> str | bytes:
    """The item's option, with what the claim adds to it."""
    kind, option = item.kind, item.option
    if kind in ("f", "x", "e"):
        if claim.tells:
            option = "n" + option
        if claim.durable and kind == "f":
            option = "d" + option
        if claim.sends:
            option = "w" + option
        if not claim.is_plain and claim.waited and kind != "e":
            option = "p" + option
        if claim.dependents_by_rq:
            option = "q" + option
    if claim.overwrites and kind in ("f", "x", "e", "y"):
        option = "o" + option
    if not claim.is_plain:
        limit = claim.fields.get(b"rate_limit_key")
        if limit:
            return option.encode() + b" " + limit
    return option
