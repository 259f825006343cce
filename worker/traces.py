"""Tracebacks as RQ stores them: formatted as Python does it, cut to size, deflated.

Tasks fail in few places many times. The text of a place in the code (its line, and from Python
3.11 on the marks below it, for which Python parses that line) is made once: 9 instead of 75 us for
a failure with one frame. And a stream for little text needs no window of 32 kB: 9 instead of 80 us.
"""

from __future__ import annotations

import base64
import builtins
import sys
import traceback
import zlib
from types import CodeType, TracebackType
from typing import Any

TRACEBACK_BYTES = 100_000
"""Longer ones lose their middle."""
_PLACES = 2_000
_MOST_FRAMES = 50
_WINDOW_BYTES = 1 << 12
_SMALL_WINDOW = (12, 5)
"""wbits and memLevel for what fits into one: see zlib's `deflateInit2`."""
_OURS = (
    __name__.rpartition(".")[0],
    *("taskq.injection", "taskq.opened", "taskq.held", "taskq.resources", "contextlib"),
)
"""Modules, and beginnings of their names, that stand between a worker and a task's code."""

_NOT_PLAIN = (
    SyntaxError, NameError, AttributeError, ImportError,
    *(getattr(builtins, name) for name in ("BaseExceptionGroup",) if hasattr(builtins, name)),
)  # fmt: skip
"""Python adds to these what may be meant, or the exceptions in them."""

_known: dict[tuple[int, int], tuple[CodeType, str]] = {}
"""By code object and instruction. The code is kept: else its id may soon be another's."""


def text_of(err: BaseException, tb: TracebackType | None) -> str:
    """What `traceback.format_exception` gives, in one text.

    Raises:
        Exception: whatever a hostile exception raises when it is looked at.
    """
    alone = err.__cause__ is None and (err.__context__ is None or err.__suppress_context__)
    plain = alone and not isinstance(err, _NOT_PLAIN)
    if tb is None or not plain or hasattr(sys, "tracebacklimit"):
        return _by_python(err, tb)
    parts = ["Traceback (most recent call last):\n"]
    at: TracebackType | None = tb
    before, same = (0, 0), 0
    while at is not None:
        code = at.tb_frame.f_code
        line = id(code), at.tb_lineno or 0
        same = same + 1 if line == before else 0
        if same > 1 or len(parts) > _MOST_FRAMES:  # Python says how often a line is repeated
            return _by_python(err, tb)
        before = line
        parts.append(_place(code, at))
        at = at.tb_next
    parts.append(_last_line(err))
    return "".join(parts)


def _last_line(err: BaseException) -> str:
    """As `traceback.format_exception_only` for what has one line: a sixth of its time."""
    kind = type(err)
    if getattr(err, "__notes__", None) is not None:
        return "".join(traceback.format_exception_only(kind, err))
    name = kind.__qualname__
    module: Any = kind.__module__
    if not isinstance(module, str):
        module = "<unknown>"
    if module not in ("__main__", "builtins"):
        name = f"{module}.{name}"
    try:
        text = str(err)
    except Exception:  # noqa: BLE001 (Python says that it cannot be read)
        return "".join(traceback.format_exception_only(kind, err))
    return f"{name}: {text}\n" if text else f"{name}\n"


def _place(code: CodeType, tb: TracebackType) -> str:
    place = id(code), tb.tb_lasti
    known = _known.get(place)
    if known is None:
        if len(_known) >= _PLACES:
            _known.clear()
        text = traceback.format_list(traceback.extract_tb(tb, limit=1))[0]
        known = _known[place] = code, text
    return known[1]


def _by_python(err: BaseException, tb: TracebackType | None) -> str:
    return "".join(traceback.format_exception(type(err), err, tb))


def user_part(tb: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that lead to the task, or to its dependency."""
    start = tb
    while tb is not None and str(tb.tb_frame.f_globals.get("__name__", "")).startswith(_OURS):
        tb = tb.tb_next
    return tb or start


def shortened(text: str) -> bytes:
    """At most `TRACEBACK_BYTES` of a traceback, without what UTF-8 cannot carry."""
    data = text.encode("utf-8", "replace")
    if len(data) > TRACEBACK_BYTES:
        half = TRACEBACK_BYTES // 2
        data = data[:half] + b"\n  [... traceback shortened ...]\n" + data[-half:]
    return data


def packed(text: str) -> bytes:
    """As it stands in Redis: zlib and base64."""
    data = shortened(text)
    window = _SMALL_WINDOW if len(data) <= _WINDOW_BYTES else (zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)
    stream = zlib.compressobj(-1, zlib.DEFLATED, *window)
    return base64.b64encode(stream.compress(data) + stream.flush())


def unpacked(text: bytes) -> str:
    """The other way."""
    return zlib.decompress(base64.b64decode(text)).decode("utf-8", "replace")


NO_TRACEBACK = packed("")
"""Of a job that has none."""
