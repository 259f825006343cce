"""Text from Redis, made safe to print.

Queue names, task names, errors and results come from whoever can write to Redis.
Printed as they are, they could move the cursor, recolour the screen, or show one
thing and mean another.
"""

from __future__ import annotations

import re

# C0 and C1 control characters, DEL, lone surrogates, line separators, and the marks
# that reorder or hide text (CVE-2021-42574). Newline and tab are the caller's choice.
_DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def safe(value: object) -> str:
    r"""`value` as text without control characters, which become `\x1b`, `\u202e` and the like.

    Newlines and tabs stay: see `safe_line`. Bytes are read as UTF-8, what is not
    UTF-8 as `\xff`.
    """
    if isinstance(value, (bytes, bytearray)):
        text = bytes(value).decode("utf-8", "backslashreplace")
    else:
        text = str(value)
    return _DANGEROUS.sub(_escaped, text)


def safe_line(value: object, width: int | None = None) -> str:
    """As `safe`, in one line: newlines and tabs become spaces; cut at `width` characters."""
    text = safe(value).replace("\n", " ").replace("\t", " ")
    if width is not None and len(text) > width:
        text = text[: max(width - 1, 0)] + "…"
    return text


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
