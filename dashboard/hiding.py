"""What must not be seen of arguments, results and errors: by name, and by its shape.

By rule, not by chance: a value is hidden when its name says that it is a secret, or when
it looks like one. Positional arguments have no names in the payload, so only their shape
counts; `hide_arguments` shows none at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from taskq.settings import redact as redact_url

HIDDEN = "•••"

_NAMES = (
    "passw|passphrase|pwd|secret|token|api_?key|access_?key|private_?key|auth(?!or)|credential|cookie|"
    "session_?id|signature|salt|otp|cvv|cvc|card_?number|iban|ssn"
)
# All of these take time in proportion to the text: no part may run on and be tried again.
_SHAPES = re.compile(
    r"(?<![\w-])eyJ[\w-]{8,4000}\.[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bgithub_pat_\w{20,}\b"
    r"|\bsk[-_](?:live|test|proj|ant)[-_][\w-]{10,}"
    r"|\bxox[abprs]-[\w-]{10,}"
    r"|(?i:\bbearer\s{1,9}[\w.~+/=-]{8,})"
)
_LOGIN = re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s/@:'\"]{0,500}:[^\s@'\"]{1,500}@")
_DEPTH = 40


class Hider:
    """Hides secrets in what is shown."""

    def __init__(self, more_names: Sequence[str] = (), *, everything: bool = False) -> None:
        """Hide also what has one of `more_names` in its name; with `everything`, all values."""
        names = "|".join([_NAMES, *(re.escape(name.lower()) for name in more_names if name)])
        self._name = re.compile(names)
        # password=..., "token": "...": in messages and source lines of tracebacks
        self._pair = re.compile(
            rf"(?i)((?:{names})[\w-]{{0,40}}['\"]?\s{{0,9}}[=:]\s{{0,9}})"
            rf"('[^'\n]{{0,2000}}'|\"[^\"\n]{{0,2000}}\"|[^\s,;)\]}}&'\"]+)"
        )
        self.everything = everything

    def is_secret(self, name: str) -> bool:
        """Whether something of this name is hidden."""
        return self._name.search(name.lower().replace("-", "_")) is not None

    def value(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """A JSON value without secrets, however deep they are."""
        if self.everything or (name and self.is_secret(name)):
            return None if value is None else HIDDEN
        if depth > _DEPTH:
            return "…"
        if isinstance(value, dict):
            return {
                self.text(str(key)): self.value(inner, str(key), depth + 1)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self.value(inner, "", depth + 1) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """Words without secrets: messages, tracebacks, addresses."""
        if len(text) < 4:
            return text
        text = _SHAPES.sub(HIDDEN, text)
        text = _LOGIN.sub(rf"\1{HIDDEN}@", text)
        if "://" in text and "password=" in text:
            text = redact_url(text)
        return self._pair.sub(lambda found: found[1] + HIDDEN, text)
