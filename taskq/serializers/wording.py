"""The words of errors when writing: which argument, what it is, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskq.errors import NotSerializable, PayloadTooLarge, TaskQError
from taskq.serializers.unfit import Unfit, place


def unfit_call(error: Unfit, name: str, names: Sequence[str] | None, max_bytes: int) -> TaskQError:
    """The error for a call, named by its argument."""
    if error.is_too_large:
        return large_call(name, None, max_bytes)
    what = f"{_short(name)}(): {_argument(error.path, names)}"
    return NotSerializable(f"{what} {error.text.replace('{Pass}', 'Pass')} Nothing was enqueued.")


def unfit_value(error: Unfit, kind: str, name: str, max_bytes: int) -> TaskQError:
    """The error for a result or meta."""
    if error.is_too_large:
        return large_value(kind, name, None, max_bytes)
    what = _value(kind, name) + (f" at {place(error.path)}" if error.path else "")
    return NotSerializable(f"{what} {error.text.replace('{Pass}', _verb(kind))}")


def large_call(name: str, size: int | None, max_bytes: int) -> PayloadTooLarge:
    """The error for a call over the limit; size None: counting was given up."""
    return PayloadTooLarge(
        f"{_short(name)}(): the arguments are {_size(size, max_bytes)} "
        "Keep the data elsewhere and pass an id or a path. Nothing was enqueued."
    )


def large_value(kind: str, name: str, size: int | None, max_bytes: int) -> PayloadTooLarge:
    """The error for a result or meta over the limit; size None: counting was given up."""
    return PayloadTooLarge(
        f"{_value(kind, name)} is {_size(size, max_bytes)} "
        f"Keep the data elsewhere and {_verb(kind).lower()} an id or a path."
    )


def not_accepted(form: str, accept: Iterable[str]) -> str:
    """Why a payload in a known form is refused."""
    accepted = " and ".join(sorted(accept))
    how = f'accept=(..., "{form}") or TASKQ_ACCEPT allows it'
    if form == "pickle":
        how += ", for those who let everybody with access to Redis run code here"
    return f"it is {form}, and only {accepted} is accepted. {how}."


def _argument(path: tuple[Any, ...], names: Sequence[str] | None) -> str:
    """`argument 'items[3].owner'` for a path that begins with an index or a name."""
    if not path:
        return "something in the arguments"
    first, rest = path[0], path[1:]
    if isinstance(first, int):
        if names is None or first >= len(names):
            return f"positional argument {first + 1}" + (f" at {place(rest)}" if rest else "")
        first = names[first]
    return f"argument '{first}{place(rest)}'"


def _value(kind: str, name: str) -> str:
    what = {"yield": "yielded value", "send": "sent value", "step": "step's result"}.get(kind, kind)
    return f"{_short(name)}(): the {what}" if name else f"The {what}"


def _short(name: str) -> str:
    """The function's own name in its dotted path."""
    return name.rpartition(".")[2] or name


def _verb(kind: str) -> str:
    return {"result": "Return", "yield": "Yield", "send": "Send", "step": "Return"}.get(kind, "Use")


def _size(size: int | None, max_bytes: int) -> str:
    counted = f"{size:,} bytes" if size is not None else f"more than {max_bytes:,} bytes"
    return f"{counted}, over the limit of {max_bytes:,} (max_bytes)."
