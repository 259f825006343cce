"""A failure that was described where it happened: in a job process, whose objects stay there.

The classes that the exception inherits from come along as names (a retry policy matches
them), its traceback as text, as RQ stores it. Nothing is imported, nothing unpickled.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

MOST_BYTES = 1_000_000
"""What is inflated of a traceback at most; it was shortened before it was sent."""


class Reported(Exception):
    """What a task raised in a job process.

    Attributes:
        names: dotted names of its class and of all that it inherits from, nearest first.
        text: the traceback as RQ stores it: zlib and base64.
        error: our JSON: type, message, attempts.
        over_limit: it was interrupted at its time limit.
    """

    def __init__(
        self, message: str, names: list[str], text: bytes, error: str, *, over_limit: bool = False
    ) -> None:
        """Keep the parts; the message is the exception's own."""
        super().__init__(message)
        self.names = names
        self.text = text
        self.error = error
        self.over_limit = over_limit

    def __repr__(self) -> str:
        """As the exception itself would be shown."""
        return f"{self.names[0].rpartition('.')[2] if self.names else 'Error'}({str(self)!r})"

    @property
    def traceback(self) -> str:
        """The traceback for people; "" where there is none."""
        try:
            raw = base64.b64decode(self.text)
            return zlib.decompressobj().decompress(raw, MOST_BYTES).decode("utf-8", "replace")
        except (ValueError, binascii.Error, zlib.error):
            return ""

    def pack(self) -> bytes:
        """For the pipe."""
        parts = [str(self), self.names, self.text.decode(), self.error, self.over_limit]
        return json.dumps(parts).encode()

    def as_exception(self) -> Exception:
        """An exception of a class with the same name, for RQ's handlers, which look at it."""
        module, _, name = (self.names[0] if self.names else "builtins.Exception").rpartition(".")
        kind = type(name, (Exception,), {"__module__": module, "__doc__": Reported.__doc__})
        made: Exception = kind(str(self))
        return made


def unpack(parts: Any) -> Reported:
    """The other end of `Reported.pack`.

    Raises:
        ValueError: these are no such parts.
    """
    try:
        message, names, text, error, over_limit = parts
        kind, told, attempts = json.loads(error)
        if not (isinstance(kind, str) and isinstance(told, str) and isinstance(attempts, int)):
            raise TypeError
        return Reported(
            str(message), [str(name) for name in names], text.encode("ascii"), error,
            over_limit=bool(over_limit),
        )  # fmt: skip
    except (TypeError, AttributeError, RecursionError) as err:
        raise ValueError(f"not the failure of a job: {err}") from None
