"""The reason why a value cannot be carried, and the words for it."""

from __future__ import annotations

import inspect
import io
from collections.abc import Sequence
from typing import Any


class Unfit(Exception):
    """Internal: a value that the serializer cannot carry; `Codec` words the error.

    Attributes:
        path: keys and indexes that lead to the value; empty for the value itself.
        text: what is wrong and what to do, as the rest of a sentence; `{Pass}` stands
            for the verb (arguments are passed, results returned).
        is_too_large: it is not the value, there is too much of it.
    """

    def __init__(self, path: tuple[Any, ...], text: str, *, is_too_large: bool = False) -> None:
        """Keep the parts."""
        super().__init__(path, text)
        self.path = path
        self.text = text
        self.is_too_large = is_too_large


def place(path: Sequence[Any]) -> str:
    """`[3].owner` for the path `(3, "owner")`."""
    parts = []
    for step in path:
        if isinstance(step, str) and step.isidentifier():
            parts.append(f".{step}")
        else:
            shown = repr(step)
            parts.append(f"[{shown if len(shown) <= 40 else shown[:37] + '...'}]")
    return "".join(parts)


def article(value: object) -> str:
    """What `value` is, in words: `a User`, `an Image`, `the class User`."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"  # a User, a UUID


def advice(value: Any) -> str:
    """What to do instead of carrying `value`; `{Pass}` stands for the verb."""
    kind = type(value)
    if inspect.isawaitable(value):
        return "Await it first."
    if isinstance(value, io.IOBase):
        return "{Pass} the path or the bytes instead."
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return "{Pass} a list instead."
    if isinstance(value, type) or inspect.isroutine(value):
        return "{Pass} its name instead."
    if isinstance(value, memoryview):
        return "{Pass} bytes(value) instead."
    if isinstance(value, range) or kind.__module__ in ("array", "collections"):
        return "{Pass} list(value) instead."
    if isinstance(value, BaseException):
        return "{Pass} str(error) instead."
    if kind.__module__.partition(".")[0] == "numpy":
        return "{Pass} value.tolist() instead."
    return "{Pass} an id instead."
